//! Reading, from the oldest event on, and on as they come.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

use super::append::head;
use super::{Event, KEPT, file};
use crate::error::{IoContext, Result};
use crate::fs::ensure_dir;

/// Reads a log; others may append and rotate meanwhile.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// The file being read, and what of a line is not complete.
    open: Option<(File, u64, Vec<u8>)>,
    /// The number of the last event that was given.
    last: u64,
    notify: OwnedFd,
}

impl Reader {
    pub(super) fn new(dir: &Path) -> Result<Reader> {
        ensure_dir(dir, 0o700)?;
        let what = || format!("watch {}", dir.display());
        let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .io_context(what)?;
        inotify::add_watch(
            &notify,
            dir,
            inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO,
        )
        .io_context(what)?;
        Ok(Reader {
            dir: dir.to_path_buf(),
            open: None,
            last: 0,
            notify,
        })
    }

    /// The events after those given already, in order; empty when there are
    /// none now.
    pub fn next_events(&mut self) -> Result<Vec<Event>> {
        self.drain_notify();
        let mut events = Vec::new();
        let current = file(&self.dir, 0);
        let inode = std::fs::metadata(&current).ok().map(|meta| meta.ino());
        if let Some((log, known, rest)) = &mut self.open {
            read_into(log, rest, &current, &mut events)?;
            if Some(*known) == inode {
                return Ok(self.fresh(events));
            }
        }
        // The first look, or another file has taken its place.
        self.open = None;
        for age in (0..=KEPT).rev() {
            let path = file(&self.dir, age);
            let Ok(mut log) = File::open(&path) else {
                continue;
            };
            let mut rest = Vec::new();
            read_into(&mut log, &mut rest, &path, &mut events)?;
            if age == 0 {
                let inode = log
                    .metadata()
                    .io_context(|| format!("stat {}", path.display()))?
                    .ino();
                self.open = Some((log, inode, rest));
            }
        }
        events.sort_by_key(|event| event.seq);
        Ok(self.fresh(events))
    }

    fn fresh(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        events.retain(|event| {
            let fresh = event.seq > self.last;
            self.last = self.last.max(event.seq);
            fresh
        });
        events
    }

    fn drain_notify(&self) {
        let mut buffer = [0u8; 4096];
        while matches!(rustix::io::read(&self.notify, &mut buffer), Ok(read) if read > 0) {}
    }
}

impl AsFd for Reader {
    /// Readable when [`Reader::next_events`] may have something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }
}

/// Whole lines; a line that is no event (the head, a killed writer's) is
/// passed over, a head of a newer version is an error.
fn read_into(log: &mut File, rest: &mut Vec<u8>, path: &Path, out: &mut Vec<Event>) -> Result<()> {
    log.read_to_end(rest)
        .io_context(|| format!("read {}", path.display()))?;
    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
        return Ok(());
    };
    for line in rest[..end].split(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(event) => out.push(event),
            Err(_) if line.starts_with(b"{\"version\"") => drop(head(line, path)?),
            Err(_) => {}
        }
    }
    rest.drain(..=end);
    Ok(())
}
