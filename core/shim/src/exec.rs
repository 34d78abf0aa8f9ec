//! Further processes of the container.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use containerkit::oci_spec::runtime::Process;
use containerkit::process::{ProcessIdentity, boot_id};
use containerkit::runtime::{ExecRequest, StartedProcess, Stdio};
use containerkit::shim::{ExecRecord, ExitRecord, ShimRequest, remove_exec, unseal, write_exec};
use containerkit::{Error, ErrorKind, Result, Runtime, step};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::console::Listener;
use crate::flow::{Flow, Owner, PIPE};
use crate::reap::{adopt, reap, reap_ended};
use crate::{PATIENCE, sys};

/// So many may run at once; each has descriptors here.
const MOST: usize = 100;
/// So many records of ended ones are kept.
const KEPT: usize = 32;

/// One that runs, or whose end its client has not been told.
pub(crate) struct Exec {
    pub(crate) number: u32,
    pub(crate) pid: u32,
    pub(crate) pidfd: Option<OwnedFd>,
    /// A copy of its terminal's master.
    pub(crate) console: Option<OwnedFd>,
    pub(crate) exit: Option<ExitRecord>,
    /// Bytes of its errors that may be on their way when it ends.
    pub(crate) owed: usize,
    record: ExecRecord,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Execs {
    pub(crate) running: Vec<Exec>,
    last: u32,
    ended: VecDeque<u32>,
}

impl Execs {
    /// Asks the runtime for a process. Its number, and the flow of its errors
    /// when there is one.
    pub(crate) fn start(
        &mut self,
        request: &ShimRequest,
        runtime: &dyn Runtime,
        fds: Vec<OwnedFd>,
    ) -> Result<(u32, Option<Flow>)> {
        if self.running.len() >= MOST {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "container {} has {MOST} further processes already",
                    request.id
                ),
            ));
        }
        let mut fds = fds.into_iter();
        let memfd = fds
            .next()
            .ok_or_else(|| Error::invalid("no process came with the request"))?;
        let process: Process = unseal("the process", memfd)?;
        self.last += 1;
        let number = self.last;
        let (stdio, listener, flow) = match process.terminal() {
            Some(true) => {
                let listener = Listener::new(&request.state_dir)?;
                (Stdio::Console(listener.path()), Some(listener), None)
            }
            _ => {
                let (Some(stdin), Some(stdout), Some(stderr)) =
                    (fds.next(), fds.next(), fds.next())
                else {
                    return Err(Error::invalid("three streams must come with a process"));
                };
                let (stderr, flow) = Flow::errors(Owner::Exec(number), &stdout, stderr)?;
                let stdio = Stdio::Fds {
                    stdin,
                    stdout,
                    stderr,
                };
                (stdio, None, flow)
            }
        };
        let mut record = ExecRecord::new(number);
        write_exec(&request.state_dir, &record)?;
        step("exec.intended");
        let started = match runtime.exec(&request.id, ExecRequest { process, stdio }) {
            Ok(started) => started,
            Err(error) => {
                remove_exec(&request.state_dir, number);
                if let Some(flow) = flow {
                    flow.log();
                }
                return Err(error);
            }
        };
        step("exec.made");
        adopt(&started);
        let StartedProcess {
            pid,
            pidfd,
            start_time,
        } = started;
        record.process = Some(ProcessIdentity {
            pid,
            start_time,
            boot_id: boot_id()?,
        });
        let console = listener
            .map(|listener| listener.accept(PATIENCE))
            .transpose();
        let recorded = write_exec(&request.state_dir, &record);
        step("exec.recorded");
        self.running.push(Exec {
            number,
            pid,
            pidfd,
            console: None,
            exit: None,
            owed: PIPE,
            record,
        });
        // From here on it is waited for, whatever fails.
        let exec = self.running.last_mut();
        match (console, recorded, exec) {
            (Ok(console), Ok(()), Some(exec)) => {
                exec.console = console;
                Ok((number, flow))
            }
            (console, recorded, exec) => {
                if let Some(pidfd) = exec.and_then(|exec| exec.pidfd.as_ref()) {
                    let _ = sys::pidfd_send_signal(std::os::fd::AsFd::as_fd(pidfd), 9);
                }
                recorded.and(console.map(drop))?;
                Err(Error::internal("a process is lost"))
            }
        }
    }

    pub(crate) fn find(&self, number: u32) -> Option<&Exec> {
        self.running.iter().find(|exec| exec.number == number)
    }

    /// Whether a child of ours is one of them.
    pub(crate) fn has(&self, pid: u32) -> bool {
        self.running
            .iter()
            .any(|exec| exec.pid == pid && exec.exit.is_none())
    }

    /// One has ended: reaps it and records how.
    pub(crate) fn end(&mut self, index: usize, request: &ShimRequest) {
        if let Some(exec) = self.running.get_mut(index) {
            let exit = reap(exec.pid);
            exec.close(exit, request);
        }
    }

    /// Forgets one whose end was told; of its record, after a while.
    pub(crate) fn forget(&mut self, number: u32, request: &ShimRequest) {
        self.running.retain(|exec| exec.number != number);
        self.ended.push_back(number);
        while self.ended.len() > KEPT {
            if let Some(old) = self.ended.pop_front() {
                remove_exec(&request.state_dir, old);
            }
        }
    }

    /// The container has ended, and they with it.
    pub(crate) fn end_all(&mut self, request: &ShimRequest) {
        let end = Instant::now() + PATIENCE;
        for exec in self.running.iter_mut().filter(|exec| exec.exit.is_none()) {
            if let Some(pidfd) = &exec.pidfd {
                let left = end.saturating_duration_since(Instant::now());
                wait(pidfd, left);
            }
            let exit = reap_ended(exec.pid);
            exec.close(exit.unwrap_or_else(ExitRecord::unknown), request);
        }
    }
}

impl Exec {
    fn close(&mut self, exit: ExitRecord, request: &ShimRequest) {
        self.pidfd = None;
        self.record.exit = Some(exit.clone());
        step("exec.ended");
        if let Err(error) = write_exec(&request.state_dir, &self.record) {
            log::error!("{error}");
        }
        self.exit = Some(exit);
    }
}

fn wait(pidfd: &OwnedFd, time: Duration) {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    if let Ok(timeout) = Timespec::try_from(time) {
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }
}
