//! The streams of a container's init: what the runtime is given, and what the
//! shim keeps in its hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::logs::{Stream, Writer};
use containerkit::runtime::Stdio;
use containerkit::shim::ShimRequest;
use containerkit::{IoContext, Result};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;

use crate::PATIENCE;
use crate::console::Listener;
use crate::flow::{Flow, Owner};
use crate::sink::Sink;

/// What a terminal reads as the end of its input.
const END_OF_FILE: u8 = 4;

/// Between the shim and a container.
pub(crate) struct Streams {
    /// Every output that passes through the shim, of execs too.
    pub(crate) flows: Vec<Flow>,
    /// The container's standard input, where clients may write to it.
    pub(crate) input: Input,
    /// Where the output is kept.
    pub(crate) log: Option<Writer>,
    /// A copy of the terminal's master.
    pub(crate) console: Option<OwnedFd>,
    /// Whether clients may attach.
    pub(crate) is_held: bool,
    /// Waits for the terminal, until the container runs.
    listener: Option<Listener>,
}

impl Streams {
    /// Prepares the streams, given those of the launching client.
    pub(crate) fn new(request: &ShimRequest, stdio: [OwnedFd; 3]) -> Result<(Streams, Stdio)> {
        let mut streams = Streams {
            flows: Vec::new(),
            input: Input::default(),
            log: None,
            console: None,
            is_held: request.hold.is_some(),
            listener: None,
        };
        if let Some(log) = request.hold.as_ref().and_then(|hold| hold.log.clone()) {
            streams.log = Some(Writer::open(log)?);
        }
        if request.terminal {
            drop(stdio);
            let listener = Listener::new(&request.state_dir)?;
            let stdio = Stdio::Console(listener.path());
            streams.listener = Some(listener);
            return Ok((streams, stdio));
        }
        let [stdin, stdout, stderr] = stdio;
        let Some(hold) = &request.hold else {
            let (stderr, flow) = Flow::errors(Owner::Launcher, &stdout, stderr)?;
            streams.flows.extend(flow);
            let stdio = Stdio::Fds {
                stdin,
                stdout,
                stderr,
            };
            return Ok((streams, stdio));
        };
        let stdin = match hold.stdin {
            true => streams.input.pipe()?,
            false => stdin,
        };
        let mut held = |stream, theirs| -> Result<OwnedFd> {
            let (flow, writer) = Flow::pipe(Owner::Init(stream), Sink::stream(theirs))?;
            streams.flows.push(flow);
            Ok(writer)
        };
        let stdout = held(Stream::Stdout, stdout)?;
        let stderr = held(Stream::Stderr, stderr)?;
        let stdio = Stdio::Fds {
            stdin,
            stdout,
            stderr,
        };
        Ok((streams, stdio))
    }

    /// The container runs: receives its terminal, when it has one.
    pub(crate) fn connect(&mut self, request: &ShimRequest) -> Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        let console = listener.accept(PATIENCE)?;
        if let Some(hold) = &request.hold {
            self.flows.push(Flow::terminal(
                Owner::Init(Stream::Stdout),
                copy(&console)?,
            )?);
            if hold.stdin {
                self.input.terminal(copy(&console)?);
            }
        }
        self.console = Some(console);
        Ok(())
    }

    /// The launching client is gone: its terminal is the shim's now, and its
    /// streams are waited for no longer. Those that the container has itself
    /// are not the shim's to judge.
    pub(crate) fn take_over(&mut self) {
        for flow in &mut self.flows {
            if let (Owner::Init(_), Some(sink)) = (flow.owner, &mut flow.sink) {
                sink.hurry();
            }
        }
        if self.is_held {
            return;
        }
        let taken = self.console.as_ref().map(|console| {
            self.input.terminal(copy(console)?);
            Flow::terminal(Owner::Init(Stream::Stdout), copy(console)?)
        });
        match taken {
            Some(Ok(flow)) => {
                self.flows.push(flow);
                self.is_held = true;
            }
            Some(Err(error)) => log::error!("the terminal is not read: {error}"),
            None => {}
        }
    }

    /// Sets the size of the terminal, when there is one.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Some(console) = &self.console {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let _ = rustix::termios::tcsetwinsize(console, size);
        }
    }

    /// What a runtime that failed has said, for the log.
    pub(crate) fn log_failure(self) {
        self.flows.into_iter().for_each(Flow::log);
    }
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().io_context(|| "copy a terminal's descriptor")
}

/// The way to a container's standard input: from any number of clients, what
/// the container does not read is not read from them either.
#[derive(Default)]
pub(crate) struct Input {
    to: Option<OwnedFd>,
    is_terminal: bool,
    pending: Vec<u8>,
    /// It ends after what is pending.
    closing: bool,
}

impl Input {
    /// By a new pipe; the container's end of it.
    fn pipe(&mut self) -> Result<OwnedFd> {
        let what = || "make a pipe for the standard input";
        let (reader, to) = pipe_with(PipeFlags::CLOEXEC).io_context(what)?;
        fcntl_setfl(&to, OFlags::NONBLOCK).io_context(what)?;
        self.to = Some(to);
        Ok(reader)
    }

    /// By a terminal's master, which the flow of its output has made
    /// non-blocking or will.
    fn terminal(&mut self, master: OwnedFd) {
        self.to = Some(master);
        self.is_terminal = true;
    }

    /// Whether somebody may write.
    pub(crate) fn is_open(&self) -> bool {
        self.to.is_some() && !self.closing
    }

    /// Whether more can be taken now.
    pub(crate) fn wants_more(&self) -> bool {
        self.is_open() && self.pending.is_empty()
    }

    /// What to wait for, to write what is pending.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.to
            .as_ref()
            .filter(|_| !self.pending.is_empty())
            .map(AsFd::as_fd)
    }

    /// Takes what a client wrote.
    pub(crate) fn give(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
        self.flush();
    }

    /// Nothing more comes. A terminal's input has no end, but a character that
    /// means one.
    pub(crate) fn close(&mut self) {
        if self.is_terminal {
            return self.give(&[END_OF_FILE]);
        }
        self.closing = true;
        self.flush();
    }

    /// Writes what is pending, as far as the container takes it.
    pub(crate) fn flush(&mut self) {
        let mut done = 0;
        while let Some(to) = &self.to
            && let Some(rest) = self.pending.get(done..).filter(|rest| !rest.is_empty())
        {
            match rustix::io::write(to, rest) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody reads it any more.
                Err(_) => self.to = None,
            }
        }
        self.pending.drain(..done);
        if self.to.is_none() || (self.closing && self.pending.is_empty()) {
            self.to = None;
            self.pending = Vec::new();
        }
    }
}
