//! The metadata file: one SQLite database that many processes share.
//!
//! It runs in WAL mode, so that readers never wait; writers take turns
//! (`BEGIN IMMEDIATE`) for the microseconds that a transaction takes. A commit
//! and the removal of a committed snapshot are fsynced, because an image
//! record elsewhere may already promise the layer. The rest is not: what a
//! power cut takes from the log is then a container's snapshot that is gone
//! or back, and [`Overlay::open`](crate::Overlay) of the next boot drops rows
//! whose folder did not survive.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use containerkit::lock::{FileLock, Wait, kernel_holder, name_process};
use containerkit::{Error, ErrorKind, IoContext, Result, step};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

/// Of the tables below, the ladder climbed.
const VERSION: i64 = 2;

/// How long a writer waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Step N takes a database of version N to N + 1. Append only.
const LADDER: [&str; VERSION as usize] = [FIRST, GARBAGE];

const FIRST: &str = "
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    parent INTEGER REFERENCES snapshots (id),
    layers INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size INTEGER,
    inodes INTEGER
);
CREATE INDEX snapshots_by_parent ON snapshots (parent, key);
CREATE INDEX snapshots_by_kind ON snapshots (kind, key);
CREATE TABLE labels (
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (snapshot, name)
) WITHOUT ROWID;
CREATE INDEX labels_by_name ON labels (name, value, snapshot);
";

/// Folders that are to be deleted, by their paths below `snapshots`: written
/// with the change that makes them garbage, so that whoever tidies up after a
/// kill need not look at every folder. What version 1 left is found by the look
/// at all of them that the first opening in a boot takes.
const GARBAGE: &str = "
CREATE TABLE garbage (path TEXT PRIMARY KEY) WITHOUT ROWID;
DELETE FROM meta WHERE name = 'boot';
";

/// Whether a write must survive power loss when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Full,
    Normal,
}

#[derive(Debug)]
struct Inner {
    db: Connection,
    durability: Option<Durability>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Database {
    inner: Mutex<Inner>,
    path: PathBuf,
}

impl Database {
    pub(crate) fn open(path: &Path) -> Result<Database> {
        let mut db = None;
        if path.exists() {
            let opened = connect(path)?;
            match version(&opened, path)? {
                0 => {}
                found => {
                    if found < VERSION {
                        climb(&opened).map_err(|e| explain(path, e))?;
                    }
                    db = Some(opened);
                }
            }
        }
        let db = match db {
            Some(db) => db,
            None => create(path)?,
        };
        Ok(Database {
            inner: Mutex::new(Inner {
                db,
                durability: None,
            }),
            path: path.to_path_buf(),
        })
    }

    /// Runs `body` on one state of the database.
    pub(crate) fn read<T>(&self, body: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let db = patiently(|| inner.db.unchecked_transaction()).map_err(|e| self.error(e))?;
        body(&db)
    }

    /// Runs `body` as the only writer of all processes. An error of it rolls
    /// everything back.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        // A panic while it was held rolled the transaction back.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.durability != Some(durability) {
            let pragma = match durability {
                Durability::Full => "PRAGMA synchronous = FULL",
                Durability::Normal => "PRAGMA synchronous = NORMAL",
            };
            inner.db.execute_batch(pragma).map_err(|e| self.error(e))?;
            inner.durability = Some(durability);
        }
        let db =
            patiently(|| Transaction::new_unchecked(&inner.db, TransactionBehavior::Immediate))
                .map_err(|e| self.error(e))?;
        let value = body(&db)?;
        step("db.commit");
        db.commit().map_err(|e| self.error(e))?;
        step("db.committed");
        Ok(value)
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        explain(&self.path, error)
    }
}

/// Begins again while others have the database: SQLite's own waiting
/// ([`wait_turn`]) covers most of its locks, and a few answers (a recovery
/// after a kill, the start of many) come without it.
fn patiently<T>(mut begin: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match begin() {
            Err(error) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
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
        )
    )
}

const PAUSE: Duration = Duration::from_millis(2);

/// The pauses of a waiting writer: short ones, so that it is not overtaken by
/// newcomers for ever.
fn wait_turn(tries: i32) -> bool {
    std::thread::sleep(if tries < 10 { PAUSE / 4 } else { PAUSE });
    u128::from(tries.unsigned_abs()) < PATIENCE.as_millis() / PAUSE.as_millis()
}

