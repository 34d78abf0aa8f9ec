//! Detached mount trees: made, put together, cloned out of a helper thread's
//! namespace.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::mount::Mount;

/// A mount with the place in the tree where it belongs.
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) target: PathBuf,
    pub(super) tree: OwnedFd,
}

/// A detached copy of what is at a path.
pub(super) fn clone(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    recursive: bool,
) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(dir, path, flags)
}

pub(super) fn open_filesystem(mount: &Mount) -> Result<OwnedFd> {
    rustix::mount::fsopen(&mount.fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        if errno == Errno::NODEV {
            let fstype = quote(&mount.fstype);
            Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "{}: this kernel has no file system {fstype}",
                    super::name(mount)
                ),
            )
        } else {
            Error::io(super::name(mount), errno)
        }
    })
}

/// Hands the options that are the file system's to its context.
pub(super) fn configure(
    mount: &Mount,
    context: &OwnedFd,
    read_only: bool,
    data: &[(String, Option<String>)],
) -> Result<()> {
    if read_only {
        rustix::mount::fsconfig_set_flag(context, "ro")
            .map_err(|errno| refused(mount, context, "option \"ro\"", errno))?;
    }
    for (key, value) in data {
        let result = match value {
            Some(value) => rustix::mount::fsconfig_set_string(context, key, value),
            None => rustix::mount::fsconfig_set_flag(context, key),
        };
        result
            .map_err(|errno| refused(mount, context, &format!("option {}", quote(key)), errno))?;
    }
    Ok(())
}

/// The configured file system as a detached tree.
pub(super) fn create(mount: &Mount, context: &OwnedFd) -> Result<OwnedFd> {
    rustix::mount::fsconfig_create(context).map_err(|errno| refused(mount, context, "", errno))?;
    rustix::mount::fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .map_err(|errno| refused(mount, context, "", errno))
}

/// The error of a refused option or mount, with what the kernel says of it.
pub(super) fn refused(mount: &Mount, context: &OwnedFd, what: &str, errno: Errno) -> Error {
    let mut said = String::new();
    let mut line = [0u8; 512];
    // One message a read, until ENODATA.
    while let Ok(n) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..n]);
        let text = text.trim_end();
        // "e overlay: Unknown parameter": the letter is the level.
        let text = text.get(2..).unwrap_or(text);
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.extend(text.chars().filter(|c| !c.is_control()));
        if n == 0 || said.len() > 1000 {
            break;
        }
    }
    let mut message = super::name(mount);
    if !what.is_empty() {
        message = format!("{message}: {what}");
    }
    if !said.is_empty() {
        message = format!("{message}: the kernel says: {said}");
    }
    super::kind_for_mount(Error::io(message, errno))
}

/// Puts the pieces into the root, in order.
pub(super) fn assemble(root: OwnedFd, pieces: Vec<Piece>) -> Result<OwnedFd> {
    match place_all(root.as_fd(), &pieces) {
        // Before Linux 6.15 nothing can be mounted on a detached tree.
        Err((done @ 0, Errno::INVAL, _)) => assemble_attached(root, &pieces[done..]),
        Err((_, _, error)) => Err(error),
        Ok(()) => Ok(root),
    }
}

/// The same, attached meanwhile in a namespace that nobody else sees.
pub(super) fn assemble_attached(root: OwnedFd, pieces: &[Piece]) -> Result<OwnedFd> {
    in_private_namespace(|point| {
        rustix::mount::move_mount(
            &root,
            "",
            CWD,
            point,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .io_context(|| "mount the root")?;
        let attached = rustix::fs::open(
            point,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .io_context(|| "open the root")?;
        place_all(attached.as_fd(), pieces).map_err(|(_, _, error)| error)?;
        clone(CWD, point, true).io_context(|| "detach the root")
    })
}

fn place_all(root: BorrowedFd<'_>, pieces: &[Piece]) -> Result<(), (usize, Errno, Error)> {
    for (index, piece) in pieces.iter().enumerate() {
        let place = || {
            let target = crate::fs::open_in_root(root, &piece.target, OFlags::PATH, 0)?;
            rustix::mount::move_mount(
                &piece.tree,
                "",
                &target,
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        if let Err(errno) = place() {
            let error = super::kind_for_mount(Error::io(piece.name.clone(), errno));
            return Err((index, errno, error));
        }
    }
    Ok(())
}

/// Runs `work` in a thread with a mount namespace of its own, with a folder
/// to mount on whose mounts spread nowhere. The namespace is gone afterwards.
pub(super) fn in_private_namespace<T: Send>(
    work: impl FnOnce(&Path) -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mounter".into())
            .spawn_scoped(scope, || {
                crate::sys::unshare_mounts().io_context(|| "make a mount namespace")?;
                // Any folder does that surely exists and is a mount, so that
                // its propagation can be cut without touching others.
                let point = Path::new("/proc");
                rustix::mount::mount_change(point, MountPropagationFlags::PRIVATE)
                    .io_context(|| "make /proc private in a mount namespace")?;
                work(point)
            })
            .io_context(|| "start a thread to mount in")?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the mounter's thread panicked")))
    })
}

/// Where something is mounted in this namespace, in mount order.
pub(super) fn mountpoints() -> Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo").io_context(|| "read /proc/self/mountinfo")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape_octal)
        .collect())
}

/// `/proc` writes space, tab, newline and backslash as `\ooo`.
fn unescape_octal(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// A folder of a layer. Its name is the caller's, the descriptor what counts
/// from here on.
pub(super) fn open_layer(mount: &Mount, role: &str, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let bad = |error: Error| super::kind_for_mount(error);
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "{}: {role} {}: want an absolute path",
            super::name(mount),
            quote(path)
        )));
    }
    rustix::fs::open(
        OsStr::from_bytes(path.as_bytes()),
        flags | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| format!("{}: {role} {}", super::name(mount), quote(path)))
    .map_err(bad)
}

/// What a lock says "in use" on: a bind's source may be a file.
pub(super) fn open_held(mount: &Mount, path: &str) -> Result<OwnedFd> {
    // O_NONBLOCK: a fifo must not hold us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .io_context(|| format!("{}: {}", super::name(mount), quote(path)))
        .map_err(super::kind_for_mount)
}
