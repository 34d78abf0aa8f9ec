//! A container's snapshot in another snapshotter.

use std::os::fd::BorrowedFd;

use super::{Containers, RemoveMode, SNAPSHOT_LABEL};
use crate::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::kit::Opened;
use crate::mount::Mount;
use crate::mounter;
use crate::record::ContainerRecord;
use crate::snapshot::Snapshotter;
use crate::step::step;
use crate::value::Labels;

impl Containers {
    /// Moves what a container that does not run has written to another
    /// snapshotter, which has the snapshot below it already. `copy` makes the
    /// second tree equal to the first. `FailedPrecondition` while it runs.
    ///
    /// The record is changed in between: until then the old snapshot counts,
    /// and one that a killed move left there is made anew; from then on the
    /// new one does, and moving again removes what is left of the old.
    pub fn rehouse(
        &self,
        record: &ContainerRecord,
        to: &Opened<dyn Snapshotter>,
        copy: &dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> Result<()>,
    ) -> Result<ContainerRecord> {
        let _lock = self.take_over(record, RemoveMode::Stopped)?;
        self.end_remains(record)?;
        // Somebody may have moved or removed it while we waited.
        let mut record = self.records.container(&record.id)?;
        let (Some(stamp), Some(key)) = (record.snapshotter.clone(), record.snapshot.clone()) else {
            return Err(Error::precondition(format!(
                "container {} has no snapshot",
                record.name
            )));
        };
        if stamp.instance == to.stamp.instance {
            return Ok(record);
        }
        let from = self.drivers.snapshotter(Some(&stamp.instance))?;
        let parent = from.stat(&key)?.parent;
        match to.remove(&key) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let labels = Labels::from([(SNAPSHOT_LABEL.to_string(), record.id.to_string())]);
        let mounts = to.prepare(&key, parent.as_ref(), &labels)?;
        step("rehouse.prepared");
        let copied = (|| {
            let old: Vec<Mount> = from.mounts(&key)?;
            let old: Vec<Mount> = old.into_iter().map(Mount::read_only).collect();
            let (old, new) = (
                mounter::mount_detached(&old)?,
                mounter::mount_detached(&mounts)?,
            );
            let open = |tree| {
                let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
                rustix::fs::openat(tree, c".", flags, rustix::fs::Mode::empty())
                    .io_context(|| "open a mounted snapshot")
            };
            let (old, new) = (open(&old)?, open(&new)?);
            copy(
                std::os::fd::AsFd::as_fd(&old),
                std::os::fd::AsFd::as_fd(&new),
            )?;
            rustix::fs::syncfs(&new).io_context(|| "write the snapshot to the disk")
        })();
        if let Err(error) = copied {
            if let Err(second) = to.remove(&key) {
                log::warn!("snapshot {key} stays behind: {second}");
            }
            return Err(error.context(format!("move container {}", record.name)));
        }
        record.snapshotter = Some(to.stamp.clone());
        self.records
            .update_container(&record)
            .context(|| format!("move container {}", record.name))?;
        step("rehouse.recorded");
        if let Err(error) = from.remove(&key) {
            log::warn!("snapshot {key} stays behind until `containerkit gc`: {error}");
        }
        Ok(record)
    }
}
