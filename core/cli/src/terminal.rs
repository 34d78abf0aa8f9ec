//! The user's terminal.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use containerkit::{Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize};

/// A terminal in raw mode until this is dropped.
pub(crate) struct Raw {
    saved: Termios,
}

impl Raw {
    /// Standard input in raw mode; `None` when it is no terminal.
    pub(crate) fn stdin() -> Result<Option<Raw>> {
        let stdin = std::io::stdin();
        if !rustix::termios::isatty(&stdin) {
            return Ok(None);
        }
        let saved = rustix::termios::tcgetattr(&stdin).io_context(|| "read the terminal's mode")?;
        let mut raw = saved.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)
            .io_context(|| "set the terminal's mode")?;
        Ok(Some(Raw { saved }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// Whether what is typed is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Yes.
    On,
    /// No: it is a secret.
    Off,
}

/// Asks the user for a line; `None` where standard input is no terminal.
pub(crate) fn ask(prompt: &str, echo: Echo) -> Result<Option<String>> {
    let stdin = std::io::stdin();
    if !rustix::termios::isatty(&stdin) {
        return Ok(None);
    }
    let context = || "set the terminal's mode";
    let saved = rustix::termios::tcgetattr(&stdin).io_context(context)?;
    let mut quiet = saved.clone();
    if echo == Echo::Off {
        quiet.local_modes -= LocalModes::ECHO;
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &quiet).io_context(context)?;
    }
    let restore = Raw { saved };
    let _ = write!(std::io::stderr(), "{prompt}");
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    drop(restore);
    if echo == Echo::Off {
        let _ = writeln!(std::io::stderr());
    }
    read.io_context(|| "read from the terminal")?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// The size of the user's terminal, when there is one.
pub(crate) fn size() -> Option<Winsize> {
    [
        rustix::termios::tcgetwinsize(std::io::stdout()),
        rustix::termios::tcgetwinsize(std::io::stdin()),
    ]
    .into_iter()
    .flatten()
    .find(|size| size.ws_row > 0)
}

/// Writes all of it, to a descriptor that may be non-blocking.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(written) => data = &data[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
                let _ = rustix::event::poll(&mut poll, None);
            }
            Err(errno) => return Err(Error::io("write the container's output", errno)),
        }
    }
    Ok(())
}
