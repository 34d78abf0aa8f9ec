//! What a layer or an archive is compressed with, told from its first bytes.
//!
//! A [`Stream`] inflates on one thread and hashes what comes out on a second,
//! and hands it over in a bounded queue, so that inflating, hashing and writing
//! files run side by side in a few megabytes. Buffers go round.

use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use containerkit::{Algorithm, Digest, Error, ErrorKind, Result};

use crate::limits::Limits;

const BUFFER: usize = 256 << 10;
/// Bytes that tell the compression.
const MAGIC: usize = 4;
/// Buffers between two threads.
const QUEUE: usize = 4;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Plain bytes.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// The compression of data that begin so; [`MAGIC`] bytes are enough. `None` in
    /// the result is for formats that are known and not supported.
    pub(crate) fn detect(start: &[u8]) -> Result<Compression> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            // A frame to be skipped, which may stand before the others.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', ..] => Err(unsupported("xz")),
            _ => Ok(Compression::None),
        }
    }

    /// The name, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::None => "not compressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

fn unsupported(name: &str) -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        format!("it is compressed with {name}; want gzip, zstd or none"),
    )
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Inflated data of `source`, decoded where the caller reads.
fn decoder(mut source: impl Read + Send + 'static) -> Result<(Compression, Box<dyn Read + Send>)> {
    // A source may give its first bytes one at a time.
    let mut start = Vec::with_capacity(MAGIC);
    source
        .by_ref()
        .take(MAGIC as u64)
        .read_to_end(&mut start)
        .map_err(|error| Error::io("read the beginning", error))?;
    let compression = Compression::detect(&start)?;
    let source = BufReader::with_capacity(BUFFER, std::io::Cursor::new(start).chain(source));
    let reader: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)
                .map_err(|error| Error::io("begin decompressing", error))?;
            // 128 MiB, what the command line tool takes without being told.
            decoder
                .window_log_max(27)
                .map_err(|error| Error::io("begin decompressing", error))?;
            Box::new(decoder)
        }
    };
    Ok((compression, reader))
}

/// Inflated data where the caller reads, bounded.
pub(crate) struct Expansion {
    reader: Box<dyn Read + Send>,
    compression: Compression,
    compressed: Arc<AtomicU64>,
    expanded: u64,
    limits: Limits,
}

impl Expansion {
    pub(crate) fn new(source: impl Read + Send + 'static, limits: &Limits) -> Result<Expansion> {
        let compressed = Arc::new(AtomicU64::new(0));
        let (compression, reader) = decoder(Counted {
            inner: source,
            count: compressed.clone(),
        })?;
        Ok(Expansion {
            reader,
            compression,
            compressed,
            expanded: 0,
            limits: limits.clone(),
        })
    }

    /// Fills the buffer as far as there are data; 0 at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.reader.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match error.get_ref().and_then(|e| e.downcast_ref()) {
                        Some(inner) => Error::clone(inner),
                        None => Error::io("its compressed data are damaged", error)
                            .with_kind(ErrorKind::DataLoss),
                    });
                }
            }
        }
        self.expanded += filled as u64;
        self.limits
            .check_expansion(self.compressed.load(Ordering::Relaxed), self.expanded)?;
        Ok(filled)
    }
}

enum Part {
    Data(Vec<u8>),
    End(Digest),
    Failed(Error),
}

/// What comes out of the decompressor; an empty part is the end.
type Inflated = Result<Vec<u8>>;

/// An inflated stream with its digest.
pub(crate) struct Stream {
    parts: Option<Receiver<Part>>,
    /// Where a buffer goes when it is read.
    spent: SyncSender<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
    current: Vec<u8>,
    offset: usize,
    digest: Option<Digest>,
    failed: Option<Error>,
    compression: Compression,
    taken: Arc<AtomicU64>,
}

impl Stream {
    /// Begins inflating; `algorithm` is that of [`Stream::finish`].
    pub(crate) fn new(
        source: impl Read + Send + 'static,
        algorithm: Algorithm,
        limits: &Limits,
    ) -> Result<Stream> {
        let source = Expansion::new(source, limits)?;
        let compression = source.compression;
        let taken = source.compressed.clone();
        let (inflated, to_hash) = sync_channel(QUEUE);
        let (hashed, parts) = sync_channel(QUEUE);
        // As many as there can be.
        let (spent, empty) = sync_channel(2 * QUEUE + 3);
        let mut stream = Stream {
            parts: Some(parts),
            spent,
            threads: Vec::new(),
            current: Vec::new(),
            offset: 0,
            digest: None,
            failed: None,
            compression,
            taken,
        };
        stream.spawn("hash", move || hash(&to_hash, algorithm, &hashed))?;
        stream.spawn("inflate", move || inflate(source, &empty, &inflated))?;
        Ok(stream)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(body)
            .map_err(|error| Error::io("start a thread", error))?;
        self.threads.push(thread);
        Ok(())
    }

    /// What the source is compressed with.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of the source that were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Reads to the end; the digest of everything that came out.
    pub(crate) fn finish(mut self) -> Result<Digest> {
        while self.advance()? {}
        self.digest
            .take()
            .ok_or_else(|| Error::internal("a stream ended without a digest"))
    }

