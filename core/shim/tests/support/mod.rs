//! A bundle from the machine's busybox, and a shim to run it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerkit::lock::{FileLock, Wait, is_held};
use containerkit::process::Stat;
use containerkit::shim::{PROTOCOL, RuntimeRef, Shim, ShimRequest, Started, read_init};
use containerkit::{ContainerId, Result};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerkit-shim");

/// A child that another test forks in this moment has a copy of every lock
/// until it executes its program.
pub const HANDOVER: Wait = Wait::AtMost(Duration::from_secs(5));

/// The runtime driver, built once beside the shim.
pub fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let folder = Path::new(SHIM).parent().unwrap();
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "containerkit-runc-so"]);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            build.arg("--target-dir").arg(folder.parent().unwrap());
            let status = build
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(status.success(), "the runc driver does not build");
            folder.join("libcontainerkit_runc.so")
        })
        .clone()
}

/// One container, all of it in a folder of its own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub request: ShimRequest,
    pub cgroup: String,
    pub spec: Value,
}

impl World {
    /// A container that runs busybox's shell with this script.
    pub fn new(script: &str) -> World {
        World::with_args(&["/bin/sh", "-c", script])
    }

    pub fn with_args(args: &[&str]) -> World {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shimtest-{}-{n}", std::process::id());
        let id: ContainerId = name.parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            containerkit::fs::ensure_dir(&path, 0o700).unwrap();
            path
        };
        let bundle = make("bundle");
        let state_dir = make("state");
        fill(&bundle.join("rootfs"));
        let cgroup = format!("/containerkit-{name}");
        World {
            spec: spec(args, &cgroup),
            cgroup,
            request: ShimRequest {
                version: PROTOCOL,
                id,
                bundle,
                mounts: Vec::new(),
                runtime: RuntimeRef {
                    library: library(),
                    sha256: None,
                    instance: "runc".parse().unwrap(),
                    root: make("runtime-root"),
                    state: make("runtime-state"),
                    // The suite runs with any runtime of runc's command line.
                    call_timeout: None,
                    options: std::env::var("CONTAINERKIT_TEST_RUNTIME")
                        .map(|binary| ("binary".to_owned(), Value::from(binary)))
                        .into_iter()
                        .collect(),
                },
                terminal: false,
                hold: None,
                state_dir,
                cleanup: Vec::new(),
                events: None,
                restore: None,
                log_level: "info".into(),
            },
            dir,
        }
    }

    pub fn terminal(mut self) -> World {
        self.request.terminal = true;
        self.spec["process"]["terminal"] = true.into();
        self
    }

    pub fn cleanup(mut self, script: &str) -> World {
        self.request.cleanup = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        self
    }

    /// Processes in the host's pid namespace.
    pub fn host_pids(mut self) -> World {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        self
    }

    pub fn lock_path(&self) -> PathBuf {
        self.request.state_dir.join("lock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn prepare(&self) -> FileLock {
        fs::write(
            self.request.bundle.join("config.json"),
            self.spec.to_string(),
        )
        .unwrap();
        FileLock::acquire(&self.lock_path(), "container", HANDOVER).unwrap()
    }

    pub fn launch(&self, stdio: [OwnedFd; 3]) -> Result<Shim> {
        let lock = self.prepare();
        Shim::launch(Path::new(SHIM), &self.request, stdio, lock)
    }

    /// Launched with nothing to read, and its output to nowhere.
    pub fn start(&self) -> (Shim, Started) {
        let mut shim = self.launch([null(), null(), null()]).unwrap();
        let started = shim.wait_started().unwrap_or_else(|error| {
            panic!("{error}\n{}", self.log());
        });
        (shim, started)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.request.state_dir.join("shim.log")).unwrap_or_default()
    }

    pub fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for top in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            found.push(top.path().join(&self.cgroup[1..]));
        }
        found.push(Path::new("/sys/fs/cgroup").join(&self.cgroup[1..]));
        // crun makes folders where version 2 is expected and not mounted.
        const CGROUP: [u64; 2] = [0x0027_e0eb, 0x6367_7270];
        found.retain(|path| {
            rustix::fs::statfs(path).is_ok_and(|fs| CGROUP.contains(&(fs.f_type as u64)))
        });
        found
    }

    pub fn processes(&self) -> Vec<u32> {
        processes_of(self.dir.path())
    }

    /// Nothing of the container is left but what the client made.
    pub fn assert_gone(&self) {
        assert_eq!(self.cgroup_dirs(), Vec::<PathBuf>::new(), "cgroups");
        until("the lock is free", || !is_held(&self.lock_path()).unwrap());
        let left = self.processes();
        assert!(left.is_empty(), "processes: {left:?}");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let name = self.dir.path().display().to_string();
        assert!(!mounts.contains(&name), "mounts: {mounts}");
        assert!(!self.request.state_dir.join("tty.sock").exists());
        let left = files(&self.request.runtime.state);
        assert!(
            !left.iter().any(|path| path.ends_with("state.json")),
            "runtime state: {left:?}"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, Signal::KILL);
        }
        if let Ok(Some(init)) = read_init(&self.request.state_dir) {
            let _ = containerkit::shim::kill_remains(&init);
        }
        let dirs = self.cgroup_dirs();
        let _ = containerkit::shim::kill_cgroups(&dirs, Duration::from_secs(5));
        containerkit::shim::remove_cgroups(&dirs);
        if std::thread::panicking() {
            eprintln!("shim.log:\n{}", self.log());
        }
    }
}

fn fill(rootfs: &Path) {
    for name in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs::set_permissions(rootfs, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "sleep", "stty", "ls", "kill", "true", "dd", "tr",
    ] {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    fs::write(rootfs.join("notexec"), "text").unwrap();
}

fn spec(args: &[&str], cgroup: &str) -> Value {
    json!({
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
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"},
                {"type": "uts"}, {"type": "network"},
            ],
        },
    })
}

pub fn null() -> OwnedFd {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// `None` when it is gone.
pub fn parent(pid: u32) -> Option<u32> {
    Some(Stat::read(pid).ok()?.parent)
}

/// Whether it is there and no zombie.
pub fn lives(pid: u32) -> bool {
    Stat::read(pid).is_ok_and(|stat| !stat.has_ended())
}

pub fn children(pid: u32) -> Vec<u32> {
    pids().filter(|child| parent(*child) == Some(pid)).collect()
}

pub fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Processes that have a file of this folder open, or in their command line
/// or root: shims, by their log; runtimes, by their arguments.
fn processes_of(folder: &Path) -> Vec<u32> {
    let name = folder.display().to_string();
    pids()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let arguments = fs::read(proc.join("cmdline")).unwrap_or_default();
            let open = fs::read_dir(proc.join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            String::from_utf8_lossy(&arguments).contains(&name)
                || open
                    .filter_map(|fd| fs::read_link(fd.path()).ok())
                    .any(|target| target.starts_with(folder))
        })
        .collect()
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Waits until something holds.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut text = Vec::new();
    // A terminal ends with EIO.
    let _ = fs::File::from(fd).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}
