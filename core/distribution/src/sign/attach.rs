//! Adding a signature to an image.

use containerkit::document::digest_of;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Error, Reference, Result, step};

use super::gather::tagged;
use super::key::PrivateKey;
use super::manifest::{self, ARTIFACT_TYPE, CONFIG, Envelope, SIMPLE_SIGNING};
use super::payload::Payload;
use super::repository::Repository;

/// Rounds of adding to the tag while others do so too.
const ROUNDS: usize = 8;

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The manifest or index.
    pub digest: Digest,
    /// The signature as a manifest among the referrers of `digest`.
    pub signature: Digest,
    /// The tag of all signatures; none for a SHA-512, which is too long.
    pub tag: Option<String>,
}

/// Resolves an image at its registry, signs what it is now, and stores the
/// signature there. Earlier signatures stay.
pub fn sign(registry: &dyn Repository, image: &Reference, key: &PrivateKey) -> Result<Signed> {
    let subject = registry.resolve(image)?;
    let digest = digest_of(&subject)?;
    if image.digest().is_some_and(|asked| *asked != digest) {
        return Err(Error::precondition(format!(
            "{image}: the registry answers with {digest}"
        )));
    }
    let payload = Payload::of(image, &digest).to_bytes()?;
    let envelope = Envelope {
        signature: key.sign(&payload),
        payload,
    };
    registry.put_blob(image, SIMPLE_SIGNING, &envelope.payload)?;
    step("sign.payload");
    // First as a referrer, which is whole or not there; the tag, which several
    // signers write, follows.
    let signature = put_referrer(registry, image, &subject, &envelope)?;
    step("sign.referrer");
    let tag = manifest::tag(&digest);
    if let Some(tag) = &tag {
        put_tagged(registry, &image.with_tag(tag)?, &digest, &envelope)?;
    }
    Ok(Signed {
        digest,
        signature,
        tag,
    })
}

fn put_referrer(
    registry: &dyn Repository,
    image: &Reference,
    subject: &Descriptor,
    envelope: &Envelope,
) -> Result<Digest> {
    let (manifest, config) = manifest::referrer(subject, envelope)?;
    let digest = digest_of(&manifest.descriptor)?;
    registry.put_blob(image, ARTIFACT_TYPE, &config)?;
    registry.put_manifest(&image.with_digest(digest.clone()), &manifest)?;
    Ok(digest)
}

/// A registry cannot be asked to replace a tag only when it is as it was. So
/// what was written is read again, and added once more when another signer
/// was faster or slower by that much.
fn put_tagged(
    registry: &dyn Repository,
    tag: &Reference,
    digest: &Digest,
    envelope: &Envelope,
) -> Result<()> {
    for _ in 0..ROUNDS {
        let existing = tagged(registry, tag, digest)?;
        let Some((manifest, config)) = manifest::append(existing.as_ref(), envelope)? else {
            return Ok(());
        };
        registry.put_blob(tag, CONFIG, &config)?;
        registry.put_manifest(tag, &manifest)?;
        step("sign.tagged");
    }
    Err(Error::conflict(format!(
        "{tag}: other signers write it again and again; the signature is stored as a referrer only"
    ))
    .with_hint("sign again; what is there already is not added twice"))
}
