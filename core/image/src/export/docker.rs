//! What `docker save` writes: `manifest.json`, configs and layers.

use containerkit::{Context as _, Digest, Error, Result};
use serde_json::{Value, json};

use super::Source;
use super::layout::blob_path;
use super::plan::{self, Content, Plan};
use crate::PlatformChoice;
use crate::document::digest_of;
use crate::resolve;

pub(super) fn plan<'a>(sources: &[Source<'a>], platform: &PlatformChoice) -> Result<Plan<'a>> {
    let mut images: Vec<(Digest, Value)> = Vec::new();
    let mut blobs = Plan::default();
    for source in sources {
        let full = source.name.to_string();
        let image = resolve::resolve(source.store, &source.target, platform)
            .context(|| format!("image {full}"))?;
        // A name by digest is none that a tag could be given for.
        let tag = (source.name.digest().is_none()).then_some(full.clone());
        let config = digest_of(&image.config_descriptor)?;
        if let Some((_, known)) = images.iter_mut().find(|(digest, _)| *digest == config) {
            if let (Some(tags), Some(tag)) = (known["RepoTags"].as_array_mut(), tag) {
                tags.push(json!(tag));
            }
            continue;
        }
        let config_path = format!("{}.json", config.hex());
        let mut layers = Vec::with_capacity(image.layers.len());
        let parts = image
            .layers
            .iter()
            .map(|layer| (&layer.digest, layer.descriptor.size()));
        for (digest, size) in parts {
            if !resolve::is_there(source.store, digest)? {
                return Err(Error::not_found(format!(
                    "image {full}: layer {digest} of {} is missing",
                    image.platform
                ))
                .with_hint("pull or import it again"));
            }
            layers.push(blob_path(digest));
            blobs.add(
                blob_path(digest),
                Content::Blob {
                    store: source.store,
                    digest: digest.clone(),
                    size,
                },
            );
        }
        blobs.add(
            config_path.clone(),
            Content::Blob {
                store: source.store,
                digest: config.clone(),
                size: image.config_descriptor.size(),
            },
        );
        let tags: Vec<String> = tag.into_iter().collect();
        images.push((
            config,
            json!({ "Config": config_path, "RepoTags": tags, "Layers": layers }),
        ));
    }
    let manifest: Vec<Value> = images.into_iter().map(|(_, image)| image).collect();
    let mut plan = Plan::default();
    plan.add(
        "manifest.json".into(),
        Content::Bytes(plan::json(json!(manifest))?),
    );
    blobs.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, content) in blobs.files {
        plan.add(name, content);
    }
    Ok(plan)
}
