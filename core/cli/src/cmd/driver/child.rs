//! The child process of `driver check`: loads the driver, opens it, runs its
//! cases and tells of each over the socket that is its standard input. What
//! becomes of it is the parent's to see.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use containerkit::shim::WireError;
use containerkit::{Digest, DriverKind, Error, InstanceName, IoContext, Result};
use containerkit_conformance::{COMMON, CaseResult, Outcome as Ended};
use containerkit_plugin::host::{Library, set_default_limit, set_hook};
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cases::Subject;
use super::scratch::end_children;
use crate::Outcome;

/// What the parent asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) library: PathBuf,
    pub(super) pin: Option<Digest>,
    pub(super) kind: DriverKind,
    pub(super) instance: InstanceName,
    pub(super) options: Map<String, Value>,
    /// Milliseconds that one call may take.
    pub(super) limit: u64,
    /// The folder that everything is written below.
    pub(super) scratch: PathBuf,
    /// The case to begin with; before the first the instance is opened once.
    pub(super) first: usize,
}

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The library is in memory.
    Loaded,
    /// An instance was opened and dropped.
    Opened,
    /// The library cannot be loaded, or an instance cannot be opened.
    Refused(WireError),
    /// A case begins.
    Begin(usize),
    /// It ended.
    End(usize, Verdict),
    /// A call hangs. The last word.
    Hangs(WireError),
    /// All cases ended; the process ends as usual.
    Done,
}

/// How a case ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) result: Verdicts,
    pub(super) seconds: f64,
    pub(super) detail: String,
}

/// The words of the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdicts {
    Pass,
    Fail,
    Unsupported,
}

impl Verdicts {
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdicts::Pass => "pass",
            Verdicts::Fail => "fail",
            Verdicts::Unsupported => "unsupported",
        }
    }
}

impl From<CaseResult> for Verdict {
    fn from(result: CaseResult) -> Verdict {
        let (verdict, detail) = match result.outcome {
            Ended::Pass => (Verdicts::Pass, String::new()),
            Ended::Fail(why) => (Verdicts::Fail, why),
            Ended::Unsupported => (Verdicts::Unsupported, String::new()),
        };
        Verdict {
            result: verdict,
            seconds: result.time.as_secs_f64(),
            detail,
        }
    }
}

static PARENT: OnceLock<UnixStream> = OnceLock::new();

fn tell(event: &Event) -> Result<()> {
    let mut line = serde_json::to_vec(event)
        .map_err(|error| Error::internal("encode an event").with_source(error))?;
    line.push(b'\n');
    match PARENT.get() {
        Some(mut parent) => parent
            .write_all(&line)
            .io_context(|| "tell the parent process"),
        None => Ok(()),
    }
}

/// The hidden command.
pub(crate) fn run() -> Result<Outcome> {
    let parent = socket()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .io_context(|| "become a subreaper")?;
    let mounts = private_mounts();
    let mut line = String::new();
    let mut reader = BufReader::new(parent.try_clone().io_context(|| "read the job")?);
    reader.read_line(&mut line).io_context(|| "read the job")?;
    let job: Job = serde_json::from_str(&line)
        .map_err(|error| Error::invalid("the job cannot be read").with_source(error))?;
    end_with_parent(&parent)?;
    let _ = PARENT.set(parent);
    set_hook(|error| {
        let _ = tell(&Event::Hangs(WireError::from(error)));
    });
    if mounts == Mounts::Own {
        cover(&job);
    }
    match work(&job) {
        Ok(()) => tell(&Event::Done)?,
        Err(error) => tell(&Event::Refused(WireError::from(&error)))?,
    }
    Ok(Outcome::Success)
}

fn work(job: &Job) -> Result<()> {
    let limit = Duration::from_millis(job.limit);
    set_default_limit(limit);
    containerkit_conformance::remember();
    let subject = Subject {
        library: Library::load(&job.library, job.pin.as_ref())?,
        kind: job.kind,
        instance: job.instance.clone(),
        options: job.options.clone(),
        limit,
    };
    subject.library.info(job.kind)?;
    tell(&Event::Loaded)?;
    if job.first == 0 {
        let dir = job.scratch.join("first");
        for name in ["root", "state"] {
            containerkit::fs::ensure_dir(&dir.join(name), 0o711)?;
        }
        drop(subject.open(&dir)?);
        containerkit::fs::remove_tree_path(&dir)?;
        tell(&Event::Opened)?;
    }
    let cases = job.scratch.join("cases");
    containerkit::fs::ensure_dir(&cases, 0o711)?;
    subject.run(
        job.first,
        &cases,
        |number| tell(&Event::Begin(number)),
        |number, result| tell(&Event::End(number, result.into())),
    )
}

/// Takes the socket off the standard input.
fn socket() -> Result<UnixStream> {
    let what = || "this command is the child process of `driver check`";
    let fd: OwnedFd = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).io_context(what)?;
    rustix::net::getsockname(&fd).io_context(what)?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .io_context(|| "open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).io_context(|| "close the standard input")?;
    Ok(UnixStream::from(fd))
}

/// Mounts that a driver leaves end with this process. Without the right to do
/// it there is also none to mount.
fn private_mounts() -> Mounts {
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    let done = unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| errno.to_string())
        .and_then(|()| rustix::mount::mount_change("/", slave).map_err(|errno| errno.to_string()));
    match done {
        Ok(()) => Mounts::Own,
        Err(error) => {
            log::debug!("mounts are not private: {error}");
            Mounts::Shared
        }
    }
}

/// Whose the mounts of this process are.
#[derive(PartialEq)]
enum Mounts {
    Own,
    Shared,
}

/// Gives this process folders of its own where everybody writes: what a driver
/// leaves there is seen, and gone with it. Not where the check itself, its driver
/// or a program lies, or where an option leads.
fn cover(job: &Job) {
    let options = Value::Object(job.options.clone()).to_string();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut used: Vec<PathBuf> = std::env::split_paths(&path).collect();
    used.extend([job.library.clone(), job.scratch.clone()]);
    for folder in COMMON {
        if options.contains(folder) || used.iter().any(|path| path.starts_with(folder)) {
            continue;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(errno) = mount("tmpfs", folder, "tmpfs", flags, Some(c"mode=1777")) {
            log::debug!("{folder} is everybody's: {errno}");
        }
    }
}

/// When the parent is killed, this process ends and takes along what the
/// driver started.
fn end_with_parent(parent: &UnixStream) -> Result<()> {
    let parent = parent.try_clone().io_context(|| "watch the parent")?;
    std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(move || {
            let mut fds = [PollFd::new(&parent, PollFlags::RDHUP)];
            while !matches!(poll(&mut fds, None), Ok(1)) {}
            end_children();
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        })
        .map(drop)
        .io_context(|| "watch the parent")
}
