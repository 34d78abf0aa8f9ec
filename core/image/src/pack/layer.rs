//! A layer on its way into the store: hashed, compressed, hashed again.

use std::io::{BufWriter, Write};
use std::str::FromStr;

use containerkit::content::{self, ContentStore, Expected, IngestStatus, IngestWriter};
use containerkit::digest::Hasher;
use containerkit::{
    Algorithm, Context as _, Digest, Error, ErrorKind, IngestRef, IoContext, Labels, Result, quote,
};
use flate2::write::GzEncoder;

use crate::diff::Diffed;

/// What the names of ingests begin with.
const START: &str = "pack";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// gzip, which every reader knows.
    #[default]
    Gzip,
    /// Zstandard, faster and smaller.
    Zstd,
}

impl LayerCompression {
    /// The layer's media type, OCI image-spec `layer.md`.
    pub const fn media_type(self) -> &'static str {
        match self {
            LayerCompression::None => "application/vnd.oci.image.layer.v1.tar",
            LayerCompression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            LayerCompression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

impl FromStr for LayerCompression {
    type Err = Error;

    fn from_str(text: &str) -> Result<LayerCompression> {
        match text {
            "none" => Ok(LayerCompression::None),
            "gzip" => Ok(LayerCompression::Gzip),
            "zstd" => Ok(LayerCompression::Zstd),
            _ => Err(Error::invalid(format!(
                "compression {}: want gzip, zstd or none",
                quote(text)
            ))),
        }
    }
}

pub(super) struct Made {
    pub(super) diffed: Diffed,
    pub(super) diff_id: Digest,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Stores what `write` writes.
pub(super) fn make(
    store: &dyn ContentStore,
    compression: LayerCompression,
    write: impl FnOnce(&mut dyn Write) -> Result<Diffed>,
) -> Result<Made> {
    remove_stale(store);
    // Its digest is not known before its end: nobody could share or resume it.
    let name: IngestRef = containerkit::fs::unique_name(START).parse()?;
    let made = ingest(store, &name, compression, write);
    if made.is_err()
        && let Err(error) = store.abort(&name)
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("ingest {name} stays behind: {error}");
    }
    made
}

/// Drops what killed packings left, which nothing could go on with. A living
/// one holds its ingest.
fn remove_stale(store: &dyn ContentStore) {
    let stale = |status: &IngestStatus| {
        status.holder.is_none() && status.name.as_str().starts_with(&format!("{START}."))
    };
    let found = store.list_statuses();
    for status in found.iter().flatten().filter(|status| stale(status)) {
        match store.abort(&status.name) {
            Ok(()) => log::info!("dropped ingest {}, left by a killed process", status.name),
            Err(error) => log::debug!("drop ingest {}: {error}", status.name),
        }
    }
}

fn ingest(
    store: &dyn ContentStore,
    name: &IngestRef,
    compression: LayerCompression,
    write: impl FnOnce(&mut dyn Write) -> Result<Diffed>,
) -> Result<Made> {
    let blob = BufWriter::with_capacity(
        256 << 10,
        Blob {
            writer: store.writer(name, &Expected::default())?,
            hasher: Algorithm::Sha256.hasher(),
            size: 0,
        },
    );
    let mut layer = Layer {
        encoder: Encoder::new(compression, blob)?,
        hasher: Algorithm::Sha256.hasher(),
    };
    let diffed = write(&mut layer)?;
    let Layer { encoder, hasher } = layer;
    let Blob {
        mut writer,
        hasher: packed,
        size,
    } = encoder.finish()?;
    let digest = packed.finish();
    let expected = Expected {
        size: Some(size),
        digest: Some(digest.clone()),
    };
    // Asked for before it is there: so a leased store names it in time, and no
    // collection takes it from under the manifest to come.
    match store.info(&digest) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DataLoss) => {
            return Err(error);
        }
        _ => {}
    }
    match writer.commit(&expected, &Labels::new()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(Made {
        diffed,
        diff_id: hasher.finish(),
        digest,
        size,
    })
}

/// Stores bytes that are at hand.
pub(super) fn store_bytes(store: &dyn ContentStore, data: &[u8]) -> Result<Digest> {
    let digest = Algorithm::Sha256.digest(data);
    let name: IngestRef = containerkit::fs::unique_name(START).parse()?;
    let expected = Expected {
        size: Some(data.len() as u64),
        digest: Some(digest.clone()),
    };
    content::ingest(store, &name, &expected, &Labels::new(), &mut &data[..])
        .context(|| format!("blob {digest}"))?;
    Ok(digest)
}

/// The compressed bytes.
struct Blob {
    writer: Box<dyn IngestWriter>,
    hasher: Hasher,
    size: u64,
}

impl Write for Blob {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.writer.write(data).map_err(std::io::Error::other)?;
        self.hasher.update(data);
        self.size += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    None(BufWriter<Blob>),
    Gzip(GzEncoder<BufWriter<Blob>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<Blob>>),
}

impl Encoder {
    fn new(compression: LayerCompression, blob: BufWriter<Blob>) -> Result<Encoder> {
        Ok(match compression {
            LayerCompression::None => Encoder::None(blob),
            LayerCompression::Gzip => {
                Encoder::Gzip(GzEncoder::new(blob, flate2::Compression::default()))
            }
            LayerCompression::Zstd => Encoder::Zstd(
                zstd::stream::write::Encoder::new(blob, 0).io_context(|| "begin compressing")?,
            ),
        })
    }

    fn finish(self) -> Result<Blob> {
        let blob = match self {
            Encoder::None(blob) => Ok(blob),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        let inner = blob.and_then(|blob| blob.into_inner().map_err(|error| error.into_error()));
        inner.map_err(crate::layer::writer::failed)
    }

    fn stream(&mut self) -> &mut dyn Write {
        match self {
            Encoder::None(blob) => blob,
            Encoder::Gzip(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
        }
    }
}

/// The uncompressed layer.
struct Layer {
    encoder: Encoder,
    hasher: Hasher,
}

impl Write for Layer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.encoder.stream().write(data)?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
