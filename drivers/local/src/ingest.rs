//! Ingests: holding one, healing what a kill left, listing, aborting.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerkit::content::{Expected, IngestStatus};
use containerkit::fs::{ensure_dir, remove_tree_path};
use containerkit::lock::{self, FileLock, Wait};
use containerkit::{Error, ErrorKind, IngestRef, IoContext, Result, Timestamp, step};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::blobs::modified;
use crate::file::{self, VERSION};
use crate::layout::{Layout, ingest_folder};

/// A process that was just forked holds a copy of its parent's lock until it
/// executes, and is no writer.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long listings, each of which holds a lock for an instant, or heals what
/// it takes for a leftover, may together keep a writer out.
const CROWDED: Duration = Duration::from_secs(5);

/// What is known of an ingest beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    version: u32,
    #[serde(rename = "ref")]
    name: IngestRef,
    pub(crate) started: Timestamp,
    pub(crate) expected: Expected,
}

/// An ingest that this process holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) dir: PathBuf,
    pub(crate) data: File,
    pub(crate) size: u64,
    pub(crate) started: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) lock: FileLock,
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn lock_file(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn what(name: &IngestRef) -> String {
    format!("ingest {name}")
}

fn unknown(name: &IngestRef) -> Error {
    Error::not_found(format!("ingest {name}: there is none in this store"))
}

/// `None` for what is missing, damaged or of another ref: all of it can be
/// made anew, and none of it is worth refusing the ref for.
fn read_meta(dir: &Path) -> Result<Option<Meta>> {
    let belongs = |meta: &Meta| {
        dir.file_name()
            .is_some_and(|n| n == ingest_folder(&meta.name).as_str())
    };
    match file::load::<Meta>(&dir.join("meta.json")) {
        Ok(meta) => Ok(meta.filter(belongs)),
        Err(error) if error.kind() == ErrorKind::Incompatible => Err(error),
        Err(error) => {
            log::debug!("{error}");
            Ok(None)
        }
    }
}

/// The data file, when it is one.
fn stat_data(dir: &Path) -> Option<Stat> {
    let stat = rustix::fs::lstat(data(dir)).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
}

/// Begins or resumes, and holds.
pub(crate) fn hold(layout: &Layout, name: &IngestRef, expected: &Expected) -> Result<Held> {
    let dir = layout.ingest(name);
    let lock = lock(layout, &dir, name)?;
    step("ingest.locked");
    let old = read_meta(&dir)?;
    let held = open_data(&dir, name)?;
    let started = match (&old, &held) {
        (Some(meta), Some(_)) => meta.started,
        (None, Some((_, stat))) => modified(stat),
        (_, None) => Timestamp::now(),
    };
    let meta = Meta {
        version: VERSION,
        name: name.clone(),
        started,
        expected: expected.clone(),
    };
    // Before the data file: an ingest that has bytes can always be listed.
    if old.as_ref() != Some(&meta) {
        match file::replace(&dir, "meta.json", &meta, false) {
            // On a full disk what is held can still be truncated or committed;
            // the file then tells of the writer before.
            Err(error)
                if old.is_some()
                    && held.is_some()
                    && error.kind() == ErrorKind::ResourceExhausted =>
            {
                log::warn!("ingest {name}: {error}");
            }
            result => result?,
        }
    }
    let (data, size, updated) = match held {
        Some((data, stat)) => (data, stat.st_size as u64, modified(&stat).max(started)),
        None => (create_data(&dir, name)?, 0, started),
    };
    step("ingest.held");
    Ok(Held {
        dir,
        data,
        size,
        started,
        updated,
        lock,
    })
}

fn lock(layout: &Layout, dir: &Path, name: &IngestRef) -> Result<FileLock> {
    let mut last = None;
    // Between making the folder and locking in it, it may be aborted.
    for _ in 0..100 {
        let result = ensure_dir(dir, 0o700).and_then(|()| {
            step("ingest.folder");
            acquire(dir, name)
        });
        match result {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() == ErrorKind::NotFound => last = Some(error),
            Err(error) if error.kind() != ErrorKind::Conflict && misshapen(dir) => {
                log::warn!("ingest {name}: {error}; it is begun anew");
                layout.discard(dir)?;
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| unknown(name)))
}

/// `Conflict` only when a writer, an abort or a repair holds the lock.
fn acquire(dir: &Path, name: &IngestRef) -> Result<FileLock> {
    let path = lock_file(dir);
    let deadline = Instant::now() + CROWDED;
    loop {
        match FileLock::acquire(&path, &what(name), Wait::AtMost(PATIENCE)) {
            // Shared holders only: listings. Without data it is one that heals,
            // or a writer that has only just begun.
            Err(error)
                if error.kind() == ErrorKind::Conflict
                    && Instant::now() < deadline
                    && (stat_data(dir).is_none() || !lock::is_held(&path).unwrap_or(true)) => {}
            result => return result,
        }
    }
}

/// Whether a folder or its lock is of a type that no writer makes.
fn misshapen(dir: &Path) -> bool {
    let is = |path: &Path, want: FileType| match rustix::fs::lstat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == want,
        Err(_) => true,
    };
    !is(dir, FileType::Directory) || !is(&lock_file(dir), FileType::RegularFile)
}

/// The held bytes; `None` when there are none that can be gone on with.
fn open_data(dir: &Path, name: &IngestRef) -> Result<Option<(File, Stat)>> {
    let path = data(dir);
    let named = || format!("ingest {name}: open {}", path.display());
    let Some(stat) = stat_data(dir) else {
        remove_tree_path(&path)?;
        return Ok(None);
    };
    // Two names: a commit was killed between link and unlink, and the other
    // name is the blob, which must not be written to.
    if stat.st_nlink != 1 {
        remove_tree_path(&path)?;
        return Ok(None);
    }
    let open = || {
        rustix::fs::open(
            &path,
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let fd = match open() {
        // A commit was killed after it had made the file read-only.
        Err(Errno::ACCESS) => {
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o600)).io_context(named)?;
            open().io_context(named)?
        }
        result => result.io_context(named)?,
    };
    Ok(Some((File::from(fd), stat)))
}

fn create_data(dir: &Path, name: &IngestRef) -> Result<File> {
    let path = data(dir);
    rustix::fs::open(
        &path,
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map(File::from)
    .io_context(|| format!("ingest {name}: create {}", path.display()))
}

pub(crate) fn status(layout: &Layout, name: &IngestRef) -> Result<IngestStatus> {
    let dir = layout.ingest(name);
    let meta = read_meta(&dir)?;
    describe(&dir, name, meta).ok_or_else(|| unknown(name))
}

fn describe(dir: &Path, name: &IngestRef, meta: Option<Meta>) -> Option<IngestStatus> {
    let stat = stat_data(dir)?;
    let lock = lock_file(dir);
    let held = lock::is_held(&lock).unwrap_or(false);
    let (started, expected) = match meta {
        Some(meta) => (meta.started, meta.expected),
        None => (modified(&stat), Expected::default()),
    };
    Some(IngestStatus {
        name: name.clone(),
        offset: stat.st_size as u64,
        total: expected.size,
        expected: expected.digest,
        started,
        // The file system's clock ticks more coarsely than ours.
        updated: modified(&stat).max(started),
        holder: held
            .then(|| lock::holder(&lock))
            .flatten()
            .map(|holder| holder.pid),
    })
}

pub(crate) fn list(layout: &Layout) -> Result<Vec<IngestStatus>> {
    let ingests = layout.ingests();
    let entries =
        std::fs::read_dir(&ingests).io_context(|| format!("list {}", ingests.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.io_context(|| format!("list {}", ingests.display()))?;
        let dir = entry.path();
        match listed(&dir) {
            Ok(Some(status)) => found.push(status),
            Ok(None) => heal(layout, &dir),
            Err(error) => log::warn!("{error}"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn listed(dir: &Path) -> Result<Option<IngestStatus>> {
    let Some(meta) = read_meta(dir)? else {
        return Ok(None);
    };
    let name = meta.name.clone();
    Ok(describe(dir, &name, Some(meta)))
}

/// Removes a folder that no ref can be told of, or without data: leftovers of
/// a kill, unless somebody is at work in it right now. A writer that has just
/// made it and not locked it yet makes it anew.
fn heal(layout: &Layout, dir: &Path) {
    let what = dir.display().to_string();
    let Ok(_lock) = FileLock::acquire(&lock_file(dir), &what, Wait::No) else {
        return;
    };
    if matches!(listed(dir), Ok(None)) {
        if stat_data(dir).is_some_and(|stat| stat.st_size > 0) {
            log::warn!("{what}: an ingest whose ref is unreadable is removed");
        }
        if let Err(error) = layout.discard(dir) {
            log::debug!("{error}");
        }
    }
}

pub(crate) fn abort(layout: &Layout, name: &IngestRef) -> Result<()> {
    let dir = layout.ingest(name);
    match rustix::fs::lstat(&dir) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Err(unknown(name)),
        Err(errno) => return Err(Error::io(format!("stat {}", dir.display()), errno)),
    }
    let _lock = match acquire(&dir, name) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == ErrorKind::Conflict => return Err(error),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(name)),
        Err(_) if misshapen(&dir) => None,
        Err(error) => return Err(error),
    };
    layout.discard(&dir)
}

/// Removes the ingest of a ref whose blob turned out to exist, when it was
/// meant for that blob. Best effort: nobody waits for its bytes.
pub(crate) fn drop_superfluous(layout: &Layout, name: &IngestRef, expected: &Expected) {
    let dir = layout.ingest(name);
    if rustix::fs::lstat(&dir).is_err() {
        return;
    }
    let Ok(_lock) = FileLock::acquire(&lock_file(&dir), &what(name), Wait::No) else {
        return;
    };
    let meant = match read_meta(&dir) {
        Ok(Some(meta)) => meta.expected.digest == expected.digest,
        _ => false,
    };
    if (meant || stat_data(&dir).is_none())
        && let Err(error) = layout.discard(&dir)
    {
        log::debug!("{error}");
    }
}