/// An error of the file itself, told with its name, and with who holds it.
fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let what = format!("snapshot metadata {}", path.display());
    if !is_busy(&error) {
        return mendable(sql_error(error).context(what));
    }
    // By its path: to open and close it here would free the locks of this
    // process's connections (POSIX locks).
    let mut shm = path.as_os_str().to_owned();
    shm.push("-shm");
    let holder = fs::metadata(shm)
        .ok()
        .and_then(|file| kernel_holder(file.ino()))
        .map_or("another process".into(), name_process);
    Error::conflict(format!(
        "{what} is held by {holder} for more than {} s",
        PATIENCE.as_secs()
    ))
}

/// What SQLite's errors mean here.
pub(crate) fn sql_error(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Conflict,
        Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory) => ErrorKind::ResourceExhausted,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::DataLoss,
        // What a disk refuses now may be there again later.
        Some(ErrorCode::SystemIoFailure) => ErrorKind::Unavailable,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Internal,
    };
    // The text of SQLite may hold names out of the file.
    let text: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Error::new(kind, text)
}

fn connect(path: &Path) -> Result<Connection> {
    let set_up = || {
        let mut db = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.busy_handler(Some(wait_turn))?;
        // Copying the log at each close would cost every command two fsyncs.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // Otherwise a statement is compiled again for each value it is given.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // SQLite's scratch files would go to $TMPDIR.
        db.execute_batch(
            "PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 256",
        )?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(db)
    };
    set_up().map_err(|e| explain(path, e))
}

fn version(db: &Connection, path: &Path) -> Result<i64> {
    let found: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|e| explain(path, e))?;
    if found > VERSION {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "snapshot metadata {} has version {found}, and this overlay driver knows up to {VERSION}",
                path.display()
            ),
        )
        .with_hint("a newer containerkit wrote it: use that one"));
    }
    Ok(found)
}

/// Makes the file, or finishes one that a killed process began.
fn create(path: &Path) -> Result<Connection> {
    let lock = path.with_extension("lock");
    let what = format!("snapshot metadata {}", path.display());
    let _lock = FileLock::acquire(&lock, &what, Wait::AtMost(PATIENCE))?;
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
    {
        Ok(file) => file
            .set_permissions(fs::Permissions::from_mode(0o600))
            .io_context(|| format!("chmod {}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(format!("create {}", path.display()), error)),
    }
    step("db.file");
    let db = connect(path)?;
    if version(&db, path)? == VERSION {
        return Ok(db);
    }
    refuse_lost(path)?;
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| explain(path, e))?;
    if tables != 0 {
        return Err(Error::data_loss(format!(
            "{what} is a database of something else: it has tables and no version"
        )));
    }
    let mode: String = db
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|e| explain(path, e))?;
    if mode != "wal" {
        return Err(Error::precondition(format!(
            "{what}: its file system has no shared memory for a write-ahead log"
        )));
    }
    step("db.wal");
    climb(&db).map_err(|e| explain(path, e))?;
    Ok(db)
}

/// SQLite takes what is left of a truncated file for an empty database. No
/// folder is made before there is a whole one, so folders tell that there was.
fn refuse_lost(path: &Path) -> Result<()> {
    let folders = path.with_file_name("snapshots");
    let there = fs::read_dir(&folders).is_ok_and(|mut entries| entries.next().is_some());
    if !there {
        return Ok(());
    }
    Err(mendable(Error::data_loss(format!(
        "snapshot metadata {} is missing or empty, and {} is not",
        path.display(),
        folders.display()
    ))))
}

/// With what can be done about damaged metadata.
fn mendable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::DataLoss => error
            .with_hint("`containerkit check --repair` puts it aside and unpacks the images again"),
        _ => error,
    }
}

/// From whatever older version to [`VERSION`], in one transaction.
fn climb(db: &Connection) -> rusqlite::Result<()> {
    let tx = patiently(|| Transaction::new_unchecked(db, TransactionBehavior::Immediate))?;
    // Another process may have climbed while this one waited for its turn.
    let from: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for tables in LADDER.iter().skip(usize::try_from(from).unwrap_or(0)) {
        tx.execute_batch(tables)?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}
