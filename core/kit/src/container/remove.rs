//! End a container and forget it, whatever state a crash left it in.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Containers;
use crate::error::{Error, ErrorKind, Result};
use crate::fs;
use crate::lock::{self, FileLock, Wait};
use crate::mounter;
use crate::process::Stat;
use crate::record::{ContainerRecord, Lifetime};
use crate::runtime::DeleteMode;
use crate::shim;
use crate::step::step;

/// What may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// What has ended; `FailedPrecondition` otherwise.
    Stopped,
    /// Anything: what runs is killed.
    Force,
}

/// How long a killed container's shim may take to end.
const SHIM_END: Duration = Duration::from_secs(20);
/// What the kernel calls a shim's processes.
const SHIM: &str = "containerkit-sh";
/// How long processes may take to die.
const KILL: Duration = Duration::from_secs(10);

impl Containers {
    /// Removes a container: processes, cgroup, bundle, snapshot, volumes,
    /// record. Each step is repeatable, and the record goes last.
    pub fn remove(&self, record: &ContainerRecord, mode: RemoveMode) -> Result<()> {
        let lock = self.take_over(record, mode)?;
        self.end_remains(record)?;
        step("container.remove");
        self.forget(record, lock)
    }

    /// Removes a container with the shim that this process launched: waits for
    /// its end, when it was started, and removes the snapshot while the runtime
    /// still removes its own state.
    pub fn remove_ended(&self, record: &ContainerRecord, mut shim: shim::Shim) -> Result<()> {
        let removed = shim
            .wait_quiet()
            .and_then(|()| self.remove_snapshot(record));
        match removed.and(shim.finish()) {
            Ok(()) => self.forget(record, None),
            // The shim or the runtime failed: see what there is.
            Err(error) => {
                log::debug!("container {}: {error}", record.name);
                self.remove(record, RemoveMode::Force)
            }
        }
    }

    /// The last steps, nothing of the container running any more.
    fn forget(&self, record: &ContainerRecord, lock: Option<FileLock>) -> Result<()> {
        let dir = self.state_dir(&record.id);
        let rootfs = self.bundle_dir(&record.id).join("rootfs");
        if rootfs.exists() && mounter::is_mountpoint(&rootfs)? {
            mounter::unmount(&rootfs)?;
        }
        let exit = shim::read_exit(&dir).ok().flatten();
        if record.lifetime == Lifetime::Durable {
            self.unkeep(&record.id)?;
        }
        self.remove_snapshot(record)?;
        step("container.unsnapshot");
        if let Some(exit) = exit {
            self.leave_exit(record, exit)?;
        }
        fs::remove_tree_path(&self.root_dir(&record.id))?;
        // At once: one who comes in the middle would take an init without its
        // exit for an unseen end.
        let away = self
            .state
            .join("containers")
            .join(format!(".{}.gone", record.id));
        match std::fs::rename(&dir, &away) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("rename {}", dir.display()), error));
            }
            _ => fs::remove_tree_path(&away)?,
        }
        step("container.unrecord");
        self.records.delete_container(&record.id)?;
        step("container.unrecorded");
        self.tell(record, "delete", |event| event);
        drop(lock);
        Ok(())
    }

    fn remove_snapshot(&self, record: &ContainerRecord) -> Result<()> {
        let (Some(stamp), Some(key)) = (&record.snapshotter, &record.snapshot) else {
            return Ok(());
        };
        let snapshotter = self
            .drivers
            .snapshotter(Some(&stamp.instance))
            .map_err(|error| {
                error.context(format!(
                    "container {} has a snapshot in snapshotter {}",
                    record.name, stamp.instance
                ))
            })?;
        match snapshotter.remove(key) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The container's lock, killing its holder's container when forced.
    /// `None` when the folder of the lock is gone already.
    pub(super) fn take_over(
        &self,
        record: &ContainerRecord,
        mode: RemoveMode,
    ) -> Result<Option<FileLock>> {
        let path = self.lock_path(&record.id);
        let what = format!("container {}", record.name);
        match FileLock::acquire(&path, &what, Wait::No) {
            Ok(lock) => {
                let running = shim::read_init(&self.state_dir(&record.id))?
                    .map(|init| init.process.open())
                    .transpose()?
                    .flatten()
                    .is_some();
                if running && mode == RemoveMode::Stopped {
                    return Err(still_running(record));
                }
                return Ok(Some(lock));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
            Err(_) => {}
        }
        let dir = self.state_dir(&record.id);
        let ended = shim::read_exit(&dir)?.is_some();
        if !ended && mode == RemoveMode::Stopped {
            return Err(still_running(record));
        }
        // The holder is a shim that is ending, one whose init we kill now, or
        // a command that has not started its shim yet.
        let deadline = std::time::Instant::now() + SHIM_END;
        loop {
            if let Some(init) = shim::read_init(&dir)? {
                init.process.signal(Signal::KILL)?;
                if shim::read_exit(&dir)?.is_none() {
                    // A frozen process does not die under version 1.
                    self.thaw(record)?;
                }
            }
            wake(&path);
            let wait = Wait::AtMost(Duration::from_millis(200));
            match FileLock::acquire(&path, &what, wait) {
                Ok(lock) => return Ok(Some(lock)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                Err(error) if std::time::Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Ends what is left of a container whose lock the caller holds, and
    /// records its exit.
    pub(super) fn end_remains(&self, record: &ContainerRecord) -> Result<()> {
        let dir = self.state_dir(&record.id);
        let known = shim::read_exit(&dir)?.is_some();
        let exit = shim::recover(&dir)?;
        if let Some(exit) = exit.as_ref().filter(|_| !known) {
            self.tell(record, "exit", |event| event.ended(exit));
        }
        if let Some(exit) = exit
            && record.lifetime == Lifetime::Durable
            && self.is_whole(&record.id)
        {
            self.keep_exit(&record.id, exit)?;
        }
        // The shim wrote this before it asked the runtime for anything.
        if shim::read_intent(&dir)?.is_some() {
            // A runtime that was killed half-way may have got to any of them.
            let cgroups = shim::cgroups_at(&self.cgroups_path(&record.id))?;
            shim::kill_cgroups(&cgroups, KILL)?;
            self.delete_from_runtime(record)?;
            shim::remove_cgroups(&cgroups);
            if shim::read_exit(&dir)?.is_none() {
                // A start that never came to a process is none.
                shim::clear(&dir)?;
            }
        }
        Ok(())
    }

    /// Nobody is in charge and the runtime may know the container.
    fn delete_from_runtime(&self, record: &ContainerRecord) -> Result<()> {
        self.runtime(record)?.delete(&record.id, DeleteMode::Force)
    }
}

/// Lets a shim go on that somebody has stopped: it would keep its lock for ever.
fn wake(lock: &Path) {
    let holder = lock::holder(lock).and_then(|holder| Stat::read(holder.pid).ok());
    let guard = holder
        .as_ref()
        .and_then(|supervisor| Stat::read(supervisor.parent).ok());
    for stat in holder.into_iter().chain(guard) {
        if stat.state == 'T'
            && stat.name == SHIM
            && let Some(pid) = i32::try_from(stat.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

fn still_running(record: &ContainerRecord) -> Error {
    Error::precondition(format!("container {} is running", record.name)).with_hint(format!(
        "stop it first, or `containerkit delete --force {}`",
        record.name
    ))
}
