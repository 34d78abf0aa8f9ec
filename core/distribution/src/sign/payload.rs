//! What is signed: cosign's "simple signing" document, which it took from the
//! atomic container signature format.

use containerkit::{Digest, Error, Reference, Result, quote};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `critical.type`.
const TYPE: &str = "cosign container image signature";

/// No payload is larger.
pub(super) const LIMIT: u64 = 64 << 10;

/// A claim: this digest is published in this repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where: `DOMAIN/PATH`, normalized.
    pub repository: String,
    /// The tag, where the signer wrote one.
    pub tag: Option<String>,
    /// What.
    pub digest: Digest,
    /// What else the signer said; nothing depends on it.
    pub optional: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Critical,
    optional: Option<Map<String, Value>>,
}

// Critical is what a reader must understand: more than this is not.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Payload {
    /// The claim about an image, whose tag is left out as cosign does: tags
    /// move, and other tags of the same manifest are the same image.
    pub fn of(image: &Reference, digest: &Digest) -> Payload {
        Payload {
            repository: image.repository(),
            tag: None,
            digest: digest.clone(),
            optional: Map::new(),
        }
    }

    /// The bytes that are signed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let document = Document {
            critical: Critical {
                identity: Identity {
                    reference: match &self.tag {
                        Some(tag) => format!("{}:{tag}", self.repository),
                        None => self.repository.clone(),
                    },
                },
                image: Image {
                    digest: self.digest.to_string(),
                },
                r#type: TYPE.into(),
            },
            optional: (!self.optional.is_empty()).then(|| self.optional.clone()),
        };
        serde_json::to_vec(&document).map_err(|e| Error::internal("write JSON").with_source(e))
    }

    /// Reads what was signed. The caller knows that one of its keys did.
    pub fn parse(data: &[u8]) -> Result<Payload> {
        let malformed = |why: &str| Error::invalid(format!("a signed payload is malformed: {why}"));
        let document: Document = serde_json::from_slice(data)
            .map_err(|_| malformed("it is not cosign's simple signing JSON"))?;
        let critical = document.critical;
        if critical.r#type != TYPE {
            return Err(malformed(&format!(
                "its type is {}",
                quote(&critical.r#type)
            )));
        }
        let digest: Digest = critical
            .image
            .digest
            .parse()
            .map_err(|error: Error| malformed(error.message()))?;
        let typed = &critical.identity.reference;
        let reference: Reference = typed
            .parse()
            .map_err(|error: Error| malformed(error.message()))?;
        if reference.digest().is_some_and(|named| *named != digest) {
            return Err(malformed("it names two digests"));
        }
        // Normalizing gives a tag to what has none.
        let name = typed.split('@').next().unwrap_or_default();
        let tagged = name.rsplit('/').next().is_some_and(|n| n.contains(':'));
        Ok(Payload {
            repository: reference.repository(),
            tag: reference.tag().filter(|_| tagged).map(str::to_owned),
            digest,
            optional: document.optional.unwrap_or_default(),
        })
    }

    /// Whether the claim is about this image with this digest; if not, what it
    /// is about.
    pub fn covers(&self, image: &Reference, digest: &Digest) -> Result<(), String> {
        if self.digest != *digest {
            return Err(format!("it is for {}", self.digest));
        }
        if self.repository != image.repository() {
            return Err(format!("it is for repository {}", self.repository));
        }
        match (&self.tag, image.tag()) {
            (Some(signed), Some(asked)) if signed != asked => {
                Err(format!("it is for tag {signed}"))
            }
            _ => Ok(()),
        }
    }
}
