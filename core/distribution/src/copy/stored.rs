//! What a content store has, to be pushed.

use std::io::Read;

use containerkit::content::{BlobStream, ContentStore};
use containerkit::document;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Error, ErrorKind, Result};

use super::{Name, Source};
use crate::manifest::Manifest;
use crate::tree::Documents;

pub(super) struct Stored<'a> {
    pub(super) store: &'a dyn ContentStore,
}

impl Stored<'_> {
    fn missing(&self, digest: &Digest, error: Error) -> Error {
        match error.kind() {
            ErrorKind::NotFound => Error::not_found(format!("{digest} of the image is not here"))
                .with_hint(
                    "it was pulled for one platform only: push that with --platform, or pull the rest with `containerkit image pull --all-platforms`",
                ),
            _ => error,
        }
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = document::digest_of(descriptor)?;
        document::read(self.store, descriptor).map_err(|error| self.missing(&digest, error))
    }
}

impl Documents for Stored<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.read(descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.read(descriptor)
    }
}

impl Source for Stored<'_> {
    fn find(&self, _name: &Name) -> Result<Option<Manifest>> {
        Ok(None)
    }

    fn referrers(&self, _digest: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        let digest = document::digest_of(blob)?;
        let reader = self
            .store
            .reader(&digest)
            .map_err(|error| self.missing(&digest, error))?;
        if reader.size() != blob.size() {
            return Err(Error::precondition(format!(
                "the blob has {} bytes, its descriptor says {}",
                reader.size(),
                blob.size()
            )));
        }
        Ok(Box::new(BlobStream::at(reader, offset)))
    }

    fn home(&self, digest: &Digest, domain: &str) -> Option<String> {
        let info = self.store.info(digest).ok()?;
        info.labels.get(&crate::pull::source_label(domain)).cloned()
    }
}
