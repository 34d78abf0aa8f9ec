//! The client's side: launch a shim and follow its container.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::channel::Channel;
use super::message::{Hello, StandBy, ToClient, ToShim};
use super::request::{PROTOCOL, RuntimeRef, ShimRequest, seal};
use super::state::{ExitRecord, LOG, read_exit};
use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::ids::ContainerId;
use crate::lock::FileLock;

/// A container that runs.
#[derive(Debug)]
pub struct Started {
    /// Pid of its init.
    pub pid: u32,
    /// The master of its terminal, when it has one. Its output must be read;
    /// window size and raw mode are the client's to set.
    pub console: Option<OwnedFd>,
}

/// A word of a launched shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The container ended.
    Exited(ExitRecord),
    /// Nobody reads the standard output that the shim copies to.
    ReaderGone,
    /// Nothing of interest.
    Nothing,
}

/// A launched shim, in the hands of the command that launched it.
///
/// Dropping it without [`finish`](Shim::finish) leaves the container to its
/// shim, which then is a zombie between its own end and that of this process.
#[derive(Debug)]
pub struct Shim {
    channel: Channel,
    process: Child,
    id: ContainerId,
    state_dir: PathBuf,
    /// What it said before it had a log, as far as that is not in the log yet.
    early: Option<OwnedFd>,
    exit: Option<ExitRecord>,
    /// The user's program ran, so that there is an exit to wait for.
    started: bool,
    /// The last packet has come.
    last: Option<Result<()>>,
}

/// A shim that is started and loads its driver while its container is still
/// being made. Dropped, it ends.
#[derive(Debug)]
pub struct Standby {
    /// `None` once it is launched, or told to end.
    parts: Option<(Channel, Child)>,
    runtime: RuntimeRef,
    /// What it says before it has a log.
    early: OwnedFd,
}

/// How long a shim that stands by may take to end.
const END: Duration = Duration::from_secs(4);

