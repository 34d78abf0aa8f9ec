//! `start`, and what `run` shares with it: from a container that is ready to
//! its end, or to the background.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use containerkit::container::{Containers, Created, Launch, Launched, Made};
use containerkit::record::AfterExit;
use containerkit::shim::{ExitSource, RuntimeRef, Standby};
use containerkit::{Context, Error, IoContext, Result, fs};
use containerkit_plugin::host::check_program;

use crate::Outcome;
use crate::app::App;
use crate::args::container::StartArgs;
use crate::cmd::each::each;
use crate::cmd::foreground::{self, Signals};
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::cmd::session::End;
use crate::keys::Keys;

/// How a command stays with what it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Not at all.
    No,
    /// Output and signals.
    Output,
    /// Input too.
    WithInput,
}

pub(crate) fn start(app: &App, args: StartArgs) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let begin = |id: &str, attach| {
        let record = find(&containers, id)?;
        let (runtime, _) = app.drivers.runtime_ref(Some(&record.runtime.instance))?;
        let ready = containers.ready(&record, runtime)?;
        launch(&containers, ready, None, attach, Made::Before, &signals)
    };
    if !args.attach && !args.interactive {
        return each(app, &args.which.ids, |id| begin(id, Attach::No).map(drop));
    }
    let [id] = args.which.ids.as_slice() else {
        return Err(Error::invalid("one container at a time can be attached to"));
    };
    let attach = if args.interactive {
        Attach::WithInput
    } else {
        Attach::Output
    };
    begin(id, attach)
}

/// A shim that loads the runtime, for a container that is being made.
pub(crate) fn standby(containers: &Containers, runtime: &RuntimeRef) -> Result<Standby> {
    check_program(containers.shim())?;
    containers.standby(runtime)
}

/// Starts a container by a shim that stands by, or else by a new one, and stays
/// with it as far as that is wanted.
pub(crate) fn launch(
    containers: &Containers,
    created: Created,
    shim: Option<Standby>,
    attach: Attach,
    made: Made,
    signals: &Signals,
) -> Result<Outcome> {
    let record = created.record.clone();
    let settings = containers.settings(&record.id)?;
    let how = match attach {
        Attach::No => Launch::Background,
        Attach::Output | Attach::WithInput => {
            Launch::Foreground(match settings.terminal {
                // The process gets the pty.
                true => stdio(Attach::No)?,
                false => stdio(attach)?,
            })
        }
    };
    let shim = shim.map_or_else(|| standby(containers, &created.runtime), Ok)?;
    let Launched { mut shim, link } = created.launch_on(shim, how)?;
    let started = match shim.wait_started() {
        Ok(started) => started,
        Err(error) => {
            if let Err(second) = containers.undo_start(&record, shim, made) {
                log::warn!("clean up container {}: {second}", record.name);
            }
            return Err(error);
        }
    };
    let pid = started.pid.to_string();
    let attended = match &settings.pidfile {
        Some(path) => fs::write_atomic(path, pid.as_bytes(), 0o644, fs::Durability::Volatile),
        None => Ok(()),
    };
    if attach == Attach::No {
        attended?;
        // From here on the shim is on its own.
        drop(shim);
        return Ok(Outcome::Success);
    }
    let keys = (attach == Attach::WithInput).then(Keys::default);
    match attended.and_then(|()| foreground::attend(&mut shim, link, started, keys, signals)) {
        // The shim does the rest.
        Ok(End::Left(status)) => Ok(Outcome::Status(status)),
        Ok(End::Exited(exit)) => {
            if exit.source == ExitSource::Unknown {
                log::warn!(
                    "container {}: its exit status is lost: something in its shim waits for any \
                     child, which a driver must not (runtime {})",
                    record.name,
                    record.runtime.instance
                );
            }
            if record.after_exit == AfterExit::Remove {
                containers
                    .remove_ended(&record, shim)
                    .context(|| format!("remove container {}", record.name))?;
            } else {
                shim.finish()
                    .context(|| format!("end container {}", record.name))?;
            }
            Ok(Outcome::Status(exit.status()))
        }
        Err(error) => {
            // Whatever was started is ended; the first error is the one to tell.
            let _ = shim.signal(9);
            if let Err(second) = containers.undo_start(&record, shim, made) {
                log::warn!("clean up container {}: {second}", record.name);
            }
            // 125 says that the container could not be started.
            crate::output::print_error(&error);
            Ok(Outcome::Status(1))
        }
    }
}

/// The descriptors that a process gets.
pub(crate) fn stdio(attach: Attach) -> Result<[OwnedFd; 3]> {
    let null = || -> Result<OwnedFd> {
        let file = File::options().read(true).write(true).open("/dev/null");
        Ok(file.io_context(|| "open /dev/null")?.into())
    };
    if attach == Attach::No {
        return Ok([null()?, null()?, null()?]);
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .io_context(|| "copy a standard stream")
    };
    let stdin = match attach {
        Attach::WithInput => own(std::io::stdin().as_fd())?,
        _ => null()?,
    };
    Ok([
        stdin,
        own(std::io::stdout().as_fd())?,
        own(std::io::stderr().as_fd())?,
    ])
}
