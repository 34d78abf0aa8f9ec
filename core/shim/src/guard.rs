//! The guard: the parent of the supervisor, which does nothing until that has
//! ended.
//!
//! It is forked from before anything is loaded, so that it costs a few pages.
//! As a subreaper above the supervisor it inherits everything that a killed
//! supervisor leaves, the container's init and a runtime in the middle of its
//! work included: what is to be killed are its own children, which no reused
//! pid can be mistaken for.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerkit::oci_spec::runtime::Spec;
use containerkit::process::Stat;
use containerkit::runtime::DeleteMode;
use containerkit::shim::{
    Channel, ExitRecord, ShimRequest, ToClient, ToShim, WireError, cgroups_at, end_execs,
    kill_remains, read_exit, read_init, read_intent, read_request, remove_cgroups, write_exit,
};
use containerkit::stats::oom_kills;
use containerkit::{Error, ErrorKind, IoContext, Result, quote};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::haste::Haste;
use crate::standby::{Copied, Copies};
use crate::{PATIENCE, driver, logger, signals};

/// What the guard keeps open.
pub(crate) struct Held {
    /// To the client.
    pub(crate) channel: Channel,
    /// The request's memfd.
    pub(crate) request: OwnedFd,
    /// The container's lock, a copy of the supervisor's.
    pub(crate) lock: OwnedFd,
    /// What guard and supervisor both know of the client.
    pub(crate) done: Done,
}

/// Whether the client has said that it is done, whichever of the two
/// processes heard it.
pub(crate) struct Done(OwnedFd);

impl Done {
    /// Not yet; made before the fork.
    pub(crate) fn new() -> Result<Done> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Done)
            .io_context(|| "make an eventfd")
    }

    /// It was said.
    pub(crate) fn set(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn is_set(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 8]).is_ok()
    }
}

/// Waits for the supervisor, and ends.
pub(crate) fn run(supervisor: Pid, channel: Channel, copies: Copies, done: Done) -> ! {
    let mut copied = None;
    if let Err(error) = wait(supervisor, &channel, &copies, &mut copied) {
        // Without its signals there is still its end.
        eprintln!("guard: {error}");
    }
    let status = waitid(Id::Pid(supervisor), WaitPidFlag::WEXITED);
    let Some(Copied { request, lock }) = copied.or_else(|| copies.take()) else {
        // It never had a container.
        if !matches!(status, Ok(WaitStatus::Exited(_, 0 | driver::HUNG))) {
            tell(
                &channel,
                &ToClient::Failed {
                    error: WireError::from(&lost(&status, &copies)),
                },
            );
        }
        let _ = end_children();
        std::process::exit(0);
    };
    let held = Held {
        channel,
        request,
        lock,
        done,
    };
    match status {
        Ok(WaitStatus::Exited(_, 0)) => {}
        Ok(WaitStatus::Exited(_, driver::HUNG)) => {
            take_over(&held, "its driver hangs", Driver::Hangs);
        }
        status => {
            copies.tell_early();
            take_over(&held, &format!("{status:?}"), Driver::Answers);
        }
    }
    farewell(held)
}

/// How long a supervisor may take to notice that its client is gone.
const NOTICE: Duration = Duration::from_secs(2);

/// Returns when the supervisor has ended; meanwhile takes the copies from it
/// and passes signals on to it. One that has no container, and is so deep in
/// its driver that it does not notice the client's end, is killed.
fn wait(
    supervisor: Pid,
    client: &Channel,
    copies: &Copies,
    copied: &mut Option<Copied>,
) -> Result<()> {
    let what = || "watch the supervisor";
    let pid = rustix::process::Pid::from_raw(supervisor.as_raw())
        .ok_or_else(|| Error::internal("the supervisor has no pid"))?;
    let pidfd =
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).io_context(what)?;
    let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .io_context(what)?;
    let mut haste = Haste::new();
    haste.beat();
    let mut listens = true;
    let mut alone: Option<Instant> = None;
    loop {
        let mut fds = vec![
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        if listens {
            fds.push(PollFd::new(copies, PollFlags::IN));
            if alone.is_none() {
                // Its end is told unasked; what it says is the supervisor's.
                fds.push(PollFd::new(client, PollFlags::empty()));
            }
        }
        let left = alone
            .filter(|_| listens)
            .map(|since| NOTICE.saturating_sub(since.elapsed()));
        let pause = haste.pause().into_iter().chain(left).min();
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        match rustix::event::poll(&mut fds, pause.as_ref()) {
            Ok(0) => haste.beat(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).io_context(what),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        if ready(3) {
            alone = Some(Instant::now());
        }
        if listens && ready(2) {
            *copied = copies.take();
            listens = false;
            haste.renew();
        }
        if listens && alone.is_some_and(|since| since.elapsed() >= NOTICE) {
            let _ = kill(supervisor, Signal::SIGKILL);
            listens = false;
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        while let Ok(Some(info)) = signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    let _ = kill(supervisor, signal);
                }
            }
        }
    }
}

/// The error for a supervisor that died before it had a container, with its
/// last words.
fn lost(status: &nix::Result<WaitStatus>, copies: &Copies) -> Error {
    let how = match status {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
        Ok(WaitStatus::Exited(_, code)) => format!("it exited with status {code}"),
        _ => "nobody knows how".into(),
    };
    let error = Error::new(
        ErrorKind::Unavailable,
        format!("the shim ended before it had a container: {how}"),
    )
    .with_hint("the runtime's driver is loaded there: `containerkit driver check` tries it");
    match copies.last_words() {
        Some(words) => error.with_source_text(quote(&words)),
        None => error,
    }
}

