//! An OCI layout: image-spec `image-layout.md`.
//!
//! The entries of `index.json` that have one name, or none, and each a
//! platform of its own are one image: its target is an index of just these.
//! Where `index.json` is nothing else, it is that index, byte for byte, so
//! that the digest is the one that other tools tell.

use std::collections::{HashMap, HashSet};

use containerkit::document::{DEPTH, DOCUMENTS};
use containerkit::oci_spec::image::{Descriptor, ImageIndex};
use containerkit::platform::Offered;
use containerkit::{Algorithm, Context as _, Digest, Error, ErrorKind, Result, quote};
use serde::Deserialize;
use serde_json::{Value, json};

use super::source::Source;
use super::{Imported, Role, Target};
use crate::document::{self, Document, digest_of};
use crate::event::Event;
use crate::limits::exhausted;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

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
    let data = source
        .small("index.json")?
        .ok_or_else(|| Error::invalid("the layout has no index.json"))?;
    // It has no descriptor that would announce its type.
    let Document::Index(index) = document::parse(&data, INDEX).context(|| "index.json")? else {
        return Err(Error::invalid("index.json is not an index"));
    };
    let mut walk = Walk {
        source,
        into,
        left: DOCUMENTS,
    };
    let mut imported = Vec::new();
    for (name, group) in groups(&index) {
        let (attached, group): (Vec<usize>, Vec<usize>) = match is_of_cosign(name.as_deref()) {
            true => (group, Vec::new()),
            false => walk.attached(&index, group)?,
        };
        for place in attached {
            let target = &index.manifests()[place];
            if walk.document(target, DEPTH)? {
                imported.push(Imported {
                    role: Role::Attached,
                    name: name.clone(),
                    target: target.clone(),
                });
            }
        }
        if is_one_image(&index, &group) {
            let target = walk.group(&data, &index, &group)?;
            imported.push(Imported {
                role: Role::Image,
                name,
                target,
            });
            continue;
        }
        for place in group {
            let target = &index.manifests()[place];
            if !walk.document(target, DEPTH)? {
                return Err(missing(target));
            }
            imported.push(Imported {
                role: Role::Image,
                name: name.clone(),
                target: target.clone(),
            });
        }
    }
    // What belongs to something that is not here is an image of its own.
    if imported.iter().all(|one| one.role == Role::Attached) {
        imported.iter_mut().for_each(|one| one.role = Role::Image);
    }
    Ok(imported)
}

fn too_many() -> Error {
    exhausted(format!("there are more than {DOCUMENTS} manifests"))
}

fn missing(descriptor: &Descriptor) -> Error {
    Error::not_found(format!(
        "blob {} of index.json is missing",
        descriptor.digest()
    ))
}

/// The places of images in index.json by the name they have there, in order.
/// What it lists may be anything; images are what is imported.
fn groups(index: &ImageIndex) -> Vec<(Option<String>, Vec<usize>)> {
    let mut groups: Vec<(Option<String>, Vec<usize>)> = Vec::new();
    let mut known: HashMap<Option<String>, usize> = HashMap::new();
    for (place, descriptor) in index.manifests().iter().enumerate() {
        if document::is_document(descriptor.media_type().as_ref()) {
            let name = name_of(descriptor);
            let group = *known.entry(name.clone()).or_insert(groups.len());
            match groups.get_mut(group) {
                Some((_, places)) => places.push(place),
                None => groups.push((name, vec![place])),
            }
        }
    }
    groups
}

/// Whether what has one name are the platforms of one image: all say which,
/// and no two the same.
fn is_one_image(index: &ImageIndex, group: &[usize]) -> bool {
    let mut platforms = HashSet::new();
    let mut manifests = HashSet::new();
    group.len() > 1
        && group.iter().all(|place| {
            let descriptor = &index.manifests()[*place];
            let Some(platform) = descriptor.platform() else {
                return false;
            };
            let offered = Offered::of(platform);
            offered.is_unknown()
                || !manifests.insert(descriptor.digest().as_ref())
                || platforms.insert((offered.to_string(), platform.os_version()))
        })
        && !platforms.is_empty()
}

