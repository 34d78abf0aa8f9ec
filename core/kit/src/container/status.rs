//! What is true of a recorded container now.

use serde::{Deserialize, Serialize};

use super::Containers;
use crate::error::Result;
use crate::lock;
use crate::process::ProcessIdentity;
use crate::record::ContainerRecord;
use crate::shim::{self, ExitRecord};

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

impl Containers {
    /// The state of a container, without asking its runtime.
    pub fn status(&self, record: &ContainerRecord) -> Result<Status> {
        let dir = self.state_dir(&record.id);
        if let Some(exit) = shim::read_exit(&dir)? {
            return Ok(Status {
                name: StatusName::Stopped,
                init: None,
                exit: Some(exit),
            });
        }
        let init = shim::read_init(&dir)?;
        let name = if !lock::is_held(&self.lock_path(&record.id))? {
            match record.creator.open()? {
                Some(_) => StatusName::Created,
                None => StatusName::Unknown,
            }
        } else if init.is_some() {
            StatusName::Running
        } else {
            StatusName::Created
        };
        let init = init
            .map(|init| init.process)
            .filter(|_| name == StatusName::Running);
        Ok(Status {
            name,
            init,
            exit: None,
        })
    }

    /// Whether nobody is in charge of a container any more.
    pub(super) fn is_orphan(&self, record: &ContainerRecord) -> Result<bool> {
        Ok(!lock::is_held(&self.lock_path(&record.id))? && record.creator.open()?.is_none())
    }
}
