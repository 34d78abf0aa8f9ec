//! What a supervisor does while its container runs.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use containerkit::process::Stat;
use containerkit::runtime::StartedProcess;
use containerkit::shim::{ExitRecord, ToShim};
use containerkit::{IoContext, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use crate::guard::Held;
use crate::{signals, sys};

/// How long the processes of a runtime may outlive its answer.
const ADOPTION: Duration = Duration::from_secs(5);

/// Waits until the init is a child of this process. Some runtimes answer
/// while the process that forked the init is still there for a moment.
pub(crate) fn adopt(init: &StartedProcess) {
    let me = std::process::id();
    let end = Instant::now() + ADOPTION;
    while Stat::read(init.pid).is_ok_and(|stat| stat.parent != me) {
        if Instant::now() >= end {
            log::warn!("process {} is the child of another process", init.pid);
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits for the end of the container's init, and reaps it. Also tells whether
/// the client is still there.
pub(crate) fn watch(
    held: &Held,
    init: &StartedProcess,
    console: Option<OwnedFd>,
) -> Result<(ExitRecord, bool)> {
    let channel = &held.channel;
    let pid = Pid::from_raw(init.pid as i32);
    let Some(pidfd) = &init.pidfd else {
        return Ok((reap(pid), true));
    };
    let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .io_context(|| "receive signals")?;
    let mut client = true;
    let mut console = console;
    loop {
        // With a client the terminal is the client's to read.
        let drained = console.as_ref().filter(|_| !client);
        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::new(pidfd, PollFlags::IN));
        fds.push(PollFd::new(&signals, PollFlags::IN));
        if client {
            fds.push(PollFd::new(channel, PollFlags::IN));
        } else if let Some(master) = drained {
            fds.push(PollFd::new(master, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).io_context(|| "wait for the container"),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let (ended, signaled, other) = (ready(0), ready(1), ready(2));
        if ended {
            return Ok((reap(pid), client));
        }
        if signaled {
            forward(&signals, pidfd);
            reap_strangers(pid);
        }
        if other && client {
            client = hear(held, pidfd);
        } else if other && !console.as_ref().is_some_and(drain) {
            console = None;
        }
    }
}

/// Signals sent to the shim are meant for the container. A hangup is not: it
/// tells of a terminal that the container has no part in.
fn forward(signals: &SignalFd, init: &OwnedFd) {
    while let Ok(Some(info)) = signals.read_signal() {
        let number = info.ssi_signo as i32;
        if number != Signal::SIGCHLD as i32 && number != Signal::SIGHUP as i32 {
            send(init, number);
        }
    }
}

fn send(init: &OwnedFd, number: i32) {
    if let Err(errno) = sys::pidfd_send_signal(init.as_fd(), number) {
        log::info!("signal {number} to the container: {errno}");
    }
}

/// One packet of the client; whether it is still there.
fn hear(held: &Held, init: &OwnedFd) -> bool {
    match held.channel.receive::<ToShim>() {
        Ok(Some((ToShim::Signal { number }, _))) => send(init, number),
        // Meant for the farewell, which will not hear it again.
        Ok(Some((ToShim::Done, _))) => held.done.set(),
        Ok(Some((ToShim::Unknown, _))) => {}
        Ok(None) => return false,
        Err(error) => {
            log::warn!("the client is not understood: {error}");
            return false;
        }
    }
    true
}

/// Reads output that nobody wants, so that the container is not held up;
/// whether there may be more.
fn drain(master: &OwnedFd) -> bool {
    let mut buffer = [0u8; 4096];
    match rustix::io::read(master, &mut buffer) {
        Ok(0) => false,
        Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
        // EIO: the last process with this terminal has closed it.
        Err(_) => false,
    }
}

fn reap(pid: Pid) -> ExitRecord {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return ExitRecord::exited(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return ExitRecord::signaled(signal as i32),
            Err(Errno::EINTR) => {}
            other => {
                log::error!("the exit status of process {pid} is lost: {other:?}");
                return ExitRecord::unknown();
            }
        }
    }
}

/// Reaps what became an orphan in the container. Only between driver calls: a
/// driver waits for its own commands.
fn reap_strangers(init: Pid) {
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::All, flags | WaitPidFlag::WNOWAIT).map(|status| status.pid()) {
            // The init is for `reap`.
            Ok(Some(pid)) if pid != init => {
                let _ = waitid(Id::Pid(pid), flags);
            }
            _ => return,
        }
    }
}
