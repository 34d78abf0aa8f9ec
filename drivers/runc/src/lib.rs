//! The `runc` driver of containerkit: any OCI runtime with runc's command line
//! (runc, crun, youki).
//!
//! Each call is one short-lived command of the runtime. The driver keeps no
//! process, changes nothing of the process it lives in, and writes only in
//! its instance's `state`: the runtime's own `--root` (unless the options
//! choose another), the files of a call while it lasts, and one small record
//! a container that tells who its init is.

mod advice;
mod call;
mod cgroup;
mod checkpoint;
mod command;
mod delete;
mod ended;
mod init;
mod make;
mod message;
mod options;
mod runtime;
mod scratch;
mod sys;
mod wire;

use std::path::PathBuf;

use containerkit::{Driver, DriverContext, DriverInfo, DriverKind, Result, fs};

use init::Inits;
use options::Options;

/// An instance: one runtime program with one folder of its own state.
pub struct Runc {
    options: Options,
    /// The program's name, for messages: `runc`.
    program: String,
    /// Whether it is runc itself, whose extras the driver may use.
    is_runc: bool,
    /// Files of calls in flight.
    calls: PathBuf,
    /// Locks of containers being made.
    locks: PathBuf,
    inits: Inits,
    /// Why processes cannot be saved, when they cannot.
    lacks_criu: Option<String>,
}

impl Driver for Runc {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "runc".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Runtime,
            options: options::schema(),
        }
    }

    fn open(context: DriverContext) -> Result<Runc> {
        context.check_options(&options::schema())?;
        let options = Options::read(&context)?;
        fs::ensure_dir(&options.root, 0o700)?;
        let name = |path: &std::path::Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let program = message::printable(&name(&options.binary));
        // `runc` may be another runtime by a symlink.
        let real =
            std::fs::canonicalize(&options.binary).unwrap_or_else(|_| options.binary.clone());
        let calls = context.state.join("calls");
        scratch::sweep(&calls);
        let is_runc = name(&real).starts_with("runc");
        Ok(Runc {
            program,
            is_runc,
            lacks_criu: checkpoint::lack(&options, is_runc),
            calls,
            locks: context.state.join("locks"),
            inits: Inits::new(context.state.join("inits")),
            options,
        })
    }
}
