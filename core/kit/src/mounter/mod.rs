//! The one mounter: performs [`Mount`]s.
//!
//! Everything is first built as a **detached tree**, attached nowhere, and
//! then moved to its place in one step. A failure or a SIGKILL on the way
//! leaves nothing, because nothing was visible.
//!
//! A tree is private: mounts made in it do not spread to where its source
//! comes from, unless an option (`rshared`, `rslave`) asks for that. Nested
//! targets are resolved in the tree's own root by `openat2` and mounted by
//! descriptor, so that a symlink inside cannot lead out of it.
//!
//! Overlays are mounted by the first way that the kernel knows, see [`Way`];
//! no path of a layer is ever put where it would have to be escaped.

mod idmap;
mod options;
mod overlay;
#[cfg(test)]
mod tests;
mod tree;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};

use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::idmap::OPTION;
use crate::mount::Mount;
use options::Options;
use tree::Piece;

/// The most layers that one overlay can have below its upper.
pub const OVERLAY_LAYERS: usize = 500;

/// How an overlay is mounted.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Descriptors of the layers (`FSCONFIG_SET_FD`), Linux 6.13.
    Descriptors,
    /// One `lowerdir+` string a layer, Linux 6.7.
    Strings,
    /// `mount(2)` with all layers in one page of options, named by short
    /// numbers from `/proc/self/fd`, in a mount namespace of a helper thread.
    Page,
}

/// Performs `mounts` at `target` in the caller's mount namespace. The first
/// is the root, with an empty [`Mount::target`]; the targets of the others
/// are resolved in it and must exist. What is mounted at `target` already is
/// covered. A failure leaves nothing mounted.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    let tree = mount_detached(mounts)?;
    attach(tree.as_fd(), target)
}

/// The same as a detached tree, attached nowhere: it is gone when the
/// descriptor, and everything opened beneath it, is closed, also by SIGKILL.
/// It can be used as a directory descriptor, and [attached](attach) once.
pub fn mount_detached(mounts: &[Mount]) -> Result<OwnedFd> {
    mount_detached_by(None, mounts)
}

/// [`mount_detached`] with overlays mounted by one way, whatever the kernel
/// knows: for tests.
#[doc(hidden)]
pub fn mount_detached_by(way: Option<Way>, mounts: &[Mount]) -> Result<OwnedFd> {
    let Some((first, rest)) = mounts.split_first() else {
        return Err(Error::invalid("mount: there are no mounts"));
    };
    if !first.target.is_empty() {
        return Err(Error::invalid(format!(
            "{}: the first mount must be the root, with an empty target",
            name(first)
        )));
    }
    let root = mount_one(way, first)?;
    if rest.is_empty() {
        return Ok(root);
    }
    let mut pieces = Vec::with_capacity(rest.len());
    for mount in rest {
        if mount.target.split('/').all(str::is_empty) {
            return Err(Error::invalid(format!(
                "{}: only the first mount can be the root",
                name(mount)
            )));
        }
        pieces.push(Piece {
            name: name(mount),
            target: mount.target.clone().into(),
            tree: mount_one(way, mount)?,
        });
    }
    tree::assemble(root, pieces)
}

/// Attaches a detached tree at `target`, an existing folder (or file, for a
/// file's bind) whose last component is not followed when it is a symlink.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> Result<()> {
    rustix::mount::move_mount(
        tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .io_context(|| format!("mount at {}", target.display()))
    .map_err(kind_for_mount)
}

/// Unmounts everything at `target` and beneath it; what is not mounted, or
/// not there, is success.
///
/// The mounts vanish from the namespace at once (`MNT_DETACH`), so this never
/// fails because of an open file; a file system lives on, unreachable, until
/// the last such file is closed. A snapshotter still sees that its snapshot
/// is in use until then.
pub fn unmount(target: &Path) -> Result<()> {
    let mut any = false;
    loop {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => any = true,
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => break,
            Err(errno) => return Err(Error::io(format!("unmount {}", target.display()), errno)),
        }
    }
    // With a mount went all that was beneath it; without one there may be
    // mounts further down.
    if any || !target.is_dir() {
        return Ok(());
    }
    let target = target
        .canonicalize()
        .io_context(|| format!("unmount {}", target.display()))?;
    for path in tree::mountpoints()?.into_iter().rev() {
        if path != target && path.starts_with(&target) {
            match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    return Err(Error::io(format!("unmount {}", path.display()), errno));
                }
            }
        }
    }
    Ok(())
}

