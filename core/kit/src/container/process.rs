//! One process of a container, in the hands of the program that started it or
//! of any later one: what is known of it is in its record, not in memory.

use std::time::Duration;

use rustix::process::Signal;

use super::wait::readable;
use super::{Containers, Exec};
use crate::error::{Error, Result};
use crate::record::ContainerRecord;
use crate::shim::{ExecRecord, ExitRecord, read_exec, read_execs};

/// How long a look at a record may be put off.
const LOOK: Duration = Duration::from_millis(200);

/// Which of a container's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first one.
    Init,
    /// A further one, by its number since the container's start.
    Exec(u32),
}

/// What is true of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessStatus {
    /// It was not started, or is just being.
    Created,
    /// It runs, frozen or not, under this pid of the host.
    Running(u32),
    /// It has ended.
    Ended(ExitRecord),
}

/// A process of a container.
#[derive(Clone)]
pub struct Process {
    containers: Containers,
    record: ContainerRecord,
    which: Which,
}

impl Containers {
    /// The init of a container.
    pub fn init(&self, record: &ContainerRecord) -> Process {
        self.process(record, Which::Init)
    }

    /// The further processes of a container's run that are recorded, in the
    /// order of their starts; the last ones that have ended are among them.
    pub fn execs(&self, record: &ContainerRecord) -> Result<Vec<Process>> {
        let execs = read_execs(&self.state_dir(&record.id))?;
        let process = |exec: &ExecRecord| self.process(record, Which::Exec(exec.exec));
        Ok(execs.iter().map(process).collect())
    }

    fn process(&self, record: &ContainerRecord, which: Which) -> Process {
        Process {
            containers: self.clone(),
            record: record.clone(),
            which,
        }
    }
}

impl Exec {
    /// The process that was started.
    pub fn process(&self) -> Process {
        self.containers
            .process(&self.record, Which::Exec(self.started.exec))
    }
}

impl Process {
    /// Which it is.
    pub fn which(&self) -> Which {
        self.which
    }

    /// Its pid on the host, while it runs.
    pub fn pid(&self) -> Result<Option<u32>> {
        Ok(match self.status()? {
            ProcessStatus::Running(pid) => Some(pid),
            _ => None,
        })
    }

    /// What is true of it now. `NotFound` for a further process of which
    /// nothing is kept any more.
    pub fn status(&self) -> Result<ProcessStatus> {
        let container = self.containers.status(&self.record)?;
        let Which::Exec(exec) = self.which else {
            return Ok(match (container.exit, container.init) {
                (Some(exit), _) => ProcessStatus::Ended(exit),
                (None, Some(init)) => ProcessStatus::Running(init.pid),
                (None, None) => ProcessStatus::Created,
            });
        };
        let found = self.exec_record(exec)?;
        Ok(match (found.exit, found.process) {
            (Some(exit), _) => ProcessStatus::Ended(exit),
            (None, Some(process)) => ProcessStatus::Running(process.pid),
            (None, None) => ProcessStatus::Created,
        })
    }

    /// Sends it a signal, by number. `FailedPrecondition` when it does not
    /// run.
    pub fn signal(&self, number: i32) -> Result<()> {
        let Which::Exec(exec) = self.which else {
            return self.containers.kill(&self.record, number);
        };
        let signal: Signal = crate::sys::signal(number)
            .ok_or_else(|| Error::invalid(format!("{number} is no signal")))?;
        let process = self.exec_record(exec)?.process;
        match process.map(|process| process.signal(signal)).transpose()? {
            Some(true) => Ok(()),
            _ => Err(Error::precondition(format!(
                "exec {exec} of container {} does not run",
                self.record.name
            ))),
        }
    }

    /// Waits for its end, and returns how it was; any number of programs may.
    pub fn wait(&self) -> Result<ExitRecord> {
        let Which::Exec(exec) = self.which else {
            return self.containers.wait(&self.record, &|| false);
        };
        let mut pause = Duration::from_millis(1);
        loop {
            // Also ends what a killed shim left.
            let container = self.containers.status(&self.record)?;
            let found = self.exec_record(exec)?;
            if let Some(exit) = found.exit {
                return Ok(exit);
            }
            if container.exit.is_some() {
                return Ok(ExitRecord::inferred());
            }
            let pidfd = found.process.map(|process| process.open()).transpose()?;
            match pidfd.flatten() {
                Some(pidfd) if !readable(&pidfd, LOOK)? => pause = Duration::from_millis(1),
                // Ended already: its shim is about to say how.
                _ => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
    }

    fn exec_record(&self, exec: u32) -> Result<ExecRecord> {
        let found = read_exec(&self.containers.state_dir(&self.record.id), exec)?;
        found.ok_or_else(|| {
            Error::not_found(format!(
                "container {} has no record of exec {exec}",
                self.record.name
            ))
        })
    }
}
