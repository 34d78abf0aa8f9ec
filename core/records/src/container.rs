//! Containers.

use containerkit::record::{ContainerRecord, Lifetime};
use containerkit::value::check_labels;
use containerkit::{ContainerId, Digest, Error, Page, Result, quote};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{Fail, Store, Sync, decode, encode, page};

/// Ambiguous ids that the error shows.
const SHOWN: u32 = 5;

fn sync_of(container: &ContainerRecord) -> Sync {
    match container.lifetime {
        Lifetime::Durable => Sync::Full,
        Lifetime::Ephemeral => Sync::Normal,
    }
}

pub(crate) fn create(store: &Store, container: &ContainerRecord) -> Result<()> {
    check_labels(&container.labels)?;
    store.write(sync_of(container), |db| {
        for taken in [&container.id, &container.name] {
            free_of_others(db, taken, None)?;
        }
        insert(db, container)
    })
}

pub(crate) fn update(store: &Store, container: &ContainerRecord) -> Result<()> {
    check_labels(&container.labels)?;
    let old = get(store, &container.id)?;
    // From durable to ephemeral is itself something to keep.
    let sync = match old.lifetime {
        Lifetime::Durable => Sync::Full,
        Lifetime::Ephemeral => sync_of(container),
    };
    store.write(sync, |db| {
        if remove(db, &container.id)? == 0 {
            return Err(Fail::Kit(unknown(container.id.as_str())));
        }
        free_of_others(db, &container.name, Some(&container.id))?;
        insert(db, container)
    })
}

/// Refuses an id or a name that another container has as its id or name. The
/// caller is the only writer, so that it stays so until the commit.
fn free_of_others(
    db: &Transaction<'_>,
    wanted: &ContainerId,
    own: Option<&ContainerId>,
) -> Result<(), Fail> {
    let Some(holder) = named(db, wanted.as_str())? else {
        return Ok(());
    };
    if own.is_some_and(|own| own.as_str() == holder) {
        return Ok(());
    }
    let what = if holder == wanted.as_str() {
        format!("id {} is used by a container already", quote(&holder))
    } else {
        format!(
            "name {} is used by container {}",
            quote(wanted.as_str()),
            holder.parse::<ContainerId>()?.short()
        )
    };
    Err(Fail::Kit(Error::conflict(what).with_hint(format!(
        "remove it with `containerkit delete {wanted}`, or choose another name"
    ))))
}

/// The id of the container whose id or name this is.
fn named(db: &Transaction<'_>, text: &str) -> Result<Option<String>, Fail> {
    Ok(db
        .prepare_cached(
            "SELECT id FROM container WHERE id = ?1
             UNION ALL SELECT id FROM container WHERE name = ?1 LIMIT 1",
        )?
        .query_row([text], |row| row.get(0))
        .optional()?)
}

fn insert(db: &Transaction<'_>, container: &ContainerRecord) -> Result<(), Fail> {
    db.prepare_cached(
        "INSERT INTO container (id, name, image_digest, record) VALUES (?, ?, ?, ?)",
    )?
    .execute(params![
        container.id.as_str(),
        container.name.as_str(),
        container.image_digest.as_ref().map(Digest::to_string),
        encode(container)?
    ])?;
    Ok(())
}

fn remove(db: &Transaction<'_>, id: &ContainerId) -> Result<usize, Fail> {
    Ok(db
        .prepare_cached("DELETE FROM container WHERE id = ?")?
        .execute([id.as_str()])?)
}

fn by_id(db: &Transaction<'_>, id: &str) -> Result<Option<ContainerRecord>, Fail> {
    let text: Option<String> = db
        .prepare_cached("SELECT record FROM container WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    text.map(|text| decode(&format!("container {id}"), &text))
        .transpose()
}

fn unknown(text: &str) -> Error {
    Error::not_found(format!(
        "no container has the name, the id or the beginning of an id {}",
        quote(text)
    ))
    .with_hint("list them with `containerkit ps -a`")
}

pub(crate) fn get(store: &Store, id: &ContainerId) -> Result<ContainerRecord> {
    store
        .read(|db| by_id(db, id.as_str()))?
        .ok_or_else(|| unknown(id.as_str()))
}

pub(crate) fn find(store: &Store, text: &str) -> Result<ContainerRecord> {
    // What is no id is no beginning of one either, and has no wildcard in it.
    let text = text.parse::<ContainerId>()?;
    let text = text.as_str();
    store.read(|db| {
        if let Some(id) = named(db, text)? {
            return by_id(db, &id)?.ok_or_else(|| Fail::Kit(unknown(text)));
        }
        // '{' follows every character that an id may have.
        let mut query = db.prepare_cached(
            "SELECT id FROM container WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        )?;
        let ids = query
            .query_map((text, format!("{text}{{"), SHOWN + 1), |row| row.get(0))?
            .collect::<Result<Vec<String>, _>>()?;
        match ids.as_slice() {
            [] => Err(Fail::Kit(unknown(text))),
            [id] => by_id(db, id)?.ok_or_else(|| Fail::Kit(unknown(text))),
            many => {
                let mut shown = many.to_vec();
                if shown.len() > SHOWN as usize {
                    shown.truncate(SHOWN as usize);
                    shown.push("…".into());
                }
                Err(Fail::Kit(Error::invalid(format!(
                    "{} begins the ids of several containers: {}",
                    quote(text),
                    shown.join(", ")
                ))))
            }
        }
    })
}

pub(crate) fn list(store: &Store, which: &Page) -> Result<Vec<ContainerRecord>> {
    store.read(|db| {
        page(
            db,
            "SELECT id, record FROM container WHERE id > ? ORDER BY id LIMIT ?",
            "container",
            which,
        )
    })
}

pub(crate) fn of_image(store: &Store, digest: &Digest) -> Result<Option<ContainerRecord>> {
    let digest = digest.to_string();
    store.read(|db| {
        let found: Option<String> = db
            .prepare_cached(
                "SELECT record FROM container WHERE image_digest = ? ORDER BY id LIMIT 1",
            )?
            .query_row([&digest], |row| row.get(0))
            .optional()?;
        found
            .map(|text| decode(&format!("a container of {digest}"), &text))
            .transpose()
    })
}

pub(crate) fn delete(store: &Store, id: &ContainerId) -> Result<()> {
    // A damaged record can still be deleted.
    let kept = store.read(|db| {
        Ok(db
            .prepare_cached("SELECT record ->> 'lifetime' FROM container WHERE id = ?")?
            .query_row([id.as_str()], |row| row.get::<_, Option<String>>(0))
            .optional())
    })?;
    let sync = match kept {
        Ok(None) => return Ok(()),
        Ok(Some(Some(lifetime))) if lifetime == "ephemeral" => Sync::Normal,
        _ => Sync::Full,
    };
    store.write(sync, |db| remove(db, id).map(drop))
}
