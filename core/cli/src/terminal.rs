//! The user's terminal, and the loop between it and a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::{Error, IoContext, Result};
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

/// Gives the container's terminal the size of the user's.
pub(crate) fn copy_size(console: BorrowedFd<'_>) {
    if let Some(size) = size() {
        let _ = rustix::termios::tcsetwinsize(console, size);
    }
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

/// Copies between the user and the container's terminal.
pub(crate) struct Relay {
    pub(crate) console: OwnedFd,
    /// Whether standard input still has something to give.
    pub(crate) stdin_open: bool,
    pending: Vec<u8>,
}

impl Relay {
    pub(crate) fn new(console: OwnedFd, stdin_open: bool) -> Result<Relay> {
        rustix::io::ioctl_fionbio(&console, true).io_context(|| "prepare the terminal")?;
        Ok(Relay {
            console,
            stdin_open,
            pending: Vec::new(),
        })
    }

    /// Whether input waits for the container to take it.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Container to user. `false` when the container's side is closed.
    pub(crate) fn pump_output(&mut self) -> Result<bool> {
        let mut buf = [0u8; 16384];
        match rustix::io::read(&self.console, &mut buf) {
            Ok(0) | Err(rustix::io::Errno::IO) => Ok(false),
            Ok(read) => write_all(std::io::stdout().as_fd(), &buf[..read]).map(|()| true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(true),
            Err(errno) => Err(Error::io("read the container's terminal", errno)),
        }
    }

    /// User to container; called when standard input is readable.
    pub(crate) fn read_input(&mut self) -> Result<()> {
        let mut buf = [0u8; 4096];
        match rustix::io::read(std::io::stdin(), &mut buf) {
            Ok(0) | Err(rustix::io::Errno::IO) => {
                self.stdin_open = false;
                // What a terminal sends at the end of input.
                self.pending.push(4);
            }
            Ok(read) => self.pending.extend_from_slice(&buf[..read]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("read standard input", errno)),
        }
        self.pump_input()
    }

    /// Gives the container what it takes of the pending input.
    pub(crate) fn pump_input(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.console, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::IO) => self.pending.clear(),
                Err(errno) => return Err(Error::io("write to the container's terminal", errno)),
            }
        }
        Ok(())
    }
}

fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(written) => data = &data[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::from_borrowed_fd(
                    fd,
                    rustix::event::PollFlags::OUT,
                )];
                let _ = rustix::event::poll(&mut poll, None);
            }
            Err(errno) => return Err(Error::io("write to standard output", errno)),
        }
    }
    Ok(())
}
