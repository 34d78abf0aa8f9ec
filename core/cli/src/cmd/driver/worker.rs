//! A child process that may crash or hang, from the parent's side.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use containerkit::{Error, ErrorKind, IoContext, Result, quote};
use nix::sys::signal::Signal as Named;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

use super::child::{Event, Job};
use super::scratch::Scratch;
use crate::cmd::foreground::Signals;

/// The hidden command that a child runs.
pub(crate) const COMMAND: &str = "driver-child";
/// How often an interrupt is looked for.
const TICK: Duration = Duration::from_millis(50);
/// A child's line is an error at most.
const LINE_LIMIT: usize = 1 << 20;

/// What comes of waiting for a child.
pub(super) enum Heard {
    Event(Event),
    /// It is gone.
    End(ExitStatus),
    /// Nothing until the deadline.
    Late,
}

/// A running child.
pub(super) struct Worker<'a> {
    process: Child,
    socket: UnixStream,
    buffer: Vec<u8>,
    output: std::fs::File,
    scratch: &'a Scratch,
}

impl<'a> Worker<'a> {
    /// Starts one in a group of its own, so that Ctrl-C is this process's, with
    /// its folders in the scratch folder.
    pub(super) fn start(scratch: &'a Scratch, job: &Job) -> Result<Worker<'a>> {
        let (ours, theirs) = UnixStream::pair().io_context(|| "make a socket")?;
        let dir = scratch.path();
        let path = dir.join("output");
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).read(true).append(true).open(&path)
        };
        let output = open().io_context(|| format!("open {}", path.display()))?;
        let copy = || output.try_clone().io_context(|| "copy a descriptor");
        let process = Command::new("/proc/self/exe")
            .arg(COMMAND)
            .current_dir(dir.join("work"))
            .env("TMPDIR", dir.join("tmp"))
            .env("HOME", dir.join("home"))
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(copy()?)
            .stderr(copy()?)
            .spawn()
            .io_context(|| "start a child process")?;
        let mut worker = Worker {
            process,
            socket: ours,
            buffer: Vec::new(),
            output,
            scratch,
        };
        let mut line = serde_json::to_vec(job)
            .map_err(|error| Error::internal("encode a job").with_source(error))?;
        line.push(b'\n');
        // One that is dead already is found so at the first look.
        let _ = worker.socket.write_all(&line);
        Ok(worker)
    }

    /// The next event, until the deadline. An interrupt is an error.
    pub(super) fn hear(&mut self, deadline: Instant, signals: &Signals) -> Result<Heard> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line).map_err(|error| {
                    Error::internal("the child process is not understood").with_source(error)
                })?;
                return Ok(Heard::Event(event));
            }
            if signals.interrupted() {
                return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Late);
            }
            let pause = left.min(TICK);
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: pause.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timeout)), Ok(1)) {
                continue;
            }
            let mut part = [0u8; 4096];
            match self.socket.read(&mut part) {
                Ok(read) if read > 0 && self.buffer.len() < LINE_LIMIT => {
                    self.buffer.extend_from_slice(&part[..read]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A driver that closed the socket has this end, too.
                _ => return self.ended(deadline),
            }
        }
    }

    fn ended(&mut self, deadline: Instant) -> Result<Heard> {
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Ok(Heard::End(status)),
                Ok(None) if Instant::now() >= deadline => return Ok(Heard::Late),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(Error::io("wait for the child process", error)),
            }
        }
    }

    /// The first line it wrote that holds these words, of the first MiB.
    pub(super) fn wrote(&mut self, words: &str) -> Option<String> {
        let mut text = Vec::new();
        let _ = self
            .output
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.output).take(1 << 20).read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(words))?;
        line.find(words).map(|at| line[at..].to_owned())
    }

    /// What it printed last, `: "…"` or nothing.
    pub(super) fn last_words(&mut self) -> String {
        const TAIL: u64 = 4096;
        let mut tail = Vec::new();
        let size = self.output.metadata().map_or(0, |stat| stat.len());
        let _ = self
            .output
            .seek(SeekFrom::Start(size.saturating_sub(TAIL)))
            .and_then(|_| (&self.output).take(TAIL).read_to_end(&mut tail));
        let text = String::from_utf8_lossy(&tail);
        match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!(": {}", quote(line.trim())),
            None => String::new(),
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let pid = self.process.id();
        if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.scratch.tidy(pid);
        // The next child's last words are its own.
        let _ = self.output.set_len(0);
        empty(&self.scratch.path().join("tmp"));
        empty(&self.scratch.path().join("cases"));
        empty(&self.scratch.path().join("first"));
    }
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = containerkit::fs::remove_tree_path(&entry.path()) {
            log::debug!("{error}");
        }
    }
}

/// How a process ended, as a sentence about the driver.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Named::try_from(signal)
                .map(|signal| format!(" ({signal})"))
                .unwrap_or_default();
            format!("killed the process: signal {signal}{name}")
        }
        (None, code) => format!("ended the process with status {}", code.unwrap_or(0)),
    }
}
