//! The system calls that no safe crate has; the one place of this crate with
//! `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

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
