//! A runtime that starts processes itself: chrooted, in pid, mount, ipc and
//! uts namespaces of their own, and with nothing else of a container.

mod launch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerkit::fs::Root;
use containerkit::oci_spec::runtime::{Process, Spec};
use containerkit::runtime::{
    CreateRequest, DeleteMode, ExecRequest, KillScope, ProcessEntry, RuntimeCapabilities,
    RuntimeInfo, RuntimeState, RuntimeStatus, StartedProcess, Stdio,
};
use containerkit::{ContainerId, Error, IoContext, Result, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::runtime::{Factory, Fixture};
use crate::{folders::Scratch, sys};
use launch::{Launch, Waiting, quoted};

/// A runtime of plain processes. It can `PS` and nothing else beyond the core.
///
/// Its caller is a subreaper, as every caller of a runtime is, and root.
#[derive(Clone)]
pub struct Processes {
    scratch: Arc<Path>,
    containers: Arc<Mutex<BTreeMap<ContainerId, Entry>>>,
}

struct Entry {
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
    /// `None` while it is being made.
    init: Option<Init>,
}

struct Init {
    pid: u32,
    pidfd: OwnedFd,
    spec: Arc<Spec>,
    rootfs: PathBuf,
    /// The pid namespace, as `/proc/PID/ns/pid` shows it.
    namespace: PathBuf,
    /// Until it is started: the gate and the line that opens it.
    gate: Option<(File, String)>,
}

impl Init {
    fn status(&self) -> RuntimeStatus {
        match (ends_within(&self.pidfd, Duration::ZERO), &self.gate) {
            (true, _) => RuntimeStatus::Stopped,
            (false, Some(_)) => RuntimeStatus::Created,
            (false, None) => RuntimeStatus::Running,
        }
    }

    /// The processes of its namespace.
    fn processes(&self) -> Result<Vec<u32>> {
        let all = std::fs::read_dir("/proc").io_context(|| "read /proc")?;
        Ok(all
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                std::fs::read_link(format!("/proc/{pid}/ns/pid"))
                    .is_ok_and(|found| found == self.namespace)
            })
            .collect())
    }
}

impl Entry {
    fn status(&self) -> RuntimeStatus {
        self.init
            .as_ref()
            .map_or(RuntimeStatus::Creating, Init::status)
    }

    fn state(&self, id: &ContainerId) -> RuntimeState {
        let status = self.status();
        let lives = status != RuntimeStatus::Stopped;
        RuntimeState {
            id: id.clone(),
            status,
            pid: self.init.as_ref().filter(|_| lives).map(|init| init.pid),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

fn ends_within(pidfd: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1))
}

fn unknown(id: &ContainerId) -> Error {
    Error::not_found(format!("container {id}"))
}

/// The streams are those that the process wants.
fn check_streams(terminal: Option<bool>, stdio: &Stdio) -> Result<()> {
    match (terminal.unwrap_or(false), stdio) {
        (false, Stdio::Fds { .. }) => Ok(()),
        (true, Stdio::Console(socket)) if socket.as_os_str().len() <= 107 => Ok(()),
        (true, Stdio::Console(_)) => Err(Error::invalid("console socket: at most 107 bytes")),
        (true, Stdio::Fds { .. }) => Err(Error::invalid("a terminal wants a console socket")),
        (false, Stdio::Console(_)) => Err(Error::invalid("a console socket without a terminal")),
    }
}

fn process_of(spec: &Spec) -> Result<&Process> {
    let process = spec.process().as_ref();
    process.ok_or_else(|| Error::invalid("config.json: no process"))
}

fn load(bundle: &Path) -> Result<Spec> {
    let file = bundle.join("config.json");
    let text = std::fs::read(&file)
        .map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::invalid(format!("{}: {error}", file.display())))
}

