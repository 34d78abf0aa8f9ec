//! Ingests: holding a ref, their rows, listing, aborting.

use std::path::PathBuf;
use std::time::Duration;

use containerkit_plugin::content::{Expected, IngestStatus};
use containerkit_plugin::lock::{self, FileLock, Wait};
use containerkit_plugin::{Algorithm, Error, IngestRef, Result, Timestamp};
use rusqlite::{Row, Transaction, params};

use crate::Shared;
use crate::body;
use crate::database::{Durability, Fail};

/// One who looks whether a ref is held has its lock for an instant.
const PATIENCE: Duration = Duration::from_millis(25);

/// A held ref. The file goes with its holder, unless that is killed.
pub(crate) struct Hold(Option<FileLock>);

impl Hold {
    pub(crate) fn take(shared: &Shared, name: &IngestRef) -> Result<Hold> {
        let what = format!("ingest {name}");
        let lock = FileLock::acquire(&lock_file(shared, name), &what, Wait::AtMost(PATIENCE))?;
        Ok(Hold(Some(lock)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(FileLock::remove) {
            containerkit_plugin::log::warn!("{error}");
        }
    }
}

/// A ref is a name, never a path.
fn lock_file(shared: &Shared, name: &IngestRef) -> PathBuf {
    let digest = Algorithm::Sha256.digest(name.as_str().as_bytes());
    shared.locks.join(digest.hex())
}

/// An ingest's row.
pub(crate) struct Ingest {
    pub(crate) body: i64,
    pub(crate) status: IngestStatus,
}

const COLUMNS: &str = "body, name, size, expected_size, expected_digest, started, updated";

fn ingest_of(row: &Row<'_>) -> Result<Ingest, Fail> {
    let (name, digest): (String, Option<String>) = (row.get(1)?, row.get(4)?);
    let bad = |error: Error| {
        Error::data_loss("an ingest's row in the content database").with_source(error)
    };
    Ok(Ingest {
        body: row.get(0)?,
        status: IngestStatus {
            name: name.parse().map_err(bad)?,
            offset: body::unsigned(row, 2)?,
            total: match row.get_ref(3)? {
                rusqlite::types::ValueRef::Null => None,
                _ => Some(body::unsigned(row, 3)?),
            },
            expected: digest.map(|text| text.parse().map_err(bad)).transpose()?,
            started: Timestamp::from_unix_nanos(row.get(5)?),
            updated: Timestamp::from_unix_nanos(row.get(6)?),
            holder: None,
        },
    })
}

pub(crate) fn find(db: &Transaction<'_>, name: &IngestRef) -> Result<Option<Ingest>, Fail> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM ingest WHERE name = ?1"))?;
    let mut rows = query.query([name.as_str()])?;
    rows.next()?.map(ingest_of).transpose()
}

/// Begins an ingest, or takes over what an earlier holder left; what is
/// expected now replaces what was.
pub(crate) fn begin(
    db: &Transaction<'_>,
    name: &IngestRef,
    expected: &Expected,
) -> Result<Ingest, Fail> {
    let size = expected.size.map(body::number).transpose()?;
    let digest = expected.digest.as_ref().map(ToString::to_string);
    if let Some(mut found) = find(db, name)? {
        db.execute(
            "UPDATE ingest SET expected_size = ?2, expected_digest = ?3 WHERE name = ?1",
            params![name.as_str(), size, digest],
        )?;
        found.status.total = expected.size;
        found.status.expected.clone_from(&expected.digest);
        return Ok(found);
    }
    let (body, now) = (body::new(db)?, Timestamp::now());
    db.execute(
        &format!("INSERT INTO ingest ({COLUMNS}) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5)"),
        params![body, name.as_str(), size, digest, now.unix_nanos()],
    )?;
    Ok(Ingest {
        body,
        status: IngestStatus {
            name: name.clone(),
            offset: 0,
            total: expected.size,
            expected: expected.digest.clone(),
            started: now,
            updated: now,
            holder: None,
        },
    })
}

/// Ends an ingest. Its body is left to the caller.
pub(crate) fn end(db: &Transaction<'_>, name: &IngestRef) -> Result<(), Fail> {
    db.execute("DELETE FROM ingest WHERE name = ?1", [name.as_str()])?;
    Ok(())
}

fn unknown(name: &IngestRef) -> Error {
    Error::not_found(format!("ingest {name}: there is none in this store"))
}

fn with_holder(shared: &Shared, mut status: IngestStatus) -> Result<IngestStatus> {
    let file = lock_file(shared, &status.name);
    if lock::is_held(&file)? {
        status.holder = lock::holder(&file).map(|holder| holder.pid);
    }
    Ok(status)
}

pub(crate) fn status(shared: &Shared, name: &IngestRef) -> Result<IngestStatus> {
    let found = shared.database.read(|db| find(db, name))?;
    with_holder(shared, found.ok_or_else(|| unknown(name))?.status)
}

pub(crate) fn list(shared: &Shared) -> Result<Vec<IngestStatus>> {
    let all = shared.database.read(|db| {
        let mut query =
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM ingest ORDER BY name"))?;
        let mut rows = query.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(ingest_of(row)?.status);
        }
        Ok(all)
    })?;
    all.into_iter()
        .map(|status| with_holder(shared, status))
        .collect()
}

pub(crate) fn abort(shared: &Shared, name: &IngestRef) -> Result<()> {
    let _hold = Hold::take(shared, name)?;
    shared.database.write(Durability::Volatile, |db| {
        let found = find(db, name)?.ok_or_else(|| unknown(name))?;
        end(db, name)?;
        body::kill(db, found.body)
    })?;
    body::sweep(&shared.database);
    Ok(())
}
