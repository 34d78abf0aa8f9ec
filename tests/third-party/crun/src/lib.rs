//! `crun`: a runtime that gives every call to a command of crun.
//!
//! It is written as an outsider writes a driver: against the SDK alone,
//! without unsafe code and without a line of the `runc` driver that comes with
//! containerkit.
//!
//! ```text
//! STATE/containers/    crun's own state (its --root)
//! STATE/locks/ID       held while a container is made
//! ```
//!
//! - **Nothing of a call outlives it.** crun's log, its pid file and what it
//!   is given as a file are files without a name, which crun reaches through
//!   `/proc/PID/fd`; a process killed at any instruction leaves none.
//! - **The state is asked first.** crun pauses twice, kills what has stopped
//!   and says nothing, deletes what was only created: whether a call fits the
//!   container's state is decided here, by what `crun state` says.
//! - **A listing asks for each container by itself**, because `crun list`
//!   fails as a whole when one of them goes away meanwhile.
//! - **Deadlines are the caller's** (`call_timeout`).

mod command;
mod runtime;
mod words;

use std::path::PathBuf;

use containerkit_plugin::fs::ensure_dir;
use containerkit_plugin::{
    Driver, DriverContext, DriverInfo, DriverKind, Error, OptionKind, OptionSpec, Result, quote,
};

use command::Crun;

// The line that makes the crate loadable.
containerkit_plugin::export_driver!(runtime: Runtime);

/// A runtime that drives crun.
#[derive(Debug)]
pub struct Runtime {
    crun: Crun,
    /// Of containers being made.
    locks: PathBuf,
}

fn options() -> Vec<OptionSpec> {
    vec![OptionSpec::new(
        "binary",
        OptionKind::Path,
        "crun",
        "The program: an absolute path, or a name that is looked for in PATH.",
    )]
}

impl Driver for Runtime {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "crun".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Runtime,
            options: options(),
        }
    }

    fn open(context: DriverContext) -> Result<Runtime> {
        context.check_options(&options())?;
        let binary = context.string("binary")?.unwrap_or_else(|| "crun".into());
        let binary = find(&binary).ok_or_else(|| {
            Error::not_found(format!(
                "driver instance {}: option binary: no program {}",
                context.instance,
                quote(&binary)
            ))
            .with_hint("install crun, or name the program by its absolute path")
        })?;
        let crun = Crun {
            binary,
            root: context.state.join("containers"),
            scratch: context.state.clone(),
        };
        let locks = context.state.join("locks");
        for folder in [&crun.root, &locks] {
            ensure_dir(folder, 0o700)?;
        }
        Ok(Runtime { crun, locks })
    }
}

/// A program by its path, or by its name in `PATH` and where packages put it.
fn find(name: &str) -> Option<PathBuf> {
    const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if name.contains('/') {
        let path = PathBuf::from(name);
        return (path.is_absolute() && path.is_file()).then_some(path);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(USUAL.split(':'))
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| PathBuf::from(folder).join(name))
        .find(|path| path.is_file())
}
