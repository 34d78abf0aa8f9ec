//! What the cases share: a bundle from busybox, containers that are cleaned
//! up whatever happens, and waiting for processes by pidfd.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use containerkit::oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};
use containerkit::process::Stat;
use containerkit::runtime::{
    CreateRequest, DeleteMode, ExecRequest, RuntimeStatus, StartedProcess, Stdio,
};
use containerkit::{ContainerId, Error, IoContext, Result, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, set_child_subreaper, waitid,
};
use serde_json::{Value, json};

use super::{Factory, Fixture};
use crate::equal;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 11] = [
    "sh", "true", "sleep", "cat", "ls", "id", "pwd", "head", "tr", "tty", "stty",
];

/// A runtime of its own and the containers made in it.
pub(super) struct Host {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) fixture: Box<dyn Fixture>,
    bundles: Cell<u32>,
}

impl Host {
    pub(super) fn new(factory: &dyn Factory) -> Result<Host> {
        Host::of(factory.fixture()?)
    }

    pub(super) fn of(fixture: Box<dyn Fixture>) -> Result<Host> {
        set_child_subreaper(Some(rustix::process::getpid())).io_context(|| "become a subreaper")?;
        Ok(Host {
            runtime: fixture.open()?,
            fixture,
            bundles: Cell::new(0),
        })
    }

    /// A bundle that runs `args`, its spec changed by `edit`.
    pub(super) fn bundle_with(
        &self,
        args: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> Result<PathBuf> {
        let number = self.bundles.replace(self.bundles.get() + 1);
        let bundle = self.fixture.folder().join(format!("bundle-{number}"));
        let rootfs = bundle.join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "tmp"] {
            containerkit::fs::ensure_dir(&rootfs.join(name), 0o755)?;
        }
        let program = rootfs.join("bin/busybox");
        match number {
            0 => std::fs::copy(BUSYBOX, &program)
                .map(drop)
                .io_context(|| format!("copy {BUSYBOX} (apt install busybox-static)"))?,
            _ => {
                let first = self.fixture.folder().join("bundle-0/rootfs/bin/busybox");
                std::fs::hard_link(first, &program).io_context(|| "link busybox")?;
            }
        }
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))
                .io_context(|| format!("link {name}"))?;
        }
        std::fs::write(rootfs.join("etc/plain"), "#!/bin/sh\n").io_context(|| "write plain")?;
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "conformance",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "annotations": {"containerkit.conformance": "yes"},
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
                "cgroupsPath": format!("/{}", containerkit::fs::unique_name("conformance")),
            },
        });
        edit(&mut spec);
        std::fs::write(bundle.join("config.json"), spec.to_string())
            .io_context(|| "write config.json")?;
        Ok(bundle)
    }

    /// A bundle that runs a shell script.
    pub(super) fn script(&self, script: &str) -> Result<PathBuf> {
        self.bundle_with(&["sh", "-c", script], |_| {})
    }

    /// A created container; `id` is deleted by force when it is dropped.
    pub(super) fn create(&self, id: &str, bundle: PathBuf) -> Result<Container> {
        self.make(id, bundle, false, null_stdio()?)
    }

    /// A created container with these streams.
    pub(super) fn create_on(&self, id: &str, bundle: PathBuf, stdio: Stdio) -> Result<Container> {
        self.make(id, bundle, false, stdio)
    }

    /// A running container.
    pub(super) fn run(&self, id: &str, bundle: PathBuf) -> Result<Container> {
        self.make(id, bundle, true, null_stdio()?)
    }

    /// A running container with these streams.
    pub(super) fn run_on(&self, id: &str, bundle: PathBuf, stdio: Stdio) -> Result<Container> {
        self.make(id, bundle, true, stdio)
    }

    /// A running container that does nothing for long.
    pub(super) fn sleeper(&self, id: &str) -> Result<Container> {
        self.run(id, self.script("exec sleep 100")?)
    }

    /// The same, created and not started.
    pub(super) fn waiter(&self, id: &str) -> Result<Container> {
        self.create(id, self.script("exec sleep 100")?)
    }

    /// A container whose script has ended, and how.
    pub(super) fn ended(&self, id: &str, script: &str) -> Result<(Container, Exit)> {
        let container = self.run(id, self.script(script)?)?;
        let exit = container.wait()?;
        Ok((container, exit))
    }

    fn make(&self, id: &str, bundle: PathBuf, start: bool, stdio: Stdio) -> Result<Container> {
        Container::make(&self.runtime, id, bundle, start, stdio)
    }
}

