//! Leases.

use containerkit::process::ProcessIdentity;
use containerkit::record::{LeaseRecord, Object};
use containerkit::{ContainerId, Error, Page, Result, Timestamp, quote};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::store::{Fail, Store, Sync, decode, encode, page};

/// What is stored of a lease beside what it keeps.
#[derive(Serialize, Deserialize)]
struct Body {
    id: ContainerId,
    expires: Option<Timestamp>,
    created: Timestamp,
    #[serde(default)]
    holder: Option<ProcessIdentity>,
}

/// An object as columns: instance (empty for a blob) and id.
pub(crate) fn columns(object: &Object) -> (&str, String) {
    match object {
        Object::Blob(digest) => ("", digest.to_string()),
        Object::Snapshot(instance, key) => (instance.as_str(), key.to_string()),
    }
}

pub(crate) fn object(instance: &str, id: &str) -> Result<Object, Fail> {
    Ok(match instance {
        "" => Object::Blob(id.parse()?),
        instance => Object::Snapshot(instance.parse()?, id.parse()?),
    })
}

fn insert(db: &Transaction<'_>, id: &ContainerId, objects: &[Object]) -> Result<(), Fail> {
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO lease_object (lease, instance, id) VALUES (?, ?, ?)",
    )?;
    for object in objects {
        let (instance, name) = columns(object);
        insert.execute(params![id.as_str(), instance, name])?;
    }
    Ok(())
}

fn remove(db: &Transaction<'_>, id: &ContainerId) -> Result<(), Fail> {
    for statement in [
        "DELETE FROM lease_object WHERE lease = ?",
        "DELETE FROM lease WHERE id = ?",
    ] {
        db.prepare_cached(statement)?.execute([id.as_str()])?;
    }
    Ok(())
}

pub(crate) fn put(store: &Store, lease: &LeaseRecord) -> Result<()> {
    // What ends by itself guards work that a power cut ends too.
    let sync = match (&lease.expires, &lease.holder) {
        (None, None) => Sync::Full,
        _ => Sync::Normal,
    };
    let objects: Vec<Object> = lease.objects().collect();
    let body = Body {
        id: lease.id.clone(),
        expires: lease.expires,
        created: lease.created,
        holder: lease.holder.clone(),
    };
    store.write(sync, |db| {
        remove(db, &lease.id)?;
        db.prepare_cached("INSERT INTO lease (id, record) VALUES (?, ?)")?
            .execute(params![lease.id.as_str(), encode(&body)?])?;
        insert(db, &lease.id, &objects)
    })
}

fn unknown(id: &ContainerId) -> Error {
    Error::not_found(format!("no lease has the id {}", quote(id.as_str())))
        .with_hint("list them with `containerkit lease ls`")
}

pub(crate) fn extend(store: &Store, id: &ContainerId, objects: &[Object]) -> Result<()> {
    let durable = get(store, id)?;
    let sync = match (&durable.expires, &durable.holder) {
        (None, None) => Sync::Full,
        _ => Sync::Normal,
    };
    store.write(sync, |db| {
        let there: Option<i64> = db
            .prepare_cached("SELECT 1 FROM lease WHERE id = ?")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        if there.is_none() {
            return Err(Fail::Kit(unknown(id)));
        }
        insert(db, id, objects)
    })
}

/// The lease of a body, with what it keeps.
fn whole(db: &Transaction<'_>, body: Body) -> Result<LeaseRecord, Fail> {
    let mut lease = LeaseRecord {
        id: body.id,
        expires: body.expires,
        created: body.created,
        holder: body.holder,
        blobs: Vec::new(),
        snapshots: Vec::new(),
    };
    let mut query = db.prepare_cached(
        "SELECT instance, id FROM lease_object WHERE lease = ? ORDER BY instance, id",
    )?;
    let mut rows = query.query([lease.id.as_str()])?;
    while let Some(row) = rows.next()? {
        let (instance, id): (String, String) = (row.get(0)?, row.get(1)?);
        match object(&instance, &id)? {
            Object::Blob(digest) => lease.blobs.push(digest),
            Object::Snapshot(instance, key) => lease.snapshots.push((instance, key)),
        }
    }
    Ok(lease)
}

pub(crate) fn get(store: &Store, id: &ContainerId) -> Result<LeaseRecord> {
    store.read(|db| {
        let text: Option<String> = db
            .prepare_cached("SELECT record FROM lease WHERE id = ?")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        let text = text.ok_or_else(|| Fail::Kit(unknown(id)))?;
        whole(db, decode(&format!("lease {id}"), &text)?)
    })
}

/// The leases of one state of the database.
pub(crate) fn some(db: &Transaction<'_>, which: &Page) -> Result<Vec<LeaseRecord>, Fail> {
    let bodies: Vec<Body> = page(
        db,
        "SELECT id, record FROM lease WHERE id > ? ORDER BY id LIMIT ?",
        "lease",
        which,
    )?;
    bodies.into_iter().map(|body| whole(db, body)).collect()
}

pub(crate) fn list(store: &Store, which: &Page) -> Result<Vec<LeaseRecord>> {
    store.read(|db| some(db, which))
}

pub(crate) fn delete(store: &Store, id: &ContainerId) -> Result<()> {
    // Lost with the power it only keeps more.
    store.write(Sync::Normal, |db| remove(db, id))
}

pub(crate) fn end(store: &Store) -> Result<Vec<LeaseRecord>> {
    let all = |db: &Transaction<'_>| {
        let mut ended = Vec::new();
        for lease in some(db, &super::collect::everything())? {
            if lease.ended()?.is_some() {
                ended.push(lease);
            }
        }
        Ok(ended)
    };
    // Mostly there is none, and nobody is held up.
    if store.read(all)?.is_empty() {
        return Ok(Vec::new());
    }
    store.write(Sync::Normal, |db| {
        let ended = all(db)?;
        for lease in &ended {
            remove(db, &lease.id)?;
        }
        Ok(ended)
    })
}
