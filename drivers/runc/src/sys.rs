//! The system calls of this driver that no safe wrapper offers, and nothing else.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Lets the command end with its caller, and gives it no descriptor beyond its
/// standard streams, whatever the host process left inheritable: what leaks
/// into a runtime can leak into a container (CVE-2024-21626).
pub(crate) fn guard(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec of a possibly threaded
    // process; it makes plain system calls only, allocates nothing and takes
    // no lock.
    unsafe {
        command.pre_exec(move || before_exec(parent));
    }
}

fn before_exec(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the signal was asked for.
    if getppid() != Some(parent) {
        return Err(io::Error::from(rustix::io::Errno::CHILD));
    }
    reset_signals();
    // SAFETY: close_range takes three integers; with CLOEXEC it closes nothing
    // now, so that no descriptor which Rust still owns here becomes invalid.
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
}

/// Nothing blocked and nothing ignored: what the host process does about
/// signals is not the container's, which inherits it through the runtime.
fn reset_signals() {
    // The kernel's sigaction and sigset: the default action is all zeros. The
    // C library would hide its own two signals, which a spawn leaves ignored.
    let zeros = [0u64; 4];
    const SET: usize = 8;
    for number in 1..=64 {
        // SAFETY: the kernel reads a sigaction of at most 32 bytes and writes
        // nothing; KILL and STOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number as libc::c_long,
                zeros.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET,
            );
        }
    }
    // SAFETY: the kernel reads a set of 8 bytes and writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK as libc::c_long,
            zeros.as_ptr(),
            std::ptr::null_mut::<u64>(),
            SET,
        );
    }
}
