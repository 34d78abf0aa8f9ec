//! Two trees: whether they are equal, and making one equal to the other.
//!
//! Equal means what a container can see: types, owners, modes, modification
//! times to the nanosecond, extended attributes, contents, targets, device
//! numbers, and which names are one file. Where a file has holes is kept by
//! copying and is no difference.
//!
//! Both trees are ones that nobody changes meanwhile; every path is resolved
//! beneath the folder given, all the same.

mod compare;
mod copy;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use containerkit::fs::open_in_root;
use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::apply::is_kept_xattr;
use crate::show;

pub use compare::compare;
pub use copy::copy;

/// What two trees do not have in common at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Below the roots; empty for the roots themselves.
    pub path: Vec<u8>,
    /// What differs.
    pub what: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() {
            b"/"
        } else {
            &self.path[..]
        };
        write!(f, "{}: {}", show(path), self.what)
    }
}

/// A name in a folder, looked at without following it.
struct Node {
    stat: Stat,
    kind: FileType,
    target: Option<CString>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    fn look(dir: &OwnedFd, name: &CStr) -> Result<Node> {
        let shown = || format!("look at {}", show(name.to_bytes()));
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).io_context(shown)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let target = match kind {
            FileType::Symlink => {
                Some(rustix::fs::readlinkat(dir, name, Vec::new()).io_context(shown)?)
            }
            _ => None,
        };
        Ok(Node {
            stat,
            kind,
            target,
            xattrs: xattrs(&by_name(dir, name)?)?,
        })
    }

    /// What differs, contents excepted.
    fn difference(&self, other: &Node) -> Option<&'static str> {
        let (a, b) = (&self.stat, &other.stat);
        let device = matches!(self.kind, FileType::CharacterDevice | FileType::BlockDevice);
        if self.kind != other.kind {
            Some("its type")
        } else if self.kind == FileType::RegularFile && a.st_size != b.st_size {
            Some("its size")
        } else if self.target != other.target {
            Some("its target")
        } else if device && a.st_rdev != b.st_rdev {
            Some("its device number")
        } else if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid) {
            Some("its owner")
        } else if a.st_mode != b.st_mode {
            Some("its mode")
        } else if (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec) {
            Some("its modification time")
        } else if self.xattrs != other.xattrs {
            Some("its extended attributes")
        } else {
            None
        }
    }

    /// The identity of a file that has several names.
    fn link(&self) -> Option<(u64, u64)> {
        let several = self.kind != FileType::Directory && self.stat.st_nlink > 1;
        several.then_some((self.stat.st_dev, self.stat.st_ino))
    }
}

/// A name by a path that follows nothing: symlinks have attributes too, and
/// devices cannot be opened for the sake of theirs.
fn by_name(dir: &OwnedFd, name: &CStr) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).map_err(|_| Error::internal("a name holds a NUL"))
}

fn xattrs(path: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let named = || "read extended attributes".to_string();
    let mut found = BTreeMap::new();
    // The kernel's limit of a list.
    let mut list = vec![0u8; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
        Ok(length) => length,
        Err(errno) => return Err(Error::io(named(), errno)),
    };
    // The kernel's limit of a value.
    let mut value = vec![0u8; 64 << 10];
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(key) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if !is_kept_xattr(key.to_bytes()) {
            continue;
        }
        let length = rustix::fs::lgetxattr(path, key, &mut value[..]).io_context(named)?;
        found.insert(key.to_bytes().to_vec(), value[..length].to_vec());
    }
    Ok(found)
}

/// A folder of a tree. Opened anew for each, so that depth costs nothing.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_in_root(root.as_fd(), Path::new(OsStr::from_bytes(path)), flags, 0)
        .io_context(|| format!("open the folder {}", show(path)))
}

fn names(dir: &OwnedFd) -> Result<BTreeSet<CString>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(dir).io_context(|| "list a folder")? {
        let entry = entry.io_context(|| "list a folder")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn join(parent: &[u8], name: &CStr) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
    path
}

/// A file's content; a fifo that took its place meanwhile holds nobody.
fn open_file(dir: &OwnedFd, name: &CStr) -> Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
        .map(std::fs::File::from)
        .io_context(|| format!("open {}", show(name.to_bytes())))
}

#[cfg(test)]
mod tests;
