//! [`Containers`]: the life of a container, from a record to nothing.
//!
//! A container is recorded before anything of it exists, and its record is
//! the last thing to go; between the two, a kernel lock says whether somebody
//! is in charge of it. The creating process takes the lock and hands it to
//! the [shim](crate::shim), which holds it to its end. So every step may be
//! the last one of a process: what is left is found by its record, and
//! [`Containers::remove`] ends it.
//!
//! | module | verb |
//! |---|---|
//! | `create` | record, snapshot, bundle |
//! | `keep` | what of a durable one outlives a reboot |
//! | `launch` | hand over to the shim, the first time or again |
//! | `status` | what is true of a record now |
//! | `freeze`, `update` | freeze and thaw it, change its limits |
//! | `checkpoint` | save its processes, and start from saved ones |
//! | `process` | its processes, for whoever comes |
//! | `root` | its root file system, from outside |
//! | `wait` | wait for its end, and ask for it |
//! | `exec` | further processes, and its streams |
//! | `exits` | how removed ones ended |
//! | `remove` | end and forget, whatever the state |
//! | `rehouse` | another snapshotter |
//! | `repair` | find and mend what killed processes left |

mod checkpoint;
mod create;
mod exec;
mod exits;
mod freeze;
mod keep;
mod launch;
mod process;
mod rehouse;
mod remove;
mod repair;
mod root;
mod status;
mod update;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::events::{Event, EventLog};
use crate::fs;
use crate::ids::ContainerId;
use crate::kit::{Drivers, Opened};
use crate::record::{ContainerRecord, Records};
use crate::runtime::Runtime;

pub use create::{Created, NewContainer, RootSource};
pub use exec::Exec;
pub use exits::RemovedExit;
pub use keep::Settings;
pub use launch::{Launch, Launched, Made};
pub use process::{Process, ProcessStatus, Which};
pub use remove::RemoveMode;
pub use root::ContainerRoot;
pub use status::{Status, StatusName};

/// On a container's snapshot: its id.
pub const SNAPSHOT_LABEL: &str = "containerkit.container";

/// Everything that containers need, joined.
#[derive(Clone)]
pub struct Containers {
    root: PathBuf,
    state: PathBuf,
    drivers: Arc<dyn Drivers>,
    records: Arc<dyn Records>,
    shim: PathBuf,
    cleanup: Vec<String>,
    events: EventLog,
}

impl Containers {
    /// The shim's binary.
    pub fn shim(&self) -> &Path {
        &self.shim
    }

    /// `root` and `state` are the kit's folders; `shim` the
    /// `containerkit-shim` binary; `cleanup` the words before an id that make
    /// a command which removes that container, for a shim whose client died.
    pub fn new(
        root: &Path,
        state: &Path,
        drivers: Arc<dyn Drivers>,
        records: Arc<dyn Records>,
        shim: PathBuf,
        cleanup: Vec<String>,
    ) -> Containers {
        Containers {
            root: root.to_path_buf(),
            state: state.to_path_buf(),
            drivers,
            records,
            shim,
            cleanup,
            events: EventLog::new(state),
        }
    }

    /// The records.
    pub fn records(&self) -> &dyn Records {
        &*self.records
    }

    /// The log of events.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Tells of a container; `more` adds attributes.
    pub fn tell(&self, record: &ContainerRecord, kind: &str, more: impl FnOnce(Event) -> Event) {
        let event = Event::of_container(kind, &record.id, record.name.as_str())
            .image(record.image.as_ref().map(ToString::to_string));
        self.events.tell(more(event));
    }

    /// A container's own folder in `state`.
    pub fn state_dir(&self, id: &ContainerId) -> PathBuf {
        self.state.join("containers").join(id.as_str())
    }

    /// A container's bundle.
    pub fn bundle_dir(&self, id: &ContainerId) -> PathBuf {
        self.state_dir(id).join("bundle")
    }

    /// A container's own folder in `root`, for what outlives a reboot.
    pub fn root_dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// A container's cgroup below each hierarchy's mount point.
    fn cgroups_path(&self, id: &ContainerId) -> String {
        format!("/containerkit/{id}")
    }

    /// The runtime that a container was made with.
    fn runtime(&self, record: &ContainerRecord) -> Result<Opened<dyn Runtime>> {
        let instance = &record.runtime.instance;
        self.drivers.runtime(Some(instance)).map_err(|error| {
            error.context(format!(
                "container {} was made with runtime {instance}",
                record.name
            ))
        })
    }

    fn lock_path(&self, id: &ContainerId) -> PathBuf {
        self.state_dir(id).join("lock")
    }

    /// 0711 all the way, so that a container with mapped users reaches its
    /// own root file system and can list nothing.
    fn make_state_dir(&self, id: &ContainerId) -> Result<PathBuf> {
        let dir = self.state_dir(id);
        fs::ensure_dir(&dir, 0o711)?;
        Ok(dir)
    }
}
