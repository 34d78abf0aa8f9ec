//! Making containers: `create` and `run`, and what a failed one leaves.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use containerkit::lock::{FileLock, Wait, is_held};
use containerkit::runtime::{CreateRequest, DeleteMode, StartedProcess, Stdio};
use containerkit::{ContainerId, Error, ErrorKind, IoContext, Result, Runtime, fs, quote};
use serde::Deserialize;

use crate::Runc;
use crate::scratch::Scratch;

/// The largest `config.json` that is read.
const CONFIG_LIMIT: u64 = 16 << 20;
/// The longest path of a unix socket.
const SOCKET_LIMIT: usize = 107;
impl Runc {
    /// `create`, `run` and `restore`, with further arguments. A failure leaves no container behind.
    pub(crate) fn make(
        &self,
        verb: &'static str,
        id: &ContainerId,
        request: CreateRequest,
        more: Vec<OsString>,
    ) -> Result<StartedProcess> {
        check_stdio(&request.stdio, terminal_of(&request.bundle)?)?;
        fs::ensure_dir(&self.locks, 0o700)?;
        // Held until the container is there, so that the cleaning after a
        // failure never meets a container that somebody else makes.
        let lock = FileLock::acquire(
            &self.locks.join(id.as_str()),
            &format!("container {id}"),
            Wait::No,
        )?;
        let result = self.make_locked(verb, id, request, more);
        let _ = lock.remove();
        result
    }

    fn make_locked(
        &self,
        verb: &'static str,
        id: &ContainerId,
        request: CreateRequest,
        more: Vec<OsString>,
    ) -> Result<StartedProcess> {
        fs::ensure_dir(&self.options.root, 0o700)?;
        if self.has_folder(id) {
            // A killed runtime leaves a folder that is no container.
            match self.state(id) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.delete(id, DeleteMode::Force)?;
                }
                _ => return Err(taken(id)),
            }
        }
        let scratch = Scratch::new(&self.calls)?;
        let mut args = vec!["--bundle".into(), request.bundle.into_os_string()];
        if verb != "create" {
            args.push("--detach".into());
        }
        args.extend(more);
        let made = self
            .launch(verb, id, args, request.stdio, &scratch)
            .and_then(|output| {
                let process = crate::init::started(&scratch.file("pid"), output.started)
                    .map_err(|e| e.context(format!("container {id}: {} {verb}", self.program)))?;
                self.inits.remember(id, &process)?;
                Ok(process)
            });
        made.inspect_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists || !self.has_folder(id) {
                return;
            }
            if let Err(error) = self.delete(id, DeleteMode::Force) {
                log::warn!("container {id}: cleaning up after a failed {verb}: {error}");
            }
        })
    }

    /// Removes the lock that a killed `create` or `run` left; one that is held
    /// is in use.
    pub(crate) fn drop_stale_lock(&self, id: &ContainerId) {
        let path = self.locks.join(id.as_str());
        if path.exists()
            && is_held(&path).is_ok_and(|held| !held)
            && let Ok(lock) = FileLock::acquire(&path, "container", Wait::No)
        {
            let _ = lock.remove();
        }
    }

    fn has_folder(&self, id: &ContainerId) -> bool {
        self.options
            .root
            .join(id.as_str())
            .symlink_metadata()
            .is_ok()
    }
}

fn taken(id: &ContainerId) -> Error {
    Error::already_exists(format!("container {id} exists already"))
}

/// Whether a bundle's spec asks for a terminal; also that there is a spec.
fn terminal_of(bundle: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        process: Process,
    }
    #[derive(Default, Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    if !bundle.is_absolute() || bundle.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid(format!(
            "bundle {}: want an absolute path",
            quote(&bundle.to_string_lossy())
        )));
    }
    let path = bundle.join("config.json");
    let shown = path.display();
    let file = std::fs::File::open(&path).io_context(|| format!("open {shown}"))?;
    let data = fs::read_limited(&file, &shown.to_string(), CONFIG_LIMIT)?;
    let spec: Spec = serde_json::from_slice(&data)
        .map_err(|e| Error::invalid(format!("{shown} is not a runtime spec")).with_source(e))?;
    Ok(spec.process.terminal)
}

/// A terminal needs a console socket, and only a terminal.
pub(crate) fn check_stdio(stdio: &Stdio, terminal: bool) -> Result<()> {
    match (stdio, terminal) {
        (Stdio::Fds { .. }, true) => Err(Error::invalid(
            "the process wants a terminal and got three descriptors instead of a console socket",
        )),
        (Stdio::Console(_), false) => Err(Error::invalid(
            "the process wants no terminal and got a console socket",
        )),
        (Stdio::Console(path), true)
            if !path.is_absolute() || path.as_os_str().len() > SOCKET_LIMIT =>
        {
            Err(Error::invalid(format!(
                "console socket {}: want an absolute path of at most {SOCKET_LIMIT} bytes",
                quote(&path.to_string_lossy())
            )))
        }
        _ => Ok(()),
    }
}
