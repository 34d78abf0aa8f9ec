//! Children of the shim, and those that become it.

use std::time::{Duration, Instant};

use containerkit::process::Stat;
use containerkit::runtime::StartedProcess;
use containerkit::shim::ExitRecord;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How long the processes of a runtime may outlive its answer.
const ADOPTION: Duration = Duration::from_secs(5);

/// Waits until a process is a child of this one. Some runtimes answer while
/// the process that forked it is still there for a moment.
pub(crate) fn adopt(process: &StartedProcess) {
    let me = std::process::id();
    let end = Instant::now() + ADOPTION;
    while Stat::read(process.pid).is_ok_and(|stat| stat.parent != me) {
        if Instant::now() >= end {
            log::warn!("process {} is the child of another process", process.pid);
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits for the end of a child, and how it was.
pub(crate) fn reap(pid: Pid) -> ExitRecord {
    match wait(pid, WaitPidFlag::WEXITED) {
        Some(exit) => exit,
        None => {
            log::error!("the exit status of process {pid} is lost");
            ExitRecord::unknown()
        }
    }
}

/// How a child ended that has; `None` when it has not, or is no child.
pub(crate) fn reap_ended(pid: Pid) -> Option<ExitRecord> {
    wait(pid, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
}

fn wait(pid: Pid, flags: WaitPidFlag) -> Option<ExitRecord> {
    loop {
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::Exited(_, code)) => return Some(ExitRecord::exited(code as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Some(ExitRecord::signaled(signal as i32));
            }
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// Reaps what became an orphan in the container, but none that is `known`.
/// Only between driver calls: a driver waits for its own commands.
pub(crate) fn reap_strangers(known: impl Fn(Pid) -> bool) {
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::All, flags | WaitPidFlag::WNOWAIT).map(|status| status.pid()) {
            // A known one is waited for by its own descriptor, after which
            // the others are seen.
            Ok(Some(pid)) if !known(pid) => {
                let _ = waitid(Id::Pid(pid), flags);
            }
            _ => return,
        }
    }
}