/// A container of a case.
pub(super) struct Container {
    runtime: Arc<dyn Runtime>,
    pub(super) id: ContainerId,
    pub(super) init: StartedProcess,
    others: Vec<StartedProcess>,
}

impl Container {
    /// Creates one, and starts it.
    pub(super) fn make(
        runtime: &Arc<dyn Runtime>,
        id: &str,
        bundle: PathBuf,
        start: bool,
        stdio: Stdio,
    ) -> Result<Container> {
        let name: ContainerId = id.parse()?;
        let request = CreateRequest { bundle, stdio };
        Container::adopt(runtime, id, || match start {
            true => runtime.run(&name, request),
            false => runtime.create(&name, request),
        })
    }

    /// One whose init comes of another call.
    pub(super) fn adopt(
        runtime: &Arc<dyn Runtime>,
        id: &str,
        start: impl FnOnce() -> Result<StartedProcess>,
    ) -> Result<Container> {
        Ok(Container {
            runtime: Arc::clone(runtime),
            id: id.parse()?,
            init: tracked(start)?,
            others: Vec::new(),
        })
    }

    /// Fails unless the runtime says that it is so.
    pub(super) fn is(&self, want: RuntimeStatus) -> Result<()> {
        equal(self.status()?, want, &format!("the status of {}", self.id))
    }

    /// The runtime's word on its status.
    pub(super) fn status(&self) -> Result<RuntimeStatus> {
        self.runtime.state(&self.id).map(|state| state.status)
    }

