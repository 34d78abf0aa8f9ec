//! One command of the runtime: spawned, watched by pidfd with a deadline, its
//! output read up to a limit.
//!
//! A container's init inherits the streams of `create`, `run` and `exec`, so
//! nothing here waits for the end of a pipe: the command has ended when its
//! own process has.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use containerkit::{Error, ErrorKind, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::options::{Options, missing};
use crate::sys;

/// What a command may say on stdout, on stderr and in its log.
pub(crate) const OUTPUT_LIMIT: u64 = 1 << 20;
/// The same for a listing.
pub(crate) const LIST_LIMIT: u64 = 16 << 20;
/// How often the size of a log file is looked at.
const TICK: Duration = Duration::from_millis(25);
/// How long a killed command may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Where the standard streams of a command lead.
pub(crate) enum Streams {
    /// To us.
    Captured,
    /// To the container's process, which inherits them.
    Given {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

/// What to run.
pub(crate) struct Call<'a> {
    /// The runtime's command, `create`.
    pub(crate) verb: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<std::ffi::OsString>,
    /// Its streams.
    pub(crate) streams: Streams,
    /// The file for the runtime's own messages; without one they are on stderr.
    pub(crate) log: Option<&'a Path>,
    /// Bytes of output that are read.
    pub(crate) limit: u64,
}

/// How a command ended.
pub(crate) struct Output {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// Its stdout, when captured.
    pub(crate) stdout: Vec<u8>,
    /// Its stderr, when captured.
    pub(crate) stderr: Vec<u8>,
    /// When it began, in clock ticks since boot: what it made is not older.
    pub(crate) started: u64,
}

impl Output {
    /// How it failed, when it said nothing itself.
    pub(crate) fn status_text(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("it exited with status {code} and said nothing"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it failed and said nothing".into(),
        }
    }
}

/// Runs a command to its end or to the deadline.
pub(crate) fn run(options: &Options, call: Call<'_>) -> Result<Output> {
    let shown = format!("{} {}", options.binary.display(), call.verb);
    let mut command = Command::new(&options.binary);
    command.args(&options.args);
    command.arg("--root").arg(&options.root);
    if options.systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    if let Some(log) = call.log {
        command.arg("--log").arg(log);
    }
    command
        .args(["--log-format", "json", call.verb])
        .args(&call.args);
    let (limit, log) = (call.limit, call.log.map(PathBuf::from));
    watch(options, &shown, command, call.streams, log, limit)
}

/// Runs the program with these arguments alone: `--version`, `features`.
pub(crate) fn ask(options: &Options, args: &[&str]) -> Result<Output> {
    let shown = format!("{} {}", options.binary.display(), args.join(" "));
    let mut command = Command::new(&options.binary);
    command.args(args);
    watch(
        options,
        &shown,
        command,
        Streams::Captured,
        None,
        OUTPUT_LIMIT,
    )
}

fn watch(
    options: &Options,
    shown: &str,
    mut command: Command,
    streams: Streams,
    log: Option<PathBuf>,
    limit: u64,
) -> Result<Output> {
    match streams {
        Streams::Captured => command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
        Streams::Given {
            stdin,
            stdout,
            stderr,
        } => command.stdin(stdin).stdout(stdout).stderr(stderr),
    };
    // A group of its own: a terminal's Ctrl-C does not interrupt a runtime
    // half way, and a deadline ends its helpers too.
    command.current_dir("/").process_group(0);
    // The host's socket activation is none of the container's business.
    for name in [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(name);
    }
    sys::guard(&mut command);
    let deadline = Instant::now() + options.timeout;
    let mut child = spawn(&mut command, options, shown)?;
    // The descriptors that were given must not stay open here.
    drop(command);

    let started = containerkit::process::start_time(child.id()).unwrap_or(0);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) => pidfd,
        Some(Err(errno)) => {
            let _ = child.kill();
            return Err(Error::io(format!("watch {shown}"), errno));
        }
        None => return Err(Error::internal(format!("{shown} has no pid"))),
    };
    let mut stdout = Capture::new(child.stdout.take().map(OwnedFd::from), limit)?;
    let mut stderr = Capture::new(child.stderr.take().map(OwnedFd::from), limit)?;
    if let Err(reason) = wait_for(&pidfd, deadline, &mut stdout, &mut stderr, log.as_deref()) {
        end(&mut child, pid, &pidfd);
        return Err(match reason {
            Stop::Deadline => Error::new(
                ErrorKind::Timeout,
                format!(
                    "{shown} did not end within {} s and was killed",
                    options.timeout.as_secs()
                ),
            )
            .with_hint("raise the runtime's option `timeout_seconds` if it only is slow"),
            Stop::Flood => Error::new(
                ErrorKind::ResourceExhausted,
                format!("{shown} printed more than {limit} bytes and was killed"),
            ),
            Stop::Failed(errno) => Error::io(format!("watch {shown}"), errno),
        });
    }
    let status = child.wait().map_err(|error| {
        Error::io(format!("wait for {shown}"), error)
            .with_kind(ErrorKind::Internal)
            .with_hint(
                "this process must neither ignore SIGCHLD nor reap children it did not start",
            )
    })?;
    Ok(Output {
        status,
        stdout: stdout.data,
        stderr: stderr.data,
        started,
    })
}

