//! Staying with a process: signals to it, bytes between its streams and the
//! user's, and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use containerkit::shim::{Attached, ExitRecord};
use containerkit::{Error, ErrorKind, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::Winsize;

use crate::cmd::foreground::{ENDING, Signals};
use crate::keys::{Keys, Typed};
use crate::terminal::{self, Raw, write_all};

/// What a terminal reads as the end of its input.
const END_OF_FILE: u8 = 4;
/// What is written to a pipe without readers ends by this signal.
const PIPE: u8 = 128 + 13;
/// How long a terminal may be silent after its process's end, and how much may
/// come from one that somebody else keeps open.
const SILENCE: Duration = Duration::from_millis(200);
const REST: usize = 1 << 20;

/// The process that a command stays with.
pub(crate) trait Subject {
    /// Readable when [`hear`](Subject::hear) has something to read.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Its next word.
    fn hear(&mut self) -> Result<Heard>;
    /// A signal for it; `asked` counts those that ask for an end.
    fn signal(&self, signal: Signal, asked: u32) -> Result<After>;
    /// The user's terminal has this size.
    fn resize(&self, size: Winsize);
    /// The user's input has ended.
    fn close_input(&self) -> Result<()>;
}

/// A word of a process.
pub(crate) enum Heard {
    /// It ended.
    Ended(ExitRecord),
    /// Nobody reads its output any more.
    ReaderGone,
    /// Nothing of interest.
    Nothing,
}

/// What a signal means for the command itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Stay,
    Leave,
}

/// How a session ends.
pub(crate) enum End {
    /// With the process.
    Exited(ExitRecord),
    /// Without it, and the command's status.
    Left(u8),
}

/// What is copied, and where.
pub(crate) struct Streams {
    input: Option<Input>,
    outputs: Vec<Output>,
    is_terminal: bool,
}

struct Input {
    to: OwnedFd,
    /// Taken from the user and not by the process yet.
    pending: Vec<u8>,
    at_end: AtEnd,
    /// The user's input has not ended.
    open: bool,
    keys: Option<Keys>,
}

/// What the end of the user's input is for the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Nothing: others may go on.
    Nothing,
    /// A terminal's own sign.
    Sign,
    /// The end of its input.
    Close,
}

struct Output {
    from: OwnedFd,
    is_error: bool,
}

impl Streams {
    /// None: the process has the user's own.
    pub(crate) fn none() -> Streams {
        Streams {
            input: None,
            outputs: Vec::new(),
            is_terminal: false,
        }
    }

    /// A terminal's master; `keys` where the user's input is for it.
    pub(crate) fn console(master: OwnedFd, keys: Option<Keys>) -> Result<Streams> {
        let what = || "prepare the terminal";
        rustix::io::ioctl_fionbio(&master, true).io_context(what)?;
        let input = match keys {
            Some(keys) => Some(Input {
                to: master.try_clone().io_context(what)?,
                pending: Vec::new(),
                at_end: AtEnd::Sign,
                open: true,
                keys: Some(keys),
            }),
            None => None,
        };
        Ok(Streams {
            input,
            outputs: vec![Output {
                from: master,
                is_error: false,
            }],
            is_terminal: true,
        })
    }

    /// The pipes of an attached client.
    pub(crate) fn attached(attached: Attached, keys: Keys, at_end: AtEnd) -> Result<Streams> {
        let input = match attached.stdin {
            Some(to) => {
                let flags = rustix::fs::OFlags::NONBLOCK;
                rustix::fs::fcntl_setfl(&to, flags).io_context(|| "prepare the input")?;
                Some(Input {
                    to,
                    pending: Vec::new(),
                    at_end,
                    open: true,
                    keys: attached.terminal.then_some(keys),
                })
            }
            None => None,
        };
        let output = |from, is_error| Output { from, is_error };
        let errors = attached.stderr.map(|from| output(from, true));
        Ok(Streams {
            input,
            outputs: std::iter::once(output(attached.stdout, false))
                .chain(errors)
                .collect(),
            is_terminal: attached.terminal,
        })
    }
}

/// What a poll found.
#[derive(Default)]
struct Ready {
    subject: bool,
    stdin: bool,
    outputs: Vec<bool>,
}

/// Stays until the end of the process, or until the user leaves.
pub(crate) fn stay(
    subject: &mut dyn Subject,
    mut streams: Streams,
    signals: &Signals,
) -> Result<End> {
    let _raw = match (streams.is_terminal, &streams.input) {
        (true, Some(_)) => Raw::stdin()?,
        _ => None,
    };
    if streams.is_terminal {
        terminal::size().into_iter().for_each(|s| subject.resize(s));
    }
    let mut asked = 0;
    loop {
        // Those too that came before there was a process to pass them to.
        for signal in signals.take() {
            if signal == Signal::WINCH {
                if streams.is_terminal {
                    terminal::size().into_iter().for_each(|s| subject.resize(s));
                }
                continue;
            }
            asked += u32::from(ENDING.contains(&signal));
            if pass_on(subject, signal, asked)? == After::Leave {
                return Ok(End::Left(128 + signal.as_raw() as u8));
            }
        }
        let ready = streams.wait(subject, signals)?;
        streams.pump(&ready.outputs)?;
        if ready.stdin && streams.read_input(subject)? == After::Leave {
            return Ok(End::Left(0));
        }
        streams.write_input()?;
        if !ready.subject {
            continue;
        }
        match subject.hear()? {
            Heard::Ended(exit) => {
                streams.drain()?;
                return Ok(End::Exited(exit));
            }
            Heard::ReaderGone => return Ok(End::Left(PIPE)),
            Heard::Nothing => {}
        }
    }
}

