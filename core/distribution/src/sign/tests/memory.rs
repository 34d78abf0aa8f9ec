//! A registry in memory, with the faults that a test wants.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use containerkit::oci_spec::image::Descriptor;
use containerkit::{Algorithm, Digest, Error, ErrorKind, Reference, Result};
use serde_json::{Value, json};

use crate::sign::{ARTIFACT_TYPE, Repository, SIGNATURE, SIMPLE_SIGNING, Signatures};
use crate::{Manifest, describe};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What happens just before a tag of signatures is written.
type Meanwhile = Box<dyn Fn(&Memory)>;

#[derive(Default)]
pub(super) struct Memory {
    blobs: RefCell<BTreeMap<String, Vec<u8>>>,
    /// By `REPOSITORY:TAG` and `REPOSITORY@DIGEST`.
    manifests: RefCell<BTreeMap<String, Manifest>>,
    /// By subject.
    referrers: RefCell<BTreeMap<String, Vec<Descriptor>>>,
    down: Cell<bool>,
    meanwhile: RefCell<Option<Meanwhile>>,
}

pub(super) fn descriptor(media_type: &str, data: &[u8]) -> Descriptor {
    describe(
        media_type,
        &Algorithm::Sha256.digest(data),
        data.len() as u64,
    )
    .unwrap()
}

fn key(image: &Reference) -> String {
    match (image.digest(), image.tag()) {
        (Some(digest), _) => format!("{}@{digest}", image.repository()),
        (None, tag) => format!("{}:{}", image.repository(), tag.unwrap()),
    }
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory::default()
    }

    /// From now on it does not answer.
    pub(super) fn down(&self) {
        self.down.set(true);
    }

    fn up(&self) -> Result<()> {
        if self.down.get() {
            return Err(Error::new(ErrorKind::Unavailable, "the registry is down"));
        }
        Ok(())
    }

    pub(super) fn meanwhile(&self, deed: impl Fn(&Memory) + 'static) {
        *self.meanwhile.borrow_mut() = Some(Box::new(deed));
    }

    /// An image of these bytes under its tag.
    pub(super) fn image(&self, image: &Reference, data: &[u8]) -> Digest {
        let manifest = Manifest {
            descriptor: descriptor(MANIFEST, data),
            data: data.to_vec(),
        };
        self.put_manifest(image, &manifest).unwrap();
        Algorithm::Sha256.digest(data)
    }

    pub(super) fn layer(payload: &[u8], signature: &str) -> Value {
        json!({
            "mediaType": SIMPLE_SIGNING,
            "digest": Algorithm::Sha256.digest(payload),
            "size": payload.len(),
            "annotations": { SIGNATURE: signature },
        })
    }

    pub(super) fn manifest_of(layers: &[Value]) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Algorithm::Sha256.digest(b"{}"),
                "size": 2,
            },
            "layers": layers,
        })
    }

    pub(super) fn tag_of(image: &Reference, digest: &Digest) -> Reference {
        image
            .with_tag(&format!("sha256-{}.sig", digest.hex()))
            .unwrap()
    }

    /// Signatures under cosign's tag, as cosign stores them.
    pub(super) fn tagged(&self, image: &Reference, digest: &Digest, all: &[(&[u8], &str)]) {
        let layers: Vec<Value> = all
            .iter()
            .map(|(payload, signature)| {
                self.store(payload);
                Memory::layer(payload, signature)
            })
            .collect();
        self.tag(image, digest, &Memory::manifest_of(&layers));
    }

    /// This document under cosign's tag.
    pub(super) fn tag(&self, image: &Reference, digest: &Digest, document: &Value) {
        let data = document.to_string();
        self.image(&Memory::tag_of(image, digest), data.as_bytes());
    }

    pub(super) fn store(&self, data: &[u8]) {
        let digest = Algorithm::Sha256.digest(data).to_string();
        self.blobs.borrow_mut().insert(digest, data.to_vec());
    }

    /// Other bytes under the digest of `of`.
    pub(super) fn lie(&self, of: &[u8], data: &[u8]) {
        let digest = Algorithm::Sha256.digest(of).to_string();
        self.blobs.borrow_mut().insert(digest, data.to_vec());
    }

    /// Lists a manifest as a referrer of `digest`.
    pub(super) fn list(&self, digest: &Digest, descriptor: Descriptor) {
        let mut all = self.referrers.borrow_mut();
        all.entry(digest.to_string()).or_default().push(descriptor);
    }

    /// Forgets the referrers, as a registry that has the tags only.
    pub(super) fn forget_referrers(&self) {
        self.referrers.borrow_mut().clear();
    }

    /// Takes a manifest away.
    pub(super) fn forget(&self, image: &Reference) {
        self.manifests.borrow_mut().remove(&key(image));
    }

    pub(super) fn document(&self, image: &Reference) -> Value {
        serde_json::from_slice(&self.manifests.borrow()[&key(image)].data).unwrap()
    }

    pub(super) fn count(&self, digest: &Digest) -> usize {
        let all = self.referrers.borrow();
        all.get(&digest.to_string()).map_or(0, Vec::len)
    }
}

impl Signatures for Memory {
    fn manifest(&self, image: &Reference) -> Result<Option<Manifest>> {
        self.up()?;
        Ok(self.manifests.borrow().get(&key(image)).cloned())
    }

    fn blob(&self, _image: &Reference, blob: &Descriptor) -> Result<Vec<u8>> {
        self.up()?;
        self.blobs
            .borrow()
            .get(blob.digest().as_ref())
            .cloned()
            .ok_or_else(|| Error::not_found(format!("blob {} is not there", blob.digest())))
    }

    fn referrers(
        &self,
        _image: &Reference,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>> {
        self.up()?;
        assert_eq!(artifact_type, ARTIFACT_TYPE);
        let all = self.referrers.borrow();
        Ok(all.get(&digest.to_string()).cloned().unwrap_or_default())
    }
}

impl Repository for Memory {
    fn resolve(&self, image: &Reference) -> Result<Descriptor> {
        self.up()?;
        self.manifests
            .borrow()
            .get(&key(image))
            .map(|found| found.descriptor.clone())
            .ok_or_else(|| Error::not_found(format!("{image} is not there")))
    }

    fn put_blob(&self, _image: &Reference, _media_type: &str, data: &[u8]) -> Result<()> {
        self.up()?;
        self.store(data);
        Ok(())
    }

    fn put_manifest(&self, image: &Reference, manifest: &Manifest) -> Result<()> {
        self.up()?;
        let document: Value = serde_json::from_slice(&manifest.data).unwrap_or_default();
        let own = manifest.descriptor.clone();
        let mut keys = vec![key(image)];
        if image.digest().is_none() {
            keys.push(format!("{}@{}", image.repository(), own.digest()));
        }
        for key in keys {
            self.manifests.borrow_mut().insert(key, manifest.clone());
        }
        if let Some(subject) = document["subject"]["digest"].as_str() {
            let subject: Digest = subject.parse().unwrap();
            let known = self.referrers.borrow().get(&subject.to_string()).cloned();
            if !known.is_some_and(|all| all.contains(&own)) {
                self.list(&subject, own);
            }
        }
        if image.tag().is_some_and(|tag| tag.ends_with(".sig"))
            && let Some(deed) = self.meanwhile.take()
        {
            deed(self);
        }
        Ok(())
    }
}
