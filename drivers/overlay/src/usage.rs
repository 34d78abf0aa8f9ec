//! Who works on a snapshot, and who has it mounted.
//!
//! Two folders of a snapshot are locked with `flock`, which ends with its
//! process: its own one exclusively by who commits or removes it, its `fs` by
//! who has it mounted ([`containerkit::mounter::hold`], shared). Mounters who
//! take no lock are seen all the same: every snapshot is mounted as an
//! overlay with its own upper, also a view and also one without a parent, and
//! the kernel tells whether an upper is in use in any namespace. What neither
//! can see is somebody who mounts the upper of an active snapshot as a lower
//! layer of something else and holds nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use containerkit::lock::{kernel_holder, name_process};
use containerkit::{Error, Result, SnapshotKey};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::folders::Folders;

/// How long one operation waits for another on the same snapshot.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a mount may outlive its end: a process that another thread of the
/// mounter is just starting has copies of all descriptors until it executes.
const LINGER: Duration = Duration::from_millis(250);

/// Takes the snapshot for an operation, until the descriptor is closed.
/// `None` when it has no folder (any more).
pub(crate) fn operate(folders: &Folders, id: i64, key: &SnapshotKey) -> Result<Option<OwnedFd>> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        let Some(fd) = folders.open_one(id)? else {
            return Ok(None);
        };
        if lock(&fd).map_err(|e| Error::io(format!("lock snapshot {key}"), e))? {
            return Ok(Some(fd));
        }
        if Instant::now() >= deadline {
            return Err(Error::conflict(format!(
                "snapshot {key} is being committed or removed by {} for more than {} s",
                holder(&fd),
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Takes the snapshot only if nobody else has it.
pub(crate) fn try_operate(folders: &Folders, id: i64) -> Result<Option<OwnedFd>> {
    match folders.open_one(id)? {
        Some(fd) if lock(&fd).unwrap_or(false) => Ok(Some(fd)),
        _ => Ok(None),
    }
}

/// `FailedPrecondition` while it is mounted; else nobody can [hold] it until
/// the result is closed.
///
/// [hold]: containerkit::mounter::hold
pub(crate) fn check_unmounted(
    folders: &Folders,
    id: i64,
    key: &SnapshotKey,
    doing: &str,
) -> Result<Option<OwnedFd>> {
    let Some(fd) = folders.open_fs(id)? else {
        return Ok(None);
    };
    let mounted = |by: String| {
        Error::precondition(format!(
            "snapshot {key} is mounted{by} and cannot be {doing}"
        ))
        .with_hint("unmount it, or end the container that runs on it")
    };
    let deadline = Instant::now() + LINGER;
    let mut pause = Duration::from_millis(1);
    loop {
        let error = if !lock(&fd).map_err(|e| Error::io(format!("lock snapshot {key}"), e))? {
            mounted(format!(" by {}", holder(&fd)))
        } else if containerkit::mounter::is_upper_in_use(&folders.fs(id))
            .map_err(|e| e.context(format!("snapshot {key}")))?
        {
            mounted(String::new())
        } else {
            return Ok(Some(fd));
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn lock(fd: &OwnedFd) -> rustix::io::Result<bool> {
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Who holds the lock, for people.
fn holder(fd: impl AsFd) -> String {
    rustix::fs::fstat(fd)
        .ok()
        .and_then(|stat| kernel_holder(stat.st_ino))
        .map_or("another process".into(), name_process)
}
