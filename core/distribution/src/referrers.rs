//! Referrers: what says of itself that it belongs to a manifest. By the API,
//! and where a registry has it not, by the tag `ALGORITHM-HEX` of an index:
//! OCI distribution-spec, "Listing Referrers".

use containerkit::document::{self, DOCUMENT, DOCUMENTS, Document};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Error, ErrorKind, Reference, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Access, Registry};
use crate::http::Call;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Pages of an answer that are read.
const PAGES: u32 = 16;
/// How often an entry is added that another writer's list has not.
const ROUNDS: usize = 8;

/// What a manifest says of where it belongs.
#[derive(Deserialize)]
struct Member {
    subject: Option<Descriptor>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    annotations: Option<Value>,
}

/// The tag that lists the referrers of a digest.
pub fn fallback_tag(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}", digest.algorithm(), &hex[..hex.len().min(64)])
}

/// The manifest that a document belongs to, if it says so.
pub(crate) fn subject_of(data: &[u8]) -> Result<Option<Digest>> {
    let member: Member = serde_json::from_slice(data).map_err(document::json_error)?;
    member.subject.as_ref().map(document::digest_of).transpose()
}

/// A document's own descriptor as a list of referrers has it.
pub(crate) fn entry(descriptor: &Descriptor, data: &[u8]) -> Result<Value> {
    let member: Member = serde_json::from_slice(data).map_err(document::json_error)?;
    let mut entry = serde_json::to_value(descriptor).map_err(document::json_error)?;
    let kind = member
        .artifact_type
        .or_else(|| member.config.map(|config| config.media_type().to_string()));
    if let Some(kind) = kind {
        entry["artifactType"] = Value::String(kind);
    }
    if let Some(annotations) = member.annotations {
        entry["annotations"] = annotations;
    }
    Ok(entry)
}

impl Registry {
    /// What refers to a digest in a reference's repository, at most 512 of
    /// them; with a type, of that type alone. None is no error.
    pub fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let found = match self.listed(reference, digest)? {
            Some(found) => found,
            None => self.tagged(reference, digest)?,
        };
        if found.len() > DOCUMENTS as usize {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{digest} has more than {DOCUMENTS} referrers"),
            ));
        }
        Ok(found
            .into_iter()
            .filter(|descriptor| {
                artifact_type.is_none_or(|wanted| {
                    let kind = descriptor.artifact_type().as_ref();
                    kind.is_some_and(|kind| kind.as_ref() == wanted)
                })
            })
            .collect())
    }

    /// By the API; `None` where there is none.
    fn listed(&self, reference: &Reference, digest: &Digest) -> Result<Option<Vec<Descriptor>>> {
        let endpoint = self.settings().registry(reference)?;
        let mut url = endpoint.url(&format!("referrers/{digest}"));
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let call = Call::get(url.clone()).header("accept", INDEX);
            let answer = self.ask(&endpoint, Access::Pull, &call)?;
            let is_index = answer
                .header("content-type")
                .is_some_and(|kind| kind.starts_with(INDEX));
            match answer.status {
                200 if is_index => {}
                400 | 404 | 405 | 501 | 200 => return Ok(None),
                _ => return Err(answer.error()),
            }
            let next = answer
                .header("link")
                .and_then(next_page)
                .map(|link| url.join(link))
                .transpose()?;
            let Document::Index(index) = document::parse(&answer.small(DOCUMENT)?, INDEX)? else {
                return Err(Error::invalid(format!("{url} answers with no index")));
            };
            found.extend(index.manifests().iter().cloned());
            match next {
                // Another host's list is none of this registry's.
                Some(next) if next.origin == endpoint.origin => url = next,
                _ => return Ok(Some(found)),
            }
        }
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{digest} has more than {PAGES} pages of referrers"),
        ))
    }

    fn tagged(&self, reference: &Reference, digest: &Digest) -> Result<Vec<Descriptor>> {
        match self.list(reference, digest)? {
            None => Ok(Vec::new()),
            Some(data) => match document::parse(&data, INDEX)? {
                Document::Index(index) => Ok(index.manifests().clone()),
                Document::Manifest(_) => Err(Error::internal("an index that is a manifest")),
            },
        }
    }

    /// The index of the fallback tag, from the registry itself: a mirror's may
    /// be old, and what is written after it would lack what came since.
    fn list(&self, reference: &Reference, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let endpoint = self.settings().registry(reference)?;
        match self.manifest_at(&endpoint, None, Some(&fallback_tag(digest))) {
            Ok(found) if found.descriptor.media_type().as_ref() == INDEX => Ok(Some(found.data)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a manifest with a subject to the fallback tag's list. A registry
    /// cannot be asked to replace a tag only when it is as it was: so it is
    /// read again, and added once more when another writer was faster.
    pub(crate) fn list_referrer(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        data: &[u8],
    ) -> Result<()> {
        let Some(subject) = subject_of(data)? else {
            return Ok(());
        };
        let digest = Value::String(descriptor.digest().to_string());
        let tag = reference.with_tag(&fallback_tag(&subject))?;
        for _ in 0..ROUNDS {
            let mut index: Value = match self.list(reference, &subject)? {
                Some(data) => serde_json::from_slice(&data).map_err(document::json_error)?,
                None => json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }),
            };
            let Some(manifests) = index["manifests"].as_array_mut() else {
                return Err(Error::invalid(format!(
                    "the list of referrers of {subject} has no manifests"
                )));
            };
            if manifests.iter().any(|known| known["digest"] == digest) {
                return Ok(());
            }
            manifests.push(entry(descriptor, data)?);
            let bytes = serde_json::to_vec(&index).map_err(document::json_error)?;
            self.put_manifest(&tag, INDEX, &bytes)?;
        }
        Err(Error::conflict(format!(
            "{tag}: others write it again and again; {} is stored, and not in this list of referrers",
            descriptor.digest()
        ))
        .with_hint("the same command adds it; what is there already is not added twice"))
    }
}

/// The target of `<…>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.replace(' ', "")
        .contains("rel=\"next\"")
        .then_some(target)
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn links_lead_to_the_next_page() {
        assert_eq!(next_page("</v2/x?n=1>; rel=\"next\""), Some("/v2/x?n=1"));
        assert_eq!(next_page("</v2/x>; rel=\"prev\""), None);
        assert_eq!(next_page("v2"), None);
    }
}
