//! The content-store contract: immutable blobs by digest.
//!
//! # Vocabulary
//! A **blob** is bytes under their [`Digest`]. An **ingest** is a blob being
//! written, known by its **ref**, a name that the caller chooses; its progress
//! outlives the process, and the next [`ContentStore::writer`] with that ref
//! goes on where it stopped. One writer at a time holds a ref, in whatever
//! process; when that process dies the kernel frees the ref. `commit` checks
//! size and digest and makes the blob visible, whole or not at all.
//!
//! # A story
//! Half a blob, a crash, the rest, and reading it back:
//!
//! ```
//! use containerkit::content::*;
//! # use containerkit::{Algorithm, Digest, IngestRef, Labels, Result};
//! # fn story(store: &dyn ContentStore) -> Result<()> {
//! let data = b"hello, world";
//! let digest = Algorithm::Sha256.digest(data);
//! let name: IngestRef = "layer-1".parse()?;
//! let expected = Expected { size: Some(12), digest: Some(digest.clone()) };
//!
//! let mut writer = store.writer(&name, &expected)?;
//! writer.write(&data[..5])?;
//! drop(writer); // the process dies; progress stays
//!
//! let mut writer = store.writer(&name, &expected)?;
//! let offset = writer.status()?.offset; // 5
//! writer.write(&data[offset as usize..])?;
//! writer.commit(&expected, &Labels::new())?;
//!
//! let reader = store.reader(&digest)?;
//! let mut bytes = vec![0; reader.size() as usize];
//! read_exact_at(&*reader, &mut bytes, 0)?;
//! assert_eq!(bytes, data);
//! # Ok(())
//! # }
//! ```
//!
//! The conformance suite runs this story on every driver.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::IngestRef;
use crate::value::{LabelChanges, Labels, Page, Timestamp};

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: Labels,
    /// When it was committed.
    pub created: Timestamp,
    /// When its labels were last changed.
    pub updated: Timestamp,
}

/// What a writer's caller knows of the blob beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its digest, which also chooses the algorithm (sha256 without it).
    pub digest: Option<Digest>,
}

/// The state of an ingest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestStatus {
    /// Its ref.
    #[serde(rename = "ref")]
    pub name: IngestRef,
    /// Bytes that are held.
    pub offset: u64,
    /// Bytes expected, when known.
    pub total: Option<u64>,
    /// Digest expected, when known.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was last written.
    pub updated: Timestamp,
    /// The pid of the process that holds it now.
    pub holder: Option<u32>,
}

/// The blobs that `walk` returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobFilter {
    /// With these labels; a `None` value asks for the key alone.
    pub labels: Vec<(String, Option<String>)>,
}

impl BlobFilter {
    /// Whether a blob passes.
    pub fn matches(&self, info: &BlobInfo) -> bool {
        crate::snapshot::label_filter_matches(&self.labels, &info.labels)
    }
}

/// What a content store can do beyond the contract's core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentCapabilities {
    /// `FD`: readers of files give a descriptor, the zero-copy path.
    pub fd: bool,
}

impl ContentCapabilities {
    /// As bits, which cross to drivers and are stable for ever.
    pub fn bits(self) -> u64 {
        u64::from(self.fd)
    }

    /// From bits; unknown ones are ignored.
    pub fn from_bits(bits: u64) -> ContentCapabilities {
        ContentCapabilities { fd: bits & 1 != 0 }
    }

    /// The names of what it can.
    pub fn names(self) -> Vec<&'static str> {
        if self.fd { vec!["FD"] } else { Vec::new() }
    }
}

/// A content-store driver. See the [module](self) for the vocabulary.
///
/// Errors: an unknown digest or ref is `NotFound`; a held ref is `Conflict`,
/// naming holder and age; damaged data is `DataLoss`.
pub trait ContentStore: Send + Sync {
    /// What this instance can do, fixed while it is open.
    fn capabilities(&self) -> ContentCapabilities;

    /// What is known of a blob.
    fn info(&self, digest: &Digest) -> Result<BlobInfo>;

    /// Changes a blob's labels. Moves `updated`.
    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo>;

    /// One page of the blobs that pass the filter, in digest order.
    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>>;

    /// Deletes a blob. Open readers go on.
    fn delete(&self, digest: &Digest) -> Result<()>;

    /// Opens a blob.
    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>>;

    /// Begins the ingest `name`, or resumes it and holds it until the writer
    /// is dropped. With a digest whose blob exists already: `AlreadyExists`,
    /// and nothing is begun. What is expected here replaces what an earlier
    /// writer of this ref expected.
    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>>;

    /// The state of one ingest.
    fn status(&self, name: &IngestRef) -> Result<IngestStatus>;

    /// The state of every ingest, in ref order.
    fn list_statuses(&self) -> Result<Vec<IngestStatus>>;

    /// Drops an ingest and its bytes. `Conflict` while a writer holds it.
    fn abort(&self, name: &IngestRef) -> Result<()>;
}

/// An open blob.
pub trait BlobReader: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// Reads at an offset; returns the bytes read, 0 at or after the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// The blob as a read-only descriptor at offset 0, when it is a file; each
    /// call gives a descriptor with an offset of its own.
    fn as_fd(&self) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
}

/// The holder of an ingest. Dropping it keeps the progress.
pub trait IngestWriter: Send {
    /// Appends all of `data`, or fails; after a failure `status` says what is held.
    fn write(&mut self, data: &[u8]) -> Result<()>;

    /// The state, with this writer's pid as holder.
    fn status(&self) -> Result<IngestStatus>;