/// Whether a name is one of the tags `sha256-HEX.SUFFIX` under which cosign
/// keeps what belongs to an image, or the list of its referrers, `sha256-HEX`.
fn is_of_cosign(name: Option<&str>) -> bool {
    let tag = name.and_then(|name| name.strip_prefix("sha256-"));
    let hex = tag.map(|tag| tag.split_once('.').map_or(tag, |(hex, _)| hex));
    hex.is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
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

/// An index of some of an index's descriptors, as they stand there: the same
/// bytes whenever it is made.
fn index_of(data: &[u8], group: &[usize]) -> Result<Vec<u8>> {
    let index: Value = serde_json::from_slice(data).map_err(document::json_error)?;
    let manifests: Vec<&Value> = group
        .iter()
        .filter_map(|place| index.get("manifests")?.get(*place))
        .collect();
    let mut made = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    made.sort_all_objects();
    serde_json::to_vec(&made).map_err(document::json_error)
}

struct Walk<'a> {
    source: &'a dyn Source,
    into: &'a Target<'a>,
    left: u32,
}

impl Walk<'_> {
    /// Stores an image whose manifests stand in index.json itself, and the
    /// index that makes them one.
    fn group(&mut self, data: &[u8], index: &ImageIndex, group: &[usize]) -> Result<Descriptor> {
        let mut found = false;
        for place in group {
            // As below any index, other platforms' may be missing.
            found |= self.document(&index.manifests()[*place], DEPTH - 1)?;
        }
        if !found {
            return Err(missing(&index.manifests()[group[0]]));
        }
        let made;
        let data = if group.len() == index.manifests().len() && index.schema_version() == 2 {
            data
        } else {
            made = index_of(data, group)?;
            &made[..]
        };
        let digest = Algorithm::Sha256.digest(data);
        self.into.bytes(data, &digest)?;
        serde_json::from_value(json!({
            "mediaType": INDEX,
            "digest": digest.to_string(),
            "size": data.len(),
        }))
        .map_err(document::json_error)
    }

    /// Tells what says that it belongs to another manifest from the rest.
    fn attached(&self, index: &ImageIndex, group: Vec<usize>) -> Result<(Vec<usize>, Vec<usize>)> {
        if group.len() > DOCUMENTS as usize {
            return Err(too_many());
        }
        let mut attached = Vec::new();
        let mut rest = Vec::new();
        for place in group {
            let descriptor = &index.manifests()[place];
            let data = self.read(descriptor, &digest_of(descriptor)?)?;
            let subject = data.map(|data| {
                let parsed = document::parse(&data, descriptor.media_type().as_ref())
                    .context(|| format!("manifest {}", descriptor.digest()))?;
                Ok::<_, Error>(match parsed {
                    Document::Manifest(manifest) => manifest.subject().is_some(),
                    Document::Index(index) => index.subject().is_some(),
                })
            });
            match subject.transpose()? {
                Some(true) => attached.push(place),
                _ => rest.push(place),
            }
        }
        Ok((attached, rest))
    }

    /// Stores an index or a manifest after all that it refers to; `false`
    /// when the source has it not.
    fn document(&mut self, descriptor: &Descriptor, depth: u32) -> Result<bool> {
        self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        let digest = digest_of(descriptor)?;
        let Some(data) = self.read(descriptor, &digest)? else {
            return Ok(false);
        };
        let parsed = document::parse(&data, descriptor.media_type().as_ref())
            .context(|| format!("manifest {digest}"))?;
        match parsed {
            Document::Manifest(manifest) => {
                document::check_layers(&manifest).context(|| format!("manifest {digest}"))?;
                self.config(manifest.config())?;
                for layer in manifest.layers() {
                    self.blob(layer)?;
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

    /// A document's bytes, size and digest checked; from the store where it is
    /// there and whole.
    fn read(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let doubt = match document::read(self.into.store, descriptor) {
            Ok(data) => return Ok(Some(data)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => None,
                ErrorKind::DataLoss
                | ErrorKind::FailedPrecondition
                | ErrorKind::ResourceExhausted => Some(error),
                _ => return Err(error),
            },
        };
        if descriptor.size() > document::DOCUMENT {
            return Err(exhausted(format!(
                "manifest {digest} has {} bytes, more than the {} allowed",
                descriptor.size(),
                document::DOCUMENT
            )));
        }
        let Some(data) = self.source.small(&path_of(digest))? else {
            return doubt.map_or(Ok(None), Err);
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

    /// Configs are verified as documents are; one that is too large to be of
    /// an image is stored like any other blob.
    fn config(&self, descriptor: &Descriptor) -> Result<()> {
        if descriptor.size() > document::DOCUMENT {
            return self.blob(descriptor).map(drop);
        }
        let digest = digest_of(descriptor)?;
        if let Some(data) = self.read(descriptor, &digest)? {
            self.into.bytes(&data, &digest)?;
            (self.into.progress)(Event::Stored { digest });
        }
        Ok(())
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let digest = digest_of(descriptor)?;
        self.into
            .blob(self.source, &path_of(&digest), &digest, descriptor.size())
    }
}
