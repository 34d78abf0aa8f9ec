//! Save a container's processes in a folder, and start it from them.
//!
//! The folder is the runtime's, but for `checkpoint.json`, which is written
//! first and tells whose it is. Only the container that was saved is restored
//! from it: its processes have files of its snapshot open.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::create::Created;
use super::launch::null;
use super::{Containers, StatusName, keep};
use crate::error::{Error, IoContext, Result};
use crate::fs::{self, Durability};
use crate::ids::ContainerId;
use crate::record::{AfterExit, ContainerRecord, DriverStamp};
use crate::runtime::{CheckpointRequest, CreateRequest, Stdio};
use crate::shim::RuntimeRef;
use crate::step::step;
use crate::value::Timestamp;

const VERSION: u32 = 1;
const FILE: &str = "checkpoint.json";

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    id: ContainerId,
    name: ContainerId,
    runtime: DriverStamp,
    at: Timestamp,
}

impl Containers {
    /// Saves a live container's processes in `request.image_path`, a folder
    /// that is made here or is empty; unless they are left running the
    /// container has ended when this returns. A failure changes nothing.
    pub fn checkpoint(&self, record: &ContainerRecord, request: &CheckpointRequest) -> Result<()> {
        self.want(record, &[StatusName::Running, StatusName::Paused])?;
        if record.after_exit == AfterExit::Remove && !request.leave_running {
            return Err(Error::precondition(format!(
                "container {} is removed at its end, and nothing could be restored",
                record.name
            ))
            .with_hint("leave it running, or make it without --rm"));
        }
        let runtime = self.runtime(record)?;
        if !runtime.capabilities().checkpoint {
            // It says itself what it lacks.
            return runtime.checkpoint(&record.id, request);
        }
        let request = &self.with_work_path(record, request.clone())?;
        let dir = &request.image_path;
        let made = make(dir)?;
        let saved = write(record, dir).and_then(|()| {
            step("container.checkpoint");
            runtime.checkpoint(&record.id, request)
        });
        if let Err(error) = saved {
            if made {
                fs::remove_tree_path(dir)?;
            } else {
                let _ = std::fs::remove_file(dir.join(FILE));
            }
            return Err(error);
        }
        step("container.checkpointed");
        fs::sync_file_system(dir)?;
        self.tell(record, "checkpoint", |event| {
            event.with("path", dir.display())
        });
        if !request.leave_running {
            self.await_end(record, &|| false)?;
        }
        Ok(())
    }

    /// criu's logs outlive a failure, and go with the container.
    fn with_work_path(
        &self,
        record: &ContainerRecord,
        mut request: CheckpointRequest,
    ) -> Result<CheckpointRequest> {
        if request.work_path.is_none() {
            let dir = self.state_dir(&record.id).join("criu");
            fs::ensure_dir(&dir, 0o700)?;
            request.work_path = Some(dir);
        }
        Ok(request)
    }

    /// Takes a stopped container for a start from saved processes.
    pub fn ready_from(
        &self,
        record: &ContainerRecord,
        runtime: RuntimeRef,
        request: CheckpointRequest,
    ) -> Result<Created> {
        let dir = &request.image_path;
        let found: Option<Checkpoint> = keep::read(&dir.join(FILE))?;
        let saved = found.ok_or_else(|| {
            Error::not_found(format!("{} holds no checkpoint", dir.display()))
                .with_hint("`containerkit checkpoint ID DIR` makes one")
        })?;
        if saved.id != record.id {
            return Err(Error::precondition(format!(
                "{} is a checkpoint of container {}, not of {}",
                dir.display(),
                saved.name,
                record.name
            )));
        }
        let driver = self.runtime(record)?;
        if !driver.capabilities().checkpoint {
            // It says itself what it lacks.
            let bundle = self.bundle_dir(&record.id);
            let stdio = Stdio::Fds {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
            };
            let create = CreateRequest { bundle, stdio };
            driver.restore(&record.id, create, &request)?;
        }
        let mut ready = self.ready(record, runtime)?;
        ready.restore = Some(self.with_work_path(record, request)?);
        Ok(ready)
    }
}

/// Whether the folder was made; one that is there must be empty.
fn make(dir: &Path) -> Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => Err(Error::precondition(format!(
                "{} is not empty",
                dir.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
            made.io_context(|| format!("make folder {}", dir.display()))?;
            Ok(true)
        }
        Err(error) => Err(Error::io(format!("list {}", dir.display()), error)),
    }
}

fn write(record: &ContainerRecord, dir: &Path) -> Result<()> {
    let checkpoint = Checkpoint {
        version: VERSION,
        id: record.id.clone(),
        name: record.name.clone(),
        runtime: record.runtime.clone(),
        at: Timestamp::now(),
    };
    let data = serde_json::to_vec(&checkpoint)
        .map_err(|error| Error::internal("encode a checkpoint").with_source(error))?;
    fs::write_atomic(&dir.join(FILE), &data, 0o600, Durability::Synced)
}
