//! A folder for the files of one call (log, pid file, process), gone after it.
//!
//! Its flock dies with its holder, so that the next instance finds and removes
//! what a killed process left.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use containerkit::{Error, ErrorKind, IoContext, Result, fs};
use rustix::fs::{FlockOperation, fstat};

/// A private folder, removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Scratch {
    /// A new folder in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Scratch> {
        fs::ensure_dir(parent, 0o700)?;
        for _ in 0..16 {
            let path = parent.join(fs::unique_name("call"));
            // A sweep may come between these steps, and within the first, and
            // remove the folder.
            match fs::ensure_dir(&path, 0o700) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                made => made?,
            }
            let Ok(lock) = fs::open_dir(&path) else {
                continue;
            };
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && fstat(&lock).is_ok_and(|stat| stat.st_nlink > 0)
                && path.is_dir()
            {
                return Ok(Scratch { path, _lock: lock });
            }
        }
        Err(Error::conflict(format!(
            "{} is being removed by somebody else again and again",
            parent.display()
        )))
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file of mode 0600 in it.
    pub(crate) fn write(&self, name: &str, data: &[u8]) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.file(name);
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(data))
            .io_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_tree_path(&self.path);
    }
}

/// Removes the folders whose holders died.
pub(crate) fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(dir) = fs::open_dir(&path) else {
            continue;
        };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_tree_path(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_sweep_spares_what_is_in_use() {
        let dir = tempfile::tempdir().expect("tempdir");
        let used = Scratch::new(dir.path()).expect("scratch");
        let left = dir.path().join("call.1.left");
        std::fs::create_dir(&left).expect("mkdir");
        std::fs::write(left.join("log"), "x").expect("write");
        sweep(dir.path());
        assert!(!left.exists());
        used.write("process.json", b"{}").expect("still there");
        drop(used);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_sweep_at_any_moment_fails_nobody() {
        let dir = tempfile::tempdir().expect("tempdir");
        let calls = dir.path();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        sweep(calls);
                    }
                });
            }
            let made: Result<Vec<()>> = (0..2000)
                .map(|_| Scratch::new(calls)?.write("log", b"x").map(drop))
                .collect();
            done.store(true, Ordering::Relaxed);
            made.expect("each has its folder");
        });
    }
}
