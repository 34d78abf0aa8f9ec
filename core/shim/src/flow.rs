//! One output of a process, on its way through the shim.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::logs::Stream;
use containerkit::{IoContext, Result};
use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::sink::Sink;

/// The size of a pipe that a runtime may crash into while nobody reads.
pub(crate) const PIPE: usize = 1 << 20;

/// Whose output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The init's: it is logged, and clients may attach to it.
    Init(Stream),
    /// The init's on its way to the launching client alone.
    Launcher,
    /// That of a further process.
    Exec(u32),
}

/// A pipe or a terminal that is read, and the one stream it is copied to
/// besides the log and the attached clients.
pub(crate) struct Flow {
    pub(crate) owner: Owner,
    pub(crate) sink: Option<Sink>,
    from: Option<OwnedFd>,
    is_terminal: bool,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Some(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever.
    End,
}

impl Flow {
    /// Of a new pipe, and its end for the process.
    pub(crate) fn pipe(owner: Owner, sink: Option<Sink>) -> Result<(Flow, OwnedFd)> {
        let what = || "make a pipe for a process's output";
        let (from, writer) = pipe_with(PipeFlags::CLOEXEC).io_context(what)?;
        // The other end is the process's and stays blocking.
        fcntl_setfl(&from, OFlags::NONBLOCK).io_context(what)?;
        // Beyond a user's limit it keeps its size.
        let _ = fcntl_setpipe_size(&writer, PIPE);
        let flow = Flow {
            owner,
            sink,
            from: Some(from),
            is_terminal: false,
        };
        Ok((flow, writer))
    }

    /// Of a terminal's master.
    pub(crate) fn terminal(owner: Owner, master: OwnedFd) -> Result<Flow> {
        rustix::io::ioctl_fionbio(&master, true).io_context(|| "prepare the terminal")?;
        Ok(Flow {
            owner,
            sink: None,
            from: Some(master),
            is_terminal: true,
        })
    }

    /// The standard error of a process whose runtime speaks on it while it
    /// starts the process: what it says there is not for the user. The write
    /// end for the process; no flow where both outputs are one file, because
    /// their order is kept only when both are written to directly.
    pub(crate) fn errors(
        owner: Owner,
        stdout: &OwnedFd,
        stderr: OwnedFd,
    ) -> Result<(OwnedFd, Option<Flow>)> {
        if is_same(stdout, &stderr) {
            return Ok((stderr, None));
        }
        let (flow, writer) = Flow::pipe(owner, Sink::stream(stderr))?;
        Ok((writer, Some(flow)))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What to read from, until its end.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().map(AsFd::as_fd)
    }

    /// The sink while it has to be waited for.
    pub(crate) fn waiting(&self) -> Option<&Sink> {
        self.sink.as_ref().filter(|sink| sink.is_waiting())
    }

    /// Reads once.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let Some(from) = &self.from else {
            return Read::End;
        };
        loop {
            match rustix::io::read(from, &mut *buffer) {
                Ok(count) if count > 0 => return Read::Some(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Read::Nothing,
                // EIO: the last process with this terminal has closed it.
                Ok(_) | Err(_) => {
                    self.from = None;
                    return Read::End;
                }
            }
        }
    }

    /// What a runtime that failed has said on it, for the log.
    pub(crate) fn log(mut self) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let mut said = vec![0; 64 << 10];
        if let Read::Some(count) = self.read(&mut said) {
            let said = String::from_utf8_lossy(said.get(..count).unwrap_or_default());
            log::debug!("the runtime on standard error: {}", said.trim_end());
        }
    }
}

fn is_same(a: &impl AsFd, b: &impl AsFd) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        // Then nothing is known of them, and nothing is changed.
        _ => true,
    }
}
