//! Mend what is left when everything in charge of a container was killed.

use super::{Containers, RemoveMode};
use crate::error::{ErrorKind, Result};
use crate::ids::ContainerId;
use crate::lock::{FileLock, Wait};
use crate::record::{AfterExit, ContainerRecord};
use crate::shim;
use crate::value::Page;

/// So many records one look takes in, whatever there is.
const LOOK: u32 = 8;

impl Containers {
    /// Ends and removes, or ends and records the exit of, a container that
    /// nobody is in charge of any more. Whether it was removed.
    pub fn repair(&self, record: &ContainerRecord) -> Result<bool> {
        if !self.is_orphan(record)? {
            return Ok(false);
        }
        if record.after_exit == AfterExit::Remove {
            return self.remove(record, RemoveMode::Force).map(|()| true);
        }
        let dir = self.state_dir(&record.id);
        if shim::read_exit(&dir)?.is_some() || !dir.exists() {
            return Ok(false);
        }
        let what = format!("container {}", record.name);
        match FileLock::acquire(&self.lock_path(&record.id), &what, Wait::No) {
            Ok(lock) => {
                self.end_remains(record)?;
                drop(lock);
                Ok(false)
            }
            // Somebody else is at it.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Repairs what it finds among a few records, chosen by lot: ids are
    /// random, so every orphan's turn comes, and the cost stays the same
    /// however many containers there are.
    pub fn sweep(&self) -> Result<()> {
        let after = ContainerId::generate()?.to_string();
        let mut page = Page {
            after: Some(after),
            limit: LOOK,
        };
        let mut found = self.records().containers(&page)?;
        if found.len() < LOOK as usize {
            page.after = None;
            found.extend(self.records().containers(&page)?);
            found.dedup_by(|a, b| a.id == b.id);
        }
        for record in found {
            if let Err(error) = self.repair(&record) {
                log::warn!("repair container {}: {error}", record.name);
            }
        }
        Ok(())
    }
}
