//! The contract, by commands of crun.

use std::ffi::OsString;
use std::path::Path;

use containerkit_plugin::fs::{read_file, remove_tree_path};
use containerkit_plugin::lock::{FileLock, Wait};
use containerkit_plugin::oci_spec::runtime::LinuxResources;
use containerkit_plugin::runtime::{
    CreateRequest, DeleteMode, ExecRequest, KillScope, ProcessEntry, RuntimeCapabilities,
    RuntimeInfo, RuntimeState, RuntimeStatus, StartedProcess, Stdio,
};
use containerkit_plugin::serde_json::{self, Value};
use containerkit_plugin::{
    ContainerId, Error, ErrorKind, IoContext, Result, Runtime as Contract, log, quote,
};

use crate::Runtime;
use crate::words;

/// The largest `config.json` that is read.
const SPEC_LIMIT: u64 = 16 << 20;
/// The longest name of a unix socket.
const SOCKET_LIMIT: usize = 107;
const SIGKILL: i32 = 9;

impl Contract for Runtime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            ps: true,
            pause: true,
            update: true,
            // crun has no `events`, and checkpoints only where criu is.
            stats: false,
            checkpoint: false,
        }
    }

    fn info(&self) -> Result<RuntimeInfo> {
        let text = self.crun.version()?;
        let after = |word: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(word));
            found.map(|rest| rest.trim().to_owned())
        };
        let version = after("crun version ").filter(|version| !version.is_empty());
        let version = version.ok_or_else(|| {
            let (program, said) = (self.crun.binary.display(), quote(&text));
            Error::new(
                ErrorKind::Incompatible,
                format!("{program} --version printed {said}: it is not crun"),
            )
        })?;
        Ok(RuntimeInfo {
            name: "crun".into(),
            version,
            spec: after("spec: "),
            binary: Some(self.crun.binary.clone()),
            features: None,
        })
    }

    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        check_streams(&request.stdio, wants_terminal(&request.bundle)?)?;
        // Held until the container is there: what a failure leaves is removed
        // before anybody else can take the id.
        let lock = FileLock::acquire(
            &self.locks.join(id.as_str()),
            &format!("container {id}"),
            Wait::No,
        )?;
        let made = self.create_locked(id, request);
        lock.remove()?;
        made
    }

    fn start(&self, id: &ContainerId) -> Result<()> {
        self.want(id, "be started", &[RuntimeStatus::Created])?;
        self.crun.ask("start", &[], id, &[]).map(drop)
    }

    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("signal {signal}: want 1 to 64")));
        }
        let status = self.want(id, "be killed", &ALIVE)?;
        let all: &[OsString] = match scope {
            KillScope::Init => &[],
            KillScope::All => &["--all".into()],
        };
        self.crun
            .ask("kill", all, id, &[signal.to_string().into()])?;
        if signal != SIGKILL || status != RuntimeStatus::Paused {
            return Ok(());
        }
        // What is frozen dies once it thaws, unless crun has thawed it itself.
        match self.crun.ask("resume", &[], id, &[]) {
            Err(error) if error.kind() != ErrorKind::FailedPrecondition => Err(error),
            _ => Ok(()),
        }
    }

    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()> {
        let done = match (self.state(id), mode) {
            (Err(error), DeleteMode::Force) if error.kind() == ErrorKind::NotFound => {
                // A killed `crun create` leaves a folder that is no container.
                return self.remove_folder(id);
            }
            (state, DeleteMode::Stopped) => {
                let status = state?.status;
                if status != RuntimeStatus::Stopped {
                    return Err(unfit(id, "be deleted", status));
                }
                self.crun.ask("delete", &[], id, &[])
            }
            (state, DeleteMode::Force) => {
                if state.is_ok_and(|state| state.status == RuntimeStatus::Paused) {
                    self.kill(id, SIGKILL, KillScope::All)?;
                }
                self.crun.ask("delete", &["--force".into()], id, &[])
            }
        };
        match (done, mode) {
            (Err(error), DeleteMode::Force) if error.kind() == ErrorKind::NotFound => Ok(()),
            (done, _) => done.map(drop),
        }
    }

    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess> {
        let terminal = request.process.terminal().unwrap_or(false);
        check_streams(&request.stdio, terminal)?;
        self.want(
            id,
            "be given a process",
            &[RuntimeStatus::Created, RuntimeStatus::Running],
        )?;
        let process = self
            .crun
            .nameless(&written(serde_json::to_vec(&request.process), id)?)?;
        let flags = vec![
            "--detach".into(),
            "--process".into(),
            process.path().into_os_string(),
        ];
        self.crun.launch("exec", flags, id, request.stdio)
    }

    fn state(&self, id: &ContainerId) -> Result<RuntimeState> {
        if !self.has_folder(id) {
            return Err(words::failure("state", id, "it does not exist"));
        }
        let said = self.crun.ask("state", &[], id, &[])?;
        read_state(&said).ok_or_else(|| {
            let said = quote(&String::from_utf8_lossy(&said));
            Error::internal(format!("container {id}: crun state printed {said}"))
        })
    }

    fn list(&self) -> Result<Vec<RuntimeState>> {
        let root = &self.crun.root;
        let entries = std::fs::read_dir(root).io_context(|| format!("list {}", root.display()))?;
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match self.state(&id) {
                Ok(state) => all.push(state),
                // Being made, or gone since.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => log::warn!("{error}"),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        // crun 1.8 crashes when it is asked this of a stopped container.
        if self.state(id)?.status == RuntimeStatus::Stopped {
            return Ok(Vec::new());
        }
        let said = self
            .crun
            .ask("ps", &["--format".into(), "json".into()], id, &[])?;
        let pids: Vec<u32> = serde_json::from_slice(&said).map_err(|error| {
            Error::internal(format!("container {id}: what crun ps printed")).with_source(error)
        })?;
        Ok(pids.into_iter().map(|pid| ProcessEntry { pid }).collect())
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        self.want(
            id,
            "be paused",
            &[RuntimeStatus::Created, RuntimeStatus::Running],
        )?;
        self.crun.ask("pause", &[], id, &[]).map(drop)
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        // What was paused before its start is told as created.
        self.want(
            id,
            "be resumed",
            &[RuntimeStatus::Created, RuntimeStatus::Paused],
        )?;
        self.crun.ask("resume", &[], id, &[]).map(drop)
    }

    fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        self.want(id, "be given limits", &ALIVE)?;
        let file = self
            .crun
            .nameless(&written(serde_json::to_vec(resources), id)?)?;
        let flags = ["--resources".into(), file.path().into_os_string()];
        self.crun.ask("update", &flags, id, &[]).map(drop)
    }
}

