//! Descriptors as numbers.

#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Gives a descriptor away.
pub fn give(fd: OwnedFd) -> RawFd {
    fd.into_raw_fd()
}

/// Takes a descriptor that the other side gave away; `None` for a number that
/// is none.
pub fn take(fd: RawFd) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: by the ABI's rule (ABI.md, DRV-G-06) the sender gave this
    // descriptor away with the call, so nobody else closes it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// As [`take`], for what a driver returned: a number that is not open here is
/// refused before it can be closed in somebody else's place, and what is open
/// is made close-on-exec.
#[cfg(feature = "host")]
pub fn take_checked(fd: RawFd) -> Option<OwnedFd> {
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
    if fd < 0 {
        return None;
    }
    // SAFETY: borrowed for the two calls only; a number that is not open
    // makes them fail with EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let flags = fcntl_getfd(borrowed).ok()?;
    if !flags.contains(FdFlags::CLOEXEC) {
        fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    }
    take(fd)
}
