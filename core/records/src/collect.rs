//! What a collection asks: the roots, and marking what it is about to remove.

use std::collections::BTreeSet;

use containerkit::process::ProcessIdentity;
use containerkit::record::{Condemned, Object, Root, Roots};
use containerkit::{Error, Page, Result};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::lease::{self, columns, object};
use crate::store::{Fail, Store, Sync, decode, encode, page};

/// All records at once: a collection wants one state of them.
pub(crate) fn everything() -> Page {
    Page {
        after: None,
        limit: i32::MAX.unsigned_abs(),
    }
}

pub(crate) fn roots(store: &Store) -> Result<Roots> {
    let all = everything();
    store.read(|db| {
        Ok(Roots {
            images: page(
                db,
                "SELECT name, record FROM image WHERE name > ? ORDER BY name LIMIT ?",
                "image",
                &all,
            )?,
            containers: page(
                db,
                "SELECT id, record FROM container WHERE id > ? ORDER BY id LIMIT ?",
                "container",
                &all,
            )?,
            leases: lease::some(db, &all)?,
        })
    })
}

/// Every root by its columns; no record is read.
const NAMED: &str = "SELECT 'image ' || name, '', digest FROM image
    UNION ALL SELECT 'container ' || id, '', image_digest FROM container
        WHERE image_digest IS NOT NULL
    UNION ALL SELECT 'lease ' || lease, instance, id FROM lease_object";

fn has_grown(db: &Transaction<'_>, known: &BTreeSet<Root>) -> Result<bool, Fail> {
    let mut query = db.prepare_cached(NAMED)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (instance, id): (String, String) = (row.get(1)?, row.get(2)?);
        let root = Root {
            owner: row.get(0)?,
            object: object(&instance, &id)?,
        };
        if !known.contains(&root) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn condemn(
    store: &Store,
    by: &ProcessIdentity,
    objects: &[Object],
    known: &BTreeSet<Root>,
) -> Result<Condemned> {
    store.write(Sync::Normal, |db| {
        let holder = encode(by)?;
        remove(db, &holder)?;
        if has_grown(db, known)? {
            return Ok(Condemned::Grown);
        }
        let mut taken = Vec::new();
        for object in objects {
            let (instance, id) = columns(object);
            if other(db, instance, &id)? {
                continue;
            }
            db.prepare_cached(
                "INSERT OR REPLACE INTO condemned (instance, id, holder) VALUES (?, ?, ?)",
            )?
            .execute(params![instance, id, holder])?;
            taken.push(object.clone());
        }
        Ok(Condemned::Yes(taken))
    })
}

/// Whether a living process is removing it; the caller's own rows are gone.
fn other(db: &Transaction<'_>, instance: &str, id: &str) -> Result<bool, Fail> {
    match holder(db, instance, id)? {
        Some(holder) => Ok(holder.open()?.is_some()),
        None => Ok(false),
    }
}

fn holder(db: &Transaction<'_>, instance: &str, id: &str) -> Result<Option<ProcessIdentity>, Fail> {
    let text: Option<String> = db
        .prepare_cached("SELECT holder FROM condemned WHERE instance = ? AND id = ?")?
        .query_row([instance, id], |row| row.get(0))
        .optional()?;
    text.map(|text| decode("the condemned", &text)).transpose()
}

fn remove(db: &Transaction<'_>, holder: &str) -> Result<(), Fail> {
    db.prepare_cached("DELETE FROM condemned WHERE holder = ?")?
        .execute([holder])?;
    Ok(())
}

/// Of the dead too: what they were removing is removed or it is not.
pub(crate) fn pardon(store: &Store, by: &ProcessIdentity) -> Result<()> {
    store.write(Sync::Normal, |db| {
        remove(db, &encode(by)?)?;
        let holders: Vec<String> = db
            .prepare_cached("SELECT DISTINCT holder FROM condemned")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for text in holders {
            let dead = match serde_json::from_str::<ProcessIdentity>(&text) {
                Ok(holder) => holder.open()?.is_none(),
                Err(_) => true,
            };
            if dead {
                remove(db, &text)?;
            }
        }
        Ok(())
    })
}

pub(crate) fn condemned(
    store: &Store,
    objects: &[Object],
) -> Result<Vec<(Object, ProcessIdentity)>> {
    store
        .read(|db| {
            let none: i64 = db
                .prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM condemned)")?
                .query_row([], |row| row.get(0))?;
            if none != 0 {
                return Ok(Vec::new());
            }
            let mut found = Vec::new();
            for object in objects {
                let (instance, id) = columns(object);
                if let Some(holder) = holder(db, instance, &id)? {
                    found.push((object.clone(), holder));
                }
            }
            Ok::<_, Fail>(found)
        })
        .map_err(|error: Error| error.context("look for what is being removed"))
}
