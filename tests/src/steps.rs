//! Killing or pausing commands at their steps ([`mod@containerkit::step`]).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitIdOptions, kill_process};

use crate::kit::Ran;

/// A step that some process reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// The file that steps are recorded in.
pub struct Steps {
    file: PathBuf,
}

impl Steps {
    /// Recorded in this file, in a folder that exists.
    pub fn new(file: PathBuf) -> Steps {
        Steps { file }
    }

    /// Those that were reached since the file was last begun anew.
    pub fn reached(&self) -> Vec<Step> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let step = |line: &str| {
            let (pid, name) = line.trim().split_once(' ').expect("pid and name");
            Step {
                pid: pid.parse().expect("pid"),
                name: name.into(),
            }
        };
        text.lines().map(step).collect()
    }

    /// `command` recording its steps into an empty file.
    fn prepared<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let _ = std::fs::remove_file(&self.file);
        command.env("CONTAINERKIT_STEPS", &self.file)
    }

    /// Runs a command to its end; the steps that it and its children reached.
    pub fn count(&self, command: &mut Command) -> (Ran, Vec<Step>) {
        let output = self.prepared(command).output().expect("run");
        let reached = self.reached();
        // A release build has none: nothing would be tested.
        assert!(!reached.is_empty(), "no step in {command:?}");
        (Ran::new(&output), reached)
    }

    /// Runs a command whose process that reaches `place` (a number, a name, or
    /// `NAME:N`) is killed there.
    pub fn kill(&self, command: &mut Command, place: impl ToString) -> Ran {
        let output = self
            .prepared(command)
            .env("CONTAINERKIT_STEP_KILL", place.to_string())
            .output()
            .expect("run");
        Ran::new(&output)
    }

    /// Starts a command and returns when a process of it stands at `place`.
    pub fn pause(&self, command: &mut Command, place: impl ToString) -> Paused {
        let child = self
            .prepared(command)
            .env("CONTAINERKIT_STEP_PAUSE", place.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        Paused::wait(child)
    }
}

/// A command that stands at a step; killed when dropped.
pub struct Paused {
    child: Option<Child>,
}

impl Paused {
    fn wait(child: Child) -> Paused {
        let pid = Pid::from_child(&child);
        let paused = Paused { child: Some(child) };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_stopped(pid) {
            assert!(Instant::now() < deadline, "it reaches no such step");
            std::thread::sleep(Duration::from_millis(1));
        }
        paused
    }

    /// The process of the command.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).expect("signal");
        }
    }

    /// Lets it go on, to its end.
    pub fn resume(mut self) -> Ran {
        self.signal(Signal::CONT);
        let child = self.child.take().expect("not ended");
        Ran::new(&child.wait_with_output().expect("wait"))
    }

    /// Kills it where it stands.
    pub fn kill(mut self) -> Ran {
        self.signal(Signal::KILL);
        let child = self.child.take().expect("not ended");
        Ran::new(&child.wait_with_output().expect("wait"))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a child of ours is stopped; an end is left to who waits for it.
fn is_stopped(pid: Pid) -> bool {
    let options = WaitIdOptions::STOPPED
        | WaitIdOptions::EXITED
        | WaitIdOptions::NOWAIT
        | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options)
        .expect("wait for a child");
    if let Some(status) = &status {
        assert!(status.stopped(), "it ended before that step: {status:?}");
    }
    status.is_some()
}

/// Every path below a folder, with the type's first letter and, of files, the
/// size: what two states of a folder are compared by.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("stat");
            let shown = path.strip_prefix(dir).expect("below").display().to_string();
            if meta.is_dir() {
                found.push(format!("d {shown}"));
                pending.push(path);
            } else {
                found.push(format!("f {shown} {}", meta.len()));
            }
        }
    }
    found.sort();
    found
}
