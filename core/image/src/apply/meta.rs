//! Owner, mode, extended attributes and times, on descriptors.
//!
//! The order matters: chown clears setuid bits and capabilities, writing
//! clears them too, and an ACL rewrites the group bits of a mode.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::c_name;
use super::tree::Dir;
use crate::layer::entry::{Entry, EntryKind};
use crate::show;

/// What stood where a folder is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Nothing.
    No,
    /// Something that was not a folder, removed.
    Replaced,
    /// A folder, which stays.
    Yes,
}

/// Access time is modification time: nothing of now gets into an image.
pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // The reader refuses the number that would mean "unchanged".
    (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

/// The mode to make a file or folder with: what chown would clear comes later.
pub(super) fn at_first(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o777)
}

/// Looking is cheap and changing is not, and most files come out right: but
/// umask, setgid parents, default ACLs and mount options all have their say.
fn chown_and_chmod(fd: impl AsFd, entry: &Entry) -> Result<()> {
    let found = rustix::fs::fstat(&fd).io_context(|| "stat it")?;
    let owned = (found.st_uid, found.st_gid) == (entry.uid, entry.gid);
    if !owned {
        let (uid, gid) = owner(entry);
        rustix::fs::fchown(&fd, uid, gid).io_context(|| "set the owner")?;
    }
    // chown clears some bits.
    if !owned || found.st_mode & 0o7777 != entry.mode {
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode)).io_context(|| "set the mode")?;
    }
    Ok(())
}

pub(super) fn file(file: &std::fs::File, entry: &Entry) -> Result<()> {
    chown_and_chmod(file, entry)?;
    set_xattrs(entry, |name, value| {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    rustix::fs::futimens(file, &times(entry.mtime)).io_context(|| "set the time")
}

/// The time comes later: what is put into the folder would change it.
pub(super) fn directory(fd: &OwnedFd, entry: &Entry, existing: Existing) -> Result<()> {
    if existing == Existing::Yes {
        drop_xattrs(fd, entry)?;
    }
    chown_and_chmod(fd, entry)?;
    set_xattrs(entry, |name, value| {
        rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
    })
}

/// Symlinks, devices and fifos: nothing that may be opened for real.
pub(super) fn special(parent: &Dir, name: &CString, entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    let found =
        rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).io_context(|| "stat it")?;
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid) {
        rustix::fs::chownat(&parent.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .io_context(|| "set the owner")?;
    }
    if entry.kind != EntryKind::Symlink {
        let fd = rustix::fs::openat(
            &parent.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .io_context(|| "open it")?;
        // Through /proc the descriptor itself is changed, whatever has the name.
        let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
        rustix::fs::chmod(&itself, Mode::from_raw_mode(entry.mode))
            .io_context(|| "set the mode")?;
        set_xattrs(entry, |key, value| {
            rustix::fs::setxattr(&itself, key, value, XattrFlags::empty())
        })?;
    } else if !entry.xattrs.is_empty() {
        // The magic link of an O_PATH symlink cannot be followed to it, so
        // the name is taken in the parent's descriptor.
        let mut path = format!("/proc/self/fd/{}/", parent.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        let path = c_name(&path)?;
        set_xattrs(entry, |key, value| {
            rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())
        })?;
    }
    rustix::fs::utimensat(
        &parent.fd,
        name,
        &times(entry.mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .io_context(|| "set the time")
}

/// Overlay's own attributes describe a lower layer to the kernel: from an
/// image they would forge whiteouts and redirects.
pub(crate) fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn set_xattrs(
    entry: &Entry,
    set: impl Fn(&CString, &[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    for (name, value) in &entry.xattrs {
        if is_overlays(name) {
            log::debug!("{}: {} dropped", show(&entry.path), show(name));
            continue;
        }
        let plain_user = name.starts_with(b"user.")
            && !matches!(entry.kind, EntryKind::File | EntryKind::Directory);
        match set(&c_name(name)?, value) {
            Ok(()) => {}
            // A program would run without the rights it was given.
            Err(errno) if name == b"security.capability" => {
                return Err(refused(name, errno));
            }
            // The file system, or the kernel, does not know this namespace;
            // user attributes exist on files and folders only.
            Err(Errno::OPNOTSUPP) => {
                log::debug!(
                    "{}: attribute {} is not supported here, left out",
                    show(&entry.path),
                    show(name)
                );
            }
            Err(Errno::PERM) if plain_user => {
                log::debug!("{}: {} left out", show(&entry.path), show(name));
            }
            Err(errno) => return Err(refused(name, errno)),
        }
    }
    Ok(())
}

fn refused(name: &[u8], errno: Errno) -> Error {
    Error::io(format!("set the extended attribute {}", show(name)), errno)
}

/// A layer's folder entry is the whole truth of its attributes: what a lower
/// layer set and this one does not goes. Attributes of the system stay.
fn drop_xattrs(fd: &OwnedFd, entry: &Entry) -> Result<()> {
    drop_others(fd, |name| entry.xattrs.contains_key(name))
}

/// Labels that the system's policy puts on whatever is made.
pub(crate) fn is_systems(name: &[u8]) -> bool {
    name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_")
        || [&b"selinux"[..], b"ima", b"evm", b"apparmor"]
            .iter()
            .any(|label| name.strip_prefix(b"security.") == Some(label))
        || name.starts_with(b"security.SMACK")
}

/// Whether an attribute is part of a tree: neither the system's label nor
/// overlay's own.
pub(crate) fn is_kept_xattr(name: &[u8]) -> bool {
    !is_systems(name) && !is_overlays(name)
}

fn xattr_names(fd: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    // The kernel's limit of a list.
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(Error::io("list extended attributes", errno)),
    };
    let names = names[..length].split(|b| *b == 0);
    Ok(names
        .filter(|name| !name.is_empty() && is_kept_xattr(name))
        .map(<[u8]>::to_vec)
        .collect())
}

fn drop_others(fd: &OwnedFd, keep: impl Fn(&[u8]) -> bool) -> Result<()> {
    for name in xattr_names(fd)?.iter().filter(|name| !keep(name)) {
        match rustix::fs::fremovexattr(fd, c_name(name)?.as_c_str()) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => {
                return Err(Error::io(
                    format!("remove the extended attribute {}", show(name)),
                    errno,
                ));
            }
        }
    }
    Ok(())
}

/// Makes a folder look like another: owner, attributes, mode and times.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from).io_context(|| "stat a folder")?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).io_context(|| "set the owner")?;
    let names = xattr_names(from)?;
    drop_others(to, |name| names.iter().any(|kept| kept == name))?;
    // The kernel's limit of a value.
    let mut value = vec![0u8; if names.is_empty() { 0 } else { 64 << 10 }];
    for name in &names {
        let key = c_name(name)?;
        let length = rustix::fs::fgetxattr(from, key.as_c_str(), &mut value[..])
            .map_err(|errno| refused(name, errno))?;
        rustix::fs::fsetxattr(to, key.as_c_str(), &value[..length], XattrFlags::empty())
            .map_err(|errno| refused(name, errno))?;
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::fchmod(to, mode).io_context(|| "set the mode")?;
    rustix::fs::futimens(to, &super::tree::times_of(from)?).io_context(|| "set the time")
}
