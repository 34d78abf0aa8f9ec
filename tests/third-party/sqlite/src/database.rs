//! The file: opening it, transactions, and what SQLite's errors mean here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use containerkit_plugin::fs::sync_dir;
use containerkit_plugin::lock::{FileLock, Wait};
use containerkit_plugin::{Error, ErrorKind, IoContext, Result, quote};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

/// Of the tables below, in `user_version`.
const VERSION: i64 = 1;
/// Tells our files from others': "CkSq".
const APPLICATION: i64 = 0x436b_5371;

const TABLES: &str = "
CREATE TABLE body (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dead INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX body_dead ON body (id) WHERE dead;
CREATE TABLE chunk (
    body INTEGER NOT NULL REFERENCES body (id),
    start INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (body, start)
) STRICT;
CREATE TABLE blob (
    digest TEXT PRIMARY KEY,
    body INTEGER NOT NULL UNIQUE REFERENCES body (id),
    size INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ingest (
    name TEXT PRIMARY KEY,
    body INTEGER NOT NULL UNIQUE REFERENCES body (id),
    size INTEGER NOT NULL,
    expected_size INTEGER,
    expected_digest TEXT,
    started INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Whether a write survives a power cut when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    /// Whole or absent.
    Volatile,
}

/// Why the body of a transaction stopped.
pub(crate) enum Fail {
    /// SQLite said so; when others are at work, it is tried again.
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
    durability: Option<Durability>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Database {
    inner: Mutex<Inner>,
    path: PathBuf,
    wait: Duration,
}

impl Database {
    pub(crate) fn open(path: &Path, wait: Duration) -> Result<Database> {
        let whole = path.exists() && patiently(path, wait, || version(&connect(path)?, path))? > 0;
        if !whole {
            create(path, wait)?;
        }
        let db = patiently(path, wait, || Ok(connect(path)?))?;
        Ok(Database {
            inner: Mutex::new(Inner {
                db,
                durability: None,
            }),
            path: path.to_path_buf(),
            wait,
        })
    }

    /// Runs `body` on one state of the database.
    pub(crate) fn read<T>(
        &self,
        mut body: impl FnMut(&Transaction<'_>) -> Result<T, Fail>,
    ) -> Result<T> {
        self.patiently(|| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let db = inner.db.transaction()?;
            body(&db)
        })
    }

    /// Runs `body` as the only writer of all processes. An error rolls
    /// everything back; `body` may run again and touches nothing else.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        mut body: impl FnMut(&Transaction<'_>) -> Result<T, Fail>,
    ) -> Result<T> {
        self.patiently(|| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.durability != Some(durability) {
                inner.db.execute_batch(match durability {
                    Durability::Synced => "PRAGMA synchronous = FULL",
                    Durability::Volatile => "PRAGMA synchronous = NORMAL",
                })?;
                inner.durability = Some(durability);
            }
            let db = inner
                .db
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&db)?;
            db.commit()?;
            Ok(value)
        })
    }

    /// A connection of its own, for a reader.
    pub(crate) fn connection(&self) -> Result<Connection> {
        self.patiently(|| Ok(connect(&self.path)?))
    }

    /// Tries again while another process or thread has the database.
    pub(crate) fn patiently<T>(&self, body: impl FnMut() -> Result<T, Fail>) -> Result<T> {
        patiently(&self.path, self.wait, body)
    }
}

fn patiently<T>(
    path: &Path,
    wait: Duration,
    mut body: impl FnMut() -> Result<T, Fail>,
) -> Result<T> {
    let end = Instant::now() + wait;
    loop {
        match body() {
            Ok(value) => return Ok(value),
            Err(Fail::Kit(error)) => return Err(error),
            Err(Fail::Sql(error)) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Fail::Sql(error)) => return Err(explain(path, wait, &error)),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed, SchemaChanged};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed | SchemaChanged)
    )
}

fn explain(path: &Path, wait: Duration, error: &rusqlite::Error) -> Error {
    let what = format!("content database {}", path.display());
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let seconds = wait.as_secs();
            return Error::conflict(format!("{what}: others kept it for more than {seconds} s"))
                .with_hint("raise the option wait_seconds, or look for a stopped process");
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::DataLoss,
        Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory | ErrorCode::TooBig) => {
            ErrorKind::ResourceExhausted
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    // SQLite's text may hold names out of the file.
    Error::new(kind, what).with_source_text(quote(&error.to_string()))
}

/// Waits in short steps, so that nobody is overtaken for ever; the whole of
/// the waiting is bounded by [`patiently`].
fn wait_turn(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(if tries < 10 { 200 } else { 1000 }));
    tries < 500
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_handler(Some(wait_turn))?;
    // Copying the log at each close would cost every command two fsyncs.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // SQLite's scratch files would go to $TMPDIR.
    db.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY")?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 512, |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    Ok(db)
}

/// The version of a database of ours, 0 of one that was only begun.
fn version(db: &Connection, path: &Path) -> Result<i64, Fail> {
    // One state of it: another process may be making the tables right now.
    let db = db.unchecked_transaction()?;
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let what = || format!("content database {}", path.display());
    let (application, found) = (number("application_id")?, number("user_version")?);
    if found > VERSION && application == APPLICATION {
        return Err(Fail::Kit(
            Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{} has version {found}, and this sqlite driver knows up to {VERSION}",
                    what()
                ),
            )
            .with_hint("a newer driver wrote it: use that one"),
        ));
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && (application != APPLICATION || found < 1) {
        let what = what();
        return Err(Fail::Kit(
            Error::data_loss(format!(
                "{what} is a SQLite file of something else than this driver"
            ))
            .with_hint("move it away, or give the instance another root"),
        ));
    }
    Ok(found)
}

/// Makes the file, or finishes one that a killed process began.
fn create(path: &Path, wait: Duration) -> Result<()> {
    let what = format!("content database {}", path.display());
    let _lock = FileLock::acquire(&path.with_extension("lock"), &what, Wait::AtMost(wait))?;
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    match made {
        Ok(file) => file
            .set_permissions(fs::Permissions::from_mode(0o600))
            .io_context(|| format!("chmod {}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(format!("create {}", path.display()), error)),
    }
    patiently(path, wait, || {
        let mut db = connect(path)?;
        if version(&db, path)? > 0 {
            return Ok(());
        }
        // Before the first table: large pages, because the rows are large.
        db.pragma_update(None, "page_size", 16384)?;
        let mode: String =
            db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fail::Kit(Error::precondition(format!(
                "{what}: its file system has no shared memory for a write-ahead log"
            ))));
        }
        let tables = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tables.execute_batch(TABLES)?;
        tables.pragma_update(None, "application_id", APPLICATION)?;
        tables.pragma_update(None, "user_version", VERSION)?;
        Ok(tables.commit()?)
    })?;
    match path.parent() {
        Some(folder) => sync_dir(folder),
        None => Ok(()),
    }
}
