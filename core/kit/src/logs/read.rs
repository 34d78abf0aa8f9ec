//! The reading side: any process, while others read, write and rotate.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

use super::line::Entry;
use super::{numbers, path_of};
use crate::error::{IoContext, Result};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// A line that is longer is none of ours: the shim's are bounded by what it
/// reads at once.
const LONGEST: usize = 1 << 20;

/// So many bytes of a file, and none of those after it.
#[derive(Clone, Copy, Debug)]
struct End {
    number: u64,
    size: u64,
}

/// Reads the output of a container, from the oldest line on.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    /// The file that is being read.
    open: Option<(u64, File)>,
    /// The number of the last file that was read to its end.
    done: u64,
    /// What of a line is not complete.
    rest: Vec<u8>,
    /// Where reading ends.
    end: Option<End>,
    notify: Option<OwnedFd>,
    is_watched: bool,
}

impl Reader {
    /// Of a container's folder of logs. One that does not exist is one
    /// without output.
    pub fn open(folder: &Path) -> Reader {
        Reader {
            folder: folder.to_path_buf(),
            open: None,
            done: 0,
            rest: Vec::new(),
            end: None,
            notify: None,
            is_watched: false,
        }
    }

    /// Ends with what is written by now: a container that writes faster than
    /// it is read would never be at its end.
    pub fn until_now(&mut self) {
        self.end = Some(self.written());
    }

    /// The entries after those given already; empty when there are none now.
    pub fn next_entries(&mut self) -> Result<Vec<Entry>> {
        self.drain_notify();
        let mut entries = Vec::new();
        while entries.is_empty() {
            if self.open.is_none() && !self.open_next()? {
                break;
            }
            // Asked first: a file that has a successor is not written any more.
            let next = self.has_next();
            if self.read(&mut entries)? == 0 {
                if !next {
                    break;
                }
                self.end_file();
            }
        }
        Ok(entries)
    }

    /// The last `count` lines by now, and what follows is left to
    /// [`next_entries`](Reader::next_entries). Whole files are passed over
    /// from the oldest on, but read: their lines have no index.
    pub fn tail(&mut self, count: usize) -> Result<Vec<Entry>> {
        let end = self.end;
        self.end = end.or_else(|| Some(self.written()));
        let tail = self.last(count);
        self.end = end;
        tail
    }

    fn last(&mut self, count: usize) -> Result<Vec<Entry>> {
        let mut kept: VecDeque<Entry> = VecDeque::new();
        let mut lines = 0;
        loop {
            let entries = self.next_entries()?;
            if entries.is_empty() {
                // What was begun and has no newline is a line too.
                return Ok(last_lines(kept, count));
            }
            for entry in entries {
                lines += usize::from(entry.whole);
                kept.push_back(entry);
                while lines > count + 1 {
                    match kept.pop_front() {
                        Some(entry) => lines -= usize::from(entry.whole),
                        None => break,
                    }
                }
            }
        }
    }

    /// From now on [`notify_fd`](Reader::notify_fd) becomes readable when there
    /// may be something new, or something has changed in the container's
    /// folder. To be called again before each wait: a folder of logs that did
    /// not exist may exist by now.
    pub fn watch(&mut self, state_dir: &Path) -> Result<()> {
        use inotify::{CreateFlags, WatchFlags};
        if self.is_watched {
            return Ok(());
        }
        let what = || format!("watch {}", self.folder.display());
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let notify = match self.notify.take() {
            Some(notify) => notify,
            None => inotify::init(flags).io_context(what)?,
        };
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        for (dir, is_logs) in [(state_dir, false), (&self.folder, true)] {
            match inotify::add_watch(&notify, dir, flags) {
                Ok(_) => self.is_watched |= is_logs,
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno).io_context(what),
            }
        }
        self.notify = Some(notify);
        Ok(())
    }

    /// The descriptor to wait on, after [`watch`](Reader::watch).
    pub fn notify_fd(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    fn open_next(&mut self) -> Result<bool> {
        // One that goes while it is opened is passed over like those before.
        for number in numbers(&self.folder) {
            if number <= self.done {
                continue;
            }
            if self.end.is_some_and(|end| number > end.number) {
                break;
            }
            let path = path_of(&self.folder, number);
            match File::open(&path) {
                Ok(file) => {
                    self.open = Some((number, file));
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).io_context(|| format!("open {}", path.display())),
            }
        }
        Ok(false)
    }

    fn has_next(&self) -> bool {
        let number = self.open.as_ref().map_or(self.done, |(number, _)| *number);
        let is_last = self.end.is_some_and(|end| number >= end.number);
        let numbers = numbers(&self.folder);
        !is_last && numbers.last().is_some_and(|last| *last > number)
    }

    /// What the writer has written by now.
    fn written(&self) -> End {
        let number = numbers(&self.folder).last().copied().unwrap_or_default();
        let file = std::fs::metadata(path_of(&self.folder, number));
        End {
            number,
            size: file.map_or(0, |file| file.len()),
        }
    }

    fn end_file(&mut self) {
        if let Some((number, _)) = self.open.take() {
            self.done = number;
        }
        // A killed writer's half line.
        self.rest.clear();
    }

    /// Reads once; the number of bytes.
    fn read(&mut self, entries: &mut Vec<Entry>) -> Result<usize> {
        let Some((number, file)) = &mut self.open else {
            return Ok(0);
        };
        let what = || format!("read {}", path_of(&self.folder, *number).display());
        let mut room = CHUNK;
        if let Some(end) = self.end.filter(|end| end.number == *number) {
            let left = end
                .size
                .saturating_sub(file.stream_position().io_context(what)?);
            room = room.min(usize::try_from(left).unwrap_or(room));
        }
        let before = self.rest.len();
        self.rest.resize(before + room, 0);
        let read = file.read(self.rest.get_mut(before..).unwrap_or_default());
        let count = *read.as_ref().unwrap_or(&0);
        self.rest.truncate(before + count);
        read.io_context(what)?;
        if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
            let whole = self.rest.get(..end).unwrap_or_default();
            let lines = whole.split(|byte| *byte == b'\n');
            entries.extend(lines.filter_map(Entry::parse));
            self.rest.drain(..=end);
        } else if self.rest.len() > LONGEST {
            self.rest.clear();
        }
        Ok(count)
    }

    fn drain_notify(&self) {
        let mut buffer = [0u8; 4096];
        while let Some(notify) = &self.notify
            && matches!(rustix::io::read(notify, &mut buffer), Ok(read) if read > 0)
        {}
    }
}

/// Of entries the last `count` lines; pieces of one line count together.
fn last_lines(entries: VecDeque<Entry>, count: usize) -> Vec<Entry> {
    let mut open = [false; 2];
    let mut lines = 0;
    let mut kept = Vec::new();
    for entry in entries.into_iter().rev() {
        // Backwards a line begins with its end, or with what has none yet.
        if entry.whole || !open[entry.stream as usize] {
            if lines == count {
                break;
            }
            lines += 1;
        }
        open[entry.stream as usize] = true;
        kept.push(entry);
    }
    kept.reverse();
    kept
}
