//! Manifests by tag and digest, and small blobs.

use std::io::Read;

use containerkit::document::{self, DOCUMENT};
use containerkit::oci_spec::image::{Descriptor, MediaType};
use containerkit::{Algorithm, Digest, Error, ErrorKind, Reference, Result, quote};
use serde::Deserialize;
use ureq::http::Method;

use crate::client::{Access, Registry};
use crate::http::{self, Answer, Call};
use crate::settings::Endpoint;

/// Every kind of document that is understood.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, whole and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes that have this digest.
    pub data: Vec<u8>,
}

/// The descriptor of some bytes.
pub fn describe(media_type: &str, digest: &Digest, size: u64) -> Result<Descriptor> {
    let digest: containerkit::oci_spec::image::Digest = digest
        .to_string()
        .parse()
        .map_err(|error| Error::internal(format!("digest {digest}")).with_source(error))?;
    Ok(Descriptor::new(MediaType::from(media_type), size, digest))
}

/// The member that some documents have.
#[derive(Deserialize)]
struct Own {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

impl Registry {
    /// What a reference names now: a digest wins over a tag. Mirrors are asked
    /// first.
    pub fn resolve(&self, reference: &Reference) -> Result<Descriptor> {
        self.manifest(reference).map(|manifest| manifest.descriptor)
    }

