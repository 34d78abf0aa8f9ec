//! Signatures as layers of a manifest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use containerkit::document::{self, Document};
use containerkit::oci_spec::image::{Descriptor, ImageManifest};
use containerkit::{Algorithm, Digest, Error, Result, quote};
use p256::ecdsa::Signature;
use serde_json::{Value, json};

use super::payload;
use crate::{Manifest, describe};

/// What follows `ALGORITHM-HEX` in cosign's tag.
pub const TAG_SUFFIX: &str = ".sig";
/// The artifact type of a signature among an image's referrers, cosign's too.
pub const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The media type of a payload.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of a payload's descriptor that holds its signature.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// No manifest of signatures is larger.
pub(super) const LIMIT: u64 = 1 << 20;
/// A DER signature has at most 72 bytes, in base64 96 characters.
const SIGNATURE_LIMIT: usize = 96;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A signature with the bytes that it is of.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// A [`Payload`](super::Payload), not yet parsed.
    pub payload: Vec<u8>,
    pub(super) signature: Signature,
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({})", self.layer())
    }
}

impl Envelope {
    pub(super) fn digest(&self) -> Digest {
        Algorithm::Sha256.digest(&self.payload)
    }

    /// Its layer in a manifest.
    pub(super) fn layer(&self) -> Value {
        json!({
            "mediaType": SIMPLE_SIGNING,
            "digest": self.digest(),
            "size": self.payload.len(),
            "annotations": { SIGNATURE: BASE64.encode(self.signature.to_der()) },
        })
    }
}

/// cosign's tag for the signatures of a digest; a SHA-512 is too long for one.
pub(super) fn tag(digest: &Digest) -> Option<String> {
    (digest.algorithm() == Algorithm::Sha256)
        .then(|| format!("{}-{}{TAG_SUFFIX}", digest.algorithm(), digest.hex()))
}

/// The signatures in a manifest: the payloads' descriptors, with the
/// signature of each. Layers of other kinds are not for us.
pub(super) fn signatures(manifest: &Manifest) -> Result<Vec<(Descriptor, Signature)>> {
    let layers = parse(manifest)?.layers().clone();
    layers
        .into_iter()
        .filter(|layer| layer.media_type().as_ref() == SIMPLE_SIGNING)
        .map(|layer| {
            let signature = signature(&layer)?;
            Ok((layer, signature))
        })
        .collect()
}

/// A manifest of signatures, known to be an image manifest.
pub(super) fn parse(manifest: &Manifest) -> Result<ImageManifest> {
    if manifest.data.len() as u64 > LIMIT {
        return Err(super::gather::too_much(format!(
            "a manifest of signatures has more than {LIMIT} bytes"
        )));
    }
    match document::parse(&manifest.data, manifest.descriptor.media_type().as_ref())? {
        Document::Manifest(document) => Ok(*document),
        Document::Index(_) => Err(Error::invalid(
            "it is an index, and no manifest of signatures",
        )),
    }
}

fn signature(layer: &Descriptor) -> Result<Signature> {
    let refuse = |why: &str| {
        Error::invalid(format!(
            "signature of payload {}: {why}",
            quote(layer.digest().as_ref())
        ))
    };
    if layer.size() > payload::LIMIT {
        return Err(super::gather::too_much(format!(
            "payload {} has {} bytes, more than {}",
            layer.digest(),
            layer.size(),
            payload::LIMIT
        )));
    }
    let text = layer
        .annotations()
        .as_ref()
        .and_then(|annotations| annotations.get(SIGNATURE))
        .ok_or_else(|| refuse("its annotation is missing"))?;
    if text.len() > SIGNATURE_LIMIT {
        return Err(refuse("it is too long"));
    }
    let der = BASE64
        .decode(text)
        .map_err(|_| refuse("it is not base64"))?;
    Signature::from_der(&der).map_err(|_| refuse("it is not DER of an ECDSA P-256 signature"))
}

/// cosign's manifest for the tag, with one more signature: what is there
/// stays as it is. `None` when it is there already. With the manifest goes the
/// blob of its config.
pub(super) fn append(
    existing: Option<&Manifest>,
    envelope: &Envelope,
) -> Result<Option<(Manifest, Vec<u8>)>> {
    let mut layers: Vec<Value> = Vec::new();
    let mut rest = json!({ "schemaVersion": 2, "mediaType": MANIFEST });
    if let Some(manifest) = existing {
        let held = signatures(manifest)?;
        if held.iter().any(|(layer, signature)| {
            layer.digest().as_ref() == envelope.digest().to_string()
                && *signature == envelope.signature
        }) {
            return Ok(None);
        }
        rest = serde_json::from_slice(&manifest.data)
            .map_err(|e| Error::internal("read a manifest twice").with_source(e))?;
        if let Some(Value::Array(held)) = rest.get_mut("layers").map(Value::take) {
            layers = held;
        }
    }
    layers.push(envelope.layer());
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    // An image's config, because cosign's readers expect one.
    let config = json!({
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes();
    rest["config"] = json!({
        "mediaType": CONFIG,
        "digest": Algorithm::Sha256.digest(&config),
        "size": config.len(),
    });
    rest["layers"] = layers.into();
    let media_type = existing.map_or(MANIFEST, |old| old.descriptor.media_type().as_ref());
    Ok(Some((made(media_type, &rest)?, config)))
}

/// One signature as a referrer of the image it is for.
pub(super) fn referrer(subject: &Descriptor, envelope: &Envelope) -> Result<(Manifest, Vec<u8>)> {
    let config = b"{}".to_vec();
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        // Older readers take the artifact type from here.
        "config": {
            "mediaType": ARTIFACT_TYPE,
            "digest": Algorithm::Sha256.digest(&config),
            "size": config.len(),
        },
        "layers": [envelope.layer()],
        "subject": {
            "mediaType": subject.media_type(),
            "digest": subject.digest(),
            "size": subject.size(),
        },
    });
    Ok((made(MANIFEST, &document)?, config))
}

fn made(media_type: &str, document: &Value) -> Result<Manifest> {
    let data = document.to_string().into_bytes();
    let digest = Algorithm::Sha256.digest(&data);
    Ok(Manifest {
        descriptor: describe(media_type, &digest, data.len() as u64)?,
        data,
    })
}