    /// The next part; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.digest.is_some() {
            return Ok(false);
        }
        let part = self.parts.as_ref().and_then(|parts| parts.recv().ok());
        let error = match part {
            Some(Part::Data(data)) => {
                let spent = std::mem::replace(&mut self.current, data);
                let _ = self.spent.try_send(spent);
                self.offset = 0;
                return Ok(true);
            }
            Some(Part::End(digest)) => {
                self.current.clear();
                self.offset = 0;
                self.digest = Some(digest);
                return Ok(false);
            }
            Some(Part::Failed(error)) => error,
            None => Error::internal("the inflating thread ended early"),
        };
        self.failed = Some(error.clone());
        Err(error)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.offset == self.current.len() {
            if !self.advance().map_err(std::io::Error::other)? {
                return Ok(0);
            }
        }
        let part = buf.len().min(self.current.len() - self.offset);
        buf[..part].copy_from_slice(&self.current[self.offset..self.offset + part]);
        self.offset += part;
        Ok(part)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The hashing thread's next send fails, and it ends; then the other's.
        self.parts = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn inflate(mut source: Expansion, empty: &Receiver<Vec<u8>>, inflated: &SyncSender<Inflated>) {
    loop {
        let mut data = empty.try_recv().unwrap_or_default();
        data.resize(BUFFER, 0);
        let part = source.read(&mut data).map(|read| {
            data.truncate(read);
            data
        });
        let last = part.as_ref().map_or(true, Vec::is_empty);
        if inflated.send(part).is_err() || last {
            return;
        }
    }
}

fn hash(inflated: &Receiver<Inflated>, algorithm: Algorithm, hashed: &SyncSender<Part>) {
    let mut hasher = algorithm.hasher();
    while let Ok(part) = inflated.recv() {
        let part = match part {
            Ok(data) if data.is_empty() => {
                let _ = hashed.send(Part::End(hasher.finish()));
                return;
            }
            Ok(data) => {
                hasher.update(&data);
                Part::Data(data)
            }
            Err(error) => Part::Failed(error),
        };
        if hashed.send(part).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("gzip");
        encoder.finish().expect("gzip")
    }

    fn read_all(source: Vec<u8>, limits: &Limits) -> Result<(Vec<u8>, Digest)> {
        let mut stream = Stream::new(std::io::Cursor::new(source), Algorithm::Sha256, limits)?;
        let mut data = Vec::new();
        stream
            .read_to_end(&mut data)
            .map_err(|error| Error::io("read", error))?;
        Ok((data, stream.finish()?))
    }

    #[test]
    fn each_compression_is_told_by_its_magic() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let zstd = zstd::stream::encode_all(&data[..], 1).expect("zstd");
        let mut members = gzip(&data[..1000]);
        members.extend(gzip(&data[1000..]));
        for source in [data.clone(), gzip(&data), zstd, members] {
            let (read, digest) = read_all(source, &Limits::default()).expect("read");
            assert_eq!(read.len(), data.len());
            assert!(read == data);
            assert_eq!(digest, Algorithm::Sha256.digest(&data));
        }
        assert!(
            read_all(Vec::new(), &Limits::default())
                .expect("empty")
                .0
                .is_empty()
        );
    }

    #[test]
    fn a_source_may_begin_byte_by_byte() {
        let data = vec![7u8; 100_000];
        let zstd = zstd::stream::encode_all(&data[..], 1).expect("zstd");
        for source in [gzip(&data), zstd, data.clone(), vec![1, 2]] {
            let want = if source.len() > 2 { &data } else { &source };
            let (first, rest) = source.split_at(1);
            let slow =
                std::io::Cursor::new(first.to_vec()).chain(std::io::Cursor::new(rest.to_vec()));
            let mut stream =
                Stream::new(slow, Algorithm::Sha256, &Limits::default()).expect("stream");
            let mut read = Vec::new();
            stream.read_to_end(&mut read).expect("read");
            assert!(read == *want);
        }
    }

    #[test]
    fn damage_and_truncation_end_with_an_error() {
        let data = vec![7u8; 2_000_000];
        for mut source in [
            gzip(&data),
            zstd::stream::encode_all(&data[..], 1).expect("zstd"),
        ] {
            let error = read_all(source[..source.len() - 5].to_vec(), &Limits::default())
                .expect_err("truncated");
            assert!(!error.to_string().contains('\n'), "{error}");
            let middle = source.len() / 2;
            source[middle] ^= 0xff;
            source[middle + 1] ^= 0xff;
            let _ = read_all(source, &Limits::default());
        }
        for magic in [&b"\xfd7zXZ\0\0"[..], b"BZh91AY"] {
            let error = read_all(magic.to_vec(), &Limits::default()).expect_err("unsupported");
            assert_eq!(error.kind(), ErrorKind::Unimplemented);
        }
    }

    #[test]
    fn expansion_is_bounded() {
        let limits = Limits {
            bytes: 1 << 20,
            ..Limits::default()
        };
        let mut stream = Stream::new(
            std::io::Cursor::new(gzip(&vec![0; 8 << 20])),
            Algorithm::Sha256,
            &limits,
        )
        .expect("stream");
        let mut sink = Vec::new();
        assert!(stream.read_to_end(&mut sink).is_err());
        assert!(sink.len() <= 2 << 20);
        let error = Limits::default()
            .check_expansion(1 << 20, 2 << 30)
            .expect_err("ratio");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn a_reader_that_stops_early_leaves_no_thread() {
        let stream = Stream::new(
            std::io::Cursor::new(gzip(&vec![0; 64 << 20])),
            Algorithm::Sha256,
            &Limits::default(),
        )
        .expect("stream");
        drop(stream);
    }
}
