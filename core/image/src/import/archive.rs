//! A layout or docker archive in a tar: one pass makes a table of its files,
//! which are then read where they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;

use containerkit::{Context as _, Error, IoContext, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::ImportOptions;
use super::source::{Opened, Source};
use crate::apply::clean_name;
use crate::layer::compression::{Compression, Expansion};
use crate::layer::entry::EntryKind;
use crate::layer::reader::{self, Reader};
use crate::limits::{Limits, exhausted};

/// Files of an archive; the largest real ones have some hundreds.
const FILES: u64 = 1 << 17;
/// Links in a row.
const LINKS: u32 = 8;

enum Place {
    File { offset: u64, size: u64 },
    Link(String),
    Other,
}

pub(super) struct Archive {
    file: File,
    table: HashMap<String, Place>,
}

impl Archive {
    pub(super) fn new(mut file: File, options: &ImportOptions) -> Result<Archive> {
        let mut start = [0u8; 4];
        let length = read_start(&file, &mut start)?;
        if Compression::detect(&start[..length])? != Compression::None {
            file = inflate(file, options)?;
        }
        let size = file.metadata().io_context(|| "stat it")?.len();
        if size == 0 {
            return Err(Error::data_loss("it is empty"));
        }
        let table = index(&mut file, size, &options.limits)?;
        Ok(Archive { file, table })
    }
}

fn read_start(file: &File, start: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < start.len() {
        match file.read_at(&mut start[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read it", error)),
        }
    }
    Ok(filled)
}

/// The plain form of a compressed archive, in a file that has no name.
fn inflate(file: File, options: &ImportOptions) -> Result<File> {
    let shown = || format!("make a file in {}", options.scratch.display());
    let mode = Mode::from_raw_mode(0o600);
    let fd = match rustix::fs::open(
        &options.scratch,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        mode,
    ) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let path = options
                .scratch
                .join(containerkit::fs::unique_name("inflate"));
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, mode).io_context(shown)?;
            std::fs::remove_file(&path).io_context(shown)?;
            fd
        }
        result => result.io_context(shown)?,
    };
    let mut plain = File::from(fd);
    let mut data = Expansion::new(file, &options.limits)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match data.read(&mut buffer)? {
            0 => break,
            read => plain
                .write_all(&buffer[..read])
                .io_context(|| format!("write to {}", options.scratch.display()))?,
        }
    }
    plain.rewind().io_context(|| "read it")?;
    Ok(plain)
}

struct Seeking<'a> {
    file: &'a mut File,
    position: u64,
    size: u64,
}

impl reader::Source for Seeking<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buf, self.position)?;
        self.position += read as u64;
        Ok(read)
    }

    fn skip(&mut self, count: u64) -> std::io::Result<()> {
        match self.position.checked_add(count) {
            Some(position) if position <= self.size => self.position = position,
            _ => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

fn index(file: &mut File, size: u64, limits: &Limits) -> Result<HashMap<String, Place>> {
    let limits = Limits {
        entries: limits.entries.min(FILES),
        ..limits.clone()
    };
    let mut reader = Reader::new(
        Seeking {
            file,
            position: 0,
            size,
        },
        &limits,
    );
    let mut table = HashMap::new();
    let mut names = 0usize;
    while let Some(entry) = reader.next()? {
        let shown = || format!("entry {}", crate::show(&entry.path));
        let Ok(name) = String::from_utf8(clean_name(&entry.path).context(shown)?) else {
            continue;
        };
        let place = match entry.kind {
            EntryKind::Directory => continue,
            EntryKind::File if entry.sparse.is_none() => Place::File {
                offset: reader.position(),
                size: entry.size,
            },
            // Old docker archives name a layer that two images share once,
            // and link to it: in-archive, and never followed on the host.
            EntryKind::Symlink => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                let target = [parent.as_bytes(), b"/", &entry.link].concat();
                match clean_name(&target).map(String::from_utf8) {
                    Ok(Ok(target)) if !entry.link.starts_with(b"/") => Place::Link(target),
                    _ => Place::Other,
                }
            }
            EntryKind::HardLink => match clean_name(&entry.link).map(String::from_utf8) {
                Ok(Ok(target)) => Place::Link(target),
                _ => Place::Other,
            },
            _ => Place::Other,
        };
        names += name.len();
        if names > 64 << 20 {
            return Err(exhausted("the names in it take more than 64 MiB"));
        }
        // As for tar itself, the last of a name counts.
        table.insert(name, place);
    }
    Ok(table)
}

impl Source for Archive {
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>> {
        let mut at = name;
        for _ in 0..=LINKS {
            match self.table.get(at) {
                None if at == name => return Ok(None),
                None => {
                    return Err(Error::invalid(format!(
                        "{} is a link to {}, which is not there",
                        containerkit::quote(name),
                        containerkit::quote(at)
                    )));
                }
                Some(Place::Link(target)) => at = target,
                Some(Place::Other) => break,
                Some(Place::File { offset, size }) => {
                    let section = Section {
                        file: &self.file,
                        offset: *offset,
                        end: offset + size,
                    };
                    return Ok(Some(Opened {
                        size: *size,
                        data: Box::new(section),
                    }));
                }
            }
        }
        Err(Error::invalid(format!(
            "{} is not a regular file",
            containerkit::quote(name)
        )))
    }
}

struct Section<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let part = (buf.len() as u64).min(self.end - self.offset) as usize;
        if part == 0 {
            return Ok(0);
        }
        match self.file.read_at(&mut buf[..part], self.offset)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.offset += read as u64;
                Ok(read)
            }
        }
    }
}
