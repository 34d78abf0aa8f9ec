//! Further processes in a container, and its streams, for any process at all.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Containers, StatusName};
use crate::error::{Error, ErrorKind, Result, quote};
use crate::fs::Root;
use crate::ids::ContainerId;
use crate::logs;
use crate::process::ProcessIdentity;
use crate::record::ContainerRecord;
use crate::shim::{ExecStreams, ExitRecord, Link, StartedExec, Tell, read_exec};
use crate::spec::{self, exec::ExecSpec};
use crate::step::step;

/// A further process that runs, in the hands of whoever started it. Dropping
/// it leaves the process to the shim.
pub struct Exec {
    /// What was started.
    pub started: StartedExec,
    link: Link,
    pub(super) containers: Containers,
    pub(super) record: ContainerRecord,
}

impl Containers {
    /// A connection to the shim of a running container.
    pub fn link(&self, record: &ContainerRecord) -> Result<Link> {
        self.running(record)?;
        Link::open(&self.state_dir(&record.id), &record.id)
    }

    /// Starts a further process in a running container. A program that is not
    /// there is told before the runtime is asked.
    pub fn exec(
        &self,
        record: &ContainerRecord,
        wanted: &ExecSpec,
        streams: ExecStreams,
    ) -> Result<Exec> {
        let (name, init) = self.running(record)?;
        if name == StatusName::Paused {
            return Err(
                Error::precondition(format!("container {} is paused", record.name))
                    .with_hint(format!("containerkit resume {}", record.name)),
            );
        }
        let process = self.exec_process(record, &init, wanted)?;
        let link = Link::open(&self.state_dir(&record.id), &record.id)?;
        step("exec.ask");
        let started = link.exec(&process, streams)?;
        step("exec.started");
        self.tell(record, "exec", |event| {
            event.with("exec", started.exec).with("pid", started.pid)
        });
        Ok(Exec {
            started,
            link,
            containers: self.clone(),
            record: record.clone(),
        })
    }

    /// The container's process with these wishes applied, resolved against its
    /// root file system as its init sees it.
    fn exec_process(
        &self,
        record: &ContainerRecord,
        init: &ProcessIdentity,
        wanted: &ExecSpec,
    ) -> Result<Process> {
        let gone = || not_running(record, "has just ended");
        let root = match Root::open(&PathBuf::from(format!("/proc/{}/root", init.pid))) {
            Ok(root) => root,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone()),
            Err(error) => return Err(error),
        };
        // Opened first, compared after: so it is the init's and nobody else's.
        if init.open()?.is_none() {
            return Err(gone());
        }
        let process = spec::exec::exec_process(&self.spec(&record.id)?, wanted, &root)?;
        // A runtime would say so on the process's own standard error.
        if let Some(workdir) = &wanted.workdir
            && let Err(Errno::NOENT) =
                root.open_at(process.cwd(), OFlags::PATH | OFlags::DIRECTORY, 0)
        {
            return Err(Error::not_found(format!(
                "working folder {}: no such folder in the container",
                quote(workdir)
            )));
        }
        let mut seen = Spec::default();
        // Its mounts are there to be looked into.
        seen.set_mounts(None);
        seen.set_process(Some(process.clone()));
        spec::program::check(&seen, &root)?;
        Ok(process)
    }

    /// How a further process ended; `None` while it runs, `NotFound` when
    /// nothing is kept of it.
    pub fn exec_exit(&self, id: &ContainerId, exec: u32) -> Result<Option<ExitRecord>> {
        match read_exec(&self.state_dir(id), exec)? {
            Some(record) => Ok(record.exit),
            None => Err(Error::not_found(format!(
                "container {id} has no record of exec {exec}"
            ))),
        }
    }

    /// The folder of a container's logged output.
    pub fn log_dir(&self, id: &ContainerId) -> PathBuf {
        self.root_dir(id).join("log")
    }

    /// Reads a container's output, of all its runs.
    pub fn logs(&self, record: &ContainerRecord) -> logs::Reader {
        logs::Reader::open(&self.log_dir(&record.id))
    }

    fn running(&self, record: &ContainerRecord) -> Result<(StatusName, ProcessIdentity)> {
        let status = self.status(record)?;
        match status.init {
            Some(init) => Ok((status.name, init)),
            None => Err(not_running(record, &format!("is {}", status.name.name()))),
        }
    }
}

fn not_running(record: &ContainerRecord, what: &str) -> Error {
    Error::precondition(format!("container {} {what}, not running", record.name))
}

impl Exec {
    /// Waits for its end. It outlives the shim's connection: of a shim that was
    /// killed, the record says how this ended.
    pub fn wait(&self) -> Result<ExitRecord> {
        loop {
            match self.link.hear()? {
                Some(Tell::ExecExited { exec, exit }) if exec == self.started.exec => {
                    return Ok(exit);
                }
                Some(Tell::Exited { .. }) | None => break,
                Some(_) => {}
            }
        }
        let recorded = || {
            let (containers, id) = (&self.containers, &self.record.id);
            containers.exec_exit(id, self.started.exec).ok().flatten()
        };
        // Also puts in order what a killed shim and guard left.
        match self.containers.wait(&self.record, &|| recorded().is_some()) {
            Err(error) if error.kind() != ErrorKind::Cancelled => Err(error),
            _ => Ok(recorded().unwrap_or_else(ExitRecord::inferred)),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.link.signal(number)
    }
}

impl AsFd for Exec {
    /// Readable when [`wait`](Exec::wait) has something to read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
