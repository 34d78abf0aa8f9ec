//! A container in the foreground of the command that started it, and the
//! signals that such a command gets.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use containerkit::process::{ProcessIdentity, wait_for_exec};
use containerkit::shim::{self, Link, Shim, Started};
use containerkit::{Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::cmd::session::{self, After, AtEnd, End, Heard, Streams, Subject};
use crate::keys::Keys;

/// Signals that ask the command to end, which are the container's to answer.
pub(crate) const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
/// Signals that are passed on and end nothing by themselves.
const PASSED: [Signal; 4] = [Signal::USR1, Signal::USR2, Signal::CONT, Signal::WINCH];
/// So many ending signals, and the container is killed.
pub(crate) const PATIENCE: u32 = 3;
/// How long a started container may take to execute its program.
const EXEC: Duration = Duration::from_secs(2);

/// Caught signals, readable from a descriptor each.
pub(crate) struct Signals {
    streams: Vec<(Signal, UnixStream)>,
    /// Come, and not taken yet.
    pending: RefCell<Vec<Signal>>,
}

impl Signals {
    /// From now on a signal is a byte to read and no longer the end.
    pub(crate) fn catch() -> Result<Signals> {
        let mut streams = Vec::new();
        for signal in ENDING.into_iter().chain(PASSED) {
            let (read, write) = UnixStream::pair().io_context(|| "prepare for signals")?;
            read.set_nonblocking(true)
                .io_context(|| "prepare for signals")?;
            signal_hook::low_level::pipe::register(signal.as_raw(), write)
                .io_context(|| "prepare for signals")?;
            streams.push((signal, read));
        }
        Ok(Signals {
            streams,
            pending: RefCell::default(),
        })
    }

    /// Whether an ending signal has come, which is still there to be taken.
    pub(crate) fn interrupted(&self) -> bool {
        self.receive();
        let pending = self.pending.borrow();
        pending.iter().any(|signal| ENDING.contains(signal))
    }

    /// Lets a poll end when a signal comes.
    pub(crate) fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(
            self.streams
                .iter()
                .map(|(_, stream)| PollFd::new(stream, PollFlags::IN)),
        );
    }

    /// Waits until one comes, or there is something to read, but no longer than
    /// a second: some ends are seen by looking only.
    pub(crate) fn wait(&self, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut fds: Vec<PollFd<'_>> = fd
            .into_iter()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        self.add_to(&mut fds);
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::io("wait for what comes", errno)),
        }
    }

    /// The signals that came since the last call.
    pub(crate) fn take(&self) -> Vec<Signal> {
        self.receive();
        self.pending.take()
    }

    fn receive(&self) {
        let mut buf = [0u8; 64];
        let come = self
            .streams
            .iter()
            .filter(|(_, stream)| matches!(rustix::io::read(stream, &mut buf), Ok(n) if n > 0))
            .map(|(signal, _)| *signal);
        self.pending.borrow_mut().extend(come);
    }
}

/// Stays with a started container until it ends, or the user leaves it.
/// `keys` where standard input is for its terminal.
pub(crate) fn attend(
    shim: &mut Shim,
    link: Option<Link>,
    started: Started,
    keys: Option<Keys>,
    signals: &Signals,
) -> Result<End> {
    let console = match &started.console {
        Some(console) => Some(console.try_clone().io_context(|| "copy the terminal")?),
        None => None,
    };
    let streams = match (started.console, &link) {
        (Some(console), _) => Streams::console(console, keys)?,
        (None, Some(link)) => {
            let mut attached = link.attached()?;
            if keys.is_none() {
                attached.stdin = None;
            }
            Streams::attached(attached, keys.unwrap_or_default(), AtEnd::Close)?
        }
        (None, None) => Streams::none(),
    };
    let mut own = Own {
        shim,
        link,
        console,
        init: ProcessIdentity::of(started.pid).ok(),
    };
    session::stay(&mut own, streams, signals)
}

/// A container of this command's own.
struct Own<'a> {
    shim: &'a mut Shim,
    link: Option<Link>,
    console: Option<OwnedFd>,
    init: Option<ProcessIdentity>,
}

impl Subject for Own<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.shim.as_fd()
    }

    fn hear(&mut self) -> Result<Heard> {
        Ok(match self.shim.hear()? {
            shim::Heard::Exited(exit) => Heard::Ended(exit),
            shim::Heard::ReaderGone => Heard::ReaderGone,
            shim::Heard::Nothing => Heard::Nothing,
        })
    }

    /// The kernel drops a signal that a pid namespace's init neither handles
    /// nor expects, so one that asks for an end and would be dropped becomes
    /// SIGKILL, and so does the third request.
    fn signal(&self, signal: Signal, asked: u32) -> Result<After> {
        let ending = ENDING.contains(&signal);
        let init = self.init.as_ref();
        if let Some(init) = init {
            // A runtime's own init has other handlers than what it executes.
            wait_for_exec(init.pid, EXEC);
        }
        let dropped = ending && init.is_some_and(|init| !catches(init.pid, signal));
        let signal = match dropped || (ending && asked >= PATIENCE) {
            true => Signal::KILL,
            false => signal,
        };
        self.shim.signal(signal.as_raw())?;
        Ok(After::Stay)
    }

    fn resize(&self, size: Winsize) {
        if let Some(console) = &self.console {
            let _ = tcsetwinsize(console, size);
        }
        if let Some(link) = &self.link {
            let _ = link.resize(size.ws_row, size.ws_col);
        }
    }

    fn close_input(&self) -> Result<()> {
        self.link.as_ref().map_or(Ok(()), Link::close_stdin)
    }
}

/// Whether a process does something with a signal: it has a handler, or blocks
/// it to receive it otherwise (`SigCgt` and `SigBlk` of proc(5)), or waits in
/// `sigtimedwait`, where what it waits for is shown as neither.
fn catches(pid: u32, signal: Signal) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let has = |name: &str| {
        let mut lines = status.lines();
        let mask = lines.find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_none_or(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
    };
    has("SigCgt:") || has("SigBlk:") || waits_for_signals(pid)
}

/// Whether a process is in `rt_sigtimedwait`; a 32-bit one has other numbers
/// for it.
fn waits_for_signals(pid: u32) -> bool {
    const THIRTY_TWO: [i64; 2] = [177, 421];
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|word| word.parse().ok());
    number.is_some_and(|number| number == SIGTIMEDWAIT || THIRTY_TWO.contains(&number))
}

#[cfg(target_arch = "x86_64")]
const SIGTIMEDWAIT: i64 = 128;
/// As all that came later have it.
#[cfg(not(target_arch = "x86_64"))]
const SIGTIMEDWAIT: i64 = 137;
