//! Signatures that came into a content store with the images they are for, as
//! copies of a repository have them.

use containerkit::content::{self, ContentStore};
use containerkit::document::{self, DOCUMENT, Document, digest_of};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, ErrorKind, Reference, Result};

use super::repository::Signatures;
use crate::Manifest;

/// Manifests in a content store with the tags that they came with.
pub struct Stored<'a> {
    /// Where they are.
    pub store: &'a dyn ContentStore,
    /// Which they are.
    pub manifests: Vec<(Option<String>, Descriptor)>,
}

impl Stored<'_> {
    fn read(&self, descriptor: &Descriptor) -> Result<Option<Manifest>> {
        match content::read_blob(self.store, &digest_of(descriptor)?, DOCUMENT) {
            Ok(data) => Ok(Some(Manifest {
                descriptor: descriptor.clone(),
                data,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Signatures for Stored<'_> {
    fn manifest(&self, image: &Reference) -> Result<Option<Manifest>> {
        let digest = image.digest().map(Digest::to_string);
        let found = self
            .manifests
            .iter()
            .find(|(tag, descriptor)| match &digest {
                Some(digest) => descriptor.digest().as_ref() == digest,
                None => tag.as_deref() == image.tag(),
            });
        match found {
            Some((_, descriptor)) => self.read(descriptor),
            None => Ok(None),
        }
    }

    fn blob(&self, _image: &Reference, blob: &Descriptor) -> Result<Vec<u8>> {
        content::read_blob(self.store, &digest_of(blob)?, blob.size())
    }

    fn referrers(
        &self,
        _image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for (_, descriptor) in &self.manifests {
            let Some(manifest) = self.read(descriptor)? else {
                continue;
            };
            let parsed = document::parse(&manifest.data, descriptor.media_type().as_ref())?;
            let Document::Manifest(parsed) = parsed else {
                continue;
            };
            let subject = parsed.subject().as_ref().map(digest_of).transpose()?;
            let own = parsed.artifact_type().as_ref();
            let own = own.unwrap_or(parsed.config().media_type()).as_ref();
            if subject.as_ref() == Some(digest) && own == artifact_type {
                found.push(descriptor.clone());
            }
        }
        Ok(found)
    }
}
