//! A wait of the kernel's that is begun early.
//!
//! Who moves a process from one cgroup to another waits until no processor is
//! in the middle of a fork: a grace period of RCU, 4 to 12 ms. It is not waited
//! for again soon after (`cgroup_threadgroup_rwsem`, a `percpu_rw_semaphore`
//! over `rcu_sync`). A runtime moves a process for each container that it
//! makes. So the guard, which has nothing else to do, moves itself to the
//! cgroup that it is in, and the wait is over when the runtime comes to it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use containerkit::shim::joined_cgroup;

/// The kernel forgets a wait after another grace period.
const BEAT: Duration = Duration::from_millis(4);
/// How often; a runtime that takes longer waits for itself.
const BEATS: u32 = 10;

/// Moves that move nothing.
pub(crate) struct Haste {
    cgroup: Option<PathBuf>,
    left: u32,
}

impl Haste {
    pub(crate) fn new() -> Haste {
        Haste {
            cgroup: joined_cgroup(),
            left: BEATS,
        }
    }

    /// Begins anew: it is now that a runtime is about to be asked.
    pub(crate) fn renew(&mut self) {
        self.left = BEATS;
    }

    /// How long to wait until the next; `None` when there is none.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.left > 0 && self.cgroup.is_some()).then_some(BEAT)
    }

    pub(crate) fn beat(&mut self) {
        let Some(cgroup) = self.cgroup.as_ref().filter(|_| self.left > 0) else {
            return;
        };
        self.left -= 1;
        // Whoever has moved this process meanwhile meant it, and who may not
        // write here has no runtime that does.
        if joined_cgroup().as_ref() != Some(cgroup) || stay(cgroup).is_err() {
            self.cgroup = None;
        }
    }
}

/// Moves this process to a cgroup that it is in.
fn stay(cgroup: &std::path::Path) -> std::io::Result<()> {
    let mut procs = File::options()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?;
    procs.write_all(b"0")
}
