//! A layer's blob as a stream that is watched, and whose fault its errors are.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use containerkit::content::{BlobStream, ContentStore};
use containerkit::{Error, ErrorKind, Result};

use super::UnpackOptions;
use crate::event::Event;
use crate::layer::compression::{Compression, Stream};
use crate::limits::Limits;
use crate::resolve::Layer;

/// How often a layer tells how far it is.
const PAUSE: Duration = Duration::from_millis(100);

/// A stream that tells how far it is, and ends when it is told to.
pub(super) struct Watched<'a> {
    stream: Stream,
    options: &'a UnpackOptions<'a>,
    stop: &'a AtomicBool,
    layer: usize,
    bytes: u64,
    told: Instant,
}

impl<'a> Watched<'a> {
    /// `layer` is its place, from 1.
    pub(super) fn new(
        stream: Stream,
        layer: usize,
        options: &'a UnpackOptions<'a>,
        stop: &'a AtomicBool,
    ) -> Watched<'a> {
        Watched {
            stream,
            options,
            stop,
            layer,
            bytes: 0,
            told: Instant::now(),
        }
    }

    /// Reads to the end and compares the digest.
    pub(super) fn verify(self, layer: &Layer) -> Result<()> {
        verify(self.stream, layer)
    }
}

/// Reads a layer's stream to the end and compares the digest.
pub(super) fn verify(stream: Stream, layer: &Layer) -> Result<()> {
    let found = stream.finish()?;
    if found == layer.diff_id {
        return Ok(());
    }
    Err(Error::data_loss(format!(
        "its content has the digest {found}, the image's config says {}",
        layer.diff_id
    ))
    .with_hint(
        "the image was put together wrongly, or the blob is damaged; import or pull it again",
    ))
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.options.cancel.check().map_err(std::io::Error::other)?;
        if self.stop.load(Ordering::Relaxed) {
            // Another layer failed, and its error is the one to be told.
            let error = Error::new(ErrorKind::Cancelled, "another layer failed");
            return Err(std::io::Error::other(error));
        }
        let read = self.stream.read(buf)?;
        self.bytes += read as u64;
        if self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            (self.options.progress)(Event::Progress {
                layer: self.layer,
                read: self.stream.taken(),
                bytes: self.bytes,
            });
        }
        Ok(read)
    }
}

/// The uncompressed stream of a layer's blob.
pub(super) fn open(store: &dyn ContentStore, layer: &Layer, limits: &Limits) -> Result<Stream> {
    let media_type = layer.descriptor.media_type().as_ref();
    let Some(announced) = announced(media_type) else {
        return Err(Error::invalid(format!(
            "its media type {} is not that of a layer",
            containerkit::quote(media_type)
        )));
    };
    let reader = store
        .reader(&layer.digest)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint("import or pull the image again"),
            _ => error,
        })?;
    let size = reader.size();
    if size != layer.descriptor.size() {
        return Err(Error::precondition(format!(
            "the blob has {size} bytes, the manifest says {}",
            layer.descriptor.size()
        )));
    }
    let source: Box<dyn Read + Send> = match reader.as_fd()? {
        Some(fd) => Box::new(std::fs::File::from(fd)),
        None => Box::new(BlobStream::new(reader)),
    };
    let stream = Stream::new(source, layer.diff_id.algorithm(), limits)?;
    if announced != stream.compression() {
        log::warn!(
            "layer {} is announced as {} and is {}; going by what it is",
            layer.digest,
            containerkit::quote(media_type),
            stream.compression().name()
        );
    }
    Ok(stream)
}

/// The compression that a layer's media type tells; `None` when it is not a
/// layer's: an artifact that happens to be a tar is no root file system.
fn announced(media_type: &str) -> Option<Compression> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Says so when the blob that a layer was read from is not the blob that it
/// should be: layers are not hashed before they are unpacked, and damage shows
/// as whatever it does to the stream.
pub(super) fn blame(store: &dyn ContentStore, layer: &Layer, error: Error) -> Error {
    match error.kind() {
        ErrorKind::DataLoss
        | ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition
        | ErrorKind::ResourceExhausted => {}
        _ => return error,
    }
    match crate::document::stored_digest(store, &layer.digest) {
        Ok(found) if found != layer.digest => Error::data_loss(format!(
            "the stored blob is damaged: its bytes have the digest {found}"
        ))
        .with_hint(format!(
            "delete it with `containerkit content delete {}` and import the image again",
            layer.digest
        ))
        .with_source(error),
        _ => error,
    }
}