impl Standby {
    /// Starts the shim `binary`, without a shell. Whatever its driver has to
    /// say is told by the [`Shim`].
    pub fn start(binary: &Path, runtime: &RuntimeRef, log_level: &str) -> Result<Standby> {
        let reference = seal("a runtime driver", runtime)?;
        let what = || "make the shim's first log";
        let early =
            rustix::fs::memfd_create(c"containerkit-log", MemfdFlags::CLOEXEC).io_context(what)?;
        let (channel, theirs) = Channel::pair()?;
        // The socket is the shim's standard input and all else travels over
        // it: so nothing needs to be inherited that is not close-on-exec.
        let process = Command::new(binary)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(early.try_clone().io_context(what)?))
            .spawn()
            .io_context(|| format!("start the shim {}", binary.display()))
            .map_err(|error| {
                error.with_hint("containerkit-shim must be installed beside containerkit")
            })?;
        let stand_by = StandBy {
            version: PROTOCOL,
            log_level: log_level.to_owned(),
        };
        // One that is gone already is noticed with the next packet.
        let _ = channel.send(&stand_by, &[reference.as_fd()]);
        Ok(Standby {
            parts: Some((channel, process)),
            runtime: runtime.clone(),
            early,
        })
    }

    /// The pid of its first process, the guard; 0 once it is launched.
    pub fn id(&self) -> u32 {
        self.parts.as_ref().map_or(0, |(_, process)| process.id())
    }

    /// Hands it the request, the three standard streams of the container
    /// (unused with a terminal) and the container's lock. Returns before
    /// anything is mounted or created.
    ///
    /// `attached` is the other end of a [`Link::pair`](super::Link::pair),
    /// which is attached to a terminal that the shim
    /// [holds](ShimRequest::hold) from its first byte on.
    pub fn launch(
        mut self,
        request: &ShimRequest,
        stdio: [OwnedFd; 3],
        lock: FileLock,
        attached: Option<OwnedFd>,
    ) -> Result<Shim> {
        request.check()?;
        if request.runtime != self.runtime {
            return Err(Error::internal(format!(
                "the shim of container {} has loaded another runtime",
                request.id
            )));
        }
        let memfd = request.to_memfd()?;
        let log = open_log(&request.state_dir)?;
        let Some((channel, process)) = self.parts.take() else {
            return Err(Error::internal("a shim that was launched"));
        };
        let shim = Shim {
            channel,
            process,
            id: request.id.clone(),
            state_dir: request.state_dir.clone(),
            early: self.early.try_clone().ok(),
            exit: None,
            started: false,
            last: None,
        };
        let hello = Hello {
            version: request.version,
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            memfd.as_fd(),
            stdio[0].as_fd(),
            stdio[1].as_fd(),
            stdio[2].as_fd(),
            lock.as_file().as_fd(),
            log.as_fd(),
        ];
        fds.extend(attached.iter().map(AsFd::as_fd));
        if shim.channel.send(&hello, &fds).is_ok() {
            return Ok(shim);
        }
        // It has gone before it had a container, and may have said why.
        while let Ok(Some((message, _))) = shim.channel.receive() {
            if let ToClient::Failed { error } = message {
                return Err(error.into());
            }
        }
        Err(shim.ended())
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let Some((channel, mut process)) = self.parts.take() else {
            return;
        };
        drop(channel);
        let end = Instant::now() + END;
        while matches!(process.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let _ = process.kill();
                let _ = process.wait();
                return;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Shim {
    /// Starts the shim `binary` and [launches](Standby::launch) it at once.
    pub fn launch(
        binary: &Path,
        request: &ShimRequest,
        stdio: [OwnedFd; 3],
        lock: FileLock,
    ) -> Result<Shim> {
        request.check()?;
        Standby::start(binary, &request.runtime, &request.log_level)?
            .launch(request, stdio, lock, None)
    }

    /// Waits until the user's program runs; an error is the one that kept it
    /// from running, and then nothing of the container is left but what the
    /// client made.
    pub fn wait_started(&mut self) -> Result<Started> {
        loop {
            match self.channel.receive()? {
                Some((ToClient::Started { pid }, fds)) => {
                    self.started = true;
                    return Ok(Started {
                        pid,
                        console: fds.into_iter().next(),
                    });
                }
                Some((ToClient::Failed { error }, _)) => {
                    self.last = Some(Ok(()));
                    return Err(error.into());
                }
                // The guard's: the supervisor died in the middle of it.
                Some((ToClient::Exited { .. } | ToClient::Gone { .. }, _)) | None => {
                    return Err(self.ended());
                }
                Some((ToClient::ReaderGone | ToClient::Unknown, _)) => {}
            }
        }
    }

    /// Waits for the container's end. When it returns no process of the
    /// container is left and nothing uses its rootfs; the runtime may still be
    /// removing its own state, which [`finish`](Shim::finish) waits for.
    ///
    /// An error means that the whole shim was killed: lock the container and
    /// [`recover`](super::recover).
    pub fn wait_exit(&mut self) -> Result<ExitRecord> {
        loop {
            if let Heard::Exited(exit) = self.hear()? {
                return Ok(exit);
            }
        }
    }

    /// Waits for the next word of the shim; of one that is gone, the errors
    /// are those of [`wait_exit`](Shim::wait_exit).
    pub fn hear(&mut self) -> Result<Heard> {
        if let Some(exit) = &self.exit {
            return Ok(Heard::Exited(exit.clone()));
        }
        match self.channel.receive()? {
            Some((ToClient::Exited { exit }, _)) => self.exit = Some(exit),
            Some((ToClient::Gone { error }, _)) => self.last = Some(result(error)),
            Some((ToClient::ReaderGone, _)) => return Ok(Heard::ReaderGone),
            Some(_) => {}
            None => {
                return match read_exit(&self.state_dir)? {
                    Some(exit) => Ok(Heard::Exited(exit)),
                    None => Err(self.ended()),
                };
            }
        }
        Ok(self.exit.clone().map_or(Heard::Nothing, Heard::Exited))
    }

    /// Sends a signal to the container's init.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.channel.send(&ToShim::Signal { number }, &[])
    }

    /// Readable when [`wait_exit`](Shim::wait_exit) has something to read, so
    /// that a client can poll it beside a terminal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Waits until nothing of the container uses its rootfs: for the exit of
    /// one that was started; a failed start has undone itself.
    pub(crate) fn wait_quiet(&mut self) -> Result<()> {
        if self.started {
            self.wait_exit()?;
        }
        Ok(())
    }

    /// After the exit, which it waits for, or after a failed start: tells the shim that this
    /// client removes what is left, and waits until the runtime has removed
    /// the container and the shim is gone and has freed the lock. The error is
    /// the runtime's.
    pub fn finish(mut self) -> Result<()> {
        // Said too early, it would be taken for a word to the living.
        let _ = self.wait_quiet();
        // A shim that is gone already needs not be told.
        let _ = self.channel.send(&ToShim::Done, &[]);
        while let Some((message, _)) = self.channel.receive()? {
            if let ToClient::Gone { error } = message {
                self.last = Some(result(error));
            }
        }
        self.process
            .wait()
            .io_context(|| format!("wait for the shim of container {}", self.id))?;
        match self.last.take() {
            Some(result) => result,
            None => Err(self.ended()),
        }
    }

    /// The error for a shim that is gone without a word, with the last of its
    /// log.
    fn ended(&self) -> Error {
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("the shim of container {} ended unexpectedly", self.id),
        );
        let early = || self.early.as_ref()?.try_clone().ok().map(File::from);
        let log = File::open(self.state_dir.join(LOG)).ok();
        match log
            .and_then(last_line)
            .or_else(|| early().and_then(last_line))
        {
            Some(line) => error.with_source_text(quote(&line)),
            None => error,
        }
    }
}

impl AsFd for Shim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

fn result(error: Option<super::WireError>) -> Result<()> {
    match error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn open_log(state_dir: &Path) -> Result<OwnedFd> {
    let path = state_dir.join(LOG);
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::TRUNC
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NOCTTY;
    rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .io_context(|| format!("open {}", path.display()))
}

/// The last line of a log that says something.
pub fn last_line(mut file: File) -> Option<String> {
    const TAIL: u64 = 4096;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    String::from_utf8_lossy(&tail)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .map(str::to_owned)
}
