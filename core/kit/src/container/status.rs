//! What is true of a recorded container now.

use serde::{Deserialize, Serialize};

use super::Containers;
use crate::error::{ErrorKind, Result};
use crate::lock::{self, FileLock, Wait};
use crate::process::ProcessIdentity;
use crate::record::{ContainerRecord, Lifetime};
use crate::shim::{self, ExitRecord};
use crate::stats::oom_kills;

/// One word for a container's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusName {
    /// Being made, or made and not started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen.
    Paused,
    /// Its process ended.
    Stopped,
    /// Nobody is in charge of it and nothing says how it ended.
    Unknown,
}

impl StatusName {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            StatusName::Created => "created",
            StatusName::Running => "running",
            StatusName::Paused => "paused",
            StatusName::Stopped => "stopped",
            StatusName::Unknown => "unknown",
        }
    }
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The word.
    pub name: StatusName,
    /// Its process while it runs.
    pub init: Option<ProcessIdentity>,
    /// How it ended.
    pub exit: Option<ExitRecord>,
}

impl Status {
    fn new(name: StatusName) -> Status {
        Status {
            name,
            init: None,
            exit: None,
        }
    }

    pub(super) fn stopped(exit: ExitRecord) -> Status {
        Status {
            exit: Some(exit),
            ..Status::new(StatusName::Stopped)
        }
    }

    /// Whether its process is there, frozen or not.
    pub fn is_live(&self) -> bool {
        matches!(self.name, StatusName::Running | StatusName::Paused)
    }
}

impl Containers {
    /// The state of a container, without asking its runtime. What everything
    /// in charge of it left when it was killed is ended first, and its exit
    /// recorded, so that every process sees one answer.
    pub fn status(&self, record: &ContainerRecord) -> Result<Status> {
        if let Some(status) = self.observe(record)? {
            return Ok(status);
        }
        if let Err(error) = self.settle(record) {
            log::warn!("container {}: {error}", record.name);
        }
        let found = self.observe(record)?;
        Ok(found.unwrap_or_else(|| Status::new(StatusName::Unknown)))
    }

    /// Whether the kernel has killed a process of this run for lack of memory.
    pub fn oom_killed(&self, record: &ContainerRecord, status: &Status) -> Result<bool> {
        if let Some(exit) = &status.exit {
            return Ok(exit.oom_killed);
        }
        let init = shim::read_init(&self.state_dir(&record.id))?;
        Ok(init.is_some_and(|init| oom_kills(&init.cgroups) > 0))
    }

    /// `None`: there was or is a process, and nobody is in charge of it.
    fn observe(&self, record: &ContainerRecord) -> Result<Option<Status>> {
        let dir = self.state_dir(&record.id);
        // First this: a shim writes the exit before it frees the lock.
        let held = lock::is_held(&self.lock_path(&record.id))?;
        if let Some(exit) = shim::read_exit(&dir)? {
            return Ok(Some(Status::stopped(exit)));
        }
        if held {
            return Ok(Some(match shim::read_init(&dir)? {
                Some(init) => Status {
                    name: match shim::is_frozen(&init.cgroups) {
                        true => StatusName::Paused,
                        false => StatusName::Running,
                    },
                    init: Some(init.process),
                    exit: None,
                },
                None => self.at_rest(record)?,
            }));
        }
        if dir.join("init.json").exists() || shim::read_intent(&dir)?.is_some() {
            return Ok(None);
        }
        self.at_rest(record).map(Some)
    }

    /// The state of one that has no process.
    fn at_rest(&self, record: &ContainerRecord) -> Result<Status> {
        if record.lifetime == Lifetime::Durable && self.is_whole(&record.id) {
            return Ok(match self.last_exit(&record.id)? {
                Some(exit) => Status::stopped(exit),
                None => Status::new(StatusName::Created),
            });
        }
        let making =
            lock::is_held(&self.lock_path(&record.id))? || record.creator.open()?.is_some();
        Ok(Status::new(if making {
            StatusName::Created
        } else {
            StatusName::Unknown
        }))
    }

    /// Ends what a killed shim left of a container and records its exit;
    /// nothing when somebody is in charge of it.
    pub(super) fn settle(&self, record: &ContainerRecord) -> Result<()> {
        let what = format!("container {}", record.name);
        match FileLock::acquire(&self.lock_path(&record.id), &what, Wait::No) {
            Ok(_lock) => self.end_remains(record),
            // Somebody else is at it, or it is gone.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
