//! One name of a tree, looked at without following it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use containerkit::idmap::{IdMap, IdMapping};
use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::DiffOptions;
use crate::apply::{c_name, is_overlays, is_systems};
use crate::layer::entry::{Entry, EntryKind};

/// Extended attributes by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The kernel's limit of a list of names and of a value.
const XATTR: usize = 64 << 10;
const CHUNK: usize = 256 << 10;

/// A folder beneath a root; no symlink leads to it.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let name = c_name(path)?;
    let opened = loop {
        match rustix::fs::openat2(root, &name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => break opened,
        }
    };
    opened.map_err(|errno| match errno {
        Errno::NAMETOOLONG => Error::invalid(format!(
            "{}: a path of more than 4095 bytes cannot be in a layer",
            crate::show(&path[..path.len().min(64)])
        )),
        errno => changed(path, errno),
    })
}

/// What was there a moment ago.
pub(crate) fn changed(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
            Error::conflict(format!("{} went away while it was read", crate::show(path)))
                .with_hint("stop or pause what changes it, and try again")
        }
        errno => Error::io(format!("read {}", crate::show(path)), errno),
    }
}

/// The names in a folder, without `.` and `..`, in order.
pub(crate) fn names(dir: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).io_context(|| "list a folder")? {
        let entry = entry.io_context(|| "list a folder")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A name in a folder, and what it is.
pub(crate) struct Node<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(crate) stat: Stat,
}

