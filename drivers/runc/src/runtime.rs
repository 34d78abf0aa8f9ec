//! [`Runtime`] by the commands of an OCI runtime.

use std::ffi::OsString;

use containerkit::oci_spec::runtime::LinuxResources;
use containerkit::runtime::{
    CheckpointRequest, CreateRequest, DeleteMode, ExecRequest, KillScope, ProcessEntry,
    RuntimeCapabilities, RuntimeInfo, RuntimeState, RuntimeStatus, StartedProcess, Stats,
};
use containerkit::{ContainerId, Error, ErrorKind, IoContext, Result, Runtime, quote};

use crate::Runc;
use crate::advice;
use crate::command::{self, Call, LIST_LIMIT, OUTPUT_LIMIT, Output, Streams};
use crate::make::check_stdio;
use crate::message::{last_error, printable};
use crate::scratch::Scratch;
use crate::wire;

/// How often a runtime that fails to list is asked.
const LIST_LOOKS: usize = 3;

/// SIGKILL.
const KILL: i32 = 9;

impl Runtime for Runc {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            ps: true,
            pause: true,
            update: true,
            stats: self.is_runc,
            checkpoint: self.lacks_criu.is_none(),
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
        if let Some(advice) = advice::old(&name, &version) {
            log::info!("{}: {advice}", self.options.binary.display());
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
        self.make("create", id, request, Vec::new())
    }

    fn run(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        if self.is_runc {
            return self.make("run", id, request, Vec::new());
        }
        // `crun run --detach` reaps an init that ends at once, and its exit
        // status is lost.
        let process = self.make("create", id, request, Vec::new())?;
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
        if self.delete_ended(id) {
            self.inits.forget(id);
            self.drop_stale_lock(id);
            return Ok(());
        }
        let result = match mode {
            DeleteMode::Stopped => self.delete_stopped(id),
            DeleteMode::Force => self.delete_by_force(id),
        };
        if matches!(&result, Err(error) if error.kind() == ErrorKind::NotFound) {
            self.drop_stale_lock(id);
        }
        result?;
        // The runtime may have lost sight of a process that still runs: crun
        // deletes a container whose status file is damaged and leaves its init.
        self.inits.end(id)?;
        self.inits.forget(id);
        self.drop_stale_lock(id);
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
        let mut output = self.listing()?;
        // crun fails altogether when one container is damaged, or goes while
        // it looks: then one is found, or the next look is another.
        for _ in 1..LIST_LOOKS {
            if output.status.success() {
                break;
            }
            if let Some(states) = self.list_one_by_one(&output)? {
                return Ok(states);
            }
            output = self.listing()?;
        }
        if !output.status.success() {
            return Err(
                Error::new(ErrorKind::Unavailable, format!("{} list", self.program))
                    .with_source_text(why(&output)),
            );
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

    fn checkpoint(&self, id: &ContainerId, request: &CheckpointRequest) -> Result<()> {
        self.save(id, request)
    }

    fn restore(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        checkpoint: &CheckpointRequest,
    ) -> Result<StartedProcess> {
        self.bring_back(id, request, checkpoint)
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
    fn listing(&self) -> Result<Output> {
        let call = Call {
            verb: "list",
            args: vec!["--format".into(), "json".into()],
            streams: Streams::Captured,
            log: None,
            limit: LIST_LIMIT,
        };
        command::run(&self.options, call)
    }

    /// `None` when no container is there to be asked for.
    fn list_one_by_one(&self, failed: &Output) -> Result<Option<Vec<RuntimeState>>> {
        log::warn!("{} list: {}", self.program, why(failed));
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
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((!states.is_empty() || failures > 0).then_some(states))
    }

    pub(crate) fn want(
        &self,
        id: &ContainerId,
        verb: &str,
        wanted: &[RuntimeStatus],
    ) -> Result<()> {
        let state = self.state(id)?;
        match wanted.contains(&state.status) {
            true => Ok(()),
            false => Err(unfit(id, verb, state.status)),
        }
    }
}

/// What a runtime that failed says of it.
fn why(failed: &Output) -> String {
    let why = last_error(&failed.stderr).unwrap_or_else(|| failed.status_text());
    printable(&why)
}

pub(crate) fn unfit(id: &ContainerId, verb: &str, status: RuntimeStatus) -> Error {
    let status = format!("{status:?}").to_lowercase();
    Error::precondition(format!("container {id} is {status}: it cannot {verb}"))
}
