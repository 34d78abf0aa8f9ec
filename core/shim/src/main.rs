//! `containerkit-shim`: the supervisor of one container.
//!
//! `containerkit::shim` says what it is asked and what it answers. It is
//! started by a client with the socket as its standard input, and becomes two
//! processes: the guard, which only waits, and the supervisor, its child.
//!
//! | module | what lives there |
//! |---|---|
//! | [`standby`] | from the first packet to a supervisor that waits for its container |
//! | [`haste`] | begins a wait of the kernel's early |
//! | [`guard`] | waits for the supervisor; ends the container when it was killed; the cleanup of a vanished client |
//! | [`supervisor`] | from request to running container, and from its end to nothing |
//! | [`watch`] | what a supervisor does in between: one loop over everything |
//! | [`streams`], [`flow`], [`sink`] | the init's streams; an output on its way; where it is written without waiting |
//! | [`peer`], [`ask`] | clients at the socket, and what they ask for |
//! | [`exec`], [`reap`] | further processes; the ends of all |
//! | [`console`] | receiving a terminal |
//! | [`oom`] | tells of kills for lack of memory |
//! | [`driver`] | loading the runtime driver |
//! | [`logger`], [`sys`] | `shim.log`; fork |
//!
//! What may not live here: networking, registries, configuration, a runtime's
//! own ways. A runtime is known as a loaded driver only.

mod ask;
mod console;
mod driver;
mod exec;
mod flow;
mod guard;
mod haste;
mod logger;
mod oom;
mod peer;
mod reap;
mod sink;
mod standby;
mod streams;
mod supervisor;
mod sys;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use containerkit::shim::{Channel, ToClient, WireError};
use containerkit::{Error, IoContext, Result};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{Mode, OFlags};

/// How long a runtime that has started a process may take to send its
/// terminal, killed processes to die, and a reader to read on.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    sys::close_inherited();
    if std::env::args_os().len() > 1 {
        println!("containerkit-shim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let channel = match socket() {
        Ok(channel) => channel,
        Err(_) => {
            eprintln!("error: containerkit-shim: it is started by containerkit, not by hand");
            return ExitCode::from(2);
        }
    };
    match settle().and_then(|()| standby::begin(&channel)) {
        Ok(Some(opening)) => standby::split(channel, opening),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => fail(&channel, &error),
    }
}

/// Takes the socket off the standard input.
fn socket() -> Result<Channel> {
    let fd =
        rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).io_context(|| "take the socket")?;
    let channel = Channel::from_fd(fd)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .io_context(|| "open /dev/null")?;
    nix::unistd::dup2_stdin(&null).io_context(|| "close standard input")?;
    Ok(channel)
}

/// Leaves the client's session, folder, umask and signals behind.
fn settle() -> Result<()> {
    // Blocked, not ignored: an ignored signal would be inherited by the
    // container, a blocked one is reset where a command is spawned.
    signals().thread_block().io_context(|| "block signals")?;
    // Fails only for a leader of a process group, which a spawned child is not
    // unless its parent made it one; it goes on in that group.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").io_context(|| "change to /")?;
    // A container inherits it where its spec says none; files of our own are
    // made with their modes.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    become_subreaper()
}

/// The signals that arrive by descriptor.
fn signals() -> SigSet {
    SigSet::from_iter([
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ])
}

fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .io_context(|| "become a subreaper")
}

/// Tells the client that nothing was started, and ends.
fn fail(channel: &Channel, error: &Error) -> ! {
    eprintln!("error: {error}");
    let _ = channel.send(
        &ToClient::Failed {
            error: WireError::from(error),
        },
        &[],
    );
    std::process::exit(0)
}
