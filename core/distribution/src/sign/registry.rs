//! What signing asks of a registry.

use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Reference, Result};

/// A manifest as a registry has it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its media type, as the registry announces it.
    pub media_type: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// The operations of a registry that signing uses. Only the repository of
/// `image` counts where a digest or a tag is given besides.
///
/// What an implementation returns is checked against its digest once more by
/// the caller; that it is no larger than `limit` is the implementation's duty.
pub trait Registry {
    /// What an image points at now.
    fn resolve(&self, image: &Reference) -> Result<Descriptor>;

    /// The manifest that `image` names by tag or digest, of at most `limit`
    /// bytes; `None` when there is none. That the registry does not answer is
    /// an error.
    fn manifest(&self, image: &Reference, limit: u64) -> Result<Option<Manifest>>;

    /// A blob of at most `limit` bytes.
    fn blob(&self, image: &Reference, blob: &Descriptor, limit: u64) -> Result<Vec<u8>>;

    /// The manifests of this artifact type that have `digest` as their
    /// subject, however the registry keeps them (referrers API or fallback tag).
    fn referrers(
        &self,
        image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>>;

    /// Stores a blob; one that is there is success.
    fn put_blob(&self, image: &Reference, digest: &Digest, data: &[u8]) -> Result<()>;

    /// Stores a manifest under the tag or digest that `image` names, and, when
    /// it has a subject, among that one's referrers.
    fn put_manifest(&self, image: &Reference, manifest: &Manifest) -> Result<()>;
}
