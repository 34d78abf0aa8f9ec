//! The user's terminal.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use containerkit::{Error, ErrorKind, IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, Termios, Winsize};

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
    if echo == Echo::On {
        if !rustix::termios::isatty(&stdin) {
            return Ok(None);
        }
        let _ = write!(std::io::stderr(), "{prompt}");
        let mut line = String::new();
        stdin
            .read_line(&mut line)
            .io_context(|| "read from the terminal")?;
        return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
    }
    // Raw, so that Ctrl-C is ours to handle: a process that it ends here would
    // leave the user a terminal that shows nothing.
    let Some(raw) = Raw::stdin()? else {
        return Ok(None);
    };
    let _ = write!(std::io::stderr(), "{prompt}");
    let typed = read_secret();
    drop(raw);
    let _ = writeln!(std::io::stderr());
    typed.map(Some)
}

/// A line in raw mode, with what a terminal would else do to it.
fn read_secret() -> Result<String> {
    const LIMIT: usize = 1024;
    let cancelled = || Error::new(ErrorKind::Cancelled, "no password was given");
    // Never grown, so that no copy is left behind.
    let mut typed = Vec::with_capacity(LIMIT);
    loop {
        let mut byte = [0u8];
        match rustix::io::read(std::io::stdin(), &mut byte) {
            Ok(0) => return Err(cancelled()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(Error::io("read from the terminal", errno)),
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            // Ctrl-C and Ctrl-D.
            3 | 4 => return Err(cancelled()),
            // Backspace takes a whole character.
            8 | 0x7f => while typed.pop().is_some_and(|last: u8| last & 0xc0 == 0x80) {},
            // Ctrl-U takes all.
            0x15 => typed.clear(),
            _ if typed.len() == LIMIT => {
                return Err(Error::invalid(format!(
                    "a password has at most {LIMIT} bytes"
                )));
            }
            other => typed.push(other),
        }
    }
    String::from_utf8(typed).map_err(|_| Error::invalid("the password is not UTF-8"))
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
