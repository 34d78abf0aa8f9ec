//! A client at the socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use containerkit::logs::Stream;
use containerkit::shim::{Channel, Tell, WireError};
use containerkit::{Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::sink::{Full, Sink};

/// A connection, until one of both sides hangs up.
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    /// It has said which version it speaks.
    pub(crate) greeted: bool,
    /// It wants to hear of execs.
    pub(crate) follows: bool,
    /// The process that it asked for.
    pub(crate) exec: Option<u32>,
    pub(crate) attachment: Option<Attachment>,
    /// To be forgotten.
    pub(crate) gone: bool,
    /// When it came, or last asked for something.
    pub(crate) last: Instant,
}

/// How long a client may do nothing before another may take its place.
pub(crate) const IDLE: Duration = Duration::from_secs(2);

impl Peer {
    pub(crate) fn new(channel: Channel) -> Peer {
        Peer {
            channel,
            greeted: false,
            follows: false,
            exec: None,
            attachment: None,
            gone: false,
            last: Instant::now(),
        }
    }

    /// Whether it neither does anything nor waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        !self.gone && !self.follows && self.exec.is_none() && self.attachment.is_none()
    }

    /// Whether it has been idle for long, with nothing on its way.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_idle() && self.last.elapsed() >= IDLE && !self.has_asked()
    }

    fn has_asked(&self) -> bool {
        let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Tells it; one that does not hear is hung up on.
    pub(crate) fn tell(&mut self, tell: &Tell, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send(tell, fds) {
            log::info!("a client does not hear: {error}");
            self.gone = true;
        }
    }

    pub(crate) fn refuse(&mut self, error: &Error) {
        let error = WireError::from(error);
        self.tell(&Tell::Refused { error }, &[]);
    }

    /// Gives it output of the container's.
    pub(crate) fn offer(&mut self, stream: Stream, data: &[u8]) {
        let Some(sink) = self.attachment.as_mut().map(|a| a.output(stream)) else {
            return;
        };
        match sink.as_mut().map(|sink| sink.offer(data)) {
            Some(Ok(bytes)) if bytes > 0 => self.tell(&Tell::Skipped { bytes }, &[]),
            // It has closed its pipe, and may listen still.
            Some(Err(_)) => *sink = None,
            _ => {}
        }
    }

    /// Writes what a sink had no room for; whether any of it went.
    pub(crate) fn flush(&mut self, stream: Stream) -> bool {
        let Some(sink) = self.attachment.as_mut().map(|a| a.output(stream)) else {
            return false;
        };
        match sink.as_mut().map(Sink::flush) {
            Some(Ok(moved)) => moved,
            Some(Err(_)) => {
                *sink = None;
                true
            }
            None => false,
        }
    }

    /// One of the container's outputs has ended; what the client missed of it
    /// is told.
    pub(crate) fn end(&mut self, stream: Stream) {
        let Some(attachment) = &mut self.attachment else {
            return;
        };
        let sink = attachment.output(stream).take();
        let bytes = sink.map_or(0, |mut sink| sink.take_skipped());
        if bytes > 0 {
            self.tell(&Tell::Skipped { bytes }, &[]);
        }
    }

    /// All of them have.
    pub(crate) fn leave(&mut self) {
        self.end(Stream::Stdout);
        self.end(Stream::Stderr);
        self.attachment = None;
    }

    /// The sink of a stream while it has to be waited for.
    pub(crate) fn waiting(&self, stream: Stream) -> Option<&Sink> {
        let attachment = self.attachment.as_ref()?;
        let sink = match stream {
            Stream::Stdout => &attachment.stdout,
            Stream::Stderr => &attachment.stderr,
        };
        sink.as_ref().filter(|sink| sink.is_waiting())
    }

    /// What it may write the container's input to.
    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.attachment.as_ref()?.stdin.as_ref().map(AsFd::as_fd)
    }
}

/// The pipes of an attached client.
#[derive(Default)]
pub(crate) struct Attachment {
    stdin: Option<OwnedFd>,
    /// What comes by `stdin` is the last.
    closing: bool,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

/// What an attached client wrote.
pub(crate) enum Typed {
    /// So many bytes.
    Some(usize),
    /// Nothing now, or nothing any more from this client.
    Nothing,
    /// The end of the container's input.
    End,
}

impl Attachment {
    /// New pipes, and the client's ends of them in the order of the protocol.
    /// `input` says whether there is one for input.
    pub(crate) fn new(
        streams: &[Stream],
        full: Full,
        input: Option<()>,
    ) -> Result<(Attachment, Vec<OwnedFd>)> {
        let mut attachment = Attachment::default();
        let mut theirs = Vec::new();
        if input.is_some() {
            let what = || "make a pipe for a client's input";
            let (stdin, writer) = pipe_with(PipeFlags::CLOEXEC).io_context(what)?;
            fcntl_setfl(&stdin, OFlags::NONBLOCK).io_context(what)?;
            attachment.stdin = Some(stdin);
            theirs.push(writer);
        }
        for stream in streams {
            let (sink, reader) = Sink::pipe(full)?;
            *attachment.output(*stream) = Some(sink);
            theirs.push(reader);
        }
        Ok((attachment, theirs))
    }

    pub(crate) fn output(&mut self, stream: Stream) -> &mut Option<Sink> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// What comes by its pipe is the last. Said before or after the client
    /// closes its end: `true` when it has closed it already.
    pub(crate) fn close_input(&mut self) -> bool {
        self.closing = true;
        self.stdin.is_none()
    }

    /// The container reads no input any more.
    pub(crate) fn shut_input(&mut self) {
        self.stdin = None;
    }

    /// Reads what the client wrote.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Typed {
        let Some(stdin) = &self.stdin else {
            return Typed::Nothing;
        };
        match rustix::io::read(stdin, buffer) {
            Ok(count) if count > 0 => Typed::Some(count),
            Err(Errno::AGAIN | Errno::INTR) => Typed::Nothing,
            // A client that is killed does not end the input of the others.
            Ok(_) | Err(_) => {
                self.stdin = None;
                match self.closing {
                    true => Typed::End,
                    false => Typed::Nothing,
                }
            }
        }
    }
}
