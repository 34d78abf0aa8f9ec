//! What signing asks of a registry.

use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, ErrorKind, Reference, Result};

use crate::{Manifest, Registry};

/// Where the signatures of an image are read. Only the repository of `image`
/// counts where a digest is given besides.
///
/// What an implementation returns has its digest; that it is no larger than a
/// manifest may be, and a blob no larger than its descriptor says, is the
/// implementation's duty.
pub trait Signatures {
    /// The manifest that `image` names by tag or digest; `None` when there is
    /// none. That the registry does not answer is an error.
    fn manifest(&self, image: &Reference) -> Result<Option<Manifest>>;

    /// A small blob.
    fn blob(&self, image: &Reference, blob: &Descriptor) -> Result<Vec<u8>>;

    /// The manifests of this artifact type that have `digest` as their
    /// subject, however the registry keeps them (referrers API or fallback tag).
    fn referrers(
        &self,
        image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>>;
}

/// Where an image is signed.
pub trait Repository: Signatures {
    /// What an image points at now.
    fn resolve(&self, image: &Reference) -> Result<Descriptor>;

    /// Stores a blob; one that is there is success.
    fn put_blob(&self, image: &Reference, media_type: &str, data: &[u8]) -> Result<()>;

    /// Stores a manifest under the tag or digest that `image` names, and, when
    /// it has a subject, among that one's referrers.
    fn put_manifest(&self, image: &Reference, manifest: &Manifest) -> Result<()>;
}

impl Signatures for Registry {
    fn manifest(&self, image: &Reference) -> Result<Option<Manifest>> {
        match self.manifest(image) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn blob(&self, image: &Reference, blob: &Descriptor) -> Result<Vec<u8>> {
        self.blob(image, blob)
    }

    fn referrers(
        &self,
        image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>> {
        self.referrers(image, digest, Some(artifact_type))
    }
}

impl Repository for Registry {
    fn resolve(&self, image: &Reference) -> Result<Descriptor> {
        self.resolve(image)
    }

    fn put_blob(&self, image: &Reference, media_type: &str, data: &[u8]) -> Result<()> {
        self.put_blob(image, media_type, data).map(drop)
    }

    fn put_manifest(&self, image: &Reference, manifest: &Manifest) -> Result<()> {
        let media_type = manifest.descriptor.media_type().as_ref();
        self.put_manifest(image, media_type, &manifest.data)
            .map(drop)
    }
}
