//! The system calls that have no safe wrapper.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use containerkit::{Error, IoContext, Result};
use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid, fork};

/// Which side of a fork this is.
pub(crate) enum Side {
    /// The parent, with the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

/// Forks this process, which has a single thread.
pub(crate) fn fork_single() -> Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")
        .io_context(|| "count threads")?
        .count();
    if threads != 1 {
        return Err(Error::internal(format!(
            "the guard must be forked from one thread, there are {threads}"
        )));
    }
    // SAFETY: there is one thread, this one, so that the child's memory is
    // consistent and no lock in it is held by a thread that it does not have.
    match unsafe { fork() }.io_context(|| "fork the supervisor")? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Ends the process here and now, without a destructor of anybody.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor above the standard streams: what the program that
/// started us forgot to close must not reach a container.
pub(crate) fn close_inherited() {
    // SAFETY: called first in `main`, when no value of this program owns a
    // descriptor above 2.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Sends a signal by number, real-time ones included.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: the arguments are a descriptor that lives through the call, a
    // number that the kernel checks, no siginfo, and no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}
