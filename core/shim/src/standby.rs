//! From the first packet to a supervisor that has loaded its driver and waits
//! for its container, while the client still makes that.
//!
//! It is the supervisor that hears the second packet. It passes a copy to the
//! guard before it does anything with it, so that the guard can end what the
//! supervisor began.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use containerkit::shim::{Channel, Hello, PROTOCOL, RuntimeRef, StandBy, last_line, unseal};
use containerkit::{Error, ErrorKind, IoContext, Result, Runtime};

use crate::guard::{self, Done, Held};
use crate::{become_subreaper, driver, fail, logger, supervisor, sys};

const ONE_VERSION: &str = "install containerkit and containerkit-shim of one version";

/// What the first packet says.
pub(crate) struct Opening {
    runtime: RuntimeRef,
    log_level: String,
}

/// Receives the first packet; `None` when the client is gone already.
pub(crate) fn begin(channel: &Channel) -> Result<Option<Opening>> {
    let Some((stand_by, fds)) = channel.receive::<StandBy>()? else {
        return Ok(None);
    };
    check_version(stand_by.version)?;
    let [reference] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| {
        Error::invalid(format!("the client sent {} descriptors, not 1", fds.len()))
            .with_hint(ONE_VERSION)
    })?;
    Ok(Some(Opening {
        runtime: unseal("the runtime driver", reference)?,
        log_level: stand_by.log_level,
    }))
}

/// Becomes guard and supervisor.
pub(crate) fn split(channel: Channel, opening: Opening) -> ExitCode {
    let made = Done::new().and_then(|done| Ok((done, EarlyLog::new()?, Channel::pair()?)));
    let (done, early, (ours, theirs)) = match made {
        Ok(made) => made,
        Err(error) => fail(&channel, &error),
    };
    let parent = rustix::process::getpid();
    match sys::fork_single() {
        Ok(sys::Side::Child) => {
            drop(ours);
            let (runtime, handover) = stand_by(&channel, &opening, theirs, early);
            let held = Held {
                channel,
                request: handover.request,
                lock: handover.lock,
                done,
            };
            supervisor::run(parent, held, runtime, handover.stdio, handover.attached)
        }
        Ok(sys::Side::Parent(child)) => {
            drop(theirs);
            guard::run(child, channel, Copies { from: ours, early }, done)
        }
        Err(error) => fail(&channel, &error),
    }
}

/// The supervisor, until it has its container.
fn stand_by(
    channel: &Channel,
    opening: &Opening,
    guard: Channel,
    early: EarlyLog,
) -> (Result<Arc<dyn Runtime>>, Handover) {
    if let Err(error) = become_subreaper() {
        fail(channel, &error);
    }
    logger::init(&opening.log_level);
    let runtime = driver::open(&opening.runtime, channel);
    match receive(channel, guard, early) {
        Ok(Some(handover)) => (runtime, handover),
        // The client has made no container.
        Ok(None) => std::process::exit(0),
        Err(error) => fail(channel, &error),
    }
}

/// What the second packet brings the supervisor.
struct Handover {
    request: OwnedFd,
    stdio: [OwnedFd; 3],
    lock: OwnedFd,
    /// A client that is attached from the beginning.
    attached: Option<Channel>,
}

fn receive(channel: &Channel, guard: Channel, early: EarlyLog) -> Result<Option<Handover>> {
    let Some((hello, mut fds)) = channel.receive::<Hello>()? else {
        return Ok(None);
    };
    check_version(hello.version)?;
    let attached = match fds.len() > Hello::FDS {
        true => fds.pop().map(Channel::from_fd).transpose()?,
        false => None,
    };
    let [request, stdin, stdout, stderr, lock, log] = <[OwnedFd; Hello::FDS]>::try_from(fds)
        .map_err(|fds| {
            Error::invalid(format!(
                "the client sent {} descriptors, not {}",
                fds.len(),
                Hello::FDS
            ))
        })?;
    // First of all. It is there for the guard even if this process dies now.
    guard
        .send(&hello, &[request.as_fd(), lock.as_fd(), log.as_fd()])
        .map_err(|error| {
            let what = "the shim's guard has ended, which should end what is begun now";
            Error::new(ErrorKind::Unavailable, what).with_source(error)
        })?;
    log_to(&log)?;
    early.tell();
    Ok(Some(Handover {
        request,
        stdio: [stdin, stdout, stderr],
        lock,
        attached,
    }))
}

/// The guard's copies of what the supervisor got.
pub(crate) struct Copies {
    from: Channel,
    early: EarlyLog,
}

/// What the guard needs of a container.
pub(crate) struct Copied {
    /// The request's memfd.
    pub(crate) request: OwnedFd,
    /// The container's lock.
    pub(crate) lock: OwnedFd,
}

impl Copies {
    /// Waits for them; `None` when the supervisor ended without a container.
    pub(crate) fn take(&self) -> Option<Copied> {
        let (_, fds) = self.from.receive::<Hello>().ok()??;
        let [request, lock, log] = <[OwnedFd; 3]>::try_from(fds).ok()?;
        if let Err(error) = log_to(&log) {
            eprintln!("guard: {error}");
        }
        Some(Copied { request, lock })
    }

    /// The last line that a supervisor without a log has said.
    pub(crate) fn last_words(&self) -> Option<String> {
        last_line(File::from(self.early.0.try_clone().ok()?))
    }

    /// Tells what a supervisor that has died had said before it had a log.
    pub(crate) fn tell_early(&self) {
        self.early.tell();
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Standard error as it is before there is a log.
struct EarlyLog(OwnedFd);

impl EarlyLog {
    fn new() -> Result<EarlyLog> {
        rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)
            .map(EarlyLog)
            .io_context(|| "keep standard error")
    }

    /// Says it again, once, to what standard error is now.
    fn tell(&self) {
        let copy = || -> std::io::Result<()> {
            let mut file = File::from(self.0.try_clone()?);
            file.seek(SeekFrom::Start(0))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            file.set_len(0)?;
            std::io::stderr().write_all(&text)
        };
        // Not every standard error can be read, and a log may be full.
        let _ = copy();
    }
}

fn log_to(log: &OwnedFd) -> Result<()> {
    nix::unistd::dup2_stderr(log).io_context(|| "write to the log")
}

fn check_version(version: u32) -> Result<()> {
    if (1..=PROTOCOL).contains(&version) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "the client speaks version {version} of the shim's protocol, this shim up to {PROTOCOL}"
        ),
    )
    .with_hint(ONE_VERSION))
}