    /// Cuts the ingest to `size` bytes, at most its offset.
    fn truncate(&mut self, size: u64) -> Result<()>;

    /// Ends the ingest with a blob, durable when this returns.
    ///
    /// What `expected` leaves open is taken from the writer's own. A wrong
    /// size or digest is `FailedPrecondition`, and the ingest is as usable as
    /// before. When the blob exists already, size and digest are checked all
    /// the same, the ingest ends, and the error is `AlreadyExists`, naming the
    /// digest. After a success or `AlreadyExists` the writer is done, and
    /// every further call is `FailedPrecondition`.
    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo>;
}

/// Fills `buf` from `offset`, or fails with `DataLoss` when the blob is shorter.
pub fn read_exact_at(reader: &dyn BlobReader, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
    while !buf.is_empty() {
        match reader.read_at(buf, offset)? {
            0 => return Err(Error::data_loss(format!("the blob ends at {offset}"))),
            read if read > buf.len() => {
                return Err(Error::internal(
                    "the driver claims to have read more than it was asked",
                ));
            }
            read => {
                buf = &mut buf[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// A whole small blob, at most `limit` bytes, its digest verified.
pub fn read_blob(store: &dyn ContentStore, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let reader = store.reader(digest)?;
    let size = reader.size();
    if size > limit {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("blob {digest} has {size} bytes, more than the {limit} allowed here"),
        ));
    }
    let mut data = vec![0; size as usize];
    read_exact_at(&*reader, &mut data, 0).map_err(|e| e.context(format!("blob {digest}")))?;
    let found = digest.algorithm().digest(&data);
    if found != *digest {
        return Err(
            Error::data_loss(format!("blob {digest}: its bytes have the digest {found}"))
                .with_hint(
                    "delete it with `containerkit content delete` and import or pull it again",
                ),
        );
    }
    Ok(data)
}

/// A blob as a `Read`.
pub struct BlobStream {
    reader: Box<dyn BlobReader>,
    offset: u64,
}

impl BlobStream {
    /// Starts at offset 0.
    pub fn new(reader: Box<dyn BlobReader>) -> BlobStream {
        BlobStream::at(reader, 0)
    }

    /// Starts at an offset.
    pub fn at(reader: Box<dyn BlobReader>, offset: u64) -> BlobStream {
        BlobStream { reader, offset }
    }
}

impl std::io::Read for BlobStream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self
            .reader
            .read_at(buf, self.offset)
            .map_err(std::io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Ingests a whole stream under `name` and returns the blob.
///
/// Resumes: what the ingest already holds for the same expected digest is
/// skipped in `source`, which is the whole data from its beginning; without a
/// digest nothing says that it is the same data, and it is stored from the
/// beginning. Existing content is success. Reads one byte more than an expected
/// size and fails instead of storing a longer blob. An ingest whose bytes turn
/// out wrong is dropped.
pub fn ingest(
    store: &dyn ContentStore,
    name: &IngestRef,
    expected: &Expected,
    labels: &Labels,
    source: &mut dyn std::io::Read,
) -> Result<BlobInfo> {
    let before = store.status(name).ok().and_then(|status| status.expected);
    let mut writer = match store.writer(name, expected) {
        Ok(writer) => writer,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return existing(store, expected.digest.as_ref(), error);
        }
        Err(error) => return Err(error),
    };
    let mut held = writer.status()?.offset;
    // Only a digest says that what is held is the beginning of this data.
    if held > 0 && (expected.digest.is_none() || before != expected.digest) {
        writer.truncate(0)?;
        held = 0;
    }
    let mut buf = vec![0u8; 1 << 20];
    let mut position = 0u64;
    loop {
        let read = match source.read(&mut buf) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(format!("read the data of ingest {name}"), error)),
        };
        let skip = held.saturating_sub(position).min(read as u64) as usize;
        position += read as u64;
        if let Some(size) = expected.size.filter(|size| position > *size) {
            let error = Error::precondition(format!(
                "ingest {name}: the data goes on after the {size} bytes it should have"
            ));
            return Err(give_up(store, name, writer, held, error));
        }
        if skip < read {
            writer.write(&buf[skip..read])?;
        }
    }
    if position < held {
        writer.truncate(position)?;
    }
    match writer.commit(expected, labels) {
        Ok(info) => Ok(info),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let digest = expected
                .digest
                .clone()
                .or_else(|| digest_in(error.message()));
            existing(store, digest.as_ref(), error)
        }
        // Bytes that are wrong for this digest would be wrong again on resume.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
            Err(give_up(store, name, writer, held, error))
        }
        Err(error) => Err(error),
    }
}

/// Drops an ingest whose bytes are wrong.
fn give_up(
    store: &dyn ContentStore,
    name: &IngestRef,
    writer: Box<dyn IngestWriter>,
    held: u64,
    error: Error,
) -> Error {
    drop(writer);
    if let Err(second) = store.abort(name) {
        log::debug!("abort ingest {name}: {second}");
    }
    match held {
        0 => error,
        _ => error.with_hint(format!(
            "{held} bytes of an earlier attempt were among them and are dropped now: try again"
        )),
    }
}

fn existing(store: &dyn ContentStore, digest: Option<&Digest>, error: Error) -> Result<BlobInfo> {
    match digest {
        Some(digest) => store.info(digest),
        None => Err(error),
    }
}

/// The digest that an `AlreadyExists` message names.
fn digest_in(message: &str) -> Option<Digest> {
    message
        .split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
        .find_map(|word| word.trim_end_matches(':').parse().ok())
}
