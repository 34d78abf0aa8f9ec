//! Appending, one process at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{Event, EventLog, Head, KEPT, LIMIT, LINE_LIMIT, VERSION, file};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::fs::ensure_dir;
use crate::process::boot_id;
use crate::step::step;
use crate::value::Timestamp;

impl EventLog {
    /// Appends an event and returns its number. The line is there whole or
    /// not at all, whoever is killed.
    pub fn append(&self, mut event: Event) -> Result<u64> {
        ensure_dir(&self.dir, 0o700)?;
        let lock = open(&self.dir.join("lock"), OFlags::empty())?;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock the event log", errno)),
            }
        }
        let path = self.current();
        let mut log = File::from(open(&path, OFlags::APPEND)?);
        let what = || format!("event log {}", path.display());
        let mut last = None;
        match state(&mut log, &path)? {
            State::Empty => begin(&mut log, &path)?,
            State::OtherBoot => {
                self.remove_all();
                log = File::from(open(&path, OFlags::APPEND)?);
                begin(&mut log, &path)?;
            }
            State::Holds { end } => {
                // What a killed process had begun to write.
                if log.metadata().io_context(what)?.len() > end {
                    log.set_len(end).io_context(what)?;
                }
                last = tail(&log, end)?;
                if last.is_none() {
                    // A file that was just begun follows the one before it.
                    let before = File::open(file(&self.dir, 1));
                    last = match before {
                        Ok(before) => {
                            let end = before.metadata().io_context(what)?.len();
                            tail(&before, end)?
                        }
                        Err(_) => None,
                    };
                }
                if end >= LIMIT {
                    self.rotate()?;
                    log = File::from(open(&path, OFlags::APPEND)?);
                    begin(&mut log, &path)?;
                }
            }
        }
        event.seq = last.as_ref().map_or(1, |last| last.seq + 1);
        event.time = Timestamp::now().max(last.map_or(event.time, |last| last.time));
        let mut line = serde_json::to_vec(&event)
            .map_err(|error| Error::internal("encode an event").with_source(error))?;
        line.push(b'\n');
        if line.len() > LINE_LIMIT {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("an event of {} bytes, at most {LINE_LIMIT}", line.len()),
            ));
        }
        step("event.write");
        log.write_all(&line).io_context(what)?;
        step("event.written");
        Ok(event.seq)
    }

    fn rotate(&self) -> Result<()> {
        for age in (0..KEPT).rev() {
            step("event.rotate");
            match std::fs::rename(file(&self.dir, age), file(&self.dir, age + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("rotate the event log", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remove_all(&self) {
        for age in (0..=KEPT).rev() {
            let _ = std::fs::remove_file(file(&self.dir, age));
        }
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .io_context(|| format!("open {}", path.display()))
}

enum State {
    Empty,
    /// Whole lines up to here.
    Holds {
        end: u64,
    },
    OtherBoot,
}

fn state(log: &mut File, path: &Path) -> Result<State> {
    let what = || format!("read {}", path.display());
    let size = log.metadata().io_context(what)?.len();
    let mut start = Vec::new();
    log.seek(SeekFrom::Start(0)).io_context(what)?;
    log.take(512).read_to_end(&mut start).io_context(what)?;
    let Some(line) = start.split_inclusive(|byte| *byte == b'\n').next() else {
        return Ok(State::Empty);
    };
    let Some(line) = line.strip_suffix(b"\n") else {
        // Not even its head was finished.
        log.set_len(0).io_context(what)?;
        return Ok(State::Empty);
    };
    if head(line, path)?.boot_id != boot_id()? {
        return Ok(State::OtherBoot);
    }
    let mut cut = 0;
    for window in [WINDOW, LINE_LIMIT as u64] {
        let bytes = before(log, size, window).io_context(what)?;
        cut = bytes.iter().rev().take_while(|b| **b != b'\n').count();
        if cut < bytes.len() {
            break;
        }
    }
    Ok(State::Holds {
        end: size.saturating_sub(cut as u64),
    })
}

/// What is read of a log's end at first: a few lines as most are.
const WINDOW: u64 = 4 << 10;

/// The bytes before `end`, at most so many.
fn before(log: &File, end: u64, window: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; end.min(window) as usize];
    log.read_exact_at(&mut bytes, end.saturating_sub(window))?;
    Ok(bytes)
}

/// Understands a head; a newer version is refused.
pub(super) fn head(line: &[u8], path: &Path) -> Result<Head> {
    let head: Head = serde_json::from_slice(line).map_err(|error| {
        Error::data_loss(format!("{}: its head cannot be understood", path.display()))
            .with_source(error)
            .with_hint("remove that file: only the list of past events is lost")
    })?;
    if head.version == 0 || head.version > VERSION {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "{} has version {}, this program knows up to {VERSION}",
                path.display(),
                head.version
            ),
        ));
    }
    Ok(head)
}

fn begin(log: &mut File, path: &Path) -> Result<()> {
    let head = Head {
        version: VERSION,
        boot_id: boot_id()?,
    };
    let mut line = serde_json::to_vec(&head)
        .map_err(|error| Error::internal("encode a head").with_source(error))?;
    line.push(b'\n');
    log.write_all(&line)
        .io_context(|| format!("write {}", path.display()))
}

/// The last event that ends at `end`.
fn tail(log: &File, end: u64) -> Result<Option<Event>> {
    for window in [WINDOW, 2 * LINE_LIMIT as u64] {
        let bytes = before(log, end, window).io_context(|| "read the end of the event log")?;
        let mut lines = bytes.split(|byte| *byte == b'\n').rev();
        let last = lines.find_map(|line| serde_json::from_slice(line).ok());
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}
