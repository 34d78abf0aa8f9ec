//! Manifests, indexes and configs of a content store: sized and verified.

use containerkit::content::ContentStore;
pub(crate) use containerkit::document::{
    DOCUMENT, Document, check_layers, describe, digest_of, is_config, is_document, is_index,
    json_error, parse, parse_config, read, recognize, too_many_layers,
};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Context as _, Digest, Error, Result};

/// The digest that a stored blob's bytes really have.
pub(crate) fn stored_digest(store: &dyn ContentStore, digest: &Digest) -> Result<Digest> {
    let reader = store.reader(digest)?;
    let mut hasher = digest.algorithm().hasher();
    let mut buffer = vec![0u8; 1 << 20];
    let mut offset = 0;
    loop {
        match reader.read_at(&mut buffer, offset)? {
            0 => return Ok(hasher.finish()),
            read => {
                let part = buffer
                    .get(..read)
                    .ok_or_else(|| Error::internal("the driver claims too long a read"))?;
                hasher.update(part);
                offset += read as u64;
            }
        }
    }
}

/// An index or a manifest from the store.
pub(crate) fn load(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Document> {
    let data = read(store, descriptor)?;
    parse(&data, descriptor.media_type().as_ref())
        .context(|| format!("manifest {}", descriptor.digest()))
}
