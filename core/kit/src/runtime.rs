//! The runtime contract: containers from OCI bundles.
//!
//! # Vocabulary
//! A **bundle** is a folder with `config.json` and a root file system (OCI
//! runtime-spec `bundle.md`). `create` makes the container with its **init**
//! waiting before the user's program; `start` lets it go; `delete` removes
//! what is left after it ended. The states are those of the runtime-spec's
//! `runtime.md`: creating, created, running, stopped, and paused beside them.
//!
//! Only a parent or a subreaper learns an exit status, so a runtime returns
//! pids and never waits for a container: its caller (the shim) is a subreaper
//! and waits. A driver waits for its own commands by pid, never `wait(-1)`,
//! and never changes the folder, umask, environment or signal handlers of the
//! process it lives in.
//!
//! # A story
//! ```no_run
//! use containerkit::runtime::*;
//! # use containerkit::{ContainerId, Result};
//! # fn story(runtime: &dyn Runtime, bundle: std::path::PathBuf, stdio: Stdio) -> Result<()> {
//! let id: ContainerId = "web".parse()?;
//! let init = runtime.create(&id, CreateRequest { bundle, stdio })?;
//! assert_eq!(runtime.state(&id)?.status, RuntimeStatus::Created);
//! runtime.start(&id)?;
//! // … the caller, a subreaper, waits for init.pidfd …
//! runtime.kill(&id, 15, KillScope::Init)?;
//! runtime.delete(&id, DeleteMode::Stopped)?;
//! # Ok(())
//! # }
//! ```
//!
//! The conformance suite runs this story on every driver.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::ContainerId;

/// What a runtime can do beyond create, start, kill, delete, exec, state and
/// list. A method behind an ability answers
/// [`Unimplemented`](crate::ErrorKind::Unimplemented) without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuntimeCapabilities {
    /// `PS`: [`Runtime::ps`].
    pub ps: bool,
    /// `PAUSE`: [`Runtime::pause`] and [`Runtime::resume`].
    pub pause: bool,
    /// `UPDATE`: [`Runtime::update`].
    pub update: bool,
    /// `STATS`: [`Runtime::stats`].
    pub stats: bool,
    /// `CHECKPOINT`: [`Runtime::checkpoint`] and [`Runtime::restore`].
    pub checkpoint: bool,
}

impl RuntimeCapabilities {
    const TABLE: [(u64, &'static str); 5] = [
        (1, "PS"),
        (2, "PAUSE"),
        (4, "UPDATE"),
        (8, "STATS"),
        (16, "CHECKPOINT"),
    ];

    /// As bits, which cross to drivers and are stable for ever.
    pub fn bits(self) -> u64 {
        let flags = [
            self.ps,
            self.pause,
            self.update,
            self.stats,
            self.checkpoint,
        ];
        Self::TABLE
            .iter()
            .zip(flags)
            .filter(|(_, set)| *set)
            .map(|((bit, _), _)| bit)
            .sum()
    }

    /// From bits; unknown ones (a newer driver's) are ignored.
    pub fn from_bits(bits: u64) -> RuntimeCapabilities {
        RuntimeCapabilities {
            ps: bits & 1 != 0,
            pause: bits & 2 != 0,
            update: bits & 4 != 0,
            stats: bits & 8 != 0,
            checkpoint: bits & 16 != 0,
        }
    }

    /// The names of what it can, for people and JSON.
    pub fn names(self) -> Vec<&'static str> {
        let bits = self.bits();
        Self::TABLE
            .iter()
            .filter(|(bit, _)| bits & bit != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

/// What a runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeInfo {
    /// The runtime's name, `runc`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The OCI runtime-spec version it implements, when it says so.
    pub spec: Option<String>,
    /// The binary in use, when there is one.
    pub binary: Option<PathBuf>,
    /// The OCI features document (runtime-spec `features.md`), where the
    /// runtime tells it; crun 1.8 does not.
    pub features: Option<serde_json::Value>,
}

/// The standard streams of a process.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors, given to the process as they are.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal: the runtime connects to this listening unix socket and
    /// sends the pty's master by `SCM_RIGHTS`. At most 107 bytes.
    Console(PathBuf),
}

/// What `create` and `run` need.
#[derive(Debug)]
pub struct CreateRequest {
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The init's streams; a console exactly when the spec says `terminal`.
    pub stdio: Stdio,
}

/// What `exec` needs.
#[derive(Debug)]
pub struct ExecRequest {
    /// The process, complete (runtime-spec `config.md`, "Process").
    pub process: ProcessSpec,
    /// Its streams; a console exactly when the spec says `terminal`.
    pub stdio: Stdio,
}

/// A process in a container, named so that pid reuse cannot deceive.
#[derive(Debug)]
pub struct StartedProcess {
    /// Its pid in the caller's namespace.
    pub pid: u32,
    /// A pidfd of it; `None` when it had ended before one could be opened,
    /// and its pid must then be reaped by number.
    pub pidfd: Option<OwnedFd>,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot; 0 when it had ended.
    pub start_time: u64,
}

/// The status of a container (runtime-spec `runtime.md`, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum RuntimeStatus {
    /// Being made.
    Creating = 1,
    /// Made, the user's program not started.
    Created = 2,
    /// Running.
    Running = 3,
    /// Frozen.
    Paused = 4,
    /// Ended.
    Stopped = 5,
}

