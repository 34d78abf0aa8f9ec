//! Checkpoint and restore. The runtime leaves both to criu, which few
//! distributions bring along: whether it is there is known when the instance
//! is opened.

use std::ffi::OsString;
use std::path::PathBuf;

use containerkit::runtime::{CheckpointRequest, CreateRequest, RuntimeStatus, StartedProcess};
use containerkit::{ContainerId, Error, ErrorKind, Result, quote};

use crate::Runc;
use crate::command::{self, OUTPUT_LIMIT};
use crate::options::{Options, executable};

/// Why processes cannot be saved here; `None` when they can.
pub(crate) fn lack(options: &Options, is_runc: bool) -> Option<String> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search)
        .filter(|folder| folder.is_absolute())
        .any(|folder| executable(&folder.join("criu")));
    if !found {
        return Some("the program criu, which it needs for that, is not in PATH".into());
    }
    // What else there is was built with criu's library, or was not.
    let built_with = || {
        command::ask(options, &["--version"])
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("+CRIU"))
    };
    (!is_runc && !built_with()).then(|| "it was built without criu".into())
}

impl Runc {
    pub(crate) fn save(&self, id: &ContainerId, request: &CheckpointRequest) -> Result<()> {
        self.want_criu(id, "checkpoint")?;
        self.want(
            id,
            "checkpoint",
            &[RuntimeStatus::Running, RuntimeStatus::Paused],
        )?;
        let mut args = arguments(request)?;
        if request.leave_running {
            args.push("--leave-running".into());
        }
        args.push(id.as_str().into());
        self.call("checkpoint", id, args, OUTPUT_LIMIT)
            .map(drop)
            .map_err(|error| with_log(error, request, "dump.log"))
    }

    pub(crate) fn bring_back(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        checkpoint: &CheckpointRequest,
    ) -> Result<StartedProcess> {
        self.want_criu(id, "restore")?;
        self.make("restore", id, request, arguments(checkpoint)?)
            .map_err(|error| with_log(error, checkpoint, "restore.log"))
    }

    fn want_criu(&self, id: &ContainerId, verb: &str) -> Result<()> {
        let Some(why) = &self.lacks_criu else {
            return Ok(());
        };
        let error = Error::new(
            ErrorKind::Unimplemented,
            format!("container {id}: {} cannot {verb}: {why}", self.program),
        );
        Err(error.with_hint(match self.is_runc {
            true => "install criu 3.15 or later, from your distribution or from https://criu.org",
            false => "use a container whose runtime is runc, with criu installed",
        }))
    }
}

/// What both commands take.
fn arguments(request: &CheckpointRequest) -> Result<Vec<OsString>> {
    let work = request.work_path.as_ref().unwrap_or(&request.image_path);
    let mut args: Vec<OsString> = Vec::new();
    for (flag, path) in [("--image-path", &request.image_path), ("--work-path", work)] {
        if !path.is_absolute() {
            return Err(Error::invalid(format!(
                "{flag} {}: want an absolute path",
                quote(&path.to_string_lossy())
            )));
        }
        args.extend([flag.into(), path.clone().into_os_string()]);
    }
    for (wanted, flag) in [
        (request.tcp_established, "--tcp-established"),
        (request.external_unix_sockets, "--ext-unix-sk"),
        (request.shell_job, "--shell-job"),
    ] {
        if wanted {
            args.push(flag.into());
        }
    }
    Ok(args)
}

/// criu's reasons are in its own log alone.
fn with_log(error: Error, request: &CheckpointRequest, name: &str) -> Error {
    let folder = request.work_path.as_ref().unwrap_or(&request.image_path);
    let log: PathBuf = folder.join(name);
    match error.hint().is_none() && log.exists() {
        true => error.with_hint(format!("criu's log is {}", log.display())),
        false => error,
    }
}
