//! Freeze a container, and thaw it.
//!
//! Whether one is frozen is the kernel's to say, see [`shim::is_frozen`]:
//! nothing is written down, so nothing is wrong after a crash half-way.

use std::io::Write;

use rustix::io::Errno;

use super::{Containers, Status, StatusName};
use crate::error::{Error, IoContext, Result};
use crate::record::ContainerRecord;
use crate::shim;

impl Containers {
    /// Freezes every process of a container. `FailedPrecondition` unless it is
    /// running, `Unimplemented` when its runtime cannot.
    pub fn pause(&self, record: &ContainerRecord) -> Result<()> {
        self.want(record, &[StatusName::Running])?;
        let runtime = self.runtime(record)?;
        if !runtime.capabilities().pause {
            return Err(lacking(record, "pause a container"));
        }
        runtime.pause(&record.id)?;
        self.tell(record, "pause", |event| event);
        Ok(())
    }

    /// Lets a paused container go on. `FailedPrecondition` unless it is
    /// paused.
    pub fn resume(&self, record: &ContainerRecord) -> Result<()> {
        self.want(record, &[StatusName::Paused])?;
        let runtime = self.runtime(record)?;
        if !runtime.capabilities().pause {
            return Err(lacking(record, "resume a container"));
        }
        runtime.resume(&record.id)?;
        self.tell(record, "resume", |event| event);
        Ok(())
    }

    /// Thaws a container past its runtime, so that a signal reaches it.
    pub(super) fn thaw(&self, record: &ContainerRecord) -> Result<()> {
        let Some(init) = shim::read_init(&self.state_dir(&record.id))? else {
            return Ok(());
        };
        for cgroup in &init.cgroups {
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let path = cgroup.join(file);
                let written = std::fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|mut file| file.write_all(word.as_bytes()));
                match written {
                    // Of the other version, or gone with its processes.
                    Err(error)
                        if error.kind() == std::io::ErrorKind::NotFound
                            || error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
                    written => written.io_context(|| format!("write {}", path.display()))?,
                }
            }
        }
        Ok(())
    }

    /// The status, when it is one of these; `FailedPrecondition` otherwise.
    pub(super) fn want(&self, record: &ContainerRecord, wanted: &[StatusName]) -> Result<Status> {
        let status = self.status(record)?;
        if wanted.contains(&status.name) {
            return Ok(status);
        }
        let names: Vec<&str> = wanted.iter().map(|name| name.name()).collect();
        Err(Error::precondition(format!(
            "container {} is {}, not {}",
            record.name,
            status.name.name(),
            names.join(" or ")
        )))
    }
}

/// The error of a runtime that cannot do something.
pub(super) fn lacking(record: &ContainerRecord, what: &str) -> Error {
    Error::new(
        crate::ErrorKind::Unimplemented,
        format!(
            "container {}: the runtime {} cannot {what}",
            record.name, record.runtime.instance
        ),
    )
}
