//! The writing side: one process, which holds the container's lock.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use rustix::fs::{Mode, OFlags};

use super::line::{Stream, lines};
use super::{LogFiles, numbers, path_of};
use crate::error::{IoContext, Result};
use crate::fs::ensure_dir;
use crate::step::step;
use crate::value::Timestamp;

/// So much is gathered for one write.
const BATCH: usize = 32 << 10;

/// Appends a container's output to its files.
///
/// A disk that is full costs output, never the container: what cannot be
/// written is counted and lost, and the next line begins on a line of its own.
#[derive(Debug)]
pub struct Writer {
    files: LogFiles,
    file: File,
    number: u64,
    size: u64,
    /// The file ends in the middle of a line.
    torn: bool,
    /// Bytes that could not be written since the last that could.
    lost: u64,
    batch: Vec<u8>,
}

impl Writer {
    /// Goes on where an earlier run of the container ended.
    pub fn open(files: LogFiles) -> Result<Writer> {
        ensure_dir(&files.folder, 0o700)?;
        let number = numbers(&files.folder).last().copied().unwrap_or(1);
        let (file, size, torn) = open(&files, number)?;
        Ok(Writer {
            files,
            file,
            number,
            size,
            torn,
            lost: 0,
            batch: Vec::new(),
        })
    }

    /// Writes what was read at once from a stream.
    pub fn write(&mut self, stream: Stream, data: &[u8]) {
        let mut batch = std::mem::take(&mut self.batch);
        lines(stream, Timestamp::now(), data, |head, text| {
            batch.extend_from_slice(head);
            batch.extend_from_slice(text);
            batch.push(b'\n');
            if batch.len() >= BATCH {
                self.put(&batch);
                batch.clear();
            }
        });
        self.put(&batch);
        batch.clear();
        self.batch = batch;
    }

    /// Appends whole lines.
    fn put(&mut self, mut data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if self.size >= self.files.max_size {
            self.rotate();
        }
        if self.torn {
            self.torn = self.file.write_all(b"\n").is_err();
        }
        while !data.is_empty() {
            match self.file.write(data) {
                Ok(count) => {
                    data = data.get(count..).unwrap_or_default();
                    self.size += count as u64;
                    self.torn = !data.is_empty();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.lost == 0 {
                        log::warn!("the container's output is not logged: {error}");
                    }
                    self.lost += data.len() as u64;
                    return;
                }
            }
        }
        if self.lost > 0 {
            log::warn!("{} bytes of the container's log are lost", self.lost);
            self.lost = 0;
        }
    }

    /// Begins the next file. When that cannot be, this one goes on.
    fn rotate(&mut self) {
        step("log.rotate");
        match open(&self.files, self.number + 1) {
            Ok((file, size, torn)) => {
                self.file = file;
                self.number += 1;
                (self.size, self.torn) = (size, torn);
            }
            Err(error) => log::warn!("{error}"),
        }
        step("log.rotated");
        let kept = u64::from(self.files.max_file.max(1));
        for number in numbers(&self.files.folder) {
            if number + kept <= self.number {
                let _ = std::fs::remove_file(path_of(&self.files.folder, number));
            }
        }
    }
}

/// A file to append to, its size, and whether its last line is incomplete.
fn open(files: &LogFiles, number: u64) -> Result<(File, u64, bool)> {
    let path = path_of(&files.folder, number);
    let what = || format!("open {}", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file =
        File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).io_context(what)?);
    let size = file.metadata().io_context(what)?.len();
    let mut last = *b"\n";
    if size > 0 {
        file.seek(SeekFrom::Start(size - 1)).io_context(what)?;
        file.read_exact(&mut last).io_context(what)?;
    }
    Ok((file, size, last != *b"\n"))
}
