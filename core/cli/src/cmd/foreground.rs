//! Attending a container in the foreground: signals to it, bytes between its
//! terminal and the user's, and its end.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use containerkit::process::ProcessIdentity;
use containerkit::shim::{ExitRecord, Shim, Started};
use containerkit::{Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::terminal::{self, Raw, Relay};

/// Signals that ask the command to end, which are the container's to answer.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
/// Signals that are passed on and end nothing by themselves.
const PASSED: [Signal; 4] = [Signal::USR1, Signal::USR2, Signal::CONT, Signal::WINCH];
/// So many ending signals, and the container is killed.
const PATIENCE: u32 = 3;

/// Caught signals, readable from a descriptor each.
pub(crate) struct Signals {
    streams: Vec<(Signal, UnixStream)>,
    seen: Cell<bool>,
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
            seen: Cell::new(false),
        })
    }

    /// Whether an ending signal has come.
    pub(crate) fn interrupted(&self) -> bool {
        let ended = self.take().iter().any(|signal| ENDING.contains(signal));
        self.seen.set(self.seen.get() || ended);
        self.seen.get()
    }

    /// Lets a poll end when a signal comes.
    pub(crate) fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(
            self.streams
                .iter()
                .map(|(_, stream)| PollFd::new(stream, PollFlags::IN)),
        );
    }

    /// The signals that came since the last call.
    fn take(&self) -> Vec<Signal> {
        let mut buf = [0u8; 64];
        self.streams
            .iter()
            .filter(|(_, stream)| matches!(rustix::io::read(stream, &mut buf), Ok(n) if n > 0))
            .map(|(signal, _)| *signal)
            .collect()
    }
}

/// Stays with a started container until it ends, and returns how.
pub(crate) fn attend(
    shim: &mut Shim,
    started: Started,
    interactive: bool,
    signals: &Signals,
) -> Result<ExitRecord> {
    let init = ProcessIdentity::of(started.pid).ok();
    let _raw = match (&started.console, interactive) {
        (Some(_), true) => Raw::stdin()?,
        _ => None,
    };
    let mut relay = match started.console {
        Some(console) => {
            terminal::copy_size(console.as_fd());
            Some(Relay::new(console, interactive)?)
        }
        None => None,
    };
    let mut asked = u32::from(signals.interrupted());
    if asked > 0 {
        pass_on(shim, init.as_ref(), Signal::TERM, asked)?;
    }
    loop {
        let ready = wait(shim, relay.as_ref(), signals)?;
        for signal in signals.take() {
            if signal == Signal::WINCH {
                if let Some(relay) = &relay {
                    terminal::copy_size(relay.console.as_fd());
                }
                continue;
            }
            asked += u32::from(ENDING.contains(&signal));
            pass_on(shim, init.as_ref(), signal, asked)?;
        }
        if let Some(relay) = &mut relay {
            if ready.console {
                relay.pump_output()?;
            }
            if ready.stdin && relay.stdin_open {
                relay.read_input()?;
            }
            relay.pump_input()?;
        }
        if ready.shim {
            break;
        }
    }
    let exit = shim.wait_exit()?;
    if let Some(relay) = &mut relay {
        drain(relay)?;
    }
    Ok(exit)
}

/// What of a terminal's output is still on its way; a grandchild that keeps
/// the terminal open does not keep us.
fn drain(relay: &mut Relay) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        let mut fds = [PollFd::new(&relay.console, PollFlags::IN)];
        let left = deadline.saturating_duration_since(Instant::now());
        let time = rustix::event::Timespec::try_from(left.min(Duration::from_millis(20)))
            .map_err(|_| Error::internal("a short time"))?;
        match poll(&mut fds, Some(&time)) {
            Ok(0) => return Ok(()),
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => {
                if !relay.pump_output()? || left.is_zero() {
                    return Ok(());
                }
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("wait for the container's terminal", errno)),
        }
    }
}

/// A signal for the container's init. The kernel drops a signal that a pid
/// namespace's init neither handles nor expects, so one that asks for an end
/// and would be dropped becomes SIGKILL, and so does the third request.
fn pass_on(shim: &Shim, init: Option<&ProcessIdentity>, signal: Signal, asked: u32) -> Result<()> {
    let ending = ENDING.contains(&signal);
    let dropped = ending && init.is_some_and(|init| !catches(init.pid, signal));
    let signal = if dropped || (ending && asked >= PATIENCE) {
        Signal::KILL
    } else {
        signal
    };
    shim.signal(signal.as_raw())
}

/// Whether a process has a handler for a signal: `SigCgt` of proc(5).
fn catches(pid: u32, signal: Signal) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

struct Ready {
    shim: bool,
    console: bool,
    stdin: bool,
}

fn wait(shim: &Shim, relay: Option<&Relay>, signals: &Signals) -> Result<Ready> {
    let stdin = std::io::stdin();
    let mut fds = vec![PollFd::from_borrowed_fd(shim.fd(), PollFlags::IN)];
    if let Some(relay) = relay {
        let out = if relay.has_pending() {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        fds.push(PollFd::new(&relay.console, PollFlags::IN | out));
        if relay.stdin_open && !relay.has_pending() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
    }
    let polled = fds.len();
    signals.add_to(&mut fds);
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(Error::io("wait for the container", errno)),
    }
    let set = |index: usize| index < polled && !fds[index].revents().is_empty();
    // A terminal whose other side is closed polls as hung up for ever.
    if set(1) && !fds[1].revents().contains(PollFlags::IN) && !set(0) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Ready {
        shim: set(0),
        console: set(1) && fds[1].revents().contains(PollFlags::IN),
        stdin: set(2),
    })
}
