//! The standard error of a container without a terminal.
//!
//! A runtime that starts a container speaks on the container's own standard
//! error, and what it says there is for the log and not for the user. So that
//! is a pipe until the container runs, and only then is it copied to where the
//! user wants it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use containerkit::{IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// As much of it is kept for the log.
const SAID: usize = 64 << 10;
/// The pipe's size: a runtime's crash must not fill it while nobody reads.
const PIPE: usize = 1 << 20;

/// A pipe that nobody reads yet, and where it is to lead.
pub(crate) struct Relay {
    pipe: OwnedFd,
    target: OwnedFd,
}

impl Relay {
    /// The write end, for the container. `None` where both outputs are one
    /// file: their order is kept only when both are written to directly.
    pub(crate) fn new(stdout: &OwnedFd, stderr: OwnedFd) -> Result<(OwnedFd, Option<Relay>)> {
        if is_same(stdout, &stderr) {
            return Ok((stderr, None));
        }
        let (pipe, writer) =
            pipe_with(PipeFlags::CLOEXEC).io_context(|| "make a pipe for the standard error")?;
        // Beyond a user's limit it keeps its size.
        let _ = fcntl_setpipe_size(&writer, PIPE);
        let target = stderr;
        Ok((writer, Some(Relay { pipe, target })))
    }

    /// What a failed runtime has said, for the log.
    pub(crate) fn log(self) {
        if !log::log_enabled!(log::Level::Debug)
            || fcntl_setfl(&self.pipe, OFlags::NONBLOCK).is_err()
        {
            return;
        }
        let mut said = vec![0; SAID];
        let mut length = 0;
        while let Some(rest) = said.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match rustix::io::read(&self.pipe, rest) {
                Ok(count) if count > 0 => length += count,
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        said.truncate(length);
        if !said.is_empty() {
            let said = String::from_utf8_lossy(&said);
            log::debug!("the runtime on standard error: {}", said.trim_end());
        }
    }

    /// Begins to copy. The process has a second thread from here on.
    pub(crate) fn start(self) -> Result<Copying> {
        let progress = Arc::new(AtomicU64::new(0));
        let (sender, ended) = channel();
        let counter = Arc::clone(&progress);
        std::thread::Builder::new()
            .name("stderr".into())
            .stack_size(256 << 10)
            .spawn(move || {
                self.copy(&counter);
                // A reader must see the end of the output first.
                drop(self);
                let _ = sender.send(());
            })
            .io_context(|| "start a thread for the standard error")?;
        Ok(Copying { ended, progress })
    }

    /// Copies until the last writer is gone; without a reader it goes on
    /// reading, so that the container is not held up.
    fn copy(&self, progress: &AtomicU64) {
        let mut buffer = vec![0; 64 << 10];
        let mut wanted = true;
        loop {
            let count = match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while wanted && !rest.is_empty() {
                match rustix::io::write(&self.target, rest) {
                    Ok(written) => {
                        rest = rest.get(written..).unwrap_or_default();
                        progress.fetch_add(written as u64, Ordering::Relaxed);
                    }
                    Err(Errno::INTR) => {}
                    // Somebody else made it non-blocking.
                    Err(Errno::AGAIN) => {
                        let mut fds = [PollFd::new(&self.target, PollFlags::OUT)];
                        let _ = rustix::event::poll(&mut fds, None);
                    }
                    Err(_) => wanted = false,
                }
            }
        }
    }
}

/// A relay at work.
pub(crate) struct Copying {
    ended: Receiver<()>,
    progress: Arc<AtomicU64>,
}

impl Copying {
    /// Waits, when all writers are gone, until everything is copied, but no
    /// longer than `patience` for a reader that does not read.
    pub(crate) fn finish(self, patience: Duration) {
        let mut before = self.progress.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(patience) {
            let now = self.progress.load(Ordering::Relaxed);
            if now == before {
                log::warn!("the end of the container's standard error is not read and lost");
                return;
            }
            before = now;
        }
    }
}

fn is_same(a: &impl AsFd, b: &impl AsFd) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        // Then nothing is known of them, and nothing is changed.
        _ => true,
    }
}
