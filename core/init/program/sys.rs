//! The C library's calls, and all unsafe code.
//!
//! Declared by hand: the program is compiled without any dependency. The
//! layouts are those of Linux, the same on every architecture here.

use std::ffi::c_int;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// SIGCHLD.
pub(crate) const CHILD: c_int = 17;

const SIGILL: c_int = 4;
const SIGTRAP: c_int = 5;
const SIGABRT: c_int = 6;
const SIGBUS: c_int = 7;
const SIGFPE: c_int = 8;
const SIGSEGV: c_int = 11;
const SIGTTIN: c_int = 21;
const SIGTTOU: c_int = 22;
const SIGSYS: c_int = 31;
const SIG_SETMASK: c_int = 2;
const WNOHANG: c_int = 1;
const PR_SET_CHILD_SUBREAPER: c_int = 36;

/// `sigset_t`: 1024 bits.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Set([u8; 128]);

unsafe extern "C" {
    fn sigfillset(set: *mut Set) -> c_int;
    fn sigdelset(set: *mut Set, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const Set, old: *mut Set) -> c_int;
    fn sigwait(set: *const Set, signal: *mut c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setpgid(pid: c_int, group: c_int) -> c_int;
    fn getpgrp() -> c_int;
    fn tcgetpgrp(fd: c_int) -> c_int;
    fn tcsetpgrp(fd: c_int, group: c_int) -> c_int;
}

/// The signals that are waited for instead of handled.
#[derive(Clone, Copy)]
pub(crate) struct Signals {
    waited: Set,
    before: Set,
}

impl Signals {
    /// Blocks every signal but those of this process's own faults.
    pub(crate) fn block() -> Signals {
        let mut waited = Set([0; 128]);
        let mut before = Set([0; 128]);
        // SAFETY: both sets are live and as large as the C library's type; the
        // calls fail only for a bad signal or `how`, and both are constants.
        unsafe {
            sigfillset(&raw mut waited);
            for signal in [
                SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGTTIN, SIGTTOU,
            ] {
                sigdelset(&raw mut waited, signal);
            }
            sigprocmask(SIG_SETMASK, &raw const waited, &raw mut before);
        }
        Signals { waited, before }
    }

    /// The next one.
    pub(crate) fn wait(self) -> c_int {
        let mut signal = 0;
        // SAFETY: both are live for the call.
        while unsafe { sigwait(&raw const self.waited, &raw mut signal) } != 0 {}
        signal
    }
}

pub(crate) fn become_subreaper() {
    // SAFETY: the option takes one number and changes only this process.
    unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1) };
}

/// Whether standard input is a terminal whose foreground is this process.
pub(crate) fn is_terminal_ours() -> bool {
    // SAFETY: no pointers; on what is no terminal the call fails.
    unsafe { tcgetpgrp(0) == getpgrp() }
}

/// Between fork and exec: the child leads a group of its own, so that a
/// terminal's signals reach it once, and gets back the signals.
pub(crate) fn before_exec(command: &mut Command, signals: Signals, has_terminal: bool) {
    let prepare = move || {
        // SAFETY: system calls only, which are allowed after fork; SIGTTOU is
        // still blocked or ignored there where it matters, for the child is
        // in the background until `tcsetpgrp` returns.
        unsafe {
            if setpgid(0, 0) == 0 && has_terminal {
                let mut all = Set([0xff; 128]);
                sigprocmask(SIG_SETMASK, &raw const all, &raw mut all);
                tcsetpgrp(0, getpgrp());
            }
            sigprocmask(SIG_SETMASK, &raw const signals.before, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: `prepare` allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Sends a signal; one who is gone is reaped soon.
pub(crate) fn signal(pid: u32, number: c_int) {
    // SAFETY: no pointers. The child is not reaped before `wait` says so.
    unsafe { kill(pid as c_int, number) };
}

/// Reaps one that has ended: its pid and its status, 128 and the signal for
/// one that was killed.
pub(crate) fn wait() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is live for the call.
    let pid = unsafe { waitpid(-1, &raw mut status, WNOHANG) };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let code = match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    };
    Some((pid, code))
}
