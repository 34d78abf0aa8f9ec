//! [`Runtime`] by the commands of an OCI runtime.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use containerkit::lock::{FileLock, Wait};
use containerkit::oci_spec::runtime::LinuxResources;
use containerkit::runtime::{
    CreateRequest, DeleteMode, ExecRequest, KillScope, ProcessEntry, RuntimeCapabilities,
    RuntimeInfo, RuntimeState, RuntimeStatus, StartedProcess, Stats, Stdio,
};
use containerkit::{ContainerId, Error, ErrorKind, IoContext, Result, Runtime, fs, quote};
use serde::Deserialize;

use crate::Runc;
use crate::command::{self, Call, LIST_LIMIT, OUTPUT_LIMIT, Output, Streams};
use crate::message::{failure, last_error, printable};
use crate::scratch::Scratch;
use crate::wire;

/// The largest `config.json` that is read.
const CONFIG_LIMIT: u64 = 16 << 20;
/// The longest path of a unix socket.
const SOCKET_LIMIT: usize = 107;
/// SIGKILL.
const KILL: i32 = 9;

impl Runtime for Runc {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            ps: true,
            pause: true,
            update: true,
            stats: self.is_runc,
            checkpoint: false,
        }
    }

    fn info(&self) -> Result<RuntimeInfo> {
        let output = command::ask(&self.options, &["--version"])?;
        if !output.status.success() {
            return Err(self.unusable(&output));
        }
        let (name, version, spec) = wire::version(&String::from_utf8_lossy(&output.stdout));
        if name.is_empty() || version.is_empty() {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{} --version printed {}, which names no runtime and version",
                    self.options.binary.display(),
                    quote(&String::from_utf8_lossy(&output.stdout))
                ),
            ));
        }
        // crun 1.8 and others do not know the command, and say so by failing.
        let features = command::ask(&self.options, &["features"])
            .ok()
            .filter(|output| output.status.success())
            .and_then(|output| serde_json::from_slice(&output.stdout).ok());
        Ok(RuntimeInfo {
            name: printable(&name),
            version: printable(&version),
            spec: spec.map(|spec| printable(&spec)),
            binary: Some(self.options.binary.clone()),
            features,
        })
    }

    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        self.make("create", id, request)
    }

    fn run(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        if self.is_runc {
            return self.make("run", id, request);
        }
        // `crun run --detach` reaps an init that ends at once, and its exit
        // status is lost.
        let process = self.make("create", id, request)?;
        if let Err(error) = self.start(id) {
            let _ = self.delete(id, DeleteMode::Force);
            return Err(error);
        }
        Ok(process)
    }

    fn start(&self, id: &ContainerId) -> Result<()> {
        self.simple("start", id, &[]).map(drop)
    }

    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("signal {signal}: want 1 to 64")));
        }
        let mut args: Vec<OsString> = Vec::new();
        if scope == KillScope::All {
            args.push("--all".into());
        }
        args.push(id.as_str().into());
        args.push(signal.to_string().into());
        self.call("kill", id, args, OUTPUT_LIMIT)?;
        // A frozen process dies once it thaws; runc sees to that itself.
        if signal == KILL
            && !self.is_runc
            && self
                .state(id)
                .is_ok_and(|state| state.status == RuntimeStatus::Paused)
        {
            self.simple("resume", id, &[])?;
        }
        Ok(())
    }

    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()> {
        let result = match mode {
            DeleteMode::Stopped => self.simple("delete", id, &[]).map(drop),
            DeleteMode::Force => self.delete_by_force(id),
        };
        result?;
        // The runtime may have lost sight of a process that still runs: crun
        // deletes a container whose status file is damaged and leaves its init.
        self.inits.end(id)?;
        self.inits.forget(id);
        Ok(())
    }

    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess> {
        let terminal = request.process.terminal().unwrap_or(false);
        check_stdio(&request.stdio, terminal)?;
        let scratch = Scratch::new(&self.calls)?;
        let process = serde_json::to_vec(&request.process)
            .map_err(|e| Error::invalid(format!("container {id}: the process")).with_source(e))?;
        let process = scratch.write("process.json", &process)?;
        let args = vec![
            "--detach".into(),
            "--process".into(),
            process.into_os_string(),
        ];
        let output = self.launch("exec", id, args, request.stdio, &scratch)?;
        crate::init::started(&scratch.file("pid"), output.started)
            .map_err(|error| error.context(format!("container {id}: {} exec", self.program)))
    }

    fn state(&self, id: &ContainerId) -> Result<RuntimeState> {
        let output = self.simple("state", id, &[])?;
        let state: wire::State = wire::parse(&format!("{} state", self.program), &output.stdout)?;
        let state = state.into_state()?;
        if state.id != *id {
            return Err(Error::internal(format!(
                "{} state of container {id} tells of container {}",
                self.program, state.id
            )));
        }
        Ok(state)
    }

    fn list(&self) -> Result<Vec<RuntimeState>> {
        let call = Call {
            verb: "list",
            args: vec!["--format".into(), "json".into()],
            streams: Streams::Captured,
            log: None,
            limit: LIST_LIMIT,
        };
        let output = command::run(&self.options, call)?;
        if !output.status.success() {
            // crun fails altogether when one container is damaged.
            return self.list_one_by_one(&output);
        }
        let entries: Vec<wire::State> =
            wire::parse(&format!("{} list", self.program), &output.stdout)?;
        let mut states = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.into_state() {
                Ok(state) => states.push(state),
                Err(error) => log::warn!("{} list: {error}", self.program),
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        let result = self.simple("ps", id, &["--format", "json"]);
        let output = match result {
            Ok(output) => output,
            // crun 1.8 crashes here.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return match self.state(id) {
                    Ok(state) if state.status == RuntimeStatus::Stopped => Ok(Vec::new()),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let pids: Vec<i64> = wire::parse(&format!("{} ps", self.program), &output.stdout)?;
        Ok(wire::processes(pids))
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        // crun pauses twice, and runc freezes what is no longer there.
        self.want(
            id,
            "pause",
            &[RuntimeStatus::Created, RuntimeStatus::Running],
        )?;
        self.simple("pause", id, &[]).map(drop)
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        let state = self.state(id)?;
        // crun says `created` of a container that was paused before its start.
        if !matches!(state.status, RuntimeStatus::Paused)
            && (self.is_runc || state.status != RuntimeStatus::Created)
        {
            return Err(unfit(id, "resume", state.status));
        }
        self.simple("resume", id, &[]).map(drop)
    }

    fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        use RuntimeStatus::{Created, Paused, Running};
        self.want(id, "update", &[Created, Running, Paused])?;
        let data = serde_json::to_vec(resources)
            .map_err(|e| Error::invalid(format!("container {id}: limits")).with_source(e))?;
        let scratch = Scratch::new(&self.calls)?;
        let file = scratch.write("resources.json", &data)?;
        let args = vec![
            "--resources".into(),
            file.into_os_string(),
            id.as_str().into(),
        ];
        self.call("update", id, args, OUTPUT_LIMIT).map(drop)
    }

    fn stats(&self, id: &ContainerId) -> Result<Stats> {
        if !self.is_runc {
            return Err(Error::unimplemented("stats"));
        }
        let output = self.simple("events", id, &["--stats"])?;
        let event: wire::Event = wire::parse(&format!("{} events", self.program), &output.stdout)?;
        Ok(event.into_stats())
    }
}

