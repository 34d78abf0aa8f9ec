//! What a supervisor does while its container runs: one loop over everything
//! that may happen.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use containerkit::logs::Stream;
use containerkit::runtime::StartedProcess;
use containerkit::shim::{ExitRecord, Listener, ShimRequest, Tell, ToClient, ToShim};
use containerkit::{IoContext, Result, Runtime};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::exec::Execs;
use crate::flow::{Flow, Owner, Read};
use crate::guard::{Held, tell};
use crate::oom::Oom;
use crate::peer::{IDLE, Peer, Typed};
use crate::reap::{reap, reap_strangers};
use crate::streams::Streams;
use crate::{PATIENCE, signals, sys};

/// So many clients at once. One more takes the place of one that has long done
/// nothing, or waits.
const MOST: usize = 100;
/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// How long output may stay unread once the launching client is gone.
const ALONE: Duration = Duration::from_secs(1);
/// How long a terminal that somebody keeps open may be silent after the end.
const SILENCE: Duration = Duration::from_millis(500);

/// Everything that is watched.
pub(crate) struct Watch<'a> {
    pub(crate) request: &'a ShimRequest,
    pub(crate) runtime: &'a dyn Runtime,
    pub(crate) streams: Streams,
    pub(crate) peers: Vec<Peer>,
    pub(crate) execs: Execs,
    held: &'a Held,
    pub(crate) init: &'a StartedProcess,
    signals: SignalFd,
    listener: Option<Listener>,
    pub(crate) oom: Oom,
    /// Whether the launching client is there.
    launcher: bool,
    buffer: Box<[u8]>,
}

