//! `exec`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::container::Exec;
use containerkit::shim::ExecStreams;
use containerkit::spec::ExecSpec;
use containerkit::{Error, IoContext, Result};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::container::ExecArgs;
use crate::cmd::foreground::{ENDING, PATIENCE, Signals};
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::cmd::session::{self, After, End, Heard, Streams, Subject};
use crate::cmd::start::{Attach, stdio};
use crate::keys::Keys;
use crate::output::{self, Format};

pub(crate) fn exec(app: &App, args: ExecArgs) -> Result<Outcome> {
    let keys = Keys::parse(&args.detach_keys)?;
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let [id, command @ ..] = args.words.as_slice() else {
        return Err(Error::invalid("no container was given"));
    };
    let record = find(&containers, id)?;
    let wanted = ExecSpec {
        command: command.to_vec(),
        env: args.env,
        workdir: args.workdir,
        user: args.user,
        terminal: args.tty,
        privileged: args.privileged,
    };
    let attach = match (args.detach, args.interactive) {
        (true, _) => Attach::No,
        (false, true) => Attach::WithInput,
        (false, false) => Attach::Output,
    };
    let streams = match args.tty {
        true => ExecStreams::Terminal,
        false => ExecStreams::Given(stdio(attach)?),
    };
    let mut exec = containers.exec(&record, &wanted, streams)?;
    if args.detach {
        if app.format == Format::Json {
            let started = &exec.started;
            output::print_json(&json!({ "exec": started.exec, "pid": started.pid }))?;
        }
        return Ok(Outcome::Success);
    }
    let keys = args.interactive.then_some(keys);
    let (streams, console) = match exec.started.console.take() {
        Some(console) => {
            let copy = console.try_clone().io_context(|| "copy the terminal")?;
            (Streams::console(console, keys)?, Some(copy))
        }
        None => (Streams::none(), None),
    };
    let mut further = Further { exec, console };
    Ok(match session::stay(&mut further, streams, &signals)? {
        End::Exited(exit) => Outcome::Status(exit.status()),
        End::Left(status) => Outcome::Status(status),
    })
}

/// A further process of a container.
struct Further {
    exec: Exec,
    console: Option<OwnedFd>,
}

impl Subject for Further {
    fn fd(&self) -> BorrowedFd<'_> {
        self.exec.as_fd()
    }

    fn hear(&mut self) -> Result<Heard> {
        self.exec.wait().map(Heard::Ended)
    }

    /// It is not the init, and the kernel drops none of its signals.
    fn signal(&self, signal: Signal, asked: u32) -> Result<After> {
        let signal = match ENDING.contains(&signal) && asked >= PATIENCE {
            true => Signal::KILL,
            false => signal,
        };
        self.exec.signal(signal.as_raw())?;
        Ok(After::Stay)
    }

    fn resize(&self, size: Winsize) {
        if let Some(console) = &self.console {
            let _ = tcsetwinsize(console, size);
        }
    }

    fn close_input(&self) -> Result<()> {
        Ok(())
    }
}
