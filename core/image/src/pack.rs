//! Packages a changed tree, or any folder, as an image: what
//! [`diff`](mod@crate::diff) finds is one layer on the base's, beside a config
//! that says how to run it and what made it.
//!
//! The same tree, base and wishes make the same blobs, byte for byte, when
//! [`DiffOptions::epoch`] is given: JSON with its keys in order, gzip and zstd
//! by one thread and without a name or time in them. Without an epoch the time
//! of packing is in config and history.
//!
//! Blobs are stored as they come, layer first, manifest last; the image has no
//! name before the caller records one, so a killed packing leaves blobs that
//! nothing refers to, and at most an ingest.

mod config;
mod index;
mod layer;

use containerkit::content::ContentStore;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Context as _, Error, Result, Timestamp};
use serde_json::{Value, json};

use crate::PlatformChoice;
use crate::diff::{DiffOptions, Trees};
use crate::document::json_error;
use crate::resolve::Image;

pub use config::ConfigChanges;
pub use index::index;
pub use layer::LayerCompression;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// How to look for changes. Its epoch is the time of creation, too.
    pub diff: DiffOptions,
    /// The new layer's.
    pub compression: LayerCompression,
    /// What becomes of the base's config.
    pub changes: ConfigChanges,
    /// The platform to tell; the base's, or the host's, without one.
    pub platform: Option<PlatformChoice>,
    /// What the history says made the layer.
    pub created_by: String,
    /// The history's comment.
    pub message: Option<String>,
    /// The name that the base was found by, for an annotation.
    pub base_name: Option<String>,
}

/// A packed image, complete in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its manifest.
    pub target: Descriptor,
    /// Entries of the new layer; 0 where nothing had changed, and there is none.
    pub entries: u64,
}

/// Packs the changes between two trees on a base, whose layers make the lower
/// one. Without a base the upper tree is all of the image.
pub fn pack(
    store: &dyn ContentStore,
    base: Option<&Image>,
    trees: &mut Trees<'_>,
    options: &PackOptions,
) -> Result<Packed> {
    options.changes.check()?;
    let mut layers = match base {
        Some(base) => base_layers(store, base)?,
        None => Vec::new(),
    };
    let changes = trees.changes(&options.diff)?;
    let mut diff_id = None;
    let mut entries = 0;
    if !changes.is_empty() {
        let made = layer::make(store, options.compression, |layer| {
            trees.write(&changes, layer, &options.diff)
        })
        .context(|| "make the layer")?;
        entries = made.diffed.entries;
        layers.push(json!({
            "mediaType": options.compression.media_type(),
            "digest": made.digest,
            "size": made.size,
        }));
        diff_id = Some(made.diff_id);
    }
    let created = match options.diff.epoch {
        Some(epoch) => Timestamp::from_unix_nanos(epoch.saturating_mul(1_000_000_000)),
        None => Timestamp::now(),
    };
    let config = config::make(store, base, options, created, diff_id.as_ref())?;
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": store_json(store, CONFIG, &config)?,
        "layers": layers,
    });
    if let Some(base) = base {
        let mut annotations = json!({
            "org.opencontainers.image.base.digest": base.manifest_descriptor.digest().to_string(),
        });
        if let Some(name) = &options.base_name {
            annotations["org.opencontainers.image.base.name"] = json!(name);
        }
        manifest["annotations"] = annotations;
    }
    let target = store_json(store, MANIFEST, &manifest)?;
    Ok(Packed {
        target: serde_json::from_value(target).map_err(json_error)?,
        entries,
    })
}

/// The base's layers as they stand in an OCI manifest, all of them there.
fn base_layers(store: &dyn ContentStore, base: &Image) -> Result<Vec<Value>> {
    let mut layers = Vec::with_capacity(base.layers.len() + 1);
    for layer in &base.layers {
        if !crate::resolve::is_there(store, &layer.digest)? {
            return Err(Error::precondition(format!(
                "layer {} of the base image is not in the store",
                layer.digest
            ))
            .with_hint("pull or import the base image again"));
        }
        layers.push(json!({
            "mediaType": oci_type(layer.descriptor.media_type().as_ref()),
            "digest": layer.digest,
            "size": layer.descriptor.size(),
        }));
    }
    Ok(layers)
}

/// Docker's name of a layer's type as OCI's, for one manifest holds one kind.
fn oci_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => LayerCompression::None.media_type(),
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            LayerCompression::Gzip.media_type()
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => LayerCompression::Zstd.media_type(),
        other => other,
    }
}

/// Stores a document and gives its descriptor. Keys are in order: `Value`
/// keeps them so.
fn store_json(store: &dyn ContentStore, media_type: &str, document: &Value) -> Result<Value> {
    let mut document = document.clone();
    document.sort_all_objects();
    let data = serde_json::to_vec(&document).map_err(json_error)?;
    let digest = layer::store_bytes(store, &data)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": data.len() }))
}