/// What may be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Init,
    Signals,
    Launcher,
    Listener,
    /// A flow has something, or nothing any more.
    Source(usize),
    /// A flow's sink has room.
    Sink(usize),
    /// So has a client's.
    PeerSink(usize, Stream),
    /// So has the container's input.
    Input,
    /// A client has typed something.
    Typed(usize),
    /// A client asks for something, or hangs up.
    Peer(usize),
    /// A further process ended.
    Exec(usize),
    /// The kernel may have killed one for lack of memory.
    Oom,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        request: &'a ShimRequest,
        runtime: &'a dyn Runtime,
        held: &'a Held,
        init: &'a StartedProcess,
        streams: Streams,
        listener: Listener,
        oom: Oom,
    ) -> Result<Watch<'a>> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Watch {
            request,
            runtime,
            streams,
            peers: Vec::new(),
            execs: Execs::default(),
            held,
            init,
            signals: SignalFd::with_flags(&signals(), flags).io_context(|| "receive signals")?,
            listener: Some(listener),
            oom,
            launcher: true,
            buffer: vec![0; CHUNK].into_boxed_slice(),
        })
    }

    /// Waits for the end of the container's init, and reaps it.
    pub(crate) fn run(&mut self) -> Result<ExitRecord> {
        let pid = self.init.pid;
        if self.init.pidfd.is_none() {
            return Ok(reap(pid));
        }
        loop {
            let ready = self.wait()?;
            if ready.contains(&Place::Init) {
                return Ok(reap(pid));
            }
            for place in ready {
                self.act(place);
            }
            self.settle();
        }
    }

    fn wait(&self) -> Result<Vec<Place>> {
        let (places, mut fds): (Vec<Place>, Vec<PollFd<'_>>) = self.watched().into_iter().unzip();
        // Nothing tells when a client has become stale.
        let full = self.peers.len() >= MOST && self.peers.iter().any(Peer::is_idle);
        let pause = full.then(|| Timespec::try_from(IDLE / 8).ok()).flatten();
        match rustix::event::poll(&mut fds, pause.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).io_context(|| "wait for the container"),
        }
        let ready = places.into_iter().zip(&fds);
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(place, _)| place)
            .collect())
    }

    fn watched(&self) -> Vec<(Place, PollFd<'_>)> {
        let mut all = Vec::new();
        let input = |place, fd| (place, PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let output = |place, fd| (place, PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        if let Some(pidfd) = &self.init.pidfd {
            all.push(input(Place::Init, pidfd.as_fd()));
        }
        all.push(input(Place::Signals, self.signals.as_fd()));
        if self.launcher {
            all.push(input(Place::Launcher, self.held.channel.as_fd()));
        }
        all.extend(self.oom.fds().map(|fd| input(Place::Oom, fd)));
        let room = self.peers.len() < MOST || self.peers.iter().any(Peer::is_stale);
        if let Some(listener) = self.listener.as_ref().filter(|_| room) {
            all.push(input(Place::Listener, listener.as_fd()));
        }
        for (index, flow) in self.streams.flows.iter().enumerate() {
            if let Some(sink) = flow.waiting() {
                all.push(output(Place::Sink(index), sink.as_fd()));
            } else if let Some(source) = flow.source()
                && !self.is_awaited(flow.owner)
            {
                all.push(input(Place::Source(index), source));
            }
        }
        if let Some(to) = self.streams.input.waiting() {
            all.push(output(Place::Input, to));
        }
        let wants_more = self.streams.input.wants_more();
        for (index, peer) in self.peers.iter().enumerate() {
            all.push(input(Place::Peer(index), peer.channel.as_fd()));
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(sink) = peer.waiting(stream) {
                    all.push(output(Place::PeerSink(index, stream), sink.as_fd()));
                }
            }
            if let Some(typed) = peer.input().filter(|_| wants_more) {
                all.push(input(Place::Typed(index), typed));
            }
        }
        for (index, exec) in self.execs.running.iter().enumerate() {
            if let Some(pidfd) = &exec.pidfd {
                all.push(input(Place::Exec(index), pidfd.as_fd()));
            }
        }
        all
    }

    /// Whether an attached client has to take what it was given before more
    /// is read.
    fn is_awaited(&self, owner: Owner) -> bool {
        match owner {
            Owner::Init(stream) => self.peers.iter().any(|peer| peer.waiting(stream).is_some()),
            _ => false,
        }
    }

    fn act(&mut self, place: Place) {
        match place {
            Place::Init => {}
            Place::Oom => self.oom.look(),
            Place::Signals => {
                self.forward();
                self.reap_strangers();
            }
            Place::Launcher => self.hear(),
            Place::Listener => {
                let accepted = self.listener.as_ref().and_then(Listener::accept);
                if accepted.is_some()
                    && self.peers.len() >= MOST
                    && let Some(stale) = self.peers.iter_mut().find(|peer| peer.is_stale())
                {
                    stale.gone = true;
                }
                self.peers.extend(accepted.map(Peer::new));
            }
            Place::Source(index) => drop(self.pump(index)),
            Place::Sink(index) => drop(self.flush(index)),
            Place::PeerSink(index, stream) => drop(self.flush_peer(index, stream)),
            Place::Input => self.streams.input.flush(),
            Place::Typed(index) => self.typed(index),
            Place::Peer(index) => self.asked(index),
            Place::Exec(index) => {
                self.execs.end(index, self.request);
                self.reap_strangers();
            }
        }
    }

    fn reap_strangers(&self) {
        reap_strangers(|pid| pid == self.init.pid || self.execs.has(pid));
    }

    /// Signals sent to the shim are meant for the container. A hangup is not:
    /// it tells of a terminal that the container has no part in.
    fn forward(&self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = info.ssi_signo as i32;
            if number != Signal::SIGCHLD as i32 && number != Signal::SIGHUP as i32 {
                send(self.init.pidfd.as_ref(), number);
            }
        }
    }

    /// One packet of the launching client.
    fn hear(&mut self) {
        match self.held.channel.receive::<ToShim>() {
            Ok(Some((ToShim::Signal { number }, _))) => send(self.init.pidfd.as_ref(), number),
            // Meant for the farewell, which will not hear it again.
            Ok(Some((ToShim::Done, _))) => self.held.done.set(),
            Ok(Some((ToShim::Unknown, _))) => {}
            Ok(None) => self.launcher_is_gone(),
            Err(error) => {
                log::warn!("the client is not understood: {error}");
                self.launcher_is_gone();
            }
        }
    }

    fn launcher_is_gone(&mut self) {
        self.launcher = false;
        self.streams.take_over();
    }

    /// Reads from a flow and passes it on; how much.
    fn pump(&mut self, index: usize) -> Read {
        let Some(flow) = self.streams.flows.get_mut(index) else {
            return Read::End;
        };
        let owner = flow.owner;
        let read = flow.read(&mut self.buffer);
        match (&read, owner) {
            (Read::Some(count), _) => {
                let data = self.buffer.get(..*count).unwrap_or_default();
                if let Some(sink) = &mut flow.sink
                    && sink.offer(data).is_err()
                {
                    flow.sink = None;
                    if owner == Owner::Init(Stream::Stdout) && self.launcher {
                        tell(&self.held.channel, &ToClient::ReaderGone);
                    }
                }
                if let Owner::Init(stream) = owner {
                    if let Some(log) = &mut self.streams.log {
                        log.write(stream, data);
                    }
                    for peer in &mut self.peers {
                        peer.offer(stream, data);
                    }
                }
            }
            (Read::End, Owner::Init(stream)) => {
                for peer in &mut self.peers {
                    peer.end(stream);
                }
            }
            _ => {}
        }
        read
    }

    /// Writes what a flow's sink had no room for; whether any of it went.
    fn flush(&mut self, index: usize) -> bool {
        let Some(flow) = self.streams.flows.get_mut(index) else {
            return false;
        };
        match flow.sink.as_mut().map(|sink| sink.flush()) {
            Some(Ok(moved)) => moved,
            Some(Err(_)) => {
                flow.sink = None;
                true
            }
            None => false,
        }
    }

    fn flush_peer(&mut self, index: usize, stream: Stream) -> bool {
        self.peers
            .get_mut(index)
            .is_some_and(|peer| peer.flush(stream))
    }

    /// A client writes to the container's input.
    fn typed(&mut self, index: usize) {
        let input = &mut self.streams.input;
        let attachment = self
            .peers
            .get_mut(index)
            .and_then(|peer| peer.attachment.as_mut());
        let Some(attachment) = attachment.filter(|_| input.wants_more()) else {
            return;
        };
        match attachment.read(&mut self.buffer) {
            Typed::Some(count) => input.give(self.buffer.get(..count).unwrap_or_default()),
            Typed::End => input.close(),
            Typed::Nothing => {}
        }
    }

    /// After each round: tells of ended processes, and drops what is over.
    fn settle(&mut self) {
        for index in 0..self.execs.running.len() {
            self.drain_exec(index);
        }
        let told: Vec<(u32, ExitRecord)> = self
            .execs
            .running
            .iter()
            .filter(|exec| exec.owed == 0)
            .filter_map(|exec| Some((exec.number, exec.exit.clone()?)))
            .collect();
        for (number, exit) in told {
            self.tell_end(number, exit);
            self.execs.forget(number, self.request);
        }
        if !self.streams.input.is_open() {
            for attachment in self.peers.iter_mut().filter_map(|p| p.attachment.as_mut()) {
                attachment.shut_input();
            }
        }
        self.peers.retain(|peer| !peer.gone);
        // A terminal whose client has left is read to nowhere, so that its
        // process goes on.
        for exec in &mut self.execs.running {
            let number = exec.number;
            if exec.console.is_some() && !self.peers.iter().any(|p| p.exec == Some(number)) {
                let left = exec.console.take();
                let flow = left.map(|master| Flow::terminal(Owner::Exec(number), master));
                self.streams.flows.extend(flow.and_then(Result::ok));
            }
        }
        let flows = &mut self.streams.flows;
        flows.retain(|flow| flow.source().is_some() || flow.waiting().is_some());
    }

    /// What an ended process had written is passed on before its end is told;
    /// a grandchild that goes on writing is not waited for.
    fn drain_exec(&mut self, index: usize) {
        let Some((number, mut owed)) = self
            .execs
            .running
            .get(index)
            .filter(|exec| exec.exit.is_some())
            .map(|exec| (exec.number, exec.owed))
        else {
            return;
        };
        let flow = self
            .streams
            .flows
            .iter()
            .position(|flow| flow.owner == Owner::Exec(number) && !flow.is_terminal());
        match flow {
            None => owed = 0,
            Some(flow) => {
                while owed > 0
                    && self
                        .streams
                        .flows
                        .get(flow)
                        .is_some_and(|f| f.waiting().is_none())
                {
                    owed = match self.pump(flow) {
                        Read::Some(count) => owed.saturating_sub(count),
                        Read::Nothing | Read::End => 0,
                    };
                }
                let waits = self
                    .streams
                    .flows
                    .get(flow)
                    .is_some_and(|f| f.waiting().is_some());
                if waits {
                    owed = owed.max(1);
                }
            }
        }
        if let Some(exec) = self.execs.running.get_mut(index) {
            exec.owed = owed;
        }
    }

    fn tell_end(&mut self, exec: u32, exit: ExitRecord) {
        let told = Tell::ExecExited { exec, exit };
        for peer in &mut self.peers {
            if peer.exec == Some(exec) || peer.follows {
                peer.tell(&told, &[]);
            }
        }
    }

    /// The container's processes are dead: passes on what they had written,
    /// for as long as somebody takes it. What holds a stream open now is
    /// outside, and is not waited for.
    pub(crate) fn drain(&mut self) {
        self.listener = None;
        self.execs.end_all(self.request);
        let patience = if self.launcher { PATIENCE } else { ALONE };
        let mut last = Instant::now();
        loop {
            let mut moved = false;
            for index in 0..self.streams.flows.len() {
                moved |= self.flush(index);
                let awaited =
                    self.streams.flows.get(index).is_some_and(|flow| {
                        flow.waiting().is_some() || self.is_awaited(flow.owner)
                    });
                moved |= !awaited && matches!(self.pump(index), Read::Some(_));
            }
            for index in 0..self.peers.len() {
                moved |= self.flush_peer(index, Stream::Stdout);
                moved |= self.flush_peer(index, Stream::Stderr);
            }
            if moved {
                last = Instant::now();
                continue;
            }
            let (places, fds): (Vec<Place>, Vec<PollFd<'_>>) =
                self.watched().into_iter().filter(is_unread).unzip();
            let waits = places
                .iter()
                .any(|place| !matches!(place, Place::Source(_)));
            let open = self
                .streams
                .flows
                .iter()
                .any(|flow| flow.is_terminal() && flow.source().is_some());
            let limit = match (waits, open) {
                (true, _) => patience,
                (false, true) => SILENCE,
                (false, false) => return,
            };
            let left = limit.saturating_sub(last.elapsed());
            if left.is_zero() {
                if waits {
                    log::warn!("the end of the container's output is not read and lost");
                }
                return;
            }
            pause(fds, left);
        }
    }

    /// The last word to every client; what they read from ends before.
    pub(crate) fn end(&mut self, exit: &ExitRecord) {
        self.streams.flows.clear();
        let ended: Vec<_> = self
            .execs
            .running
            .drain(..)
            .filter_map(|exec| Some((exec.number, exec.exit?)))
            .collect();
        for (number, exit) in ended {
            self.tell_end(number, exit);
        }
        for peer in &mut self.peers {
            peer.leave();
            peer.tell(&Tell::Exited { exit: exit.clone() }, &[]);
        }
        self.peers.clear();
    }
}

/// What a drain waits for.
fn is_unread((place, _): &(Place, PollFd<'_>)) -> bool {
    matches!(
        place,
        Place::Source(_) | Place::Sink(_) | Place::PeerSink(..)
    )
}

fn pause(mut fds: Vec<PollFd<'_>>, time: Duration) {
    if let Ok(timeout) = Timespec::try_from(time) {
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }
}

/// A process that has ended takes none.
pub(crate) fn send(pidfd: Option<&OwnedFd>, number: i32) {
    if let Some(pidfd) = pidfd
        && let Err(errno) = sys::pidfd_send_signal(pidfd.as_fd(), number)
    {
        log::info!("signal {number} to the container: {errno}");
    }
}
