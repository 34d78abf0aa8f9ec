//! One connection, its transactions, and what SQLite's errors mean here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use containerkit::lock::{kernel_holder, name_process};
use containerkit::{Error, ErrorKind, Page, Result, quote, step};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a call waits for its turn among other writers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a write must survive power loss when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The commit is fsynced.
    Full,
    /// The commit is whole or absent, and may be lost with the power.
    Normal,
}

impl Sync {
    const fn pragma(self) -> &'static str {
        match self {
            Sync::Full => "PRAGMA synchronous = FULL",
            Sync::Normal => "PRAGMA synchronous = NORMAL",
        }
    }
}

/// Why the body of a transaction stopped.
#[derive(Debug)]
pub(crate) enum Fail {
    /// SQLite said so; another writer's turn is waited for.
    Sql(rusqlite::Error),
    /// The answer to the caller.
    Kit(Error),
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Fail {
        Fail::Sql(error)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        Fail::Kit(error)
    }
}

#[derive(Debug)]
struct Inner {
    db: Connection,
    sync: Option<Sync>,
}

#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    path: PathBuf,
}

impl Store {
    pub(crate) fn new(db: Connection, path: PathBuf) -> Store {
        Store {
            inner: Mutex::new(Inner { db, sync: None }),
            path,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held rolled the transaction back.
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `body` on one state of the database.
    pub(crate) fn read<T>(
        &self,
        mut body: impl FnMut(&Transaction<'_>) -> Result<T, Fail>,
    ) -> Result<T> {
        patiently(&self.path, || {
            let mut inner = self.lock();
            let db = inner.db.transaction()?;
            let value = body(&db)?;
            db.finish()?;
            Ok(value)
        })
    }

    /// Runs `body` as the only writer. It may run again when SQLite asks for
    /// another try, and touches nothing but the database.
    pub(crate) fn write<T>(
        &self,
        sync: Sync,
        mut body: impl FnMut(&Transaction<'_>) -> Result<T, Fail>,
    ) -> Result<T> {
        patiently(&self.path, || {
            let mut inner = self.lock();
            if inner.sync != Some(sync) {
                inner.db.execute_batch(sync.pragma())?;
                inner.sync = Some(sync);
            }
            let db = inner
                .db
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&db)?;
            step("records.commit");
            db.commit()?;
            step("records.committed");
            Ok(value)
        })
    }

    pub(crate) fn verify(&self) -> Result<Vec<String>> {
        self.read(|db| {
            let mut query = db.prepare("PRAGMA integrity_check(100)")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            let mut found = Vec::new();
            for row in rows {
                match row? {
                    line if line == "ok" => {}
                    line => found.push(quote(&line)),
                }
            }
            Ok(found)
        })
    }
}

/// Tries again while another process or thread has the database.
pub(crate) fn patiently<T>(path: &Path, mut body: impl FnMut() -> Result<T, Fail>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match body() {
            Ok(value) => return Ok(value),
            Err(Fail::Kit(error)) => return Err(error),
            // The busy handler waits for most locks; a few answers (recovery,
            // a deadlock avoided) come without it.
            Err(Fail::Sql(error)) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Fail::Sql(error)) => return Err(explain(path, error)),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SchemaChanged
        )
    )
}

/// The pauses of SQLite's own waiting: short, so that a writer is not
/// overtaken for ever by newcomers.
pub(crate) fn wait_turn(tries: i32) -> bool {
    const PAUSE: Duration = Duration::from_millis(2);
    std::thread::sleep(if tries < 10 { PAUSE / 4 } else { PAUSE });
    u128::from(tries.unsigned_abs()) < PATIENCE.as_millis() / PAUSE.as_millis()
}

/// By the path of the file that SQLite keeps its locks on: to open and close it
/// here would free those of this process's connections (POSIX locks).
fn holder(path: &Path) -> String {
    let mut shm = path.as_os_str().to_owned();
    shm.push("-shm");
    std::fs::metadata(shm)
        .ok()
        .and_then(|file| kernel_holder(file.ino()))
        .map_or("another process".into(), name_process)
}

/// What SQLite said, for a person.
pub(crate) fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let shown = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(path, &quote(&error.to_string()))
        }
        Some(code @ (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            Error::conflict(format!(
                "record database {shown} is held by {} for more than {} s",
                holder(path),
                PATIENCE.as_secs()
            ))
            .with_source_text(format!("{code:?}"))
            .with_hint(format!("find the holder with `fuser {shown}`"))
        }
        // SQLite does not say why.
        Some(ErrorCode::CannotOpen) if is_forbidden(path) => Error::new(
            ErrorKind::PermissionDenied,
            format!("record database {shown}: permission denied"),
        ),
        code => {
            let kind = match code {
                Some(
                    ErrorCode::PermissionDenied
                    | ErrorCode::ReadOnly
                    | ErrorCode::AuthorizationForStatementDenied,
                ) => ErrorKind::PermissionDenied,
                Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory | ErrorCode::TooBig) => {
                    ErrorKind::ResourceExhausted
                }
                Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            };
            Error::new(kind, format!("record database {shown}"))
                .with_source_text(quote(&error.to_string()))
        }
    }
}

