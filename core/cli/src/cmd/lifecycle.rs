//! `stop`, `kill`, `pause`, `resume`, `update`, `wait`, `delete`.

use std::time::Duration;

use containerkit::container::{Containers, RemoveMode};
use containerkit::record::ContainerRecord;
use containerkit::spec::parse::parse_signal;
use containerkit::{ErrorKind, Result};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::container::{DeleteArgs, Ids, KillArgs, StopArgs, UpdateArgs};
use crate::cmd::each::{all, each};
use crate::cmd::foreground::Signals;
use crate::cmd::options;
use crate::cmd::run::containers;
use crate::output::{self, Format};

/// The container that a user means.
pub(crate) fn find(containers: &Containers, text: &str) -> Result<ContainerRecord> {
    containers.records().find_container(text)
}

pub(crate) fn stop(app: &App, args: StopArgs) -> Result<Outcome> {
    let containers = containers(app)?;
    let patience = Duration::from_secs(args.time);
    each(app, &args.which.ids, |id| {
        containers.stop(&find(&containers, id)?, patience, &|| false)
    })
}

pub(crate) fn kill(app: &App, args: KillArgs) -> Result<Outcome> {
    let number = parse_signal(&args.signal)?;
    let containers = containers(app)?;
    each(app, &args.which.ids, |id| {
        containers.kill(&find(&containers, id)?, number)
    })
}

pub(crate) fn pause(app: &App, which: Ids) -> Result<Outcome> {
    let containers = containers(app)?;
    each(app, &which.ids, |id| {
        containers.pause(&find(&containers, id)?)
    })
}

pub(crate) fn resume(app: &App, which: Ids) -> Result<Outcome> {
    let containers = containers(app)?;
    each(app, &which.ids, |id| {
        containers.resume(&find(&containers, id)?)
    })
}

pub(crate) fn update(app: &App, args: UpdateArgs) -> Result<Outcome> {
    let limits = options::limits(&args.limits)?;
    let containers = containers(app)?;
    each(app, &args.which.ids, |id| {
        containers.update(&find(&containers, id)?, &limits)
    })
}

/// One status a line; with one container it is the command's own.
pub(crate) fn wait(app: &App, which: Ids) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let (mut ended, mut failed, mut last) = (Vec::new(), Vec::new(), 0);
    // All at once: while one is waited for, another's name may get a new owner.
    let found: Vec<_> = which
        .ids
        .iter()
        .map(|id| (id, find(&containers, id)))
        .collect();
    for (id, found) in found {
        let exit = match found {
            Ok(record) => containers.wait(&record, &|| signals.interrupted()),
            Err(error) if error.kind() == ErrorKind::NotFound => containers
                .removed_exit(id)?
                .map(|left| left.exit)
                .ok_or(error),
            Err(error) => Err(error),
        };
        match exit {
            Ok(exit) => {
                last = exit.status();
                if app.format == Format::Text {
                    output::print_line(&last.to_string());
                }
                ended.push(json!({ "id": id, "exit_code": last, "exit": exit }));
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => failed.push((id.clone(), error)),
        }
    }
    if app.format == Format::Json {
        output::print_json(&ended)?;
    }
    all(failed)?;
    Ok(match which.ids.len() {
        1 => Outcome::Status(last),
        _ => Outcome::Success,
    })
}

pub(crate) fn delete(app: &App, args: DeleteArgs) -> Result<Outcome> {
    let containers = containers(app)?;
    let mode = if args.force {
        RemoveMode::Force
    } else {
        RemoveMode::Stopped
    };
    each(app, &args.which.ids, |id| match find(&containers, id) {
        Err(error) if error.kind() == ErrorKind::NotFound && args.force => Ok(()),
        Err(error) => Err(error),
        Ok(record) => containers.remove(&record, mode),
    })
}