/// Whether `path` itself is where something is mounted. A path that is not
/// there is not.
pub fn is_mountpoint(path: &Path) -> Result<bool> {
    match rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::TYPE,
    ) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(Error::io(format!("stat {}", path.display()), errno)),
    }
}

/// Whether the folder is the upper of an overlay that is mounted anywhere: in
/// whichever namespace, detached, or unmounted with files still open.
///
/// The kernel marks such a folder, and with `index=on` refuses a second
/// overlay on it (`EBUSY`). So one is asked for that it must refuse in any
/// case, for a work folder that equals its upper, but only after it has looked
/// at the mark. Nothing is mounted and nothing written.
pub fn is_upper_in_use(dir: &Path) -> Result<bool> {
    overlay::is_upper_in_use(None, dir)
}

/// Says to others that these mounts are in use, until the descriptors are
/// closed or the process dies: a shared `flock` on the folder that is theirs
/// alone, an overlay's upper (its topmost layer without one) or a bind's
/// source. A snapshotter takes the same lock exclusively to commit or remove;
/// while it does, this is a `Conflict`.
///
/// Who keeps a snapshot mounted calls it with what the snapshotter gave it,
/// before it mounts.
pub fn hold(mounts: &[Mount]) -> Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    for mount in mounts {
        let of_overlay = |key| mount.options.iter().find_map(|o| o.strip_prefix(key));
        let path = match mount.fstype.as_str() {
            "overlay" => of_overlay("upperdir=").or_else(|| of_overlay("lowerdir+=")),
            _ if Options::parse(mount)?.bind => Some(mount.source.as_str()),
            _ => None,
        };
        let Some(path) = path else { continue };
        let fd = tree::open_held(mount, path)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => held.push(fd),
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::conflict(format!(
                    "{}: {} is being committed or removed",
                    name(mount),
                    quote(path)
                )));
            }
            Err(errno) => return Err(Error::io(format!("lock {}", quote(path)), errno)),
        }
    }
    Ok(held)
}

/// One mount as a detached tree.
fn mount_one(way: Option<Way>, mount: &Mount) -> Result<OwnedFd> {
    let options = Options::parse(mount)?;
    let tree = if options.bind {
        bind(mount, &options)?
    } else if mount.fstype == "overlay" {
        overlay::mount(way, mount, &options)?
    } else {
        filesystem(mount, &options)?
    };
    crate::sys::mount_setattr(tree.as_fd(), options.attributes())
        .io_context(|| format!("{}: set its attributes", name(mount)))?;
    Ok(tree)
}

fn bind(mount: &Mount, options: &Options) -> Result<OwnedFd> {
    if let Some((key, _)) = options.data.iter().find(|(key, _)| key != OPTION) {
        return Err(Error::invalid(format!(
            "{}: unknown option {}",
            name(mount),
            quote(key)
        )));
    }
    if !mount.source.starts_with('/') {
        return Err(Error::invalid(format!(
            "{}: the source must be an absolute path",
            name(mount)
        )));
    }
    let tree = tree::clone(CWD, &mount.source, options.recursive)
        .io_context(|| name(mount))
        .map_err(kind_for_mount)?;
    if let Some(mapping) = &options.mapping {
        idmap::map(mount, &tree, &idmap::namespace(mapping)?)?;
    }
    Ok(tree)
}

/// A file system by name, through the mount API of Linux 5.2.
fn filesystem(mount: &Mount, options: &Options) -> Result<OwnedFd> {
    let context = tree::open_filesystem(mount)?;
    if !mount.source.is_empty() {
        rustix::mount::fsconfig_set_string(&context, "source", &mount.source)
            .map_err(|errno| tree::refused(mount, &context, "its source", errno))?;
    }
    tree::configure(mount, &context, options.read_only, &options.data)?;
    tree::create(mount, &context)
}

/// How a mount is called in an error.
fn name(mount: &Mount) -> String {
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let at = match mount.target.as_str() {
        "" => String::new(),
        target => format!(" at {}", quote(target)),
    };
    match (mount.fstype.as_str(), upper) {
        ("overlay", Some(upper)) => format!("mount overlay on {}{at}", quote(upper)),
        ("overlay", None) => format!("mount overlay{at}"),
        (fstype, _) if mount.source.is_empty() => format!("mount {}{at}", quote(fstype)),
        ("bind", _) => format!("mount bind of {}{at}", quote(&mount.source)),
        (fstype, _) => format!("mount {} of {}{at}", quote(fstype), quote(&mount.source)),
    }
}

/// `NotFound` of a system call on a mount is about its parts, never about an
/// object of the caller's.
fn kind_for_mount(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.with_kind(ErrorKind::FailedPrecondition),
        _ => error,
    }
}
