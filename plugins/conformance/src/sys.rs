//! The system calls of this crate that have no safe form elsewhere.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets a command's process have no descriptor of ours but its three streams,
/// those that are not close-on-exec included.
pub(crate) fn streams_only(command: &mut Command) -> &mut Command {
    let close = || {
        // SAFETY: marks descriptors and touches no memory; between fork and
        // exec it allocates nothing and takes no lock.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3 as libc::c_uint,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: `close` does nothing that is not allowed after a fork of a
    // program with threads.
    unsafe { command.pre_exec(close) }
}

/// Sends a signal of any number, real-time ones included.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open while it is borrowed; no siginfo is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0 as libc::c_uint,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that every program started from now on inherits.
pub(crate) fn inheritable(fd: BorrowedFd<'_>) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: F_DUPFD makes a new descriptor from an open one.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 50) };
    match copy {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the number was just made, and nobody else knows it.
        copy => Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(copy) }),
    }
}
