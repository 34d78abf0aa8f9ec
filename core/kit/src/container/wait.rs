//! Wait for a container's end; ask for it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, pidfd_send_signal};

use super::{Containers, RemoveMode, Status, StatusName};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::lock::{FileLock, Wait};
use crate::process::ProcessIdentity;
use crate::record::{AfterExit, ContainerRecord};
use crate::shim::ExitRecord;

/// How long a killed container may take to end.
const KILL: Duration = Duration::from_secs(20);
/// How long a look at `interrupted` may be put off.
const LOOK: Duration = Duration::from_millis(200);

impl Containers {
    /// Waits until a container has run and ended, and returns how; one that
    /// was not started is waited for too. Any number may wait, and one that
    /// comes after the removal is told for ten minutes. `Cancelled` once
    /// `interrupted` says so.
    pub fn wait(
        &self,
        record: &ContainerRecord,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<ExitRecord> {
        match self.wait_until(record, None, interrupted)? {
            Some(exit) => Ok(exit),
            None => Err(Error::internal("a wait without end has ended")),
        }
    }

    /// `None` at the deadline.
    fn wait_until(
        &self,
        record: &ContainerRecord,
        deadline: Option<Instant>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<ExitRecord>> {
        let mut pause = Duration::from_millis(1);
        loop {
            let status = self.status(record)?;
            if let Some(exit) = status.exit {
                return Ok(Some(exit));
            }
            if !self.state_dir(&record.id).exists()
                && let Err(gone) = self.records.container(&record.id)
            {
                return match self.left_exit(&record.id)? {
                    Some(left) => Ok(Some(left.exit)),
                    None => Err(gone),
                };
            }
            if interrupted() {
                return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
            }
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let longest = left.unwrap_or(LOOK).min(LOOK);
            let pidfd = status
                .init
                .as_ref()
                .map(ProcessIdentity::open)
                .transpose()?;
            match pidfd.flatten() {
                // Ended already: its shim is about to say how.
                Some(pidfd) if !readable(&pidfd, longest)? => pause = Duration::from_millis(1),
                _ => {
                    std::thread::sleep(pause.min(longest));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
    }

    /// Sends a signal to a live container's init. `FailedPrecondition` when
    /// there is none.
    pub fn kill(&self, record: &ContainerRecord, number: i32) -> Result<()> {
        let status = self.status(record)?;
        self.send(record, &status, number)?;
        self.tell(record, "kill", |event| event.with("signal", number));
        Ok(())
    }

    fn send(&self, record: &ContainerRecord, status: &Status, number: i32) -> Result<()> {
        let not_running = || {
            Error::precondition(format!(
                "container {} is {}, not running",
                record.name,
                status.name.name()
            ))
        };
        let signal = crate::sys::signal(number)
            .ok_or_else(|| Error::invalid(format!("{number} is no signal")))?;
        let init = status.init.as_ref().ok_or_else(not_running)?;
        let pidfd = init.open()?.ok_or_else(not_running)?;
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(not_running()),
            Err(errno) => Err(errno).io_context(|| format!("signal container {}", record.name)),
        }?;
        if signal == Signal::KILL && status.name == StatusName::Paused {
            // Under version 1 of cgroups a frozen process does not die.
            self.thaw(record)?;
        }
        Ok(())
    }

    /// Asks a container to end with its stop signal, kills it after `patience`,
    /// and returns when its shim is gone too. One that does not run is left as
    /// it is.
    pub fn stop(
        &self,
        record: &ContainerRecord,
        patience: Duration,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<()> {
        let status = self.status(record)?;
        if !status.is_live() {
            return self.after_end(record, &status);
        }
        let number = self.settings(&record.id)?.stop_signal;
        if status.name == StatusName::Paused {
            self.thaw(record)?;
        }
        let ended = |result: Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(()),
            result => result,
        };
        ended(self.kill(record, number))?;
        let deadline = Instant::now() + patience;
        if self
            .wait_until(record, Some(deadline), interrupted)?
            .is_none()
        {
            ended(self.kill(record, Signal::KILL.as_raw()))?;
        }
        self.await_end(record, interrupted)
    }

    /// Waits for the end of a container that has no reason to live on, and of
    /// its shim.
    pub(super) fn await_end(
        &self,
        record: &ContainerRecord,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + KILL;
        if self
            .wait_until(record, Some(deadline), interrupted)?
            .is_none()
        {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "container {} does not end within {} s",
                    record.name,
                    KILL.as_secs()
                ),
            ));
        }
        self.after_end(record, &self.status(record)?)
    }

    /// Waits for the end of a stopped container's shim, and removes what its
    /// end removes.
    fn after_end(&self, record: &ContainerRecord, status: &Status) -> Result<()> {
        if status.exit.is_none() {
            return Ok(());
        }
        if record.after_exit == AfterExit::Remove {
            return self.remove(record, RemoveMode::Force);
        }
        let what = format!("container {}", record.name);
        match FileLock::acquire(&self.lock_path(&record.id), &what, Wait::AtMost(KILL)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a process ends within this time.
pub(super) fn readable(pidfd: &OwnedFd, time: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(time).map_err(|_| Error::internal("a wait is too long"))?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno).io_context(|| "wait for a container's process"),
    }
}
