//! The folders on disk. Everything is done on descriptors of the two folders
//! that hold them, and every mode is set, whatever the umask.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerkit::fs::{disk_usage, ensure_dir, open_dir, remove_tree, unique_name};
use containerkit::{Error, IoContext, Result, Usage, quote, step};
use rustix::fs::{AtFlags, Dir, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The folders of one root.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    snapshots: OwnedFd,
    trash: OwnedFd,
}

impl Folders {
    pub(crate) fn open(root: &Path) -> Result<Folders> {
        let make = |name: &str, mode| {
            let path = root.join(name);
            ensure_dir(&path, mode)?;
            open_dir(&path)
        };
        make("empty", 0o755)?;
        Ok(Folders {
            // Passed through but not listed. The folders in it are 0700, so
            // that a setuid file of an image cannot be reached by its path;
            // a container reaches its rootfs by the mount.
            snapshots: make("snapshots", 0o711)?,
            trash: make("trash", 0o700)?,
            root: root.to_path_buf(),
        })
    }

    /// The lower layer of what has no parent.
    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(crate) fn path(&self, id: i64) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    /// What the snapshot itself has.
    pub(crate) fn fs(&self, id: i64) -> PathBuf {
        self.path(id).join("fs")
    }

    pub(crate) fn work(&self, id: i64) -> PathBuf {
        self.path(id).join("work")
    }

    pub(crate) fn trash_path(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Makes the folder of a new snapshot, from inside the transaction that
    /// adds its row. Its root looks as the parent's does: owner, mode, times
    /// and attributes of a merged root are those of the topmost layer. The
    /// result is what was set aside for it.
    pub(crate) fn create(&self, id: i64, parent: Option<i64>) -> Result<Option<CString>> {
        let name = id.to_string();
        let make = || {
            let folder = make_at(&self.snapshots, &name, 0o700)?;
            step("snapshot.folder");
            let fs = make_at(&folder, "fs", 0o755)?;
            step("snapshot.fs");
            make_at(&folder, "work", 0o700)?;
            step("snapshot.work");
            rustix::io::Result::Ok(fs)
        };
        let mut aside = None;
        let made = match make() {
            // Of a killed process whose row was rolled back with its number.
            Err(Errno::EXIST) => {
                aside = self.set_aside(&name)?;
                make()
            }
            result => result,
        };
        let fs = made.io_context(|| format!("make {}", self.path(id).display()))?;
        if let Some(parent) = parent {
            let from = self.open_fs(parent)?.ok_or_else(|| self.gone(parent))?;
            copy_root(&from, &fs)
                .io_context(|| format!("copy the attributes of {}", self.fs(parent).display()))?;
            step("snapshot.root");
        }
        Ok(aside)
    }

    /// The error for a row whose folder is not there.
    pub(crate) fn gone(&self, id: i64) -> Error {
        Error::data_loss(format!("the files of {} are gone", self.fs(id).display()))
            .with_hint("remove the snapshots above it and unpack the image again")
    }

    pub(crate) fn open_one(&self, id: i64) -> Result<Option<OwnedFd>> {
        open_at(&self.snapshots, &id.to_string())
            .io_context(|| format!("open {}", self.path(id).display()))
    }

    pub(crate) fn open_fs(&self, id: i64) -> Result<Option<OwnedFd>> {
        open_at(&self.snapshots, &format!("{id}/fs"))
            .io_context(|| format!("open {}", self.fs(id).display()))
    }

    /// Makes durable that the folder is there; its files are the caller's.
    pub(crate) fn sync(&self, id: i64) -> Result<()> {
        let sync = || {
            for name in [format!("{id}/fs"), id.to_string()] {
                if let Some(fd) = open_at(&self.snapshots, &name)? {
                    rustix::fs::fsync(&fd)?;
                }
            }
            rustix::fs::fsync(&self.snapshots)
        };
        step("snapshot.sync");
        sync().io_context(|| format!("fsync {}", self.path(id).display()))
    }

    /// Moves a folder, by its path below `snapshots`, to the trash: whoever
    /// uses it finds it or not, and never half of it. What is not there has no
    /// new name.
    pub(crate) fn set_aside(&self, path: &str) -> Result<Option<CString>> {
        let name = CString::new(unique_name(&path.replace('/', ".")))
            .map_err(|_| Error::internal("a number holds a NUL"))?;
        step("aside.rename");
        match rustix::fs::renameat(&self.snapshots, path, &self.trash, &name) {
            Ok(()) => {
                step("aside.renamed");
                Ok(Some(name))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io(
                format!("set {}/snapshots/{path} aside", self.root.display()),
                errno,
            )),
        }
    }

    /// Deletes what was set aside.
    pub(crate) fn delete(&self, name: &CStr) -> Result<()> {
        remove_tree(self.trash.as_fd(), name)
            .map_err(|e| e.context(format!("in {}", self.trash_path().display())))?;
        step("aside.deleted");
        Ok(())
    }

    /// The numbers of the folders that are there.
    pub(crate) fn list(&self) -> Result<Vec<i64>> {
        let names = names(&self.snapshots).io_context(|| "list the snapshots' folder")?;
        Ok(names
            .iter()
            .filter_map(|name| name.to_str().ok()?.parse().ok())
            .collect())
    }

    /// Deletes all trash that nobody is deleting yet. What cannot be deleted
    /// does not keep the rest: it is the error at the end.
    pub(crate) fn empty_trash(&self) -> Result<Usage> {
        let mut total = Usage::default();
        let mut failed = None;
        for name in names(&self.trash).io_context(|| "list the trash")? {
            match self.empty_one(&name) {
                Ok(usage) => {
                    total.size += usage.size;
                    total.inodes += usage.inodes;
                }
                Err(error) => {
                    log::warn!("cleanup: {error}");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => Ok(total),
            Some(error) => Err(error.context(format!(
                "cleanup deleted {} files and could not delete all",
                total.inodes
            ))),
        }
    }

    fn empty_one(&self, name: &CStr) -> Result<Usage> {
        // Whoever set it aside holds the folder while deleting it.
        let shown = quote(&name.to_string_lossy());
        let _held = match rustix::fs::openat(&self.trash, name, FOLDER, Mode::empty()) {
            Ok(fd) => match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Some(fd),
                Err(_) => return Ok(Usage::default()),
            },
            Err(Errno::NOENT) => return Ok(Usage::default()),
            Err(Errno::NOTDIR | Errno::LOOP) => None,
            Err(errno) => return Err(Error::io(format!("open {shown} in the trash"), errno)),
        };
        let path = self.trash_path().join(name.to_string_lossy().as_ref());
        // Too deep a tree to be counted by paths is deleted all the same.
        let usage = disk_usage(&path).unwrap_or_default();
        self.delete(name)?;
        Ok(usage)
    }
}

fn make_at(dir: &OwnedFd, name: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
    let fd = rustix::fs::openat(dir, name, FOLDER, Mode::empty())?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(fd)
}

fn open_at(dir: &OwnedFd, name: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(dir, name, FOLDER, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Owner, mode, times and extended attributes, overlay's own excepted.
fn copy_root(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(owner.0), Some(owner.1))?;
    copy_attributes(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    rustix::fs::utimensat(to, c"", &times, AtFlags::EMPTY_PATH)
        .or_else(|_| rustix::fs::futimens(to, &times))
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    // The kernel's limits of a list and of a value.
    let mut list = vec![0u8; 1 << 16];
    let length = match flistxattr(from, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0u8; 1 << 16];
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}