fn spawn(command: &mut Command, options: &Options, shown: &str) -> Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child),
            // Somebody who just wrote the program forked meanwhile; it passes.
            Err(error)
                if error.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) && tries < 50 =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                let binary = options.binary.display().to_string();
                return Err(match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        missing(&binary, "no such file, or its interpreter is missing")
                    }
                    std::io::ErrorKind::PermissionDenied => missing(&binary, "permission denied"),
                    _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                        missing(&binary, "it is not a program for this machine")
                    }
                    _ => Error::io(format!("start {shown}"), error),
                });
            }
        }
    }
}

/// Why a command was stopped.
enum Stop {
    Deadline,
    Flood,
    Failed(Errno),
}

fn wait_for(
    pidfd: &OwnedFd,
    deadline: Instant,
    stdout: &mut Capture,
    stderr: &mut Capture,
    log: Option<&Path>,
) -> Result<(), Stop> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = if log.is_some() { left.min(TICK) } else { left };
        let (ended, out, err) = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
            for pipe in [&stdout.pipe, &stderr.pipe].into_iter().flatten() {
                fds.push(PollFd::new(pipe, PollFlags::IN));
            }
            match poll(&mut fds, Some(&timespec(pause))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Stop::Failed(errno)),
            }
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            let second = 1 + usize::from(stdout.pipe.is_some());
            (ready(0), ready(1), ready(second))
        };
        // After its end once more: what it wrote last is in the pipes still.
        if out || ended {
            stdout.read()?;
        }
        if err || ended {
            stderr.read()?;
        }
        if log.is_some_and(|log| std::fs::metadata(log).is_ok_and(|m| m.len() > OUTPUT_LIMIT)) {
            return Err(Stop::Flood);
        }
        if ended {
            return Ok(());
        }
        if left.is_zero() {
            return Err(Stop::Deadline);
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Kills a command and its group, and reaps it unless it cannot even die.
fn end(child: &mut Child, group: Option<Pid>, pidfd: &OwnedFd) {
    if let Some(group) = group {
        // Not reaped yet, so that the group's number is still its own.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    if ends_within(pidfd, GRACE) {
        let _ = child.wait();
    } else {
        log::warn!("process {} does not end after SIGKILL", child.id());
    }
}

/// Whether a process ends in time; a zombie has ended.
pub(crate) fn ends_within(pidfd: impl AsFd, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A pipe that is read without waiting, up to a limit.
struct Capture {
    pipe: Option<std::fs::File>,
    data: Vec<u8>,
    limit: u64,
}

impl Capture {
    fn new(pipe: Option<OwnedFd>, limit: u64) -> Result<Capture> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true).io_context(|| "prepare a pipe")?;
        }
        Ok(Capture {
            pipe: pipe.map(std::fs::File::from),
            data: Vec::new(),
            limit,
        })
    }

    fn read(&mut self) -> Result<(), Stop> {
        let mut buf = [0u8; 16 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buf) {
                Ok(0) => self.pipe = None,
                Ok(read) if (self.data.len() + read) as u64 > self.limit => {
                    return Err(Stop::Flood);
                }
                Ok(read) => self.data.extend_from_slice(&buf[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
        Ok(())
    }
}