impl RuntimeStatus {
    /// The number that crosses to drivers.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The status of a code.
    pub fn from_code(code: u32) -> Option<RuntimeStatus> {
        match code {
            1 => Some(RuntimeStatus::Creating),
            2 => Some(RuntimeStatus::Created),
            3 => Some(RuntimeStatus::Running),
            4 => Some(RuntimeStatus::Paused),
            5 => Some(RuntimeStatus::Stopped),
            _ => None,
        }
    }
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeState {
    /// Its id.
    pub id: ContainerId,
    /// Its status.
    pub status: RuntimeStatus,
    /// Its init's pid while there is one.
    pub pid: Option<u32>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Annotations of its spec.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillScope {
    /// The init process.
    Init,
    /// Every process of the container.
    All,
}

/// What `delete` may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteMode {
    /// A stopped container; `FailedPrecondition` for a running one.
    Stopped,
    /// Any: processes are killed first; what is gone already is success.
    Force,
}

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Its pid in the host's namespace.
    pub pid: u32,
}

/// Counters of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use, bytes, page cache included.
    pub memory_usage: u64,
    /// Memory limit in bytes; `None` without one.
    pub memory_limit: Option<u64>,
    /// Tasks.
    pub pids: u64,
    /// Limit of tasks; `None` without one.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub block_read: u64,
    /// Bytes written to block devices.
    pub block_written: u64,
    /// Out-of-memory kills.
    pub oom_kills: u64,
}

/// How to checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRequest {
    /// Folder of the images, absolute.
    pub image_path: PathBuf,
    /// Folder of criu's logs; the image folder without it.
    pub work_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Allow established TCP connections.
    pub tcp_established: bool,
    /// Allow external unix sockets.
    pub external_unix_sockets: bool,
    /// Allow a controlling terminal.
    pub shell_job: bool,
}

/// A runtime driver. See the [module](self) for the vocabulary.
///
/// Errors: an unknown id is `NotFound`; a taken one `AlreadyExists`; a state
/// that forbids the call `FailedPrecondition`; a runtime that does not answer
/// in time `Timeout`; a missing binary `Unavailable`, naming it. What the
/// runtime itself said last is in the message. A process that cannot be
/// executed carries [`ExecFailure`](crate::ExecFailure). A failed `create`
/// leaves no container behind.
pub trait Runtime: Send + Sync {
    /// What this instance can do, fixed while it is open.
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Name, version and features of the runtime itself.
    fn info(&self) -> Result<RuntimeInfo>;

    /// Makes a container whose init waits for [`Runtime::start`].
    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess>;

    /// Lets the user's program go.
    fn start(&self, id: &ContainerId) -> Result<()>;

    /// Creates and starts; a runtime that can fuse the two does.
    fn run(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let process = self.create(id, request)?;
        if let Err(error) = self.start(id) {
            let _ = self.delete(id, DeleteMode::Force);
            return Err(error);
        }
        Ok(process)
    }

    /// Sends a signal, by number. `FailedPrecondition` when the container has
    /// stopped.
    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()>;

    /// Removes a container.
    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()>;

    /// Starts a further process in a running container.
    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess>;

    /// The state of one container.
    fn state(&self, id: &ContainerId) -> Result<RuntimeState>;

    /// The state of every container of this instance.
    fn list(&self) -> Result<Vec<RuntimeState>>;

    /// The processes of a container. `PS` only.
    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        let _ = id;
        Err(Error::unimplemented("ps"))
    }

    /// Freezes a container. `PAUSE` only.
    fn pause(&self, id: &ContainerId) -> Result<()> {
        let _ = id;
        Err(Error::unimplemented("pause"))
    }

    /// Thaws a container. `PAUSE` only.
    fn resume(&self, id: &ContainerId) -> Result<()> {
        let _ = id;
        Err(Error::unimplemented("resume"))
    }

    /// Changes limits of a live container; what is not set stays. `UPDATE` only.
    fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        let _ = (id, resources);
        Err(Error::unimplemented("update"))
    }

    /// Counters of a live container. `STATS` only.
    fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let _ = id;
        Err(Error::unimplemented("stats"))
    }

    /// Saves a container's processes. `CHECKPOINT` only.
    fn checkpoint(&self, id: &ContainerId, request: &CheckpointRequest) -> Result<()> {
        let _ = (id, request);
        Err(Error::unimplemented("checkpoint"))
    }

    /// Creates and starts a container from saved processes; the spec is the
    /// bundle's, never the checkpoint's. `CHECKPOINT` only.
    fn restore(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        checkpoint: &CheckpointRequest,
    ) -> Result<StartedProcess> {
        let _ = (id, request, checkpoint);
        Err(Error::unimplemented("restore"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_bits_round_trip() {
        for bits in 0..32 {
            let caps = RuntimeCapabilities::from_bits(bits);
            assert_eq!(caps.bits(), bits);
            assert_eq!(caps.names().len() as u32, bits.count_ones());
        }
    }
}
