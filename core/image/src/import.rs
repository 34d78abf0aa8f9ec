//! Imports images into a content store: an OCI layout as a folder, a tar of
//! one, or what `docker save` writes, plain or compressed.
//!
//! Blobs are stored under their own digests and nothing else is recorded:
//! names are the caller's to record, after the import as a whole succeeded.
//! A killed import leaves resumable ingests and blobs that the next one finds.
//! One whose source lies about a blob leaves none of it.
//!
//! What the store has already is not stored again, unless it is damaged and
//! the source has it whole. Indexes, manifests and configs are read back and
//! verified for that, layers by their size alone: hashing gigabytes at every
//! import would cost more than it finds, and unpacking verifies them anyway.

mod archive;
mod docker;
mod folder;
mod layout;
mod source;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerkit::content::{self, ContentStore, Expected};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{
    Cancel, Context as _, Digest, Error, ErrorKind, IngestRef, Labels, PlatformChoice, Result,
};

use crate::event::Event;
use crate::limits::Limits;
use source::Source;

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// A folder for the inflated form of compressed archives, as files
    /// without names: nothing is left behind, whatever happens.
    pub scratch: PathBuf,
    /// The platform that must be there whole; others may be missing parts, as
    /// in a sparse layout. At least one image must have it, and images for
    /// other platforms only are imported beside it. `None` asks for nothing.
    pub platform: Option<PlatformChoice>,
    /// What an archive may cost.
    pub limits: Limits,
    /// How long to wait for another process that stores the same blob.
    pub wait: Duration,
    /// Ends it early; what is stored of a blob is gone on from by the next.
    pub cancel: Cancel,
}

impl ImportOptions {
    /// The host's platform, default limits, a minute's wait.
    pub fn new(scratch: impl Into<PathBuf>) -> ImportOptions {
        ImportOptions {
            scratch: scratch.into(),
            platform: Some(PlatformChoice::host()),
            limits: Limits::default(),
            wait: Duration::from_secs(60),
            cancel: Cancel::default(),
        }
    }
}

/// What an entry of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An image.
    Image,
    /// What belongs to an image: a signature, an attestation, a list of parts.
    Attached,
}

/// An imported image, or what came with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Which of both.
    pub role: Role,
    /// The name that the archive gives it, as it stands there: untrusted, and
    /// often a tag alone.
    pub name: Option<String>,
    /// Its index or manifest, which is in the store.
    pub target: Descriptor,
}

/// Imports every image at `source`, in the order they have there.
pub fn import(
    store: &dyn ContentStore,
    source: &Path,
    options: &ImportOptions,
    progress: &dyn Fn(Event),
) -> Result<Vec<Imported>> {
    run(store, source, options, progress)
        .context(|| format!("import {}", containerkit::quote(&source.to_string_lossy())))
}

fn run(
    store: &dyn ContentStore,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Fn(Event),
) -> Result<Vec<Imported>> {
    let source = source::open(path, options)?;
    let into = Target {
        store,
        options,
        progress,
    };
    let imported = match source.small("oci-layout")? {
        Some(marker) => layout::import(&*source, &marker, &into)?,
        None if source.has("manifest.json")? => docker::import(&*source, &into)?,
        None => {
            return Err(Error::invalid(
                "it is neither an OCI layout nor a docker archive: there is no `oci-layout` and no `manifest.json`",
            ));
        }
    };
    let images = || imported.iter().filter(|one| one.role == Role::Image);
    if images().next().is_none() {
        return Err(Error::not_found("there is no image in it"));
    }
    if let Some(platform) = &options.platform {
        let mut unfit = None;
        let mut fits = false;
        for image in images() {
            if crate::resolve::offers(store, &image.target, platform)? {
                fits = true;
                into.check_whole(&image.target, platform)?;
            } else {
                unfit.get_or_insert(image);
            }
        }
        if let Some(image) = unfit.filter(|_| !fits) {
            // Fails, and says which platforms there are.
            into.check_whole(&image.target, platform)?;
        }
    }
    Ok(imported)
}

/// Where an import goes.
struct Target<'a> {
    store: &'a dyn ContentStore,
    options: &'a ImportOptions,
    progress: &'a dyn Fn(Event),
}