fn is_forbidden(path: &Path) -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// [`ErrorKind::DataLoss`] with the mend.
pub(crate) fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::data_loss(format!(
        "record database {} is damaged: {why}",
        path.display()
    ))
    .with_hint(format!(
        "restore it from a backup, or move it away with {0}-wal and {0}-shm beside it and \
             import the images again: blobs and snapshots are kept elsewhere",
        path.display()
    ))
}

/// A record as it is stored.
pub(crate) fn encode(record: &impl Serialize) -> Result<String, Fail> {
    serde_json::to_string(record)
        .map_err(|error| Fail::Kit(Error::internal("write a record").with_source(error)))
}

/// A stored record; `what` names it should it be damaged.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fail> {
    serde_json::from_str(text).map_err(|error| {
        Fail::Kit(
            Error::data_loss(format!("the record of {} is damaged", quote(what)))
                .with_source_text(quote(&error.to_string())),
        )
    })
}

/// One page of a table of records in key order. The statement takes the key
/// to begin after and a limit, and gives key and record.
pub(crate) fn page<T: DeserializeOwned>(
    db: &Transaction<'_>,
    statement: &str,
    what: &str,
    page: &Page,
) -> Result<Vec<T>, Fail> {
    let mut query = db.prepare_cached(statement)?;
    let after = page.after.as_deref().unwrap_or_default();
    let mut rows = query.query((after, page.limit.max(1)))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let record: String = row.get(1)?;
        records.push(decode(&format!("{what} {key}"), &record)?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pragma_follows_the_write_in_both_directions() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = crate::file::open(&dir.path().join("a.db")).expect("open");
        for (sync, value) in [
            (Sync::Full, 2),
            (Sync::Normal, 1),
            (Sync::Normal, 1),
            (Sync::Full, 2),
        ] {
            let found = store
                .write(sync, |db| {
                    Ok(db.pragma_query_value(None, "synchronous", |row| row.get::<_, i32>(0))?)
                })
                .expect("write");
            assert_eq!(found, value);
        }
    }

    #[test]
    fn a_body_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = crate::file::open(&dir.path().join("a.db")).expect("open");
        let error = store
            .write(Sync::Full, |db| {
                db.execute("INSERT INTO lease (id, record) VALUES ('a', '{}')", [])?;
                Err::<(), _>(Fail::Kit(Error::invalid("no")))
            })
            .expect_err("fails");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let left: i64 = store
            .read(|db| Ok(db.query_row("SELECT count(*) FROM lease", [], |row| row.get(0))?))
            .expect("read");
        assert_eq!(left, 0);
    }

    #[test]
    fn listings_and_look_ups_use_an_index() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = crate::file::open(&dir.path().join("a.db")).expect("open");
        for statement in [
            "SELECT id FROM container WHERE id >= 'a' AND id < 'a{' ORDER BY id LIMIT 6",
            "SELECT id FROM container WHERE id = 'a'",
            "SELECT id FROM container WHERE name = 'a'",
            "SELECT record FROM container WHERE image_digest = 'a' ORDER BY id LIMIT 1",
            "SELECT name, record FROM image WHERE name > 'a' ORDER BY name LIMIT 9",
            "SELECT name, record FROM image WHERE digest = 'a' ORDER BY name",
        ] {
            store
                .read(|db| {
                    let mut query = db.prepare(&format!("EXPLAIN QUERY PLAN {statement}"))?;
                    let plan = query
                        .query_map([], |row| row.get::<_, String>(3))?
                        .collect::<Result<Vec<_>, _>>()?;
                    assert!(plan[0].starts_with("SEARCH"), "{statement}: {plan:?}");
                    Ok(())
                })
                .expect("plan");
        }
    }
}
