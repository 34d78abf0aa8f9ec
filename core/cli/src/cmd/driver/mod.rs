//! `driver`: what is configured, what loads, and whether a driver keeps its
//! contract.
//!
//! | module | what lives there |
//! |---|---|
//! | `show` | `ls`, `inspect`, `trace` |
//! | `check` | `check`: the table and the exit status |
//! | `worker` | a child process that may crash or hang, from the parent's side |
//! | `child` | the same from its own side |
//! | `cases` | the suites of a kind, case by case |
//! | `scratch` | the folder of a check, and the end of everything in it |

mod cases;
mod check;
pub(crate) mod child;
mod scratch;
mod show;
mod worker;

pub(crate) use worker::COMMAND as CHILD;

use containerkit::Result;

use crate::Outcome;
use crate::app::App;
use crate::args::DriverCommand;

pub(crate) fn run(app: &App, command: DriverCommand) -> Result<Outcome> {
    match command {
        DriverCommand::Ls => show::ls(app),
        DriverCommand::Inspect { target } => show::inspect(app, &target),
        DriverCommand::Trace => show::trace(app),
        DriverCommand::Check(args) => check::run(app, &args),
    }
}
