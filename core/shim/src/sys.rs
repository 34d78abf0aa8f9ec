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

/// A child that has ended and is not reaped, whoever it is; it stays as it is.
pub(crate) fn ended_child() -> Option<u32> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo may be all zeros, which it also is without such a
    // child; the kernel writes one into it, whose pid is that of a child.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        match libc::waitid(libc::P_ALL, 0, &raw mut info, options) {
            0 => info.si_pid(),
            _ => 0,
        }
    };
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}
