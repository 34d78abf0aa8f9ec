//! What `docker save` writes: `manifest.json` lists images with their config,
//! layers and tags. Each becomes an OCI manifest over the same config bytes,
//! so that the image's ID stays what it was.

use std::io::Read;

use containerkit::mounter::OVERLAY_LAYERS;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Algorithm, Context as _, Digest, Error, IoContext, Result, quote};
use serde::{Deserialize, Serialize};

use super::source::Source;
use super::{Imported, Role, Target};
use crate::document::{self, json_error};
use crate::layer::compression::Compression;

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

const IMAGES: usize = 512;

pub(super) fn import(source: &dyn Source, into: &Target) -> Result<Vec<Imported>> {
    let manifest = source
        .small("manifest.json")?
        .ok_or_else(|| Error::invalid("there is no manifest.json"))?;
    let saved: Vec<Saved> = serde_json::from_slice(&manifest)
        .map_err(json_error)
        .context(|| "manifest.json")?;
    if saved.len() > IMAGES {
        return Err(crate::limits::exhausted(format!(
            "manifest.json lists more than {IMAGES} images"
        )));
    }
    let mut imported = Vec::new();
    for image in &saved {
        let target = convert(source, image, into)?;
        let tags = image.tags.as_deref().unwrap_or_default();
        if tags.is_empty() {
            imported.push(Imported {
                role: Role::Image,
                name: None,
                target: target.clone(),
            });
        }
        for tag in tags {
            imported.push(Imported {
                role: Role::Image,
                name: Some(tag.clone()),
                target: target.clone(),
            });
        }
    }
    Ok(imported)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Blob<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Blob<'a>,
    layers: Vec<Blob<'a>>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn convert(source: &dyn Source, image: &Saved, into: &Target) -> Result<Descriptor> {
    let config = source
        .small(&image.config)?
        .ok_or_else(|| Error::not_found(format!("config {} is missing", quote(&image.config))))?;
    let parsed =
        document::parse_config(&config).context(|| format!("config {}", quote(&image.config)))?;
    let diff_ids = parsed.rootfs().diff_ids();
    let layers = image.layers.as_deref().unwrap_or_default();
    if layers.len() > OVERLAY_LAYERS {
        return Err(document::too_many_layers(layers.len(), OVERLAY_LAYERS));
    }
    if layers.len() != diff_ids.len() {
        return Err(Error::invalid(format!(
            "config {} has {} layers and manifest.json {}",
            quote(&image.config),
            diff_ids.len(),
            layers.len()
        )));
    }
    let mut blobs = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let diff_id: Digest = diff_id
            .parse()
            .context(|| format!("config {}", quote(&image.config)))?;
        blobs.push(store_layer(source, layer, &diff_id, into)?);
    }
    let digest = Algorithm::Sha256.digest(&config);
    into.bytes(&config, &digest)?;
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: Blob {
            media_type: CONFIG,
            digest: digest.to_string(),
            size: config.len() as u64,
        },
        layers: blobs,
    })
    .map_err(json_error)?;
    let digest = Algorithm::Sha256.digest(&manifest);
    into.bytes(&manifest, &digest)?;
    serde_json::from_value(serde_json::json!({
        "mediaType": MANIFEST,
        "digest": digest.to_string(),
        "size": manifest.len(),
    }))
    .map_err(json_error)
}

fn store_layer(
    source: &dyn Source,
    name: &str,
    diff_id: &Digest,
    into: &Target,
) -> Result<Blob<'static>> {
    let open = || {
        source
            .open(name)?
            .ok_or_else(|| Error::not_found(format!("layer {} is missing", quote(name))))
    };
    let mut opened = open()?;
    let mut start = Vec::new();
    (&mut opened.data)
        .take(4)
        .read_to_end(&mut start)
        .io_context(|| format!("read layer {}", quote(name)))?;
    let compression = Compression::detect(&start).context(|| format!("layer {}", quote(name)))?;
    let size = opened.size;
    // A plain layer's digest is its DiffID, and storing it checks that; of a
    // compressed one it must be found first.
    let digest = match compression {
        Compression::None => diff_id.clone(),
        Compression::Gzip | Compression::Zstd => {
            let mut data = open()?.data;
            let mut hasher = Algorithm::Sha256.hasher();
            let mut buffer = vec![0u8; 1 << 20];
            loop {
                match data.read(&mut buffer) {
                    Ok(0) => break hasher.finish(),
                    Ok(read) => hasher.update(&buffer[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        return Err(Error::io(format!("read layer {}", quote(name)), error));
                    }
                }
            }
        }
    };
    if !into.blob(source, name, &digest, size)? {
        return Err(Error::not_found(format!(
            "layer {} is missing",
            quote(name)
        )));
    }
    Ok(Blob {
        media_type: match compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        },
        digest: digest.to_string(),
        size,
    })
}
