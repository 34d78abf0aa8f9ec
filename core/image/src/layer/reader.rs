//! Reads entries one after another.
//!
//! Blocks are taken here and not by the `tar` crate, whose raw entries know
//! no PAX size: header and extension would then disagree on where the next
//! header begins. Its `Header` does the field layouts.

use std::io::Read;

use containerkit::{Error, ErrorKind, Result};
use tar::Header;

use super::entry::{Entry, EntryKind};
use super::number::{signed, unsigned};
use super::pax::{self, Pax};
use super::sparse;
use crate::limits::{Limits, exhausted};

const BLOCK: u64 = 512;

/// A source that can pass over bytes.
pub(crate) trait Source {
    /// As `Read::read`.
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize>;
    /// Passes over just so many bytes, or fails with `UnexpectedEof`.
    fn skip(&mut self, count: u64) -> std::io::Result<()>;
}

/// A stream: passing over is reading.
impl Source for &mut dyn Read {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        (**self).read(buf)
    }

    fn skip(&mut self, mut count: u64) -> std::io::Result<()> {
        let mut buf = [0u8; 16 << 10];
        while count > 0 {
            let part = count.min(buf.len() as u64) as usize;
            match (**self).read(&mut buf[..part]) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => count -= read as u64,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The entries of a tar stream.
pub(crate) struct Reader<S> {
    source: S,
    limits: Limits,
    entries: u64,
    /// Bytes taken from the source.
    position: u64,
    /// Bytes of the current entry's data that are left, and its padding.
    data: u64,
    padding: u64,
}

enum Block {
    Header(Box<Header>),
    End,
}

impl<S: Source> Reader<S> {
    pub(crate) fn new(source: S, limits: &Limits) -> Reader<S> {
        Reader {
            source,
            limits: limits.clone(),
            entries: 0,
            position: 0,
            data: 0,
            padding: 0,
        }
    }

    /// Entries so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes so far; after `next`, the offset of the entry's data.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; what is left of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip(self.data + self.padding)?;
        self.data = 0;
        self.padding = 0;

        let mut pax: Option<Pax> = None;
        let mut name: Option<Vec<u8>> = None;
        let mut link: Option<Vec<u8>> = None;
        let mut metadata = 0u64;
        loop {
            let header = match self.block()? {
                Block::Header(header) => header,
                Block::End if pax.is_some() || name.is_some() || link.is_some() => {
                    return Err(Error::data_loss(
                        "the archive ends after an extended header",
                    ));
                }
                Block::End => return Ok(None),
            };
            let flag = header.as_old().linkflag[0];
            match flag {
                b'x' | b'g' | b'L' | b'K' => {
                    let size = unsigned(&header.as_old().size, "size of an extended header")?;
                    metadata = metadata.saturating_add(size);
                    if metadata > self.limits.metadata {
                        return Err(exhausted(format!(
                            "the headers of an entry take more than the {} bytes allowed",
                            self.limits.metadata
                        )));
                    }
                    let body = self.body(size)?;
                    let twice = || Error::invalid("an entry has two extended headers of one kind");
                    match flag {
                        b'x' if pax.is_some() => return Err(twice()),
                        b'x' => pax = Some(pax::parse(&body)?),
                        b'g' => global(&body)?,
                        b'L' if name.is_some() => return Err(twice()),
                        b'L' => name = Some(until_nul(&body).to_vec()),
                        _ if link.is_some() => return Err(twice()),
                        _ => link = Some(until_nul(&body).to_vec()),
                    }
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        return Err(exhausted(format!(
                            "there are more than the {} entries allowed",
                            self.limits.entries
                        )));
                    }
                    let mut pax = pax.unwrap_or_default();
                    let path = name
                        .or_else(|| pax.sparse.name.take())
                        .or_else(|| pax.path.take())
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = link.or_else(|| pax.link.take()).unwrap_or_else(|| {
                        header
                            .link_name_bytes()
                            .map(|link| link.into_owned())
                            .unwrap_or_default()
                    });
                    let shown = crate::show(&path);
                    return self
                        .entry(&header, path, link, pax)
                        .map(Some)
                        .map_err(|error| error.context(format!("entry {shown}")));
                }
            }
        }
    }

    fn entry(&mut self, header: &Header, path: Vec<u8>, link: Vec<u8>, pax: Pax) -> Result<Entry> {
        let old = header.as_old();
        let stored = match pax.size {
            Some(size) => size,
            None => unsigned(&old.size, "size")?,
        };
        let device = |kind: fn(u32, u32) -> EntryKind| -> Result<EntryKind> {
            // In every format that has device entries, at the same place.
            let bytes = header.as_bytes();
            let part = |field: &[u8], what: &str, most: u64| {
                unsigned(field, what).and_then(|number| match number {
                    number if number <= most => Ok(number as u32),
                    _ => Err(Error::invalid(format!("the {what} is too large"))),
                })
            };
            Ok(kind(
                part(&bytes[329..337], "major number", 0xfff)?,
                part(&bytes[337..345], "minor number", 0xf_ffff)?,
            ))
        };
        let kind = match old.linkflag[0] {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => device(|major, minor| EntryKind::CharDevice { major, minor })?,
            b'4' => device(|major, minor| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(Error::invalid(format!(
                    "it has the unknown type {}",
                    crate::show(&[other])
                )));
            }
        };
        if kind != EntryKind::File && stored != 0 {
            // Readers disagree on whether such data are there.
            return Err(Error::invalid(format!(
                "it is not a file and claims {stored} bytes of data"
            )));
        }
        let id = |value: Option<u64>, field: &[u8], what: &str| -> Result<u32> {
            let value = match value {
                Some(value) => value,
                None => unsigned(field, what)?,
            };
            // The highest number means "leave as it is" to chown.
            match u32::try_from(value) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(Error::invalid(format!("the {what} {value} is too large"))),
            }
        };
        let uid = id(pax.uid, &old.uid, "user id")?;
        let gid = id(pax.gid, &old.gid, "group id")?;
        let mode = unsigned(&old.mode, "mode")? as u32 & 0o7777;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (signed(&old.mtime, "time")?, 0),
        };
        self.data = stored;
        self.padding = (BLOCK - stored % BLOCK) % BLOCK;
        let (size, sparse) = match old.linkflag[0] {
            b'S' => self.gnu_sparse(header, stored)?,
            _ if pax.sparse.used && kind == EntryKind::File => {
                self.pax_sparse(&pax.sparse, stored)?
            }
            _ => (stored, None),
        };
        if size > self.limits.bytes {
            return Err(exhausted(format!(
                "it has {size} bytes, more than the {} allowed",
                self.limits.bytes
            )));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(Error::invalid("a name holds a NUL"));
        }
        Ok(Entry {
            kind,
            path,
            link,
            size,
            mode,
            uid,
            gid,
            mtime,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    #[allow(clippy::type_complexity)]
    fn gnu_sparse(
        &mut self,
        header: &Header,
        stored: u64,
    ) -> Result<(u64, Option<Vec<(u64, u64)>>)> {
        if header.as_gnu().is_none() {
            return Err(Error::invalid(
                "it is sparse in a format without sparse files",
            ));
        }
        let bytes = header.as_bytes();
        let size = unsigned(&bytes[483..495], "size")?;
        let mut map = sparse::Map::default();
        sparse::gnu_pairs(&mut map, &bytes[386..482])?;
        let mut more = bytes[482] != 0;
        // Extents are bounded by the map, and empty blocks by the metadata.
        let mut blocks = 0u64;
        while more {
            let mut block = [0u8; 512];
            self.fill(&mut block)?;
            blocks += 1;
            if blocks * BLOCK > self.limits.metadata.max(32 << 20) {
                return Err(Error::invalid("a sparse map is malformed"));
            }
            sparse::gnu_pairs(&mut map, &block[..504])?;
            more = block[504] != 0;
        }
        Ok((size, Some(map.finish(size, stored)?)))
    }

    #[allow(clippy::type_complexity)]
    fn pax_sparse(
        &mut self,
        records: &pax::Sparse,
        stored: u64,
    ) -> Result<(u64, Option<Vec<(u64, u64)>>)> {
        let malformed = || Error::invalid("a sparse map is malformed");
        let size = records.size.ok_or_else(malformed)?;
        let map = match (records.major, records.minor) {
            (None, None) | (Some(0), Some(0 | 1)) => sparse::from_records(records)?,
            (Some(1), Some(0)) => {
                let (map, used) = sparse::from_data(|| {
                    let mut block = [0u8; 512];
                    if self.data < BLOCK {
                        return Err(malformed());
                    }
                    self.fill(&mut block)?;
                    self.data -= BLOCK;
                    Ok(block)
                })?;
                return Ok((size, Some(map.finish(size, stored - used)?)));
            }
            _ => return Err(Error::invalid("its sparse format is not known")),
        };
        Ok((size, Some(map.finish(size, stored)?)))
    }

    /// Reads data of the current entry; 0 at its end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let part = self.data.min(buf.len() as u64) as usize;
        if part == 0 {
            return Ok(0);
        }
        loop {
            match self.source.read(&mut buf[..part]) {
                Ok(0) => return Err(truncated()),
                Ok(read) => {
                    self.data -= read as u64;
                    self.position += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Reads what follows the archive, to the end of the source.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let mut buf = vec![0u8; 64 << 10];
        loop {
            match self.source.read(&mut buf) {
                Ok(0) => return Ok(()),
                Ok(read) => self.position += read as u64,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
            if self.position > self.limits.bytes {
                return Err(exhausted(format!(
                    "it holds more than the {} bytes allowed",
                    self.limits.bytes
                )));
            }
        }
    }

    fn block(&mut self) -> Result<Block> {
        let mut header = Box::new(Header::new_old());
        // Ending where a header would begin is an end, even without the two
        // blocks of zeros that should be there.
        if !self.fill_or_end(header.as_mut_bytes())? {
            return Ok(Block::End);
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            let mut second = [0u8; 512];
            if self.fill_or_end(&mut second)? && second.iter().any(|b| *b != 0) {
                return Err(Error::invalid(
                    "a lone block of zeros stands between the archive's entries",
                ));
            }
            return Ok(Block::End);
        }
        let bytes = header.as_bytes();
        let claimed = unsigned(&bytes[148..156], "checksum").ok();
        let spaced = bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]);
        let (mut sum, mut signed_sum) = (0u64, 0i64);
        for byte in spaced {
            sum += u64::from(*byte);
            signed_sum += i64::from(*byte as i8);
        }
        // Historic writers summed signed bytes.
        if claimed != Some(sum) && claimed != u64::try_from(signed_sum).ok() {
            return Err(Error::data_loss(format!(
                "a header's checksum is wrong at byte {}",
                self.position - BLOCK
            ))
            .with_hint("it is not a tar archive, or is damaged"));
        }
        Ok(Block::Header(header))
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut body = vec![0; size as usize];
        self.fill(&mut body)?;
        self.skip((BLOCK - size % BLOCK) % BLOCK)?;
        Ok(body)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        match buf.is_empty() || self.fill_or_end(buf)? {
            true => Ok(()),
            false => Err(truncated()),
        }
    }

    /// `false`: the source had ended already.
    fn fill_or_end(&mut self, buf: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.source.read(&mut buf[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(truncated()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.position += filled as u64;
        if self.position > self.limits.bytes {
            return Err(exhausted(format!(
                "it holds more than the {} bytes allowed",
                self.limits.bytes
            )));
        }
        Ok(true)
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.source
            .skip(count)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => truncated(),
                _ => failed(error),
            })?;
        self.position += count;
        Ok(())
    }
}

/// A global header may carry comments; one that would rename or resize every
/// entry after it is honoured by some readers and ignored by others.
fn global(body: &[u8]) -> Result<()> {
    let pax = pax::parse(body)?;
    if pax.path.is_some() || pax.link.is_some() || pax.size.is_some() || pax.sparse.used {
        return Err(Error::invalid("a global header sets a path or a size"));
    }
    Ok(())
}

fn until_nul(body: &[u8]) -> &[u8] {
    body.split(|b| *b == 0).next().unwrap_or_default()
}

fn truncated() -> Error {
    Error::data_loss("the archive is cut off")
}

fn failed(error: std::io::Error) -> Error {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(inner) => inner.clone(),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => truncated(),
        None => Error::io("read the archive", error).with_kind(ErrorKind::DataLoss),
    }
}
