//! The socket between client and shim: packets with descriptors.
//!
//! Packets instead of a stream, because guard and supervisor both write: a
//! packet is there whole or not at all, whoever is killed in the middle.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// No packet is longer.
pub const PACKET_LIMIT: usize = 64 << 10;

/// Descriptors in one packet.
const FDS: usize = 8;

/// One end of the socket.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// Two connected ends, close-on-exec.
    pub fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .io_context(|| "make a socket pair")?;
        Ok((Channel { fd: a }, Channel { fd: b }))
    }

    /// Connected to the socket `name` in a folder, whatever the length of its
    /// path. `NotFound` without such a file, `Unavailable` when nobody listens.
    pub fn connect(folder: &Path, name: &str) -> Result<Channel> {
        let what = || format!("connect to {}", folder.join(name).display());
        let folder = crate::fs::open_dir(folder)?;
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .io_context(what)?;
        let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        let address = SocketAddrUnix::new(path).io_context(what)?;
        loop {
            return match rustix::net::connect(&fd, &address) {
                Ok(()) => Ok(Channel { fd }),
                Err(Errno::INTR) => continue,
                Err(Errno::CONNREFUSED) => {
                    Err(Error::io(what(), Errno::CONNREFUSED).with_kind(ErrorKind::Unavailable))
                }
                Err(errno) => Err(errno).io_context(what),
            };
        }
    }

    /// An end that was inherited; refused when it is not such a socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Channel> {
        match rustix::net::sockopt::socket_type(&fd) {
            Ok(SocketType::SEQPACKET) => Ok(Channel { fd }),
            _ => Err(Error::invalid("the descriptor is not a shim's socket")),
        }
    }

    /// Sends a packet. `Unavailable` when the other end is gone, or when its
    /// queue is full: nobody may be held up by a stopped peer.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let data = serde_json::to_vec(message)
            .map_err(|error| Error::internal("encode a packet").with_source(error))?;
        if data.len() > PACKET_LIMIT || fds.len() > FDS {
            return Err(Error::internal(format!(
                "a packet of {} bytes and {} descriptors, at most {PACKET_LIMIT} and {FDS}",
                data.len(),
                fds.len()
            )));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::internal("descriptors do not fit into a packet"));
        }
        loop {
            return match rustix::net::sendmsg(
                &self.fd,
                &[IoSlice::new(&data)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(Error::io("send to the other side of the shim", errno)
                    .with_kind(ErrorKind::Unavailable)),
            };
        }
    }

    /// Waits for a packet; `None` when the other end is gone. Descriptors
    /// arrive close-on-exec.
    pub fn receive<T: for<'a> Deserialize<'a>>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let mut data = vec![0u8; PACKET_LIMIT];
        let mut fds = Vec::new();
        let message = loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut data)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(part) = part {
                            fds.extend(part);
                        }
                    }
                    break message;
                }
                // The peer closed with packets of ours unread: it is said
                // once, and before what the peer had sent.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => {
                    return Err(Error::io("receive from the other side of the shim", errno));
                }
            }
        };
        if message.bytes == 0 {
            return Ok(None);
        }
        if message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Error::invalid(format!(
                "a packet has more than {PACKET_LIMIT} bytes or {FDS} descriptors"
            )));
        }
        let value = serde_json::from_slice(data.get(..message.bytes).unwrap_or_default())
            .map_err(|error| Error::invalid("a packet cannot be understood").with_source(error))?;
        Ok(Some((value, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.fd
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::ToShim;
    use super::*;

    #[test]
    fn packets_carry_descriptors_and_end() {
        let (a, b) = Channel::pair().expect("pair");
        let file = tempfile::tempfile().expect("file");
        a.send(&ToShim::Signal { number: 15 }, &[file.as_fd()])
            .expect("send");
        let (message, fds) = b.receive::<ToShim>().expect("receive").expect("packet");
        assert_eq!(message, ToShim::Signal { number: 15 });
        assert_eq!(fds.len(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        drop(a);
        assert!(b.receive::<ToShim>().expect("end").is_none());
    }

    #[test]
    fn what_was_sent_before_the_end_is_read_although_the_peer_left_packets_unread() {
        let (a, b) = Channel::pair().expect("pair");
        b.send(&ToShim::Done, &[]).expect("never read");
        a.send(&ToShim::Signal { number: 1 }, &[]).expect("send");
        drop(a);
        assert!(b.receive::<ToShim>().expect("packet").is_some());
        assert!(b.receive::<ToShim>().expect("end").is_none());
    }

    #[test]
    fn hostile_packets_are_errors() {
        let (a, b) = Channel::pair().expect("pair");
        for bad in [&b"{"[..], b"[]", b"{}", b"\xff", b"{\"type\":\"signal\"}"] {
            rustix::io::write(&a, bad).expect("write");
            assert!(b.receive::<ToShim>().is_err(), "{bad:?}");
        }
        rustix::io::write(&a, &vec![b' '; PACKET_LIMIT + 1]).expect("write");
        assert!(b.receive::<ToShim>().is_err());
        // A newer client's.
        rustix::io::write(&a, b"{\"type\":\"dance\",\"x\":1}").expect("write");
        let (message, _) = b.receive::<ToShim>().expect("receive").expect("packet");
        assert_eq!(message, ToShim::Unknown);
    }

    #[test]
    fn a_full_queue_does_not_block() {
        let (a, _b) = Channel::pair().expect("pair");
        let error = (0..1_000_000)
            .find_map(|_| a.send(&ToShim::Done, &[]).err())
            .expect("a full queue");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
