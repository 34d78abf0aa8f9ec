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

/// A registry itself, without its mirrors: what is signed, and what is there
/// already, is not for a copy to say, which may be old or somebody else's.
pub struct Home(Registry);

impl Home {
    /// With the settings of `registry`, but for the mirrors.
    pub fn of(registry: &Registry) -> Home {
        let mut settings = registry.settings().clone();
        let registries = settings.registries.values_mut();
        registries.for_each(|registry| registry.mirrors.clear());
        Home(Registry::new(settings))
    }
}

impl Signatures for Home {
    fn manifest(&self, image: &Reference) -> Result<Option<Manifest>> {
        Signatures::manifest(&self.0, image)
    }

    fn blob(&self, image: &Reference, blob: &Descriptor) -> Result<Vec<u8>> {
        self.0.blob(image, blob)
    }

    fn referrers(
        &self,
        image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>> {
        Signatures::referrers(&self.0, image, digest, artifact_type)
    }
}

impl Repository for Home {
    fn resolve(&self, image: &Reference) -> Result<Descriptor> {
        self.0.resolve(image)
    }

    fn put_blob(&self, image: &Reference, media_type: &str, data: &[u8]) -> Result<()> {
        self.0.put_blob(image, media_type, data).map(drop)
    }

    fn put_manifest(&self, image: &Reference, manifest: &Manifest) -> Result<()> {
        let media_type = manifest.descriptor.media_type().as_ref();
        self.0
            .put_manifest(image, media_type, &manifest.data)
            .map(drop)
    }
}
