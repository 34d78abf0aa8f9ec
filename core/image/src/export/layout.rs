//! An OCI layout: image-spec `image-layout.md`.

use std::collections::HashMap;

use containerkit::content::ContentStore;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Error, Result};
use serde_json::json;

use super::Source;
use super::plan::{self, Content, Plan};
use crate::document::{self, Document, digest_of, is_document};
use crate::pack::INDEX;
use crate::resolve;

const DEPTH: u32 = 4;

pub(super) fn plan<'a>(sources: &[Source<'a>]) -> Result<Plan<'a>> {
    let mut plan = Plan::default();
    let mut manifests = Vec::new();
    let mut tags: HashMap<&str, u32> = HashMap::new();
    for source in sources {
        *tags
            .entry(source.name.tag().unwrap_or_default())
            .or_default() += 1;
    }
    let mut blobs = Plan::default();
    for source in sources {
        let full = source.name.to_string();
        // Other tools look an image up by its tag, where that tells which.
        let short = match source.name.tag() {
            Some(tag) if tags[tag] == 1 => tag,
            _ => &full,
        };
        let found = image(source.store, &source.target, DEPTH, &mut blobs);
        found.map_err(|error| error.context(format!("image {full}")))?;
        manifests.push(json!({
            "mediaType": source.target.media_type().to_string(),
            "digest": source.target.digest().to_string(),
            "size": source.target.size(),
            "annotations": {
                "io.containerd.image.name": full,
                "org.opencontainers.image.ref.name": short,
            },
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    plan.add("oci-layout".into(), Content::Bytes(marker));
    plan.add("index.json".into(), Content::Bytes(plan::json(index)?));
    blobs.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, content) in blobs.files {
        plan.add(name, content);
    }
    Ok(plan)
}

/// Everything of an image; of an index what is complete.
fn image<'a>(
    store: &'a dyn ContentStore,
    target: &Descriptor,
    depth: u32,
    blobs: &mut Plan<'a>,
) -> Result<()> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| Error::invalid(format!("indexes are nested {DEPTH} deep")))?;
    match document::load(store, target)? {
        Document::Manifest(manifest) => {
            if let Some(missing) = resolve::is_complete(store, target)?.first() {
                return Err(incomplete(missing));
            }
            for descriptor in std::iter::once(manifest.config()).chain(manifest.layers()) {
                blob(store, descriptor, blobs)?;
            }
        }
        Document::Index(index) => {
            let mut any = index.manifests().is_empty();
            let mut first = None;
            for child in index.manifests() {
                let missing = resolve::is_complete(store, child)?;
                let document = is_document(child.media_type().as_ref());
                match missing.first() {
                    None if document => {
                        image(store, child, depth, blobs)?;
                        any = true;
                    }
                    None => blob(store, child, blobs)?,
                    Some(missing) => {
                        log::info!("{} is left out: {missing} is not here", child.digest());
                        first.get_or_insert_with(|| missing.clone());
                    }
                }
            }
            if let Some(missing) = first.filter(|_| !any) {
                return Err(incomplete(&missing));
            }
        }
    }
    blob(store, target, blobs)
}

fn incomplete(missing: &Digest) -> Error {
    Error::not_found(format!("it is not complete: blob {missing} is missing"))
        .with_hint("pull or import it again")
}

fn blob<'a>(
    store: &'a dyn ContentStore,
    descriptor: &Descriptor,
    blobs: &mut Plan<'a>,
) -> Result<()> {
    let digest = digest_of(descriptor)?;
    blobs.add(
        blob_path(&digest),
        Content::Blob {
            store,
            digest,
            size: descriptor.size(),
        },
    );
    Ok(())
}

/// Where a blob is in a layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
