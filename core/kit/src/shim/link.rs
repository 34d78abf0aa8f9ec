//! A client's connection to a running shim.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process;

use super::channel::Channel;
use super::request::{PROTOCOL, seal};
use super::socket::{FOLDER, NAME};
use super::talk::{Ask, Tell};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ContainerId;

/// A connection to the shim of a running container.
///
/// It serves one purpose at a time: an exec, or an attached terminal, or a
/// word now and then. Dropping it ends neither the exec nor the container.
#[derive(Debug)]
pub struct Link {
    channel: Channel,
    version: u32,
    id: ContainerId,
}

/// The streams of a further process.
#[derive(Debug)]
pub enum ExecStreams {
    /// These, as they are: input, output, errors.
    Given([OwnedFd; 3]),
    /// A terminal, whose master comes back.
    Terminal,
}

/// A further process that runs.
#[derive(Debug)]
pub struct StartedExec {
    /// Its number among the container's.
    pub exec: u32,
    /// Its pid.
    pub pid: u32,
    /// The master of its terminal, when it has one.
    pub console: Option<OwnedFd>,
}

/// Whether a client that attaches wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Where the container's input is open.
    Wanted,
    /// In no case.
    Unwanted,
}

/// The ends of the pipes of an attached client.
#[derive(Debug)]
pub struct Attached {
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// To its input, where that is open and was wanted.
    pub stdin: Option<OwnedFd>,
    /// Of its output, or of its terminal.
    pub stdout: OwnedFd,
    /// Of its errors, without a terminal.
    pub stderr: Option<OwnedFd>,
}

impl Link {
    /// Connects to the shim of the container with this folder.
    /// `FailedPrecondition` when there is none.
    pub fn open(state_dir: &Path, id: &ContainerId) -> Result<Link> {
        let channel = match Channel::connect(&state_dir.join(FOLDER), NAME) {
            Ok(channel) => channel,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
                return Err(Error::precondition(format!(
                    "container {id} has no shim that answers"
                ))
                .with_source_text(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        let mut link = Link {
            channel,
            version: 0,
            id: id.clone(),
        };
        link.ask(&Ask::Hello { version: PROTOCOL }, &[])?;
        match link.answer()? {
            (Tell::Welcome { version }, _) if (1..=PROTOCOL).contains(&version) => {
                link.version = version;
                Ok(link)
            }
            (Tell::Welcome { version }, _) => Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the shim of container {id} speaks version {version} of the protocol, \
                     this program up to {PROTOCOL}"
                ),
            )),
            (other, _) => Err(link.astray(&other)),
        }
    }

    /// A link for [`Standby::launch`](super::Standby::launch), and the end that
    /// the shim gets. [`attached`](Link::attached) waits for the pipes.
    pub fn pair(id: &ContainerId) -> Result<(Link, OwnedFd)> {
        let (channel, theirs) = Channel::pair()?;
        let link = Link {
            channel,
            version: PROTOCOL,
            id: id.clone(),
        };
        Ok((link, theirs.into()))
    }

    /// The version of the protocol that both sides speak.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Starts a further process. Its errors carry
    /// [`ExecFailure`](crate::ExecFailure) where the program is at fault.
    pub fn exec(&self, process: &Process, streams: ExecStreams) -> Result<StartedExec> {
        let memfd = seal("the process", process)?;
        let mut fds = vec![memfd.as_fd()];
        if let ExecStreams::Given(given) = &streams {
            fds.extend(given.iter().map(AsFd::as_fd));
        }
        self.ask(&Ask::Exec, &fds)?;
        match self.answer()? {
            (Tell::Started { exec, pid }, fds) => Ok(StartedExec {
                exec,
                pid,
                console: fds.into_iter().next(),
            }),
            (other, _) => Err(self.astray(&other)),
        }
    }

    /// Attaches to the container's own streams.
    pub fn attach(&self, input: Input) -> Result<Attached> {
        let stdin = input == Input::Wanted;
        self.ask(&Ask::Attach { stdin }, &[])?;
        self.attached()
    }

    /// Waits for the pipes of a link that is attached from the beginning.
    pub fn attached(&self) -> Result<Attached> {
        match self.answer()? {
            (Tell::Attached { terminal, stdin }, fds) => {
                let mut fds = fds.into_iter();
                let stdin = if stdin { fds.next() } else { None };
                let stdout = fds
                    .next()
                    .ok_or_else(|| Error::internal("the shim sent no pipe for the output"))?;
                Ok(Attached {
                    terminal,
                    stdin,
                    stdout,
                    stderr: fds.next(),
                })
            }
            (other, _) => Err(self.astray(&other)),
        }
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.ask(&Ask::Resize { rows, columns }, &[])
    }

    /// Ends the container's standard input after what was written so far.
    pub fn close_stdin(&self) -> Result<()> {
        self.ask(&Ask::CloseStdin, &[])
    }

    /// Sends a signal to the container's init, or to the exec of this link.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.ask(&Ask::Signal { number }, &[])
    }

    /// Asks to be told of execs by [`hear`](Link::hear).
    pub fn follow(&self) -> Result<()> {
        self.ask(&Ask::Follow, &[])
    }

    /// Waits for the next word; `None` when the shim is gone.
    pub fn hear(&self) -> Result<Option<Tell>> {
        Ok(self.channel.receive()?.map(|(tell, _)| tell))
    }

    fn ask(&self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.channel
            .send(ask, fds)
            .map_err(|error| error.context(format!("container {}", self.id)))
    }

    /// The answer to a request; what else is told in between is not for it.
    fn answer(&self) -> Result<(Tell, Vec<OwnedFd>)> {
        loop {
            match self.channel.receive()? {
                Some((Tell::Refused { error }, _)) => return Err(error.into()),
                Some((Tell::Exited { .. }, _)) => {
                    return Err(Error::precondition(format!(
                        "container {} has ended",
                        self.id
                    )));
                }
                Some((Tell::Skipped { .. } | Tell::ExecStarted { .. } | Tell::Unknown, _)) => {}
                Some(answer) => return Ok(answer),
                None => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the shim of container {} hung up", self.id),
                    ));
                }
            }
        }
    }

    fn astray(&self, tell: &Tell) -> Error {
        Error::internal(format!(
            "the shim of container {} gave another answer: {tell:?}",
            self.id
        ))
    }
}

impl AsFd for Link {
    /// Readable when [`hear`](Link::hear) has something to read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
