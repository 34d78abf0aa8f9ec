//! Makes one tree equal to another. What is equal already is not touched, so
//! that a tree on top of a copied layer gets only what is its own.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use containerkit::fs::remove_tree;
use containerkit::{Error, IoContext, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::compare::same_content;
use super::{Node, by_name, join, names, open, open_file};
use crate::Cancel;
use crate::show;

struct Copier<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// The first name of each file of the source that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Folders, whose looks are set when nothing in them changes any more.
    folders: Vec<Vec<u8>>,
}

/// Makes the tree `to` equal to `from`: removes what is too much, and makes
/// what is missing or different.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, cancel: &Cancel) -> Result<()> {
    let mut copier = Copier {
        from,
        to,
        links: HashMap::new(),
        folders: Vec::new(),
    };
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        cancel.check()?;
        copier.folder(&path, &mut pending)?;
        copier.folders.push(path);
    }
    copier.finish()
}

impl Copier<'_> {
    fn folder(&mut self, path: &[u8], pending: &mut Vec<Vec<u8>>) -> Result<()> {
        let (from, to) = (open(self.from, path)?, open(self.to, path)?);
        let wanted = names(&from)?;
        for name in names(&to)?.difference(&wanted) {
            remove_tree(to.as_fd(), name)?;
        }
        for name in &wanted {
            let path = join(path, name);
            self.entry(&from, &to, name, &path)
                .map_err(|error| error.context(format!("copy {}", show(&path))))?;
            let kind = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)
                .io_context(|| format!("look at {}", show(&path)))?;
            if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
                pending.push(path);
            }
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CString, path: &[u8]) -> Result<()> {
        let node = Node::look(from, name)?;
        let there = match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Some(Node::look(to, name)?),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(Error::io("look at it", errno)),
        };
        if node.kind == FileType::Directory {
            if there.as_ref().is_some_and(|there| there.kind == node.kind) {
                return Ok(());
            }
            self.clear(to, name, there.is_some())?;
            return rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
                .io_context(|| "make the folder");
        }
        let first = node.link().and_then(|link| match self.links.get(&link) {
            Some(first) => Some(first.clone()),
            None => {
                self.links.insert(link, path.to_vec());
                None
            }
        });
        if let Some(first) = first {
            return self.link(&first, to, name, there.as_ref());
        }
        let alone = there.as_ref().is_some_and(|t| t.link().is_none());
        if node.link().is_none()
            && alone
            && there.as_ref().is_some_and(|t| node.difference(t).is_none())
            && (node.kind != FileType::RegularFile || same_content(from, to, name)?)
        {
            return Ok(());
        }
        self.clear(to, name, there.is_some())?;
        match node.kind {
            FileType::RegularFile => file(from, to, name, &node)?,
            FileType::Symlink => {
                let target = node.target.as_deref().unwrap_or_default();
                rustix::fs::symlinkat(target, to, name).io_context(|| "make the symlink")?;
            }
            kind => {
                // No bits for others before it has its owner.
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(to, name, kind, mode, node.stat.st_rdev)
                    .io_context(|| "make the device or fifo")?;
            }
        }
        look(to, name, &node)
    }

    /// A further name of a file.
    fn link(&self, first: &[u8], to: &OwnedFd, name: &CString, there: Option<&Node>) -> Result<()> {
        let target = Path::new(OsStr::from_bytes(first));
        let parent = target.parent().unwrap_or(Path::new(""));
        let base = target.file_name().unwrap_or_default();
        let parent = open(self.to, parent.as_os_str().as_bytes())?;
        let stat = rustix::fs::statat(&parent, base, AtFlags::SYMLINK_NOFOLLOW)
            .io_context(|| "look at its first name")?;
        if there.is_some_and(|t| (t.stat.st_dev, t.stat.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.clear(to, name, there.is_some())?;
        rustix::fs::linkat(&parent, base, to, name, AtFlags::empty())
            .io_context(|| format!("make it a link to {}", show(first)))
    }

    fn clear(&self, to: &OwnedFd, name: &CStr, there: bool) -> Result<()> {
        match there {
            true => remove_tree(to.as_fd(), name),
            false => Ok(()),
        }
    }

    /// From the deepest to the root.
    fn finish(self) -> Result<()> {
        for path in self.folders.iter().rev() {
            let (from, to) = (open(self.from, path)?, open(self.to, path)?);
            let (node, there) = (Node::look(&from, c".")?, Node::look(&to, c".")?);
            if node.difference(&there).is_none() {
                continue;
            }
            for name in there.xattrs.keys() {
                if !node.xattrs.contains_key(name) {
                    let name = CString::new(name.as_slice())
                        .map_err(|_| Error::internal("a name holds a NUL"))?;
                    rustix::fs::fremovexattr(&to, &name)
                        .io_context(|| format!("remove an attribute of {}", show(path)))?;
                }
            }
            look(&to, c".", &node)
                .map_err(|error| error.context(format!("copy {}", show(path))))?;
        }
        Ok(())
    }
}

/// The content, with its holes.
fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, node: &Node) -> Result<()> {
    let source = open_file(from, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))
        .io_context(|| "create it")?;
    let size = u64::try_from(node.stat.st_size).unwrap_or(0);
    let mut at = 0u64;
    while at < size {
        let (start, end) = match rustix::fs::seek(&source, SeekFrom::Data(at as _)) {
            Ok(start) => {
                let end = rustix::fs::seek(&source, SeekFrom::Hole(start as _));
                (start, end.unwrap_or(size))
            }
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // A file system that knows of none.
            Err(_) => (at, size),
        };
        stretch(&source, &copy, start, end)?;
        at = end.max(start + 1);
    }
    rustix::fs::ftruncate(&copy, size).io_context(|| "set its size")
}

/// Copies the bytes from `start` to `end`.
fn stretch(from: &std::fs::File, to: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let mut buf = vec![0u8; 256 << 10];
    let mut at = start;
    while at < end {
        let want = buf
            .len()
            .min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = rustix::io::pread(from, &mut buf[..want], at).io_context(|| "read it")?;
        if read == 0 {
            return Err(Error::data_loss("it shrank while it was copied"));
        }
        let mut done = 0;
        while done < read {
            let part = &buf[done..read];
            done += rustix::io::pwrite(to, part, at + done as u64).io_context(|| "write it")?;
        }
        at += read as u64;
    }
    Ok(())
}

/// Owner, attributes, mode and times, in the order in which none undoes
/// another.
fn look(dir: &OwnedFd, name: &CStr, node: &Node) -> Result<()> {
    let (uid, gid) = (
        Uid::from_raw(node.stat.st_uid),
        Gid::from_raw(node.stat.st_gid),
    );
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags).io_context(|| "set its owner")?;
    let path = by_name(dir, name)?;
    for (key, value) in &node.xattrs {
        let named = || format!("set the extended attribute {}", show(key));
        let key = CString::new(key.as_slice()).map_err(|_| Error::internal("a NUL in a name"))?;
        rustix::fs::lsetxattr(&path, &key, value, XattrFlags::empty()).io_context(named)?;
    }
    if node.kind != FileType::Symlink {
        let mode = Mode::from_raw_mode(node.stat.st_mode & 0o7777);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).io_context(|| "set its mode")?;
    }
    let time = Timespec {
        tv_sec: node.stat.st_mtime,
        tv_nsec: node.stat.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(dir, name, &times, flags).io_context(|| "set its time")
}
