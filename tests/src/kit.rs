//! A private containerkit: the built binaries over folders of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status; 128+signal when it was killed.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// From a finished process.
    pub fn new(output: &Output) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        Ran {
            status: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// Panics unless it failed with this status and one clean error line that
    /// holds every one of `words`.
    #[track_caller]
    pub fn refused(self, status: i32, words: &[&str]) -> Ran {
        assert_eq!(self.status, status, "{self:?}");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "one error line: {self:?}");
        assert!(self.stderr.lines().all(|l| l.len() < 4096), "{self:?}");
        assert!(
            self.stderr.lines().all(|line| {
                ["error: ", "hint: ", "["]
                    .iter()
                    .any(|start| line.starts_with(start))
            }),
            "only errors, hints and logs: {self:?}"
        );
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        assert!(
            !self.stderr.chars().any(|c| c.is_control() && c != '\n'),
            "no control characters: {self:?}"
        );
        for word in words {
            assert!(errors[0].contains(word), "{word:?} in {:?}", errors[0]);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The folder of the built binaries and shared objects; builds what is
/// missing, once a process.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let exe = std::env::current_exe().expect("the test's path");
        // target/PROFILE/deps/TEST
        let profile = exe
            .ancestors()
            .nth(2)
            .expect("the profile's folder")
            .to_path_buf();
        let target = profile.parent().expect("the target folder");
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .args([
                "build",
                "--workspace",
                "--locked",
                "--quiet",
                "--manifest-path",
            ])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .arg("--target-dir")
            .arg(target);
        if profile.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().expect("run cargo");
        assert!(status.success(), "cargo build --workspace failed");
        profile
    })
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a child of ours a signal.
pub fn signal(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).expect("signal a child");
}

/// The parent of a process; `None` when it is gone.
pub fn parent(pid: u32) -> Option<u32> {
    Some(containerkit::process::Stat::read(pid).ok()?.parent)
}

/// A containerkit with a root and a state of its own, removed at the end.
pub struct Kit {
    dir: tempfile::TempDir,
}

impl Default for Kit {
    fn default() -> Kit {
        Kit::new()
    }
}

impl Kit {
    /// Empty folders and no configuration file.
    pub fn new() -> Kit {
        built();
        let dir = tempfile::Builder::new()
            .prefix("containerkit-test.")
            .tempdir()
            .expect("tempdir");
        Kit { dir }
    }

    /// With the small image `busybox` imported.
    pub fn with_busybox() -> Kit {
        let kit = Kit::new();
        let layout = kit.path("busybox-layout");
        crate::image::busybox().write_layout(&layout);
        kit.run([
            "image",
            "import",
            layout.to_str().expect("path"),
            "--name",
            "busybox",
        ])
        .ok();
        kit
    }

    /// A path in the private folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The persistent folder.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The run-time folder.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes the configuration file that the next commands use.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.path("containerkit.toml"), toml).expect("write configuration");
    }

    /// A command with this kit's folders, not run yet.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(built().join("containerkit"));
        command
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state());
        let config = self.path("containerkit.toml");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::new(&self.command(args).output().expect("run containerkit"))
    }

    /// Runs a command with this standard input.
    pub fn run_with_input<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start containerkit");
        let mut stdin = child.stdin.take().expect("stdin");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("wait");
        let _ = writer.join();
        Ran::new(&output)
    }

    /// Runs a container in the background; its id.
    #[track_caller]
    pub fn detached(&self, args: &[&str]) -> String {
        let ran = self.run([&["run", "--detach"], args].concat()).ok();
        ran.stdout.trim().to_owned()
    }

    /// What `inspect` says of a container.
    #[track_caller]
    pub fn inspected(&self, id: &str) -> Value {
        self.run(["inspect", id]).ok().json()[0].clone()
    }

    /// What should not be there when no container is: state folders,
    /// snapshots of containers, records, mounts, cgroups.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in [
            self.state().join("containers"),
            self.root().join("containers"),
        ] {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                found.push(format!("folder {}", entry.path().display()));
            }
        }
        for row in self
            .run(["snapshot", "ls", "--format", "json"])
            .ok()
            .json()
            .as_array()
            .expect("array")
        {
            if row["kind"] != "committed" {
                found.push(format!("snapshot {row}"));
            }
        }
        for row in self
            .run(["ps", "--all", "--format", "json"])
            .ok()
            .json()
            .as_array()
            .expect("array")
        {
            found.push(format!("record {row}"));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let here = self.dir.path().to_str().expect("path");
        found.extend(
            mounts
                .lines()
                .filter(|l| l.contains(here))
                .map(|l| format!("mount {l}")),
        );
        found
    }

    /// Panics unless nothing is left of any container.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut found = self.leftovers();
        // A shim that outlived its client ends by itself, a moment later.
        for _ in 0..100 {
            if found.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            found = self.leftovers();
        }
        panic!("left behind: {found:#?}");
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // Whatever failed, no container of a test outlives it.
        if let Ok(output) = self.command(["ps", "--all", "--format", "json"]).output()
            && let Ok(Value::Array(rows)) = serde_json::from_slice(&output.stdout)
        {
            for row in rows {
                if let Some(id) = row["id"].as_str() {
                    let _ = self.command(["delete", "--force", id]).output();
                }
            }
        }
    }
}
