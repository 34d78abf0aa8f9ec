//! How removed containers ended, in `<state>/exits`: for who waits and comes
//! too late.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Containers, keep};
use crate::error::{Error, Result};
use crate::fs::{self, Durability};
use crate::ids::ContainerId;
use crate::record::ContainerRecord;
use crate::shim::ExitRecord;
use crate::value::Timestamp;

const VERSION: u32 = 1;
/// So long an exit is told.
const KEPT: Duration = Duration::from_secs(600);
/// So many old ones a removal looks at.
const LOOK: usize = 16;

/// The end of a container that is no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedExit {
    /// Of this document.
    pub version: u32,
    /// The container's id.
    pub id: ContainerId,
    /// The name that it had.
    pub name: ContainerId,
    /// How it ended.
    pub exit: ExitRecord,
    /// When it was removed.
    pub at: Timestamp,
}

impl Containers {
    fn exits(&self) -> PathBuf {
        self.state.join("exits")
    }

    /// Keeps an exit for a while, and drops a few old ones.
    pub(super) fn leave_exit(&self, record: &ContainerRecord, exit: ExitRecord) -> Result<()> {
        if self.left_exit(&record.id).is_ok_and(|left| left.is_some()) {
            return Ok(());
        }
        let dir = self.exits();
        fs::ensure_dir(&dir, 0o700)?;
        for entry in std::fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .take(LOOK)
            .flatten()
        {
            let old = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|at| Timestamp::from(at).age() > KEPT);
            if old {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let left = RemovedExit {
            version: VERSION,
            id: record.id.clone(),
            name: record.name.clone(),
            exit,
            at: Timestamp::now(),
        };
        let data = serde_json::to_vec(&left)
            .map_err(|error| Error::internal("encode an exit").with_source(error))?;
        let path = dir.join(format!("{}.json", record.id));
        fs::write_atomic(&path, &data, 0o600, Durability::Volatile)
    }

    /// The end of a removed container, by id.
    pub(super) fn left_exit(&self, id: &ContainerId) -> Result<Option<RemovedExit>> {
        keep::read(&self.exits().join(format!("{id}.json")))
    }

    /// The end of a removed container, by what a user calls it: its id, the
    /// beginning of it, or the name that it had; of several the latest.
    pub fn removed_exit(&self, text: &str) -> Result<Option<RemovedExit>> {
        let mut found: Option<RemovedExit> = None;
        for entry in std::fs::read_dir(self.exits())
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(Some(left)) = keep::read::<RemovedExit>(&entry.path()) else {
                continue;
            };
            let meant = left.id.as_str().starts_with(text) || left.name.as_str() == text;
            let fresh = left.at.age() <= KEPT;
            if meant && fresh && found.as_ref().is_none_or(|other| other.at < left.at) {
                found = Some(left);
            }
        }
        Ok(found)
    }
}
