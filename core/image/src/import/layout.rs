//! An OCI layout: image-spec `image-layout.md`.

use containerkit::oci_spec::image::{Descriptor, ImageIndex};
use containerkit::{Context as _, Digest, Error, ErrorKind, Result, quote};
use serde::Deserialize;

use super::source::Source;
use super::{Imported, Target};
use crate::document::{self, Document, digest_of};
use crate::limits::exhausted;

const DEPTH: u32 = 4;
const DOCUMENTS: u32 = 512;

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Annotations that name an image, the fuller one first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

pub(super) fn import(source: &dyn Source, marker: &[u8], into: &Target) -> Result<Vec<Imported>> {
    let marker: Marker = serde_json::from_slice(marker)
        .map_err(document::json_error)
        .context(|| "oci-layout")?;
    if marker.version.split('.').next() != Some("1") {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!("its layout version is {}, want 1.x", quote(&marker.version)),
        ));
    }
    let index = source
        .small("index.json")?
        .ok_or_else(|| Error::invalid("the layout has no index.json"))?;
    // It has no descriptor that would announce its type.
    let Document::Index(index) = document::parse(&index, "application/vnd.oci.image.index.v1+json")
        .context(|| "index.json")?
    else {
        return Err(Error::invalid("index.json is not an index"));
    };
    let mut walk = Walk {
        source,
        into,
        left: DOCUMENTS,
    };
    let mut imported = Vec::new();
    for target in image_descriptors(&index) {
        if !walk.document(target, DEPTH)? {
            return Err(Error::not_found(format!(
                "blob {} of index.json is missing",
                target.digest()
            )));
        }
        imported.push(Imported {
            name: name_of(target),
            target: target.clone(),
        });
    }
    Ok(imported)
}

/// What index.json lists may be anything; images are what is imported.
fn image_descriptors(index: &ImageIndex) -> impl Iterator<Item = &Descriptor> {
    index
        .manifests()
        .iter()
        .filter(|descriptor| document::is_document(descriptor.media_type().as_ref()))
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    NAMES
        .iter()
        .find_map(|name| annotations.get(*name))
        .cloned()
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

struct Walk<'a> {
    source: &'a dyn Source,
    into: &'a Target<'a>,
    left: u32,
}

impl Walk<'_> {
    /// Stores an index or a manifest after all that it refers to; `false`
    /// when the source has it not.
    fn document(&mut self, descriptor: &Descriptor, depth: u32) -> Result<bool> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| exhausted(format!("there are more than {DOCUMENTS} manifests")))?;
        let digest = digest_of(descriptor)?;
        let Some(data) = self.read(descriptor, &digest)? else {
            return Ok(false);
        };
        let parsed = document::parse(&data, descriptor.media_type().as_ref())
            .context(|| format!("manifest {digest}"))?;
        match parsed {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                    self.blob(blob)?;
                }
            }
            Document::Index(index) => {
                let depth = depth.checked_sub(1).ok_or_else(|| {
                    Error::invalid(format!("indexes are nested more than {DEPTH} deep"))
                })?;
                for child in index.manifests() {
                    // Missing ones are another platform's in a sparse layout;
                    // the import checks at its end that what it needs is here.
                    match document::is_document(child.media_type().as_ref()) {
                        true => self.document(child, depth)?,
                        false => self.blob(child)?,
                    };
                }
            }
        }
        self.into.bytes(&data, &digest)?;
        Ok(true)
    }

    /// A document's bytes, size and digest checked; from the store where the
    /// layout has it not.
    fn read(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Option<Vec<u8>>> {
        if crate::resolve::is_there(self.into.store, digest)? {
            return document::read(self.into.store, descriptor).map(Some);
        }
        if descriptor.size() > document::DOCUMENT {
            return Err(exhausted(format!(
                "manifest {digest} has {} bytes, more than the {} allowed",
                descriptor.size(),
                document::DOCUMENT
            )));
        }
        let Some(data) = self.source.small(&path_of(digest))? else {
            return Ok(None);
        };
        if data.len() as u64 != descriptor.size() {
            return Err(super::wrong_size(
                digest,
                data.len() as u64,
                descriptor.size(),
            ));
        }
        let found = digest.algorithm().digest(&data);
        if found != *digest {
            return Err(Error::precondition(format!(
                "blob {digest}: its bytes have the digest {found}"
            )));
        }
        Ok(Some(data))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let digest = digest_of(descriptor)?;
        self.into
            .blob(self.source, &path_of(&digest), &digest, descriptor.size())
    }
}