const ALIVE: [RuntimeStatus; 3] = [
    RuntimeStatus::Created,
    RuntimeStatus::Running,
    RuntimeStatus::Paused,
];

impl Runtime {
    fn create_locked(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        if self.has_folder(id) {
            match self.state(id) {
                Err(error) if error.kind() == ErrorKind::NotFound => self.remove_folder(id)?,
                _ => {
                    let message = format!("container {id} exists already");
                    return Err(Error::already_exists(message));
                }
            }
        }
        let flags = vec!["--bundle".into(), request.bundle.into_os_string()];
        let made = self.crun.launch("create", flags, id, request.stdio);
        if made.is_err()
            && let Err(error) = self.delete(id, DeleteMode::Force)
        {
            log::warn!("container {id}: after a failed create: {error}");
        }
        made
    }

    fn has_folder(&self, id: &ContainerId) -> bool {
        self.crun.root.join(id.as_str()).symlink_metadata().is_ok()
    }

    fn remove_folder(&self, id: &ContainerId) -> Result<()> {
        match self.has_folder(id) {
            true => remove_tree_path(&self.crun.root.join(id.as_str())),
            false => Ok(()),
        }
    }

    /// Its status, which must be one of these.
    fn want(&self, id: &ContainerId, to: &str, fit: &[RuntimeStatus]) -> Result<RuntimeStatus> {
        let status = self.state(id)?.status;
        match fit.contains(&status) {
            true => Ok(status),
            false => Err(unfit(id, to, status)),
        }
    }
}

fn unfit(id: &ContainerId, to: &str, status: RuntimeStatus) -> Error {
    let status = format!("{status:?}").to_lowercase();
    Error::precondition(format!("container {id} is {status} and cannot {to}"))
}

fn written(json: serde_json::Result<Vec<u8>>, id: &ContainerId) -> Result<Vec<u8>> {
    let what = || format!("container {id}: what crun is to be given");
    json.map_err(|error| Error::invalid(what()).with_source(error))
}

fn read_state(said: &[u8]) -> Option<RuntimeState> {
    let said: Value = serde_json::from_slice(said).ok()?;
    let status = match said["status"].as_str()? {
        "creating" => RuntimeStatus::Creating,
        "created" => RuntimeStatus::Created,
        "running" => RuntimeStatus::Running,
        "paused" => RuntimeStatus::Paused,
        "stopped" => RuntimeStatus::Stopped,
        _ => return None,
    };
    let pid = said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let notes = said["annotations"].as_object().into_iter().flatten();
    Some(RuntimeState {
        id: said["id"].as_str()?.parse().ok()?,
        status,
        pid: pid.filter(|pid| *pid > 0 && status != RuntimeStatus::Stopped),
        bundle: said["bundle"].as_str()?.into(),
        annotations: notes
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// Whether a bundle's spec asks for a terminal.
fn wants_terminal(bundle: &Path) -> Result<bool> {
    if !bundle.is_absolute() {
        let bundle = quote(&bundle.to_string_lossy());
        return Err(Error::invalid(format!(
            "bundle {bundle}: want an absolute path"
        )));
    }
    let path = bundle.join("config.json");
    let spec: Value = serde_json::from_slice(&read_file(&path, SPEC_LIMIT)?).map_err(|error| {
        Error::invalid(format!("{} is no runtime spec", path.display())).with_source(error)
    })?;
    Ok(spec["process"]["terminal"] == true)
}

fn check_streams(streams: &Stdio, terminal: bool) -> Result<()> {
    match streams {
        Stdio::Fds { .. } if terminal => Err(Error::invalid(
            "the spec asks for a terminal: want a console socket, got three descriptors",
        )),
        Stdio::Console(_) if !terminal => Err(Error::invalid(
            "the spec asks for no terminal: want three descriptors, got a console socket",
        )),
        Stdio::Console(path) if !path.is_absolute() || path.as_os_str().len() > SOCKET_LIMIT => {
            let path = quote(&path.to_string_lossy());
            Err(Error::invalid(format!(
                "console socket {path}: want an absolute path of at most {SOCKET_LIMIT} bytes"
            )))
        }
        _ => Ok(()),
    }
}
