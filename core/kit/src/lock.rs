//! Locks between processes: `flock` on a file, freed by the kernel when the
//! holder dies, with the holder's pid, time and command written inside for the
//! error.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, IoContext, Result};
use crate::step::step;
use crate::value::Timestamp;

/// Who holds a lock, as its file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Pid of the holder, in its own pid namespace.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
    /// The name of its program, as `ps` shows it; empty when it is unknown.
    pub command: String,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Fail at once when somebody holds it.
    No,
    /// Fail after so long.
    AtMost(Duration),
}

/// An exclusive lock, held until it is dropped or the process dies.
///
/// A process inherits it across `fork` with the descriptor, and does not
/// across `exec`: the descriptor is close-on-exec.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Locks `path`, making the file (mode 0600) when it is missing. `what`
    /// names the locked object in the error, which is `Conflict` with holder
    /// and age.
    pub fn acquire(path: &Path, what: &str, wait: Wait) -> Result<FileLock> {
        // One who only looks (`is_held`) has it shared for a moment.
        let deadline = Instant::now()
            + match wait {
                Wait::No => Duration::from_millis(10),
                Wait::AtMost(time) => time,
            };
        let mut pause = Duration::from_millis(1);
        loop {
            let fd = open(path)?;
            step("lock.opened");
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                // Removed and perhaps made anew while we waited: lock the new one.
                Ok(()) if !is_at(&fd, path) => continue,
                Ok(()) => {
                    let mut lock = FileLock {
                        file: File::from(fd),
                        path: path.to_path_buf(),
                    };
                    step("lock.held");
                    lock.write_holder();
                    return Ok(lock);
                }
                Err(Errno::WOULDBLOCK) => {
                    if Instant::now() >= deadline {
                        return Err(held(what, holder(path)));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io(format!("lock {}", path.display()), errno)),
            }
        }
    }

    /// The lock taken over from a descriptor that is locked already, as a
    /// parent hands it to its child.
    pub fn inherited(fd: OwnedFd, path: &Path) -> FileLock {
        let mut lock = FileLock {
            file: File::from(fd),
            path: path.to_path_buf(),
        };
        lock.write_holder();
        lock
    }

    /// The locked descriptor; a copy of it holds the same lock.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Removes the file and frees the lock.
    pub fn remove(self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Best effort: it is only for the error of others.
    fn write_holder(&mut self) {
        let pid = std::process::id();
        let now = Timestamp::now().unix_nanos();
        let text = format!("{pid} {now} {}\n", command("self"));
        let _ = self.file.set_len(0);
        let _ = self.file.rewind();
        let _ = self.file.write_all(text.as_bytes());
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::from_raw_mode(0o600),
    )
    .io_context(|| format!("open lock {}", path.display()))
}

fn is_at(fd: impl AsFd, path: &Path) -> bool {
    match (rustix::fs::fstat(fd), rustix::fs::lstat(path)) {
        (Ok(a), Ok(b)) => a.st_dev == b.st_dev && a.st_ino == b.st_ino,
        _ => false,
    }
}

/// Whether somebody holds the lock at `path` now. Takes no lock that others
/// would notice for longer than a moment. Missing file: nobody.
pub fn is_held(path: &Path) -> Result<bool> {
    let fd = match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(Error::io(format!("open lock {}", path.display()), errno)),
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(Error::io(format!("lock {}", path.display()), errno)),
    }
}

/// Who holds or last held the lock at `path`, as far as its file tells.
pub fn holder(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(128)
        .read_to_string(&mut text)
        .ok()?;
    let mut words = text.trim().splitn(3, ' ');
    Some(Holder {
        pid: words.next()?.parse().ok()?,
        since: Timestamp::from_unix_nanos(words.next()?.parse().ok()?),
        command: words
            .next()
            .unwrap_or_default()
            .chars()
            .map(plain)
            .collect(),
    })
}

/// The name of a process's program; empty when there is no such process.
fn command(pid: impl std::fmt::Display) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end_matches('\n').chars().map(plain).collect()
}

fn plain(c: char) -> char {
    if c.is_control() { '?' } else { c }
}

/// A process, for people: `process 42 (containerkit)`.
pub fn name_process(pid: u32) -> String {
    named(pid, &command(pid))
}

fn named(pid: u32, command: &str) -> String {
    match command {
        "" => format!("process {pid}"),
        command => format!("process {pid} ({command})"),
    }
}

/// Who has a lock of whatever kind on a file, for locks whose file tells
/// nothing: by `/proc/locks`, which knows a file by its inode's number. Another
/// process rather than this one, a writer rather than a reader.
pub fn kernel_holder(inode: u64) -> Option<u32> {
    let inode = format!(":{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holder = |line: &str| {
        // A waiter's line has an arrow in the second place, and is no holder.
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().filter(|kind| *kind != "->")?;
        let writes = fields.nth(1)? == "WRITE";
        let pid: u32 = fields.next()?.parse().ok()?;
        let is_it = fields.next()?.ends_with(&inode) && pid != 0;
        is_it.then_some((pid != std::process::id(), writes, pid))
    };
    locks.lines().filter_map(holder).max().map(|(.., pid)| pid)
}

/// The `Conflict` that names the holder.
pub fn held(what: &str, holder: Option<Holder>) -> Error {
    match holder {
        Some(holder) => Error::conflict(format!(
            "{what} is held by {} for {} s",
            named(holder.pid, &holder.command),
            holder.since.age().as_secs()
        )),
        None => Error::conflict(format!("{what} is held by another process")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn second_holder_is_told_of_the_first() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lock");
        assert!(!is_held(&path).expect("held"));
        let lock = FileLock::acquire(&path, "ref a", Wait::No).expect("first");
        assert!(is_held(&path).expect("held"));
        let error = FileLock::acquire(&path, "ref a", Wait::AtMost(Duration::from_millis(20)))
            .expect_err("second");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let pid = std::process::id();
        let text = format!("ref a is held by {} for 0 s", named(pid, &command("self")));
        assert_eq!(error.message(), text);
        assert!(text.contains(&format!("process {pid} (")), "{text}");
        lock.remove().expect("remove");
        assert!(!path.exists());
        FileLock::acquire(&path, "ref a", Wait::No).expect("again");
    }

    #[test]
    fn a_holder_of_the_future_is_held_since_now() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lock");
        // Written before the clock was put back; and by a version without names.
        std::fs::write(&path, "7 4102444800000000000\n").expect("write");
        let error = held("it", holder(&path));
        assert_eq!(error.message(), "it is held by process 7 for 0 s");
        for damaged in ["", "x 1 y", "7", "7 x"] {
            std::fs::write(&path, damaged).expect("write");
            assert_eq!(holder(&path), None, "{damaged:?}");
        }
    }

    #[test]
    fn the_kernel_knows_who_has_a_lock() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lock");
        let lock = FileLock::acquire(&path, "it", Wait::No).expect("lock");
        let inode = rustix::fs::stat(&path).expect("stat").st_ino;
        assert_eq!(kernel_holder(inode), Some(std::process::id()));
        drop(lock);
        assert_eq!(kernel_holder(inode), None);
    }
}
