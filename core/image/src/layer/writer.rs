//! A tar stream written entry by entry: POSIX ustar headers, and PAX records
//! for what does not fit into one. The same entries make the same bytes; no
//! name of a user, a host or a process is in them.

use std::io::Write;

use containerkit::{Error, Result};
use tar::Header;

use super::entry::{Entry, EntryKind};

const BLOCK: u64 = 512;
/// The end of an archive, and what pads the longest block.
const ZEROS: [u8; 1024] = [0; 1024];

/// Writes entries, each followed by its data.
pub(crate) struct Writer<W> {
    out: W,
    /// Bytes of the entry's data that are still to come.
    left: u64,
    padding: u64,
    written: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Writer<W> {
        Writer {
            out,
            left: 0,
            padding: 0,
            written: 0,
        }
    }

    /// Begins an entry. The data of a file follow by [`Writer::data`]: of a
    /// sparse one those of its extents, one after the other.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.close()?;
        let mut records = Vec::new();
        let mut map = Vec::new();
        let mut name = entry.path.clone();
        let mut size = match entry.kind {
            EntryKind::File => entry.size,
            _ => 0,
        };
        if let Some(extents) = &entry.sparse {
            map = sparse_map(extents, size);
            record(&mut records, b"GNU.sparse.major", b"1");
            record(&mut records, b"GNU.sparse.minor", b"0");
            record(&mut records, b"GNU.sparse.name", &entry.path);
            record(&mut records, b"GNU.sparse.realsize", &decimal(size));
            size = map.len() as u64 + extents.iter().map(|(_, length)| length).sum::<u64>();
            // A reader that does not know the form shall not take the data for
            // the file.
            name = [&b"GNUSparseFile.0/"[..], last(&name)].concat();
        } else if name.len() > 100 || !name.is_ascii() {
            record(&mut records, b"path", &name);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            record(&mut records, b"linkpath", &entry.link);
        }
        let mut header = header(entry, &name, size, &mut records);
        for (name, value) in &entry.xattrs {
            if name.contains(&b'=') {
                return Err(Error::invalid(format!(
                    "the extended attribute {} has a name with an equals sign, which ends names in a layer",
                    crate::show(name)
                )));
            }
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            let name = [&b"PaxHeaders.0/"[..], last(&entry.path)].concat();
            let mut extended = Header::new_ustar();
            put(&mut extended, 0..100, &name);
            octal(&mut extended, 100..108, 0o644);
            octal(&mut extended, 108..116, 0);
            octal(&mut extended, 116..124, 0);
            octal(&mut extended, 124..136, records.len() as u64);
            octal(&mut extended, 136..148, 0);
            extended.as_mut_bytes()[156] = b'x';
            extended.set_cksum();
            self.write(extended.as_bytes())?;
            self.write(&records)?;
            self.pad(padding(records.len() as u64))?;
        }
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.left = size;
        self.padding = padding(size);
        if !map.is_empty() {
            self.data(&map)?;
        }
        Ok(())
    }

    /// A part of the current entry's data.
    pub(crate) fn data(&mut self, part: &[u8]) -> Result<()> {
        self.left = self
            .left
            .checked_sub(part.len() as u64)
            .ok_or_else(|| Error::internal("an entry of a layer gets too many data"))?;
        self.write(part)
    }

    /// Ends the archive; the bytes of the whole.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.close()?;
        self.write(&ZEROS)?;
        self.out.flush().map_err(failed)?;
        Ok(self.written)
    }

    fn close(&mut self) -> Result<()> {
        if self.left != 0 {
            return Err(Error::internal("an entry of a layer gets too few data"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.pad(padding)
    }

    fn pad(&mut self, count: u64) -> Result<()> {
        self.write(&ZEROS[..count as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(failed)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// What the sink below says is more than that writing failed.
pub(crate) fn failed(error: std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(inner) => Error::clone(inner),
        None => Error::io("write the archive", error),
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// The last component, which is what other tools put into names that no
/// reader uses.
fn last(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn header(entry: &Entry, name: &[u8], size: u64, records: &mut Vec<u8>) -> Header {
    let mut header = Header::new_ustar();
    put(&mut header, 0..100, name);
    octal(&mut header, 100..108, entry.mode.into());
    number(&mut header, 108..116, entry.uid.into(), b"uid", records);
    number(&mut header, 116..124, entry.gid.into(), b"gid", records);
    number(&mut header, 124..136, size, b"size", records);
    let (seconds, nanos) = entry.mtime;
    match u64::try_from(seconds) {
        Ok(whole) if nanos == 0 && whole < 1 << 33 => octal(&mut header, 136..148, whole),
        whole => {
            octal(&mut header, 136..148, whole.unwrap_or(0).min((1 << 33) - 1));
            record(records, b"mtime", &time(entry.mtime));
        }
    }
    let (flag, device) = match entry.kind {
        EntryKind::File => (b'0', None),
        EntryKind::HardLink => (b'1', None),
        EntryKind::Symlink => (b'2', None),
        EntryKind::CharDevice { major, minor } => (b'3', Some((major, minor))),
        EntryKind::BlockDevice { major, minor } => (b'4', Some((major, minor))),
        EntryKind::Directory => (b'5', None),
        EntryKind::Fifo => (b'6', None),
    };
    header.as_mut_bytes()[156] = flag;
    put(&mut header, 157..257, &entry.link);
    if let Some((major, minor)) = device {
        octal(&mut header, 329..337, major.into());
        octal(&mut header, 337..345, minor.into());
    }
    header
}

fn put(header: &mut Header, field: std::ops::Range<usize>, bytes: &[u8]) {
    let field = &mut header.as_mut_bytes()[field];
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// As many octal digits as there is room for, and a NUL.
fn octal(header: &mut Header, field: std::ops::Range<usize>, value: u64) {
    let digits = field.len() - 1;
    put(header, field, format!("{value:0digits$o}").as_bytes());
}

/// A number where it fits, else a record.
fn number(
    header: &mut Header,
    field: std::ops::Range<usize>,
    value: u64,
    key: &[u8],
    records: &mut Vec<u8>,
) {
    if value < 1 << (3 * (field.len() - 1)) {
        octal(header, field, value);
    } else {
        octal(header, field, 0);
        record(records, key, &decimal(value));
    }
}

fn decimal(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// `[-]SECONDS[.FRACTION]`, without zeros at the end.
fn time((seconds, nanos): (i64, u32)) -> Vec<u8> {
    let (sign, seconds, nanos) = match (seconds < 0, nanos) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, nanos) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        (false, nanos) => ("", seconds.unsigned_abs(), nanos),
    };
    let text = match nanos {
        0 => format!("{sign}{seconds}"),
        nanos => format!("{sign}{seconds}.{nanos:09}"),
    };
    match nanos {
        0 => text.into_bytes(),
        _ => text.trim_end_matches('0').as_bytes().to_vec(),
    }
}

/// `LENGTH KEY=VALUE\n`, the length being that of all of it.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The map of the form 1.0: decimal lines, padded to a block. The extent of
/// nothing at the end tells GNU tar how long the file is.
fn sparse_map(extents: &[(u64, u64)], size: u64) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len() + 1).into_bytes();
    for (offset, length) in extents.iter().chain(&[(size, 0)]) {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len() + padding(map.len() as u64) as usize, 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::reader::Reader;
    use crate::limits::Limits;

    fn entry(kind: EntryKind, path: &[u8]) -> Entry {
        Entry {
            kind,
            path: path.to_vec(),
            link: Vec::new(),
            size: 0,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Default::default(),
            sparse: None,
        }
    }

    /// What is read back of one entry and its data.
    fn round(entry: &Entry, data: &[u8]) -> (Entry, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.entry(entry).expect("entry");
        writer.data(data).expect("data");
        let written = writer.finish().expect("finish");
        assert_eq!(written, bytes.len() as u64);
        assert_eq!(written % 512, 0);
        let limits = Limits::default();
        let mut source = &bytes[..];
        let mut reader = Reader::new(&mut source as &mut dyn std::io::Read, &limits);
        let found = reader.next().expect("read").expect("an entry");
        let mut read = vec![0; data.len() + 1];
        let mut length = 0;
        loop {
            match reader.read(&mut read[length..]).expect("data") {
                0 => break,
                part => length += part,
            }
        }
        read.truncate(length);
        assert!(reader.next().expect("end").is_none());
        (found, read)
    }

    #[test]
    fn what_does_not_fit_a_header_comes_back() {
        let long = [b'n'; 300];
        for (path, link, id, mtime) in [
            (&b"short"[..], &b""[..], 1000, (1_700_000_000, 0)),
            (&long, &long, u32::MAX - 1, (1 << 40, 123_456_789)),
            (
                b"\xff\xfe new\nline",
                b"../\x80",
                1 << 21,
                (-2, 500_000_000),
            ),
            (b"old", b"", 0, (-1, 0)),
            (b"tenth", b"", 0, (1, 100_000_000)),
        ] {
            let mut symlink = entry(EntryKind::Symlink, path);
            symlink.link = link.to_vec();
            (symlink.uid, symlink.gid, symlink.mtime) = (id, id, mtime);
            symlink
                .xattrs
                .insert(b"user.a".to_vec(), b"1\n2=\0".to_vec());
            let (found, _) = round(&symlink, b"");
            assert_eq!(found.path, symlink.path);
            assert_eq!(found.link, symlink.link);
            assert_eq!((found.uid, found.gid), (id, id));
            assert_eq!(found.mtime, mtime);
            assert_eq!(found.xattrs, symlink.xattrs);
        }
    }

    #[test]
    fn a_sparse_file_comes_back_with_its_extents() {
        let mut file = entry(EntryKind::File, b"d/sparse");
        file.size = 1 << 37;
        file.sparse = Some(vec![(4096, 3), (1 << 30, 2)]);
        let (found, data) = round(&file, b"abcde");
        assert_eq!(found.path, b"d/sparse");
        assert_eq!(found.size, 1 << 37);
        assert_eq!(found.sparse, file.sparse);
        assert_eq!(data, b"abcde");
    }

    #[test]
    fn whatever_is_written_is_read_again() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..3000 {
            let mut bytes = |most: u64| -> Vec<u8> {
                let length = 1 + random(most);
                (0..length).map(|_| 1 + random(255) as u8).collect()
            };
            // A name that ends in a slash, and some of a header's own letters.
            let mut written = entry(EntryKind::Symlink, &bytes(180));
            written.link = bytes(180);
            let mut name = bytes(100);
            name.retain(|b| *b != b'=');
            name.push(b'x');
            written.xattrs.insert(name, bytes(900));
            (written.uid, written.gid) = (random(1 << 31) as u32, random(1 << 22) as u32);
            written.mode = random(0o10000) as u32;
            written.mtime = (
                random(1 << 31) as i64 - (1 << 20),
                random(1_000_000_000) as u32,
            );
            let (read, _) = round(&written, b"");
            assert_eq!(format!("{read:?}"), format!("{written:?}"));
        }
    }

    #[test]
    fn an_attribute_that_cannot_be_told_is_refused() {
        let mut file = entry(EntryKind::File, b"f");
        file.xattrs.insert(b"user.a=b".to_vec(), b"c".to_vec());
        assert!(Writer::new(Vec::new()).entry(&file).is_err());
    }

    #[test]
    fn the_announced_size_is_held_to() {
        let mut file = entry(EntryKind::File, b"f");
        file.size = 2;
        let mut writer = Writer::new(Vec::new());
        writer.entry(&file).expect("entry");
        assert!(writer.data(b"abc").is_err());
        writer.data(b"a").expect("data");
        assert!(writer.finish().is_err());
    }
}
