//! Blobs: rows, labels, and reading.

use std::sync::{Mutex, PoisonError};

use containerkit_plugin::content::{BlobFilter, BlobInfo, BlobReader};
use containerkit_plugin::{
    Digest, Error, LabelChanges, Labels, Page, Result, Timestamp, serde_json,
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::body;
use crate::database::{Database, Durability, Fail};

const COLUMNS: &str = "digest, size, labels, created, updated";

fn unknown(digest: &Digest) -> Fail {
    Fail::Kit(Error::not_found(format!(
        "blob {digest}: there is none in this store"
    )))
}

fn info_of(row: &Row<'_>) -> Result<BlobInfo, Fail> {
    let digest: String = row.get(0)?;
    let labels: String = row.get(2)?;
    let bad = |error: &dyn std::fmt::Display| {
        Error::data_loss("a blob's row in the content database").with_source_text(error.to_string())
    };
    Ok(BlobInfo {
        digest: digest.parse().map_err(|error: Error| bad(&error))?,
        size: body::unsigned(row, 1)?,
        labels: serde_json::from_str(&labels).map_err(|error| bad(&error))?,
        created: Timestamp::from_unix_nanos(row.get(3)?),
        updated: Timestamp::from_unix_nanos(row.get(4)?),
    })
}

pub(crate) fn find(db: &Transaction<'_>, digest: &Digest) -> Result<Option<BlobInfo>, Fail> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM blob WHERE digest = ?1"))?;
    let mut rows = query.query([digest.to_string()])?;
    rows.next()?.map(info_of).transpose()
}

/// Makes a blob of a body.
pub(crate) fn insert(db: &Transaction<'_>, body: i64, info: &BlobInfo) -> Result<(), Fail> {
    db.execute(
        &format!("INSERT INTO blob (body, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
        params![
            body,
            info.digest.to_string(),
            body::number(info.size)?,
            json(&info.labels)?,
            info.created.unix_nanos(),
            info.updated.unix_nanos()
        ],
    )?;
    Ok(())
}

fn json(labels: &Labels) -> Result<String> {
    serde_json::to_string(labels).map_err(|e| Error::internal("labels as JSON").with_source(e))
}

pub(crate) fn info(database: &Database, digest: &Digest) -> Result<BlobInfo> {
    database.read(|db| find(db, digest)?.ok_or_else(|| unknown(digest)))
}

pub(crate) fn update(
    database: &Database,
    digest: &Digest,
    changes: &LabelChanges,
) -> Result<BlobInfo> {
    database.write(Durability::Volatile, |db| {
        let mut info = find(db, digest)?.ok_or_else(|| unknown(digest))?;
        info.labels = changes.apply(&info.labels)?;
        // It moves, however coarse the clock is.
        let next = Timestamp::from_unix_nanos(info.updated.unix_nanos().saturating_add(1));
        info.updated = Timestamp::now().max(next);
        db.execute(
            "UPDATE blob SET labels = ?2, updated = ?3 WHERE digest = ?1",
            params![
                digest.to_string(),
                json(&info.labels)?,
                info.updated.unix_nanos()
            ],
        )?;
        Ok(info)
    })
}

pub(crate) fn walk(database: &Database, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
    database.read(|db| {
        let mut query = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM blob WHERE digest > ?1 ORDER BY digest"
        ))?;
        // Every digest comes after the empty text.
        let mut rows = query.query([page.after.as_deref().unwrap_or_default()])?;
        let mut found = Vec::new();
        while found.len() < page.limit as usize
            && let Some(row) = rows.next()?
        {
            let info = info_of(row)?;
            if filter.matches(&info) {
                found.push(info);
            }
        }
        Ok(found)
    })
}

pub(crate) fn delete(database: &Database, digest: &Digest) -> Result<()> {
    database.write(Durability::Volatile, |db| {
        let body: Option<i64> = db
            .query_row(
                "DELETE FROM blob WHERE digest = ?1 RETURNING body",
                [digest.to_string()],
                |row| row.get(0),
            )
            .optional()?;
        body::kill(db, body.ok_or_else(|| unknown(digest))?)
    })?;
    body::sweep(database);
    Ok(())
}

/// An open blob: a read transaction, which goes on seeing what it saw first.
pub(crate) struct Reader {
    digest: Digest,
    body: i64,
    size: u64,
    state: Mutex<State>,
}

struct State {
    db: Connection,
    /// The chunk that was read last, and its start.
    chunk: Vec<u8>,
    start: u64,
}

impl Reader {
    pub(crate) fn open(database: &Database, digest: &Digest) -> Result<Reader> {
        let db = database.connection()?;
        let (body, size) = database.patiently(|| {
            if db.is_autocommit() {
                db.execute_batch("BEGIN")?;
            }
            db.query_row(
                "SELECT body, size FROM blob WHERE digest = ?1",
                [digest.to_string()],
                |row| Ok((row.get(0)?, body::unsigned(row, 1)?)),
            )
            .optional()?
            .ok_or_else(|| unknown(digest))
        })?;
        Ok(Reader {
            digest: digest.clone(),
            body,
            size,
            state: Mutex::new(State {
                db,
                chunk: Vec::new(),
                start: 0,
            }),
        })
    }
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { db, chunk, start } = &mut *state;
        let mut done = 0;
        while done < buf.len() && offset.saturating_add(done as u64) < self.size {
            let at = offset + done as u64;
            if at < *start || at >= *start + chunk.len() as u64 {
                *start = match body::chunk_at(db, self.body, at, chunk) {
                    Ok(Some(start)) => start,
                    Ok(None) => {
                        return Err(Error::data_loss(format!(
                            "blob {}: its bytes from {at} on are missing in the database",
                            self.digest
                        )));
                    }
                    Err(Fail::Kit(error)) => return Err(error),
                    Err(Fail::Sql(error)) => {
                        return Err(Error::data_loss(format!("read blob {}", self.digest))
                            .with_source(error));
                    }
                };
            }
            // Inside the chunk, whose length is a usize.
            let from = (at - *start) as usize;
            let read = (chunk.len() - from).min(buf.len() - done);
            buf[done..done + read].copy_from_slice(&chunk[from..from + read]);
            done += read;
        }
        Ok(done)
    }
}
