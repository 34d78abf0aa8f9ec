//! Children of the shim, and those that become it.

use std::time::{Duration, Instant};

use containerkit::process::Stat;
use containerkit::runtime::StartedProcess;
use containerkit::shim::ExitRecord;
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::sys;

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
pub(crate) fn reap(pid: u32) -> ExitRecord {
    match wait(pid, WaitIdOptions::EXITED) {
        Some(exit) => exit,
        None => {
            log::error!("the exit status of process {pid} is lost");
            ExitRecord::unknown()
        }
    }
}

/// How a child ended that has; `None` when it has not, or is no child.
pub(crate) fn reap_ended(pid: u32) -> Option<ExitRecord> {
    wait(pid, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait(pid: u32, options: WaitIdOptions) -> Option<ExitRecord> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    loop {
        let status = match waitid(WaitId::Pid(pid), options) {
            Ok(status) => status?,
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        };
        // A real-time signal's number is as good as any.
        return match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(ExitRecord::exited(code as u8)),
            (None, Some(signal)) => Some(ExitRecord::signaled(signal)),
            (None, None) => None,
        };
    }
}

/// Reaps what became an orphan in the container, but none that is `known`.
/// Only between driver calls: a driver waits for its own commands.
pub(crate) fn reap_strangers(known: impl Fn(u32) -> bool) {
    // A known one is waited for by its own descriptor, after which the others
    // are seen.
    while let Some(pid) = sys::ended_child().filter(|pid| !known(*pid)) {
        if reap_ended(pid).is_none() {
            return;
        }
    }
}