impl<'a> Node<'a> {
    /// `None` where there is none.
    pub(crate) fn find(dir: BorrowedFd<'a>, name: &'a CStr) -> Result<Option<Node<'a>>> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Node { dir, name, stat })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::io(
                format!("stat {}", crate::show(name.to_bytes())),
                errno,
            )),
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Overlay's mark of a name that is gone.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }

    /// What other names of the same thing have in common.
    pub(super) fn inode(&self) -> Option<(u64, u64)> {
        let shared = self.stat.st_nlink > 1 && !self.is_dir();
        shared.then_some((self.stat.st_dev, self.stat.st_ino))
    }

    /// Nothing but the name is followed on the way: the folder is a
    /// descriptor.
    fn path(&self) -> Result<CString> {
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.to_bytes());
        c_name(&path)
    }

    /// One attribute, overlay's own too.
    pub(super) fn xattr(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let mut value = [0u8; 256];
        match rustix::fs::lgetxattr(&self.path()?, name, &mut value[..]) {
            Ok(length) => Ok(Some(value[..length].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            // Longer than anything that is asked for.
            Err(Errno::RANGE) => Ok(Some(Vec::new())),
            Err(errno) => Err(changed(self.name.to_bytes(), errno)),
        }
    }

    /// The attributes that belong into a layer.
    pub(super) fn xattrs(&self) -> Result<Xattrs> {
        let path = self.path()?;
        // Most things have few or none, and need no room that must be cleared.
        let (mut few, mut many) = ([0u8; 256], Vec::new());
        let names = match rustix::fs::llistxattr(&path, &mut few[..]) {
            Ok(length) => &few[..length],
            Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
            Err(Errno::RANGE) => {
                many.resize(XATTR, 0);
                let length = rustix::fs::llistxattr(&path, &mut many[..])
                    .map_err(|errno| changed(self.name.to_bytes(), errno))?;
                &many[..length]
            }
            Err(errno) => return Err(changed(self.name.to_bytes(), errno)),
        };
        let mut found = Xattrs::new();
        let mut value = Vec::new();
        for name in names.split(|b| *b == 0) {
            if name.is_empty() || is_overlays(name) || is_systems(name) {
                continue;
            }
            value.resize(XATTR, 0);
            match rustix::fs::lgetxattr(&path, &c_name(name)?, &mut value[..]) {
                Ok(length) => drop(found.insert(name.to_vec(), value[..length].to_vec())),
                Err(Errno::NODATA) => {}
                Err(errno) => {
                    return Err(Error::io(
                        format!("read the extended attribute {}", crate::show(name)),
                        errno,
                    ));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn target(&self) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(self.dir, self.name, Vec::new())
            .map(CString::into_bytes)
            .map_err(|errno| changed(self.name.to_bytes(), errno))
    }

    /// The file's content; only for what is a file.
    pub(super) fn open(&self) -> Result<File> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.dir, self.name, flags, Mode::empty())
            .map_err(|errno| changed(self.name.to_bytes(), errno))?;
        let stat = rustix::fs::fstat(&fd).io_context(|| "stat a file")?;
        if (stat.st_ino, FileType::from_raw_mode(stat.st_mode))
            != (self.stat.st_ino, FileType::RegularFile)
        {
            return Err(changed(self.name.to_bytes(), Errno::NOENT));
        }
        // Opened for real once it is known to be a file: whoever exchanges it
        // for a device must not have that opened by the host.
        let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
        File::open(itself).io_context(|| "open a file")
    }

    /// User and group as the container knows them.
    pub(super) fn owner(&self, mapping: Option<&IdMapping>) -> (u32, u32) {
        let (uid, gid) = (self.stat.st_uid, self.stat.st_gid);
        match mapping {
            None => (uid, gid),
            Some(mapping) => (inside(mapping.uids(), uid), inside(mapping.gids(), gid)),
        }
    }

    /// Seconds and nanoseconds, not later than the epoch.
    pub(super) fn mtime(&self, epoch: Option<i64>) -> (i64, u32) {
        let mtime = (self.stat.st_mtime, self.stat.st_mtime_nsec as u32);
        epoch.map_or(mtime, |epoch| mtime.min((epoch, 0)))
    }

    /// The entry of a layer, without data and holes.
    pub(super) fn entry(&self, path: &[u8], options: &DiffOptions) -> Result<Entry> {
        let (major, minor) = (
            rustix::fs::major(self.stat.st_rdev),
            rustix::fs::minor(self.stat.st_rdev),
        );
        let mut path = path.to_vec();
        let (kind, link) = match self.kind() {
            FileType::RegularFile => (EntryKind::File, Vec::new()),
            FileType::Directory => {
                path.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
                (EntryKind::Directory, Vec::new())
            }
            FileType::Symlink => (EntryKind::Symlink, self.target()?),
            FileType::Fifo => (EntryKind::Fifo, Vec::new()),
            FileType::BlockDevice => (EntryKind::BlockDevice { major, minor }, Vec::new()),
            FileType::CharacterDevice if self.is_whiteout() => {
                return Err(Error::invalid(
                    "a character device 0/0 is overlay's whiteout and cannot be in a layer",
                ));
            }
            FileType::CharacterDevice => (EntryKind::CharDevice { major, minor }, Vec::new()),
            _ => return Err(changed(&path, Errno::NOENT)),
        };
        let (uid, gid) = self.owner(options.mapping.as_ref());
        Ok(Entry {
            kind,
            path,
            link,
            size: match kind {
                EntryKind::File => self.stat.st_size as u64,
                _ => 0,
            },
            mode: self.stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: self.mtime(options.epoch),
            xattrs: self.xattrs()?,
            sparse: None,
        })
    }
}

/// An id on the host as one in the container; one that has no name there
/// stays what it is, for no file of the container's own can have it.
fn inside(maps: &[IdMap], host: u32) -> u32 {
    maps.iter()
        .find_map(|map| {
            let offset = host.checked_sub(map.host)?;
            (offset < map.count).then(|| map.container + offset)
        })
        .unwrap_or(host)
}

/// Whether folders' times count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Count,
    Ignored,
}

/// Whether a thing is what it was, as far as a layer would tell. The mapping is
/// the upper one's.
pub(super) fn same(
    lower: &Node<'_>,
    upper: &Node<'_>,
    options: &DiffOptions,
    times: Times,
) -> Result<bool> {
    let (l, u) = (&lower.stat, &upper.stat);
    if l.st_mode != u.st_mode
        || lower.owner(None) != upper.owner(options.mapping.as_ref())
        || times == Times::Count && lower.mtime(options.epoch) != upper.mtime(options.epoch)
    {
        return Ok(false);
    }
    if (l.st_dev, l.st_ino) == (u.st_dev, u.st_ino) {
        return Ok(true);
    }
    let shallow = match upper.kind() {
        FileType::RegularFile => l.st_size == u.st_size,
        FileType::Symlink => lower.target()? == upper.target()?,
        FileType::CharacterDevice | FileType::BlockDevice => l.st_rdev == u.st_rdev,
        _ => true,
    };
    Ok(shallow
        && lower.xattrs()? == upper.xattrs()?
        && (upper.kind() != FileType::RegularFile || same_content(lower, upper)?))
}

fn same_content(lower: &Node<'_>, upper: &Node<'_>) -> Result<bool> {
    let size = upper.stat.st_size as u64;
    if size == 0 {
        return Ok(true);
    }
    let (a, b) = (lower.open()?, upper.open()?);
    let chunk = size.min(CHUNK as u64) as usize;
    let (mut left, mut right) = (vec![0u8; chunk], vec![0u8; chunk]);
    let mut offset = 0;
    while offset < size {
        let part = (size - offset).min(chunk as u64) as usize;
        for (file, buffer) in [(&a, &mut left), (&b, &mut right)] {
            match file.read_exact_at(&mut buffer[..part], offset) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(changed(upper.name.to_bytes(), Errno::NOENT));
                }
                result => result.io_context(|| "read a file")?,
            }
        }
        if left[..part] != right[..part] {
            return Ok(false);
        }
        offset += part as u64;
    }
    Ok(true)
}