impl Runc {
    /// `create` and `run`. A failure leaves no container behind.
    fn make(
        &self,
        verb: &'static str,
        id: &ContainerId,
        request: CreateRequest,
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
        let result = self.make_locked(verb, id, request);
        let _ = lock.remove();
        result
    }

    fn make_locked(
        &self,
        verb: &'static str,
        id: &ContainerId,
        request: CreateRequest,
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
        let args = vec!["--bundle".into(), request.bundle.into_os_string()];
        let args = match verb {
            "run" => [vec!["--detach".into()], args].concat(),
            _ => args,
        };
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

    /// Runs a command whose streams become those of a container's process.
    fn launch(
        &self,
        verb: &'static str,
        id: &ContainerId,
        mut args: Vec<OsString>,
        stdio: Stdio,
        scratch: &Scratch,
    ) -> Result<Output> {
        args.push("--pid-file".into());
        args.push(scratch.file("pid").into_os_string());
        let streams = match stdio {
            Stdio::Fds {
                stdin,
                stdout,
                stderr,
            } => Streams::Given {
                stdin,
                stdout,
                stderr,
            },
            Stdio::Console(socket) => {
                args.push("--console-socket".into());
                args.push(socket.into_os_string());
                Streams::Captured
            }
        };
        args.push(id.as_str().into());
        let log = scratch.write("log", b"")?;
        let call = Call {
            verb,
            args,
            streams,
            log: Some(&log),
            limit: OUTPUT_LIMIT,
        };
        let output = command::run(&self.options, call)
            .map_err(|error| error.context(format!("container {id}")))?;
        if output.status.success() {
            return Ok(output);
        }
        let file = std::fs::File::open(&log).io_context(|| "open the runtime's log")?;
        let said = fs::read_limited(&file, "the runtime's log", OUTPUT_LIMIT)?;
        match last_error(&said).or_else(|| last_error(&output.stderr)) {
            Some(text) => Err(failure(&self.program, verb, id, &text)),
            None => Err(self.silent(verb, id, &output)),
        }
    }

    /// A command on a container that exists, its output captured.
    fn simple(&self, verb: &'static str, id: &ContainerId, args: &[&str]) -> Result<Output> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        args.push(id.as_str().into());
        self.call(verb, id, args, OUTPUT_LIMIT)
    }

    fn call(
        &self,
        verb: &'static str,
        id: &ContainerId,
        args: Vec<OsString>,
        limit: u64,
    ) -> Result<Output> {
        let call = Call {
            verb,
            args,
            streams: Streams::Captured,
            log: None,
            limit,
        };
        let output = command::run(&self.options, call)
            .map_err(|error| error.context(format!("container {id}")))?;
        if output.status.success() {
            return Ok(output);
        }
        match last_error(&output.stderr) {
            Some(text) => Err(failure(&self.program, verb, id, &text)),
            None => Err(self.silent(verb, id, &output)),
        }
    }

    /// The error of a command that failed without a word: perhaps the program
    /// cannot even be loaded, and said so on the container's stderr.
    fn silent(&self, verb: &str, id: &ContainerId, output: &Output) -> Error {
        match command::ask(&self.options, &["--version"]) {
            Ok(version) if !version.status.success() => self.unusable(&version),
            Err(error) => error,
            Ok(_) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "container {id}: {} {verb}: {}",
                    self.program,
                    output.status_text()
                ),
            ),
        }
    }

    /// The error of a program that cannot tell its version.
    fn unusable(&self, output: &Output) -> Error {
        let why = last_error(&output.stderr).unwrap_or_else(|| output.status_text());
        crate::options::missing(&self.options.binary.display().to_string(), &printable(&why))
    }

    fn delete_by_force(&self, id: &ContainerId) -> Result<()> {
        let force = || match self.simple("delete", id, &["--force"]) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map(drop),
        };
        let Err(first) = force() else { return Ok(()) };
        // Helps a runtime that gave up waiting for the init, and one that
        // cannot read its own state, as far as we know the init.
        self.inits.end(id)?;
        let Err(error) = force() else { return Ok(()) };
        let damaged = matches!(error.kind(), ErrorKind::Unavailable) && self.inits.knows(id);
        if !damaged || self.state(id).is_ok() {
            return Err(first);
        }
        log::warn!("container {id}: the runtime's state is damaged and removed: {error}");
        self.inits.end_all(id)?;
        fs::remove_tree_path(&self.options.root.join(id.as_str()))
    }

    fn list_one_by_one(&self, failed: &Output) -> Result<Vec<RuntimeState>> {
        let why = last_error(&failed.stderr).unwrap_or_else(|| failed.status_text());
        log::warn!("{} list: {}", self.program, printable(&why));
        let root = &self.options.root;
        let entries = std::fs::read_dir(root).io_context(|| format!("list {}", root.display()))?;
        let mut states = Vec::new();
        let mut failures = 0;
        for entry in entries.flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match self.state(&id) {
                Ok(state) => states.push(state),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    failures += 1;
                    log::warn!("{error}");
                }
            }
        }
        if states.is_empty() && failures == 0 {
            return Err(
                Error::new(ErrorKind::Unavailable, format!("{} list", self.program))
                    .with_source_text(printable(&why)),
            );
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    fn has_folder(&self, id: &ContainerId) -> bool {
        self.options
            .root
            .join(id.as_str())
            .symlink_metadata()
            .is_ok()
    }

    fn want(&self, id: &ContainerId, verb: &str, wanted: &[RuntimeStatus]) -> Result<()> {
        let state = self.state(id)?;
        match wanted.contains(&state.status) {
            true => Ok(()),
            false => Err(unfit(id, verb, state.status)),
        }
    }
}

fn taken(id: &ContainerId) -> Error {
    Error::already_exists(format!("container {id} exists already"))
}

fn unfit(id: &ContainerId, verb: &str, status: RuntimeStatus) -> Error {
    let status = format!("{status:?}").to_lowercase();
    Error::precondition(format!("container {id} is {status}: it cannot {verb}"))
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
fn check_stdio(stdio: &Stdio, terminal: bool) -> Result<()> {
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