    /// Waits until the runtime says so.
    pub(super) fn reaches(&self, status: RuntimeStatus) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.status()?;
            if now == status {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::internal(format!(
                    "container {} stays {now:?}, want {status:?}",
                    self.id
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the init.
    pub(super) fn wait(&self) -> Result<Exit> {
        wait(&self.init)
    }

    /// Waits for a spawned process.
    pub(super) fn wait_other(&self, index: usize) -> Result<Exit> {
        match self.others.get(index) {
            Some(process) => wait(process),
            None => Err(Error::internal("nothing was spawned")),
        }
    }

    /// Runs a shell script to its end.
    pub(super) fn script(&self, script: &str) -> Result<(Exit, String)> {
        let (stdio, out) = captured()?;
        let request = ExecRequest {
            process: process(&["sh", "-c", script])?,
            stdio,
        };
        let process = tracked(|| self.runtime.exec(&self.id, request))?;
        Ok((wait(&process)?, out.text()?))
    }

    /// Starts a shell script, which is killed and reaped with the container.
    pub(super) fn spawn(&mut self, script: &str) -> Result<&StartedProcess> {
        let request = ExecRequest {
            process: process(&["sh", "-c", script])?,
            stdio: null_stdio()?,
        };
        self.others
            .push(tracked(|| self.runtime.exec(&self.id, request))?);
        self.others
            .last()
            .ok_or_else(|| Error::internal("just pushed"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Zombies keep the init of a pid namespace from ending: reap them first.
        for process in self.others.iter().chain([&self.init]) {
            if let Some(pidfd) = &process.pidfd {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
        let _ = self.runtime.kill(
            &self.id,
            Signal::KILL.as_raw(),
            containerkit::runtime::KillScope::All,
        );
        for process in &self.others {
            reap(process);
        }
        reap_strangers();
        reap(&self.init);
        let _ = self.runtime.delete(&self.id, DeleteMode::Force);
        reap(&self.init);
    }
}

/// Takes a dead process's status, if it was not taken yet.
fn reap(process: &StartedProcess) {
    if let Some(pidfd) = &process.pidfd {
        if ends_within(pidfd, Duration::from_secs(5)) {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    } else if let Some(pid) = raw(process.pid) {
        let _ = waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

/// Held shared while a runtime starts a process, until its pid is in [`WAITED`].
static STARTING: RwLock<()> = RwLock::new(());
/// The processes that some case waits for itself.
static WAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Starts a process by the runtime, for a case to wait for.
pub(super) fn tracked(start: impl FnOnce() -> Result<StartedProcess>) -> Result<StartedProcess> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let process = start()?;
    let mut waited = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
    waited.insert(process.pid);
    Ok(process)
}

/// Reaps what runtimes left to this subreaper: ended children in sessions of
/// their own that no case waits for. One that sits in a container's pid
/// namespace would keep the container's init from ending.
fn reap_strangers() {
    let _nobody_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    let waited = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
    // Read as all the others are: getsid(2) has no word for a session that was
    // begun outside this pid namespace, /proc says 0.
    let Ok(me) = Stat::read(std::process::id()) else {
        return;
    };
    for child in Stat::children() {
        let elsewhere = child.session != me.session;
        if let (true, Some(pid)) = (
            child.has_ended() && elsewhere && !waited.contains(&child.pid),
            raw(child.pid),
        ) {
            let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = waitid(WaitId::Pid(pid), flags);
        }
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
}

/// Waits for a process that the runtime started, and reaps it.
pub(super) fn wait(process: &StartedProcess) -> Result<Exit> {
    let what = || format!("wait for process {}", process.pid);
    let status = match &process.pidfd {
        Some(pidfd) => {
            if !ends_within(pidfd, PATIENCE) {
                return Err(Error::internal(format!(
                    "process {} does not end",
                    process.pid
                )));
            }
            waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).io_context(what)?
        }
        None => {
            let pid = raw(process.pid).ok_or_else(|| Error::internal(what()))?;
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).io_context(what)?
        }
    };
    WAITED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&process.pid);
    let status = status.ok_or_else(|| Error::internal(what()))?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ok(Exit::Code(code)),
        (None, Some(signal)) => Ok(Exit::Signal(signal)),
        (None, None) => Err(Error::internal(format!("{}: no status", what()))),
    }
}

/// Whether a process ends in time.
pub(super) fn ends_within(pidfd: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1))
}

/// A process that runs `args` as root.
pub(super) fn process(args: &[&str]) -> Result<Process> {
    let words: Vec<String> = args.iter().map(|arg| (*arg).to_string()).collect();
    let user = UserBuilder::default().uid(0u32).gid(0u32).build();
    ProcessBuilder::default()
        .terminal(false)
        .user(user.map_err(|e| Error::internal("user").with_source(e))?)
        .args(words)
        .env(vec!["PATH=/bin".to_string()])
        .cwd("/")
        .build()
        .map_err(|e| Error::internal("process").with_source(e))
}

/// A pipe, both ends close-on-exec.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).io_context(|| "make a pipe")
}

fn null() -> Result<OwnedFd> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .io_context(|| "open /dev/null")
}

/// Streams that lead nowhere.
pub(super) fn null_stdio() -> Result<Stdio> {
    Ok(Stdio::Fds {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    })
}

/// What a process wrote, up to a pipe's 64 KiB unless it is read in a thread.
pub(super) struct Out {
    stdout: File,
    stderr: File,
}

impl Out {
    /// Both streams to their ends, stdout first, then stderr.
    pub(super) fn text(mut self) -> Result<String> {
        let mut text = String::new();
        self.stdout
            .read_to_string(&mut text)
            .io_context(|| "read stdout")?;
        self.stderr
            .read_to_string(&mut text)
            .io_context(|| "read stderr")?;
        Ok(text)
    }
}

/// Streams that are read here; stdin is empty.
pub(super) fn captured() -> Result<(Stdio, Out)> {
    let (out_read, stdout) = pipe()?;
    let (err_read, stderr) = pipe()?;
    let stdio = Stdio::Fds {
        stdin: null()?,
        stdout,
        stderr,
    };
    let out = Out {
        stdout: File::from(out_read),
        stderr: File::from(err_read),
    };
    Ok((stdio, out))
}
