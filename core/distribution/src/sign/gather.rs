//! Reading the signatures of an image.

use containerkit::document::digest_of;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Context as _, Digest, Error, ErrorKind, Reference, Result};
use p256::ecdsa::Signature;

use super::manifest::{self, ARTIFACT_TYPE, Envelope};
use super::repository::Signatures;
use crate::Manifest;

/// How many signatures an image may have, in each of the places.
pub const MOST: usize = 64;

pub(super) fn too_much(message: String) -> Error {
    Error::new(ErrorKind::ResourceExhausted, message)
}

/// All signatures that the registry has for a digest in the repository of
/// `image`, each once. Whatever is malformed, or too much, is an error.
pub fn gather(
    registry: &dyn Signatures,
    image: &Reference,
    digest: &Digest,
) -> Result<Vec<Envelope>> {
    let mut found = Vec::new();
    if let Some(manifest) = tagged(registry, image, digest)? {
        add(registry, image, &manifest, &mut found)
            .context(|| format!("the signatures of {digest} by tag"))?;
    }
    let referrers = registry.referrers(image, digest, ARTIFACT_TYPE)?;
    check_count(referrers.len(), digest)?;
    for referrer in referrers {
        let context = || format!("signature manifest {}", referrer.digest());
        let manifest = of_referrer(registry, image, digest, &referrer).context(context)?;
        add(registry, image, &manifest, &mut found).context(context)?;
    }
    check_count(found.len(), digest)?;
    Ok(found)
}

fn check_count(count: usize, digest: &Digest) -> Result<()> {
    if count > MOST {
        return Err(too_much(format!(
            "{digest} has {count} signatures, more than the {MOST} that are looked at"
        )));
    }
    Ok(())
}

/// The manifest that cosign's tag names.
pub(super) fn tagged(
    registry: &dyn Signatures,
    image: &Reference,
    digest: &Digest,
) -> Result<Option<Manifest>> {
    match manifest::tag(digest) {
        Some(tag) => registry.manifest(&image.with_tag(&tag)?),
        None => Ok(None),
    }
}

fn of_referrer(
    registry: &dyn Signatures,
    image: &Reference,
    digest: &Digest,
    referrer: &Descriptor,
) -> Result<Manifest> {
    let own = digest_of(referrer)?;
    let manifest = registry
        .manifest(&image.with_digest(own.clone()))?
        .ok_or_else(|| Error::data_loss("it is listed as a referrer, and is not there"))?;
    check_digest(&manifest.data, &own)?;
    let subject = manifest::parse(&manifest)?.subject().clone();
    let subject = subject.as_ref().map(digest_of).transpose()?;
    if subject.as_ref() != Some(digest) {
        return Err(Error::invalid(format!(
            "it is listed as a referrer of {digest}, and is none"
        )));
    }
    Ok(manifest)
}

fn check_digest(data: &[u8], want: &Digest) -> Result<()> {
    let found = want.algorithm().digest(data);
    if found != *want {
        return Err(Error::precondition(format!(
            "it has digest {found}, not {want}"
        )));
    }
    Ok(())
}

fn add(
    registry: &dyn Signatures,
    image: &Reference,
    manifest: &Manifest,
    found: &mut Vec<Envelope>,
) -> Result<()> {
    let layers = manifest::signatures(manifest)?;
    if layers.len() > MOST {
        return Err(too_much(format!(
            "it has {} signatures, more than the {MOST} that are looked at",
            layers.len()
        )));
    }
    for (layer, signature) in layers {
        let envelope = envelope(registry, image, &layer, signature, found)
            .context(|| format!("payload {}", layer.digest()))?;
        if !found.contains(&envelope) {
            found.push(envelope);
        }
    }
    Ok(())
}

/// Signatures of one payload share its blob: it is fetched once.
fn envelope(
    registry: &dyn Signatures,
    image: &Reference,
    layer: &Descriptor,
    signature: Signature,
    found: &[Envelope],
) -> Result<Envelope> {
    let digest = digest_of(layer)?;
    let held = found.iter().find(|other| other.digest() == digest);
    let payload = match held {
        Some(other) => other.payload.clone(),
        None => registry.blob(image, layer)?,
    };
    if payload.len() as u64 != layer.size() {
        return Err(Error::precondition(format!(
            "it has {} bytes, its descriptor says {}",
            payload.len(),
            layer.size()
        )));
    }
    check_digest(&payload, &digest)?;
    Ok(Envelope { payload, signature })
}
