//! Finding, making and opening the file.
//!
//! The file appears by rename when its schema is complete, so that a file that
//! is there is a whole database or a damaged one, never one half made. Nothing
//! here opens and closes the database by a descriptor of its own: that would
//! free the locks of every connection of this process (POSIX locks).

use std::fs;
use std::io::ErrorKind as Io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use containerkit::fs::{ensure_dir, sync_dir};
use containerkit::lock::{FileLock, Wait};
use containerkit::{Error, IoContext, Result, step};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::schema;
use crate::store::{Fail, PATIENCE, Store, damaged, patiently, wait_turn};

/// Pages in the log before a commit copies them to the database. The log is
/// left in place when a process ends (copying it costs two fsyncs), and the
/// first to open it again reads it, so it is kept short.
const LOG_PAGES: i32 = 64;

pub(crate) fn open(path: &Path) -> Result<Store> {
    if !exists(path)? {
        create(path)?;
    }
    let (mut db, version) = patiently(path, || {
        let db = connect(path)?;
        let version = schema::version(&db, path)?;
        Ok((db, version))
    })?;
    if version < schema::VERSION {
        patiently(path, || schema::migrate(&mut db, version))?;
    }
    Ok(Store::new(db, path.to_path_buf()))
}

/// Whether the file is there, and a file; its mode is put right.
fn exists(path: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == Io::NotFound => return Ok(false),
        Err(error) => {
            return Err(Error::io(
                format!("record database {}", path.display()),
                error,
            ));
        }
    };
    if !meta.is_file() {
        return Err(Error::precondition(format!(
            "record database {} is not a regular file",
            path.display()
        )));
    }
    if meta.size() == 0 {
        return Err(damaged(path, &"it is empty"));
    }
    if meta.mode() & 0o177 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .io_context(|| format!("chmod {}", path.display()))?;
    }
    Ok(true)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

fn create(path: &Path) -> Result<()> {
    let dir = path.parent().ok_or_else(|| {
        Error::invalid(format!(
            "record database {}: not the path of a file",
            path.display()
        ))
    })?;
    if let Some(root) = dir.parent().filter(|root| !root.as_os_str().is_empty()) {
        ensure_dir(root, 0o711)?;
    }
    if !dir.as_os_str().is_empty() {
        ensure_dir(dir, 0o700)?;
    }
    let _lock = FileLock::acquire(
        &beside(path, ".lock"),
        &format!("record database {}", path.display()),
        Wait::AtMost(PATIENCE),
    )?;
    if exists(path)? {
        return Ok(());
    }
    // SQLite would take a log without its database for the log of ours.
    for log in [beside(path, "-wal"), beside(path, "-journal")] {
        if fs::symlink_metadata(&log).is_ok() {
            return Err(damaged(
                path,
                &format!("it is missing, and its log {} is there", log.display()),
            ));
        }
    }
    let _ = fs::remove_file(beside(path, "-shm"));

    let new = beside(path, ".new");
    for end in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(&new, end)) {
            Err(error) if error.kind() != Io::NotFound => {
                return Err(Error::io(format!("remove {}{end}", new.display()), error));
            }
            _ => {}
        }
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new)
        .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .io_context(|| format!("create {}", new.display()))?;
    step("records.file");
    patiently(&new, || {
        let mut db = connect(&new)?;
        schema::migrate(&mut db, 0)?;
        let mode: String =
            db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fail::Kit(Error::precondition(format!(
                "record database {}: its file system has no shared memory for a write-ahead log",
                path.display()
            ))));
        }
        // With the log copied and gone the file is whole by itself.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        step("records.tables");
        db.close().map_err(|(_, error)| error)?;
        Ok(())
    })?;
    fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .io_context(|| format!("fsync {}", new.display()))?;
    step("records.rename");
    fs::rename(&new, path).io_context(|| format!("rename to {}", path.display()))?;
    step("records.renamed");
    sync_dir(if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    })
}

fn connect(path: &Path) -> Result<Connection, Fail> {
    let mut db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_handler(Some(wait_turn))?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Otherwise a statement is compiled again for each value it is given.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // SQLite's scratch would go to $TMPDIR.
    db.execute_batch("PRAGMA temp_store = MEMORY")?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES, |_| Ok(()))?;
    Ok(db)
}
