//! Whether an image's signatures suffice.

use std::collections::BTreeMap;

use containerkit::{Context as _, Digest, Error, ErrorKind, Reference, Result};

use super::gather::gather;
use super::key::PublicKey;
use super::manifest::Envelope;
use super::payload::Payload;
use super::repository::Signatures;

/// What is asked of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Accept,
    /// That it is not used.
    Reject,
    /// A signature by one of these keys; by no key of none.
    Any(Vec<PublicKey>),
    /// A signature by each of these keys; of none nothing comes either.
    All(Vec<PublicKey>),
}

/// A key that signed an image, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key's [`id`](PublicKey::id).
    pub key: Digest,
    /// The first of its payloads that is about the image.
    pub payload: Payload,
}

/// Lets an image with this digest pass or refuses it (`PermissionDenied`),
/// with what its registry has of signatures. Asks the registry only for rules
/// that are about keys. The signers that the rule names are returned.
pub fn permit(
    registry: &dyn Signatures,
    rule: &Rule,
    image: &Reference,
    digest: &Digest,
) -> Result<Vec<Signer>> {
    let signatures = match rule {
        Rule::Accept | Rule::Reject => Vec::new(),
        Rule::Any(_) | Rule::All(_) => {
            gather(registry, image, digest).context(|| format!("cannot verify {image}"))?
        }
    };
    decide(rule, image, digest, &signatures)
}

/// [`permit`] with the signatures at hand.
pub fn decide(
    rule: &Rule,
    image: &Reference,
    digest: &Digest,
    signatures: &[Envelope],
) -> Result<Vec<Signer>> {
    let refuse = |why: String| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!("image {image} ({digest}): {why}"),
        )
    };
    let keys = match rule {
        Rule::Accept => return Ok(Vec::new()),
        Rule::Reject => return Err(refuse("the policy rejects it".into())),
        Rule::Any(keys) | Rule::All(keys) => keys,
    };
    let mut signers: BTreeMap<&Digest, Payload> = BTreeMap::new();
    let mut others = Vec::new();
    for envelope in signatures {
        for key in keys {
            if !key.verifies(&envelope.payload, &envelope.signature) {
                continue;
            }
            let payload = Payload::parse(&envelope.payload)
                .context(|| format!("image {image}: signature by key {}", key.id().short()))?;
            match payload.covers(image, digest) {
                Ok(()) => drop(signers.entry(key.id()).or_insert(payload)),
                Err(why) => others.push(format!("one by key {}, but {why}", key.id().short())),
            }
        }
    }
    let missing = keys.iter().find(|key| !signers.contains_key(key.id()));
    let enough = match rule {
        Rule::All(_) => missing.is_none() && !signers.is_empty(),
        _ => !signers.is_empty(),
    };
    if enough {
        return Ok(signers
            .into_iter()
            .map(|(key, payload)| Signer {
                key: key.clone(),
                payload,
            })
            .collect());
    }
    let wanted = match (rule, missing) {
        (Rule::All(_), Some(key)) => format!("key {} has not signed it", key.id().short()),
        _ => "none of the keys has signed it".into(),
    };
    let count = match signatures.len() {
        0 => "it has no signature".to_string(),
        1 => "it has one signature".into(),
        count => format!("it has {count} signatures"),
    };
    let found = match others.as_slice() {
        _ if signatures.is_empty() => String::new(),
        [] => " by other keys".into(),
        others => format!(": {}", others.join(", ")),
    };
    Err(refuse(format!("{wanted}; {count}{found}")))
}