/// One that has ended takes no signal; that it has is about to be heard.
fn pass_on(subject: &dyn Subject, signal: Signal, asked: u32) -> Result<After> {
    match subject.signal(signal, asked) {
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(After::Stay),
        result => result,
    }
}

impl Streams {
    fn wait(&self, subject: &dyn Subject, signals: &Signals) -> Result<Ready> {
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::from_borrowed_fd(subject.fd(), PollFlags::IN)];
        for output in &self.outputs {
            fds.push(PollFd::new(&output.from, PollFlags::IN));
        }
        let mut typed = None;
        match &self.input {
            Some(input) if !input.pending.is_empty() => {
                fds.push(PollFd::new(&input.to, PollFlags::OUT));
            }
            Some(input) if input.open => {
                typed = Some(fds.len());
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            _ => {}
        }
        signals.add_to(&mut fds);
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(Error::io("wait for the container", errno)),
        }
        let set = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            subject: set(0),
            stdin: typed.is_some_and(set),
            outputs: (1..=self.outputs.len()).map(set).collect(),
        })
    }

    /// Process to user, from those that are ready; how many bytes.
    fn pump(&mut self, ready: &[bool]) -> Result<usize> {
        let mut buffer = [0u8; 16384];
        let mut total = 0;
        let mut failure = None;
        let mut index = 0;
        self.outputs.retain(|output| {
            index += 1;
            if ready.get(index - 1) != Some(&true) || failure.is_some() {
                return true;
            }
            match rustix::io::read(&output.from, &mut buffer) {
                // EIO: the last process with this terminal has closed it.
                Ok(0) | Err(Errno::IO) => false,
                Ok(read) => {
                    total += read;
                    failure = output.write(&buffer[..read]).err();
                    true
                }
                Err(Errno::AGAIN | Errno::INTR) => true,
                Err(errno) => {
                    failure = Some(Error::io("read the container's output", errno));
                    true
                }
            }
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(total),
        }
    }

    /// User to process.
    fn read_input(&mut self, subject: &dyn Subject) -> Result<After> {
        let Some(input) = &mut self.input else {
            return Ok(After::Stay);
        };
        let mut buffer = [0u8; 4096];
        let typed = match rustix::io::read(std::io::stdin(), &mut buffer) {
            Ok(read) if read > 0 => &buffer[..read],
            Err(Errno::AGAIN | Errno::INTR) => return Ok(After::Stay),
            // EIO: the user's terminal is gone.
            Ok(_) | Err(Errno::IO) => {
                input.open = false;
                match input.at_end {
                    AtEnd::Nothing => {}
                    AtEnd::Sign => input.pending.push(END_OF_FILE),
                    AtEnd::Close => {
                        match subject.close_input() {
                            Err(error) if error.kind() != ErrorKind::Unavailable => {
                                return Err(error);
                            }
                            _ => {}
                        }
                        // Nothing is pending, or standard input were not read.
                        self.input = None;
                    }
                }
                return Ok(After::Stay);
            }
            Err(errno) => return Err(Error::io("read standard input", errno)),
        };
        match input.keys.as_mut().map(|keys| keys.scan(typed)) {
            Some(Typed::Text(text)) => input.pending.extend_from_slice(&text),
            Some(Typed::Leave(text)) => {
                input.pending.extend_from_slice(&text);
                self.write_input()?;
                return Ok(After::Leave);
            }
            None => input.pending.extend_from_slice(typed),
        }
        Ok(After::Stay)
    }

    /// Gives the process what it takes of the pending input.
    fn write_input(&mut self) -> Result<()> {
        let Some(input) = &mut self.input else {
            return Ok(());
        };
        while !input.pending.is_empty() {
            match rustix::io::write(&input.to, &input.pending) {
                Ok(written) => drop(input.pending.drain(..written)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Its input is closed.
                Err(Errno::IO | Errno::PIPE) => {
                    self.input = None;
                    return Ok(());
                }
                Err(errno) => return Err(Error::io("write to the container's input", errno)),
            }
        }
        Ok(())
    }

    /// What is still on its way after the end. Pipes of the shim's have an
    /// end; a terminal may be kept open by somebody else.
    fn drain(&mut self) -> Result<()> {
        let time = Timespec::try_from(SILENCE).map_err(|_| Error::internal("a short time"))?;
        let mut left = REST;
        while !self.outputs.is_empty() && (left > 0 || !self.is_terminal) {
            let mut fds: Vec<PollFd<'_>> = self
                .outputs
                .iter()
                .map(|output| PollFd::new(&output.from, PollFlags::IN))
                .collect();
            match poll(&mut fds, Some(&time)) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::io("wait for the container's output", errno)),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            left = left.saturating_sub(self.pump(&ready)?);
        }
        Ok(())
    }
}

impl Output {
    fn write(&self, data: &[u8]) -> Result<()> {
        match self.is_error {
            true => write_all(std::io::stderr().as_fd(), data),
            false => write_all(std::io::stdout().as_fd(), data),
        }
    }
}
