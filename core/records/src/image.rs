//! Images: names of manifests and indexes.

use containerkit::record::ImageRecord;
use containerkit::value::check_labels;
use containerkit::{Digest, Error, Page, Reference, Result, quote};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{Fail, Store, Sync, decode, encode, page};

pub(crate) fn put(store: &Store, image: &ImageRecord) -> Result<ImageRecord> {
    check_labels(&image.labels)?;
    let name = image.name.to_string();
    // A name that holds a digest promises just that content.
    if let Some(promised) = image.name.digest().filter(|it| **it != image.digest) {
        return Err(Error::invalid(format!(
            "image name {name}: the image's digest is {}, not {promised}",
            image.digest
        )));
    }
    // Most puts of an import that ran before change nothing: no write then.
    let same = store.read(|db| Ok(find(db, &name)?.filter(|old| merge(old, image) == *old)))?;
    if let Some(same) = same {
        return Ok(same);
    }
    store.write(Sync::Full, |db| {
        let record = match find(db, &name)? {
            Some(old) => merge(&old, image),
            None => image.clone(),
        };
        db.prepare_cached("INSERT OR REPLACE INTO image (name, digest, record) VALUES (?, ?, ?)")?
            .execute(params![name, record.digest.to_string(), encode(&record)?])?;
        Ok(record)
    })
}

fn merge(old: &ImageRecord, new: &ImageRecord) -> ImageRecord {
    let mut record = new.clone();
    record.created = old.created;
    if record.labels.is_empty() {
        record.labels = old.labels.clone();
    }
    if (&record.digest, &record.content) == (&old.digest, &old.content) {
        record.updated = old.updated;
    }
    record
}

fn find(db: &Transaction<'_>, name: &str) -> Result<Option<ImageRecord>, Fail> {
    let text: Option<String> = db
        .prepare_cached("SELECT record FROM image WHERE name = ?")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    text.map(|text| decode(&format!("image {name}"), &text))
        .transpose()
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("no image is named {}", quote(name)))
        .with_hint("list them with `containerkit image ls`")
}

pub(crate) fn get(store: &Store, name: &Reference) -> Result<ImageRecord> {
    let name = name.to_string();
    store
        .read(|db| find(db, &name))?
        .ok_or_else(|| unknown(&name))
}

pub(crate) fn list(store: &Store, which: &Page) -> Result<Vec<ImageRecord>> {
    store.read(|db| {
        page(
            db,
            "SELECT name, record FROM image WHERE name > ? ORDER BY name LIMIT ?",
            "image",
            which,
        )
    })
}

pub(crate) fn of_digest(store: &Store, digest: &Digest) -> Result<Vec<ImageRecord>> {
    let digest = digest.to_string();
    store.read(|db| {
        let mut query =
            db.prepare_cached("SELECT name, record FROM image WHERE digest = ? ORDER BY name")?;
        let mut rows = query.query([&digest])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, text): (String, String) = (row.get(0)?, row.get(1)?);
            found.push(decode(&format!("image {name}"), &text)?);
        }
        Ok(found)
    })
}

pub(crate) fn delete(store: &Store, name: &Reference) -> Result<()> {
    let name = name.to_string();
    store.write(Sync::Full, |db| {
        match db
            .prepare_cached("DELETE FROM image WHERE name = ?")?
            .execute([&name])?
        {
            0 => Err(Fail::Kit(unknown(&name))),
            _ => Ok(()),
        }
    })
}