/// What mounts a bundle's file systems and makes its devices.
fn mounting(spec: &Spec, rootfs: &Path) -> String {
    let mut script = String::new();
    let root = rootfs.to_string_lossy();
    for mount in spec.mounts().iter().flatten() {
        let target = format!("{root}{}", mount.destination().display());
        let fstype = mount.typ().as_deref().unwrap_or("none");
        let source = mount.source().as_deref().unwrap_or(Path::new(fstype));
        let options = mount.options().iter().flatten();
        let options: Vec<String> = options.cloned().collect();
        let target = quoted(&target);
        script += &format!(
            "mkdir -p {target}\nmount -t {} -o {} {} {target}\n",
            quoted(fstype),
            quoted(&format!("defaults,{}", options.join(",")).replace(",,", ",")),
            quoted(&source.to_string_lossy()),
        );
    }
    let dev = quoted(&format!("{root}/dev"));
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8)] {
        script += &format!("[ -e {dev}/{name} ] || mknod -m 666 {dev}/{name} c 1 {minor}\n");
    }
    script
}

impl Processes {
    /// A runtime with its fifos in `scratch`, an existing folder that the
    /// caller removes.
    pub fn new(scratch: &Path) -> Processes {
        Processes {
            scratch: scratch.into(),
            containers: Arc::default(),
        }
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the init of a container that is not being made.
    fn with<T>(&self, id: &ContainerId, work: impl FnOnce(&mut Init) -> Result<T>) -> Result<T> {
        let mut containers = self.containers();
        let entry = containers.get_mut(id).ok_or_else(|| unknown(id))?;
        match &mut entry.init {
            Some(init) => work(init),
            None => Err(Error::precondition(format!("container {id} is being made"))),
        }
    }

    fn make(&self, bundle: &Path, spec: Spec, stdio: Stdio) -> Result<(Init, StartedProcess)> {
        let root = spec.root().as_ref();
        let root = root.ok_or_else(|| Error::invalid("config.json: no root"))?;
        let rootfs = bundle.join(root.path());
        let process = process_of(&spec)?;
        check_streams(process.terminal(), &stdio)?;
        containerkit::spec::program::check(&spec, &Root::open(&rootfs)?)?;
        let tool = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork"];
        let Waiting {
            process: started,
            gate,
            line,
        } = Launch {
            tool: tool.map(str::to_owned).to_vec(),
            before: mounting(&spec, &rootfs),
            process,
            rootfs: &rootfs,
            stdio,
            scratch: &self.scratch,
        }
        .go()?;
        let link = format!("/proc/{}/ns/pid", started.pid);
        let init = Init {
            pid: started.pid,
            pidfd: copy(started.pidfd.as_ref())?,
            spec: Arc::new(spec),
            rootfs,
            namespace: std::fs::read_link(&link).io_context(|| link)?,
            gate: Some((gate, line)),
        };
        Ok((init, started))
    }
}

fn copy(pidfd: Option<&OwnedFd>) -> Result<OwnedFd> {
    let pidfd = pidfd.ok_or_else(|| Error::internal("a process without a pidfd"))?;
    pidfd.try_clone().io_context(|| "copy a pidfd")
}

fn open_gate(gate: (File, String)) -> Result<()> {
    let (mut file, line) = gate;
    writeln!(file, "{line}").io_context(|| "open a gate")
}

impl Runtime for Processes {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            ps: true,
            ..RuntimeCapabilities::default()
        }
    }

    fn info(&self) -> Result<RuntimeInfo> {
        Ok(RuntimeInfo {
            name: "processes".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeInfo::default()
        })
    }

    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let CreateRequest { bundle, stdio } = request;
        if !bundle.is_absolute() {
            let shown = bundle.display();
            return Err(Error::invalid(format!("bundle {shown}: not absolute")));
        }
        let spec = load(&bundle);
        // Whoever comes second is told so before anything of his is looked at.
        {
            let mut containers = self.containers();
            if containers.contains_key(id) {
                return Err(Error::already_exists(format!("container {id}")));
            }
            let annotations = spec
                .as_ref()
                .ok()
                .and_then(|spec| spec.annotations().clone());
            let entry = Entry {
                bundle: bundle.clone(),
                annotations: annotations.into_iter().flatten().collect(),
                init: None,
            };
            containers.insert(id.clone(), entry);
        }
        let made = spec.and_then(|spec| self.make(&bundle, spec, stdio));
        let mut containers = self.containers();
        match made {
            Ok((init, started)) => {
                if let Some(entry) = containers.get_mut(id) {
                    entry.init = Some(init);
                }
                Ok(started)
            }
            Err(error) => {
                containers.remove(id);
                Err(error.context(format!("create {id}")))
            }
        }
    }

    fn start(&self, id: &ContainerId) -> Result<()> {
        self.with(id, |init| match (init.status(), init.gate.take()) {
            (RuntimeStatus::Created, Some(gate)) => open_gate(gate),
            (status, _) => Err(Error::precondition(format!(
                "container {id} is {status:?} and cannot be started"
            ))),
        })
    }

    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("signal {signal}: want 1 to 64")));
        }
        self.with(id, |init| {
            if init.status() == RuntimeStatus::Stopped {
                return Err(Error::precondition(format!("container {id} has stopped")));
            }
            if scope == KillScope::All {
                for pid in init.processes()? {
                    if pid != init.pid {
                        // It may have ended meanwhile.
                        let _ = launch::kill(pid, signal);
                    }
                }
            }
            sys::signal(init.pidfd.as_fd(), signal).io_context(|| format!("signal {id}"))
        })
    }

    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()> {
        let found = self.with(id, |init| Ok((init.status(), copy(Some(&init.pidfd))?)));
        match (found, mode) {
            (Err(_), DeleteMode::Force) if !self.containers().contains_key(id) => return Ok(()),
            (Err(error), _) => return Err(error),
            (Ok((RuntimeStatus::Stopped, _)), _) => {}
            (Ok((status, _)), DeleteMode::Stopped) => {
                return Err(Error::precondition(format!(
                    "container {id} is {status:?} and cannot be deleted"
                )));
            }
            (Ok((_, pidfd)), DeleteMode::Force) => {
                let _ = self.kill(id, 9, KillScope::All);
                if !ends_within(&pidfd, Duration::from_secs(10)) {
                    return Err(Error::internal(format!("container {id} does not end")));
                }
            }
        }
        self.containers().remove(id);
        Ok(())
    }

    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess> {
        let ExecRequest { process, stdio } = request;
        let (pid, rootfs, mut spec) = self.with(id, |init| match init.status() {
            RuntimeStatus::Running => Ok((init.pid, init.rootfs.clone(), Spec::clone(&init.spec))),
            status => Err(Error::precondition(format!(
                "container {id} is {status:?} and not running"
            ))),
        })?;
        check_streams(process.terminal(), &stdio)?;
        spec.set_process(Some(process.clone()));
        containerkit::spec::program::check(&spec, &Root::open(&rootfs)?)?;
        let pid = pid.to_string();
        let tool = [
            "nsenter", "--target", &pid, "--mount", "--pid", "--ipc", "--uts",
        ];
        let waiting = Launch {
            tool: tool.map(str::to_owned).to_vec(),
            before: String::new(),
            process: &process,
            rootfs: &rootfs,
            stdio,
            scratch: &self.scratch,
        }
        .go()
        .map_err(|error| error.context(format!("exec in {id}")))?;
        open_gate((waiting.gate, waiting.line))?;
        Ok(waiting.process)
    }

    fn state(&self, id: &ContainerId) -> Result<RuntimeState> {
        let containers = self.containers();
        let entry = containers.get(id).ok_or_else(|| unknown(id))?;
        Ok(entry.state(id))
    }

    fn list(&self) -> Result<Vec<RuntimeState>> {
        let containers = self.containers();
        Ok(containers
            .iter()
            .map(|(id, entry)| entry.state(id))
            .collect())
    }

    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        self.with(id, |init| {
            let all = init.processes()?.into_iter();
            Ok(all.map(|pid| ProcessEntry { pid }).collect())
        })
    }
}

/// Fresh runtimes for the suite.
pub fn processes() -> impl Factory {
    Fresh
}

struct Fresh;

struct Kept {
    runtime: Processes,
    scratch: Scratch,
}

impl Factory for Fresh {
    fn fixture(&self) -> Result<Box<dyn Fixture>> {
        let scratch = Scratch::new()?;
        Ok(Box::new(Kept {
            runtime: Processes::new(scratch.path()),
            scratch,
        }))
    }
}

impl Fixture for Kept {
    fn open(&self) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(self.runtime.clone()))
    }

    fn folder(&self) -> &Path {
        self.scratch.path()
    }
}
