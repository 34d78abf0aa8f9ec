//! Mend what is left when everything in charge of a container was killed.

use super::{Containers, RemoveMode, Status};
use crate::error::Result;
use crate::ids::ContainerId;
use crate::lock;
use crate::record::{AfterExit, ContainerRecord, Lifetime};
use crate::value::Page;

/// So many records one look takes in, whatever there is.
const LOOK: u32 = 8;

impl Containers {
    /// The state of a container after [`repair`](Containers::repair); `None`
    /// when that removed it.
    pub fn look(&self, record: &ContainerRecord) -> Result<Option<Status>> {
        match self.repair(record) {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(error) => log::warn!("repair container {}: {error}", record.name),
        }
        self.status(record).map(Some)
    }

    /// Removes a container that is half made or that its end should have
    /// removed, when nobody is in charge of it any more; ends and records the
    /// exit of any other. Whether it was removed.
    pub fn repair(&self, record: &ContainerRecord) -> Result<bool> {
        if lock::is_held(&self.lock_path(&record.id))? {
            return Ok(false);
        }
        let abandoned = match record.lifetime {
            Lifetime::Durable if self.is_whole(&record.id) => {
                let ended = self.status(record)?.exit.is_some();
                ended && record.after_exit == AfterExit::Remove
            }
            Lifetime::Durable => record.creator.open()?.is_none(),
            Lifetime::Ephemeral if record.creator.open()?.is_some() => false,
            Lifetime::Ephemeral if record.after_exit == AfterExit::Remove => true,
            Lifetime::Ephemeral => {
                self.status(record)?;
                false
            }
        };
        if abandoned {
            self.remove(record, RemoveMode::Force)?;
        }
        Ok(abandoned)
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
