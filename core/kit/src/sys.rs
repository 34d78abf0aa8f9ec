//! The system calls that no safe crate has; the one place of this crate with
//! `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

/// `struct mount_attr` of `mount_setattr(2)`, version 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// `mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, attr)`.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, attr: MountAttr) -> rustix::io::Result<()> {
    // SAFETY: the path is a NUL-terminated constant, `attr` a live `repr(C)`
    // struct whose size is passed with it, and the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

/// Gives the calling thread its own mount namespace, and with it its own
/// working directory. Only for a thread that ends soon after.
pub(crate) fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES), which is
    // what the call's contract is about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
}

/// A signal by number, 1 to 64, real-time ones among them.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is a signal of Linux. It is only ever sent, where
    // the C library's own use of the first real-time signals does not matter.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// A user namespace with these maps, as `/proc/PID/uid_map` wants them.
///
/// Only a process makes one, so a child does and is gone again: it sends no
/// signal at its end and is seen by no `wait` that does not ask for it.
pub(crate) fn user_namespace(uids: &str, gids: &str) -> std::io::Result<OwnedFd> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let read = ours.as_raw_fd();
    let write = theirs.as_raw_fd();
    // SAFETY: without CLONE_VM this is fork(2). The child makes only system
    // calls, on numbers that were read before, and never returns.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0);
        if pid == 0 {
            libc::close(write);
            let mut byte = 0u8;
            // Until the parent closes its end, or dies.
            while libc::read(read, (&raw mut byte).cast(), 1) < 0 {}
            libc::_exit(0);
        }
        pid
    };
    if pid < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let made = std::fs::write(format!("/proc/{pid}/uid_map"), uids)
        .and_then(|()| std::fs::write(format!("/proc/{pid}/gid_map"), gids))
        .and_then(|()| std::fs::File::open(format!("/proc/{pid}/ns/user")));
    drop(theirs);
    // A copy of the pipe in a process that another thread just forked would
    // keep the child alive.
    // SAFETY: the child is not waited for yet, so that the pid is its own;
    // `waitpid` may be given no place for the status.
    unsafe {
        libc::kill(pid as libc::pid_t, libc::SIGKILL);
        libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL);
    }
    made.map(OwnedFd::from)
}