/// Whether the runtime's driver can still be asked for anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Answers,
    /// The client has been told.
    Hangs,
}

/// The supervisor died without having put things in order: ends the container
/// and does that.
fn take_over(held: &Held, status: &str, driver: Driver) {
    let request = match read_request(&held.request) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("guard: {error}");
            return;
        }
    };
    logger::init(&request.log_level);
    log::error!("the supervisor ended unexpectedly ({status}): the container is killed");
    let state_dir = &request.state_dir;
    if let Err(error) = kill_all(state_dir) {
        log::error!("{error}");
    }
    let intended = read_intent(state_dir).is_ok_and(|intent| intent.is_some());
    if !intended {
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("the shim of container {} ended unexpectedly", request.id),
        )
        .with_hint(format!(
            "its log is {}",
            state_dir.join("shim.log").display()
        ));
        tell(
            &held.channel,
            &ToClient::Failed {
                error: WireError::from(&error),
            },
        );
        return;
    }
    if let Err(error) = end_execs(state_dir) {
        log::error!("{error}");
    }
    let mut exit = ExitRecord::inferred();
    if let Ok(Some(init)) = read_init(state_dir) {
        exit.oom_killed = oom_kills(&init.cgroups) > 0;
    }
    // The supervisor may have told it.
    let known = matches!(read_exit(state_dir), Ok(Some(_)));
    let exit = write_exit(state_dir, exit.clone()).unwrap_or_else(|error| {
        log::error!("{error}");
        exit
    });
    if !known {
        request.tell("exit", |event| event.ended(&exit));
    }
    tell(&held.channel, &ToClient::Exited { exit });
    if driver == Driver::Hangs {
        remove_planned(&request);
        return;
    }
    let removed = remove(&request, &held.channel);
    if let Err(error) = &removed {
        log::error!("remove the container: {error}");
    }
    tell(
        &held.channel,
        &ToClient::Gone {
            error: removed.err().as_ref().map(WireError::from),
        },
    );
}

fn remove(request: &ShimRequest, client: &Channel) -> Result<()> {
    let removed = driver::open(&request.runtime, client)
        .and_then(|runtime| runtime.delete(&request.id, DeleteMode::Force));
    remove_planned(request);
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the cgroups of a container that is dead. A runtime that was killed
/// before it wrote its own state does not know of those that it had made.
fn remove_planned(request: &ShimRequest) {
    if let Ok(Some(init)) = read_init(&request.state_dir) {
        remove_cgroups(&init.cgroups);
    }
    match planned_cgroups(request) {
        Ok(cgroups) => remove_cgroups(&cgroups),
        Err(error) => log::warn!("{error}"),
    }
}

/// The cgroups that the bundle asks for, as far as they exist.
pub(crate) fn planned_cgroups(request: &ShimRequest) -> Result<Vec<PathBuf>> {
    let path = request.bundle.join("config.json");
    let spec = Spec::load(&path)
        .map_err(|error| Error::data_loss(format!("read {}", path.display())).with_source(error))?;
    let planned = spec
        .linux()
        .as_ref()
        .and_then(|l| l.cgroups_path().as_ref());
    match planned.and_then(|path| path.to_str()) {
        Some(path) => cgroups_at(path),
        None => Ok(Vec::new()),
    }
}

/// Kills the container and whatever else the supervisor left, and reaps it.
fn kill_all(state_dir: &Path) -> Result<()> {
    // By cgroup first: that also ends what forks faster than it is killed.
    let by_record = match read_init(state_dir) {
        Ok(Some(init)) => kill_remains(&init).map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    end_children().and(by_record)
}

/// Kills and reaps whatever the supervisor left.
fn end_children() -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        for child in Stat::children() {
            let _ = kill(Pid::from_raw(child.pid as i32), Signal::SIGKILL);
        }
        // Whose parent was killed falls to us, so this goes on until there is
        // nobody.
        loop {
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Ok(()),
            }
        }
        if Instant::now() >= end {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "processes of the container do not die within {} s",
                    PATIENCE.as_secs()
                ),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

pub(crate) fn tell(channel: &Channel, message: &ToClient) {
    if let Err(error) = channel.send(message, &[]) {
        log::info!("the client does not hear: {error}");
    }
}

/// The last act: waits until the client says that it has done the rest, and
/// does it in its place when it has vanished.
pub(crate) fn farewell(held: Held) -> ! {
    if held.done.is_set() {
        std::process::exit(0);
    }
    loop {
        match held.channel.receive::<ToShim>() {
            Ok(Some((ToShim::Done, _))) => std::process::exit(0),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let program = read_request(held.request.as_fd()).map(|request| request.cleanup);
    // The cleanup takes the lock itself.
    drop(held);
    let Ok([program, arguments @ ..]) = program.as_deref() else {
        std::process::exit(0);
    };
    // The cleanup is none of the runtime's commands, which it may wait for.
    // The guard leads its session and stays.
    let _ = rustix::process::setsid();
    let error = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .exec();
    eprintln!("cleanup {program}: {error}");
    std::process::exit(1)
}