    /// The manifest or index that a reference names.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        self.each(reference, |endpoint| {
            self.manifest_at(endpoint, reference.digest(), reference.tag())
        })
    }

    /// The manifest of a descriptor, in a reference's repository.
    pub fn document(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Manifest> {
        let digest = document::digest_of(descriptor)?;
        check_size(descriptor, &digest)?;
        self.each(reference, |endpoint| {
            let found = self.manifest_at(endpoint, Some(&digest), None)?;
            if found.descriptor.media_type() != descriptor.media_type()
                || found.descriptor.size() != descriptor.size()
            {
                return Err(Error::invalid(format!(
                    "manifest {digest} is {} with {} bytes, and was announced as {} with {}",
                    quote(found.descriptor.media_type().as_ref()),
                    found.descriptor.size(),
                    quote(descriptor.media_type().as_ref()),
                    descriptor.size()
                )));
            }
            Ok(found)
        })
    }

    /// Asks every endpoint until one has it. The registry's own error counts.
    pub(crate) fn each<T>(
        &self,
        reference: &Reference,
        ask: impl Fn(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let endpoints = self.endpoints(reference)?;
        let mut failure = None;
        for endpoint in &endpoints {
            match ask(endpoint) {
                Ok(found) => return Ok(found),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    if endpoints.len() > 1 {
                        log::warn!("{}: {error}", endpoint.origin);
                    }
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::internal("a reference without an endpoint")))
    }

    /// What one endpoint says.
    pub(crate) fn manifest_at(
        &self,
        endpoint: &Endpoint,
        digest: Option<&Digest>,
        tag: Option<&str>,
    ) -> Result<Manifest> {
        let name = match (digest, tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            (None, None) => return Err(Error::invalid("neither a tag nor a digest is given")),
        };
        let call = Call::get(endpoint.url(&format!("manifests/{name}"))).header("accept", ACCEPT);
        let (url, told, announced, data) = self.read(endpoint, &call, |answer| {
            let url = answer.url.clone();
            let told = answer.header("docker-content-digest").map(str::to_owned);
            let announced = media_type(&answer);
            Ok((url, told, announced, answer.small(DOCUMENT)?))
        })?;
        let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
        let found = algorithm.digest(&data);
        let wanted = match (digest, told) {
            (Some(digest), _) => Some(digest.clone()),
            (None, Some(told)) => told.parse().ok(),
            (None, None) => None,
        };
        // A server may tell a digest of another algorithm than ours.
        if let Some(wanted) = wanted
            && wanted.algorithm() == algorithm
            && wanted != found
        {
            return Err(Error::data_loss(format!(
                "{url}: its bytes have the digest {found}, not {wanted}"
            )));
        }
        let own: Own = serde_json::from_slice(&data)
            .map_err(document::json_error)
            .map_err(|error| error.context(&url))?;
        // Servers of files know no better than that it is JSON.
        let media_type = match (announced, own.media_type) {
            (Some(announced), _) if document::is_document(&announced) => announced,
            (_, Some(own)) => own,
            (announced, None) => announced.unwrap_or_default(),
        };
        document::parse(&data, &media_type).map_err(|error| error.context(&url))?;
        Ok(Manifest {
            descriptor: describe(&media_type, &found, data.len() as u64)?,
            data,
        })
    }

    /// Whether the registry itself has a manifest.
    pub(crate) fn has_manifest(&self, endpoint: &Endpoint, digest: &Digest) -> Result<bool> {
        let url = endpoint.url(&format!("manifests/{digest}"));
        self.has(
            endpoint,
            &Call::new(Method::HEAD, url).header("accept", ACCEPT),
        )
    }

    pub(crate) fn has(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<bool> {
        let answer = self.ask(endpoint, Access::Push, call)?;
        match answer.status {
            404 => Ok(false),
            _ if answer.is_success() => Ok(true),
            _ => Err(answer.error()),
        }
    }

    /// Stores a manifest at the registry, under the tag of the reference if it
    /// has one and no digest, else under its digest. One with a `subject` can
    /// be found among that one's referrers afterwards.
    pub fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        data: &[u8],
    ) -> Result<Descriptor> {
        let endpoint = self.settings().registry(reference)?;
        let algorithm = reference
            .digest()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = algorithm.digest(data);
        if reference.digest().is_some_and(|wanted| *wanted != digest) {
            return Err(Error::invalid(format!(
                "{reference}: the manifest has the digest {digest}"
            )));
        }
        let name = match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => tag.to_string(),
            _ => digest.to_string(),
        };
        let descriptor = describe(media_type, &digest, data.len() as u64)?;
        let call = Call::new(Method::PUT, endpoint.url(&format!("manifests/{name}")))
            .header("content-type", media_type)
            .bytes(data);
        let answer = self.want(&endpoint, Access::Push, &call)?;
        if let Some(told) = answer.header("docker-content-digest")
            && told
                .parse::<Digest>()
                .is_ok_and(|told| told != digest && told.algorithm() == algorithm)
        {
            return Err(Error::data_loss(format!(
                "{}: the registry stored {digest} as {}",
                answer.url,
                quote(told)
            )));
        }
        let listed = answer.header("oci-subject").is_some();
        if !listed {
            self.list_referrer(reference, &descriptor, data)?;
        }
        Ok(descriptor)
    }

    /// A small blob, whole and verified.
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = document::digest_of(descriptor)?;
        check_size(descriptor, &digest)?;
        self.each(reference, |endpoint| {
            let call = Call::get(endpoint.url(&format!("blobs/{digest}")));
            let (url, data) = self.read(endpoint, &call, |answer| {
                let url = answer.url.clone();
                let mut data = Vec::new();
                answer
                    .into_reader()
                    .take(descriptor.size() + 1)
                    .read_to_end(&mut data)
                    .map_err(|error| http::read_error(&url, error))?;
                Ok((url, data))
            })?;
            if data.len() as u64 != descriptor.size() {
                return Err(Error::data_loss(format!(
                    "{url}: it has {} {} bytes, its descriptor says {}",
                    match data.len() as u64 > descriptor.size() {
                        true => "at least",
                        false => "only",
                    },
                    data.len(),
                    descriptor.size()
                )));
            }
            let found = digest.algorithm().digest(&data);
            if found != digest {
                return Err(Error::data_loss(format!(
                    "{url}: its bytes have the digest {found}"
                )));
            }
            Ok(data)
        })
    }
}

fn check_size(descriptor: &Descriptor, digest: &Digest) -> Result<()> {
    if descriptor.size() > DOCUMENT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "{digest} has {} bytes, more than the {DOCUMENT} that a manifest, index or config may have",
                descriptor.size()
            ),
        ));
    }
    Ok(())
}

/// `Content-Type` without parameters.
fn media_type(answer: &Answer) -> Option<String> {
    let text = answer.header("content-type")?;
    let bare = text.split(';').next()?.trim();
    (!bare.is_empty()).then(|| bare.to_ascii_lowercase())
}
