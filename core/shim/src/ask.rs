//! What clients ask for at the socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use containerkit::logs::Stream;
use containerkit::shim::{Ask, PROTOCOL, Tell};
use containerkit::{Error, Result};

use crate::flow::Owner;
use crate::peer::{Attachment, Peer};
use crate::sink::Full;
use crate::watch::{Watch, send};

impl Watch<'_> {
    /// One packet of a client. One that cannot be understood ends the
    /// connection, and nothing else.
    pub(crate) fn asked(&mut self, index: usize) {
        let Some(peer) = self.peers.get_mut(index).filter(|peer| !peer.gone) else {
            return;
        };
        peer.last = Instant::now();
        match peer.channel.receive::<Ask>() {
            Ok(Some((ask, fds))) => self.answer(index, ask, fds),
            Ok(None) => peer.gone = true,
            Err(error) => {
                log::info!("a client is not understood: {error}");
                peer.refuse(&error);
                peer.gone = true;
            }
        }
    }

    fn answer(&mut self, index: usize, ask: Ask, fds: Vec<OwnedFd>) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        let result = match ask {
            Ask::Hello { version } if version > 0 => {
                peer.greeted = true;
                let version = version.min(PROTOCOL);
                peer.tell(&Tell::Welcome { version }, &[]);
                Ok(())
            }
            _ if !peer.greeted => {
                peer.gone = true;
                Err(Error::invalid("the first packet does not say a version"))
            }
            Ask::Exec | Ask::Attach { .. } if peer.exec.is_some() || peer.attachment.is_some() => {
                Err(Error::precondition(
                    "a connection is for one process, or for the container's streams",
                ))
            }
            Ask::Exec => self.exec(index, fds),
            Ask::Attach { stdin } => self.attach(index, stdin.then_some(()), Full::Skip),
            Ask::Resize { rows, columns } => {
                self.streams.resize(rows, columns);
                Ok(())
            }
            Ask::CloseStdin => {
                if let Some(attachment) = &mut peer.attachment
                    && attachment.close_input()
                {
                    self.streams.input.close();
                }
                Ok(())
            }
            Ask::Signal { number } => {
                let exec = peer.exec;
                self.signal(exec, number);
                Ok(())
            }
            Ask::Follow => {
                peer.follows = true;
                Ok(())
            }
            Ask::Hello { .. } | Ask::Unknown => Err(Error::unimplemented("this request")
                .with_hint("the container's shim is older than this command")),
        };
        if let (Err(error), Some(peer)) = (result, self.peers.get_mut(index)) {
            peer.refuse(&error);
        }
    }

    fn exec(&mut self, index: usize, fds: Vec<OwnedFd>) -> Result<()> {
        let (exec, flow) = self.execs.start(self.request, self.runtime, fds)?;
        self.streams.flows.extend(flow);
        let (pid, console) = match self.execs.find(exec) {
            Some(found) => (found.pid, found.console.as_ref()),
            None => return Err(Error::internal("a process is lost")),
        };
        let console: Vec<BorrowedFd<'_>> = console.into_iter().map(AsFd::as_fd).collect();
        for (place, peer) in self.peers.iter_mut().enumerate() {
            if place == index {
                peer.exec = Some(exec);
                peer.tell(&Tell::Started { exec, pid }, &console);
            } else if peer.follows {
                peer.tell(&Tell::ExecStarted { exec, pid }, &[]);
            }
        }
        Ok(())
    }

    /// Gives a client its pipes.
    fn attach(&mut self, index: usize, input: Option<()>, full: Full) -> Result<()> {
        if !self.streams.is_held {
            return Err(Error::precondition(format!(
                "container {} has the streams of the command that runs it",
                self.request.id
            ))
            .with_hint("only what runs with --detach, or without --rm, can be attached to"));
        }
        let streams: &[Stream] = match self.request.terminal {
            true => &[Stream::Stdout],
            false => &[Stream::Stdout, Stream::Stderr],
        };
        let input = input.filter(|()| self.streams.input.is_open());
        let (mut attachment, theirs) = Attachment::new(streams, full, input)?;
        for stream in streams {
            let owner = Owner::Init(*stream);
            if !self.streams.flows.iter().any(|flow| flow.owner == owner) {
                // It has ended, and so does the client's.
                *attachment.output(*stream) = None;
            }
        }
        if let Some(peer) = self.peers.get_mut(index) {
            let theirs: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
            let attached = Tell::Attached {
                terminal: self.request.terminal,
                stdin: input.is_some(),
            };
            peer.attachment = Some(attachment);
            peer.tell(&attached, &theirs);
        }
        Ok(())
    }

    /// Attaches the launching client, which is waited for.
    pub(crate) fn welcome(&mut self, mut launcher: Peer) {
        launcher.greeted = true;
        self.peers.push(launcher);
        if let Err(error) = self.attach(self.peers.len() - 1, Some(()), Full::Wait) {
            log::warn!("{error}");
            self.peers.pop();
        }
    }

    fn signal(&self, exec: Option<u32>, number: i32) {
        match exec {
            Some(exec) => send(
                self.execs.find(exec).and_then(|exec| exec.pidfd.as_ref()),
                number,
            ),
            None => send(self.init.pidfd.as_ref(), number),
        }
    }
}