impl Target<'_> {
    /// Stores the blob of a descriptor; `false` when the source has it not.
    /// What the store has need not be in the source, and is taken by its size.
    fn blob(&self, source: &dyn Source, name: &str, digest: &Digest, size: u64) -> Result<bool> {
        let stored = || {
            (self.progress)(Event::Stored {
                digest: digest.clone(),
            });
            Ok(true)
        };
        // Either this blob is damaged or that descriptor lies.
        let doubt = match self.store.info(digest) {
            Ok(info) if info.size == size => return stored(),
            Ok(info) => Some(wrong_size(digest, info.size, size)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.kind() == ErrorKind::DataLoss => Some(error),
            Err(error) => return Err(error),
        };
        let Some(file) = source.open(name)? else {
            return doubt.map_or(Ok(false), Err);
        };
        if file.size != size {
            return Err(wrong_size(digest, file.size, size));
        }
        (self.progress)(Event::Storing {
            digest: digest.clone(),
            size,
        });
        let mut data = file.data;
        self.ingest(&mut *data, digest, size, &Labels::new())?;
        if let Some(doubt) = doubt
            && self
                .store
                .info(digest)
                .map_or(true, |info| info.size != size)
        {
            // A driver may take whatever is there for the blob.
            if crate::document::stored_digest(self.store, digest)
                .is_ok_and(|found| found == *digest)
            {
                return Err(doubt);
            }
            let labels = self.discard(digest)?;
            let Some(file) = source.open(name)? else {
                return Err(doubt);
            };
            let mut data = file.data;
            self.ingest(&mut *data, digest, size, &labels)?;
        }
        stored()
    }

    /// Stores bytes that are at hand and have this digest. What the store has
    /// already is verified, and replaced when it is damaged.
    fn bytes(&self, data: &[u8], digest: &Digest) -> Result<()> {
        let size = data.len() as u64;
        let labels = match content::read_blob(self.store, digest, size) {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Labels::new(),
                // Wrong bytes, or more than there can be.
                ErrorKind::DataLoss | ErrorKind::ResourceExhausted => self.discard(digest)?,
                _ => return Err(error),
            },
        };
        self.ingest(&mut &data[..], digest, size, &labels)
    }

    /// Deletes a blob that is known to be damaged; gives its labels.
    fn discard(&self, digest: &Digest) -> Result<Labels> {
        log::warn!("blob {digest} is damaged, and is replaced by a good one");
        let labels = self.store.info(digest).map(|info| info.labels);
        match self.store.delete(digest) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(labels.unwrap_or_default()),
        }
    }

    /// Stores a stream, waiting while another process stores the same.
    fn ingest(
        &self,
        data: &mut dyn Read,
        digest: &Digest,
        size: u64,
        labels: &Labels,
    ) -> Result<()> {
        let name: IngestRef = format!("import-{}-{}", digest.algorithm(), digest.hex()).parse()?;
        let expected = Expected {
            size: Some(size),
            digest: Some(digest.clone()),
        };
        let deadline = Instant::now() + self.options.wait;
        let mut data = Watched {
            data,
            digest,
            bytes: 0,
            told: Instant::now(),
            target: self,
        };
        loop {
            self.options.cancel.check()?;
            match content::ingest(self.store, &name, &expected, labels, &mut data) {
                Ok(_) => return Ok(()),
                // Nothing was read yet: the ref is taken before the data.
                Err(error) if error.kind() == ErrorKind::Conflict && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => {
                    self.options.cancel.check()?;
                    // Bytes that are wrong are nothing to go on from.
                    if error.kind() == ErrorKind::FailedPrecondition
                        && let Err(error) = self.store.abort(&name)
                        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict)
                    {
                        log::warn!("ingest {name} stays behind: {error}");
                    }
                    return Err(error.context(format!("blob {digest}")));
                }
            }
        }
    }

    fn check_whole(&self, target: &Descriptor, platform: &PlatformChoice) -> Result<()> {
        let image = crate::resolve::resolve(self.store, target, platform)?;
        for layer in &image.layers {
            if !crate::resolve::is_there(self.store, &layer.digest)? {
                return Err(Error::not_found(format!(
                    "layer {} of {} is missing",
                    layer.digest, image.platform
                )));
            }
        }
        Ok(())
    }
}

/// A blob's data on the way into the store.
struct Watched<'a> {
    data: &'a mut dyn Read,
    digest: &'a Digest,
    bytes: u64,
    told: Instant,
    target: &'a Target<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let cancel = &self.target.options.cancel;
        cancel.check().map_err(std::io::Error::other)?;
        let read = self.data.read(buf)?;
        self.bytes += read as u64;
        if self.told.elapsed() >= Duration::from_millis(100) {
            self.told = Instant::now();
            (self.target.progress)(Event::StoringProgress {
                digest: self.digest.clone(),
                bytes: self.bytes,
            });
        }
        Ok(read)
    }
}

fn wrong_size(digest: &Digest, found: u64, wanted: u64) -> Error {
    Error::precondition(format!(
        "blob {digest} has {found} bytes, its descriptor says {wanted}"
    ))
}
