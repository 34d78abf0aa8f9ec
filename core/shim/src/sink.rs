//! Where output is written to without ever waiting for it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use containerkit::{IoContext, Result};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Room for a client that is slow for a moment; the kernel gives pages as they
/// are needed.
const ROOM: usize = 1 << 20;

/// What happens to that which does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// It is kept, and nothing more is read until it is gone.
    Wait,
    /// It is skipped and counted.
    Skip,
}

/// Nobody will read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// A file, terminal, pipe or socket to write to.
pub(crate) struct Sink {
    fd: OwnedFd,
    is_socket: bool,
    full: Full,
    /// What did not fit; with [`Full::Wait`] only.
    pending: Vec<u8>,
    skipped: u64,
}

impl Sink {
    /// A stream of the launching client's, or of an exec's; `None` for
    /// `/dev/null`. It is opened anew, because to make the client's own
    /// non-blocking would be seen by all who share it. A file does not block.
    pub(crate) fn stream(fd: OwnedFd) -> Option<Sink> {
        let stat = fstat(&fd).ok()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3) {
            return None;
        }
        let fd = match kind {
            FileType::Fifo | FileType::CharacterDevice => reopened(&fd).unwrap_or(fd),
            _ => fd,
        };
        Some(Sink {
            fd,
            is_socket: kind == FileType::Socket,
            full: Full::Wait,
            pending: Vec::new(),
            skipped: 0,
        })
    }

    /// A new pipe, and its end for the reader.
    pub(crate) fn pipe(full: Full) -> Result<(Sink, OwnedFd)> {
        let what = || "make a pipe for a client";
        let (reader, fd) = pipe_with(PipeFlags::CLOEXEC).io_context(what)?;
        fcntl_setfl(&fd, OFlags::NONBLOCK).io_context(what)?;
        // Beyond a user's limit it keeps its size.
        let _ = fcntl_setpipe_size(&fd, ROOM);
        let sink = Sink {
            fd,
            is_socket: false,
            full,
            pending: Vec::new(),
            skipped: 0,
        };
        Ok((sink, reader))
    }

    /// Writes what fits, and tells how much was skipped before, once there is
    /// room again.
    pub(crate) fn offer(&mut self, data: &[u8]) -> Result<u64, Gone> {
        let written = match self.pending.is_empty() {
            true => self.write(data)?,
            false => 0,
        };
        let rest = data.get(written..).unwrap_or_default();
        match self.full {
            _ if rest.is_empty() => return Ok(self.take_skipped()),
            Full::Wait => self.pending.extend_from_slice(rest),
            Full::Skip => self.skipped += rest.len() as u64,
        }
        Ok(0)
    }

    /// Writes what had not fitted; whether anything went.
    pub(crate) fn flush(&mut self) -> Result<bool, Gone> {
        let pending = std::mem::take(&mut self.pending);
        let written = self.write(&pending)?;
        self.pending = pending.get(written..).unwrap_or_default().to_vec();
        Ok(written > 0)
    }

    /// Whether something has to go before more may come.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nobody is waited for any more.
    pub(crate) fn hurry(&mut self) {
        self.full = Full::Skip;
        self.skipped += self.pending.len() as u64;
        self.pending = Vec::new();
    }

    /// What was skipped since this was last asked.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    fn write(&self, data: &[u8]) -> Result<usize, Gone> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let written = match self.is_socket {
                true => {
                    rustix::net::send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                false => rustix::io::write(&self.fd, rest),
            };
            match written {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // A full disk: output is lost, and the container goes on.
                Err(_) => return Err(Gone),
            }
        }
        Ok(done)
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn reopened(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_does_not_fit_waits_or_is_counted() {
        for full in [Full::Wait, Full::Skip] {
            let (mut sink, reader) = Sink::pipe(full).expect("pipe");
            let data = vec![7u8; 3 << 20];
            sink.offer(&data).expect("offer");
            let skipped = sink.take_skipped() as usize;
            assert_eq!(sink.is_waiting(), full == Full::Wait);
            assert_eq!(skipped > 0, full == Full::Skip);
            let mut reader = std::fs::File::from(reader);
            let mut read = 0;
            let mut buffer = vec![0; 1 << 16];
            while read < data.len() - skipped {
                read += reader.read(&mut buffer).expect("read");
                sink.flush().expect("flush");
            }
            assert!(!sink.is_waiting());
            drop(reader);
            assert_eq!(sink.offer(b"x"), Err(Gone));
        }
    }

    #[test]
    fn a_clients_own_pipe_stays_blocking() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let copy = writer.try_clone().expect("copy");
        let mut sink = Sink::stream(copy.into()).expect("a pipe is no null");
        sink.offer(&vec![1; 1 << 17]).expect("offer");
        assert!(sink.is_waiting());
        let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
        assert!(!flags.contains(OFlags::NONBLOCK));
        sink.hurry();
        assert!(!sink.is_waiting() && sink.take_skipped() > 0);
        drop((sink, writer));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("the end comes");
    }

    #[test]
    fn null_is_no_sink_and_files_and_sockets_are() {
        let null = std::fs::File::options().write(true).open("/dev/null");
        assert!(Sink::stream(null.expect("null").into()).is_none());
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"a").expect("write");
        let mut sink = Sink::stream(file.try_clone().expect("copy").into()).expect("file");
        sink.offer(b"b").expect("offer");
        std::io::Seek::rewind(&mut file).expect("rewind");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "ab");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
        let mut sink = Sink::stream(ours.into()).expect("socket");
        sink.offer(b"x").expect("offer");
        drop(theirs);
        assert_eq!(sink.offer(b"x"), Err(Gone));
    }
}
