//! What the roots reach, and why.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use containerkit::content::read_blob;
use containerkit::record::{Object, Root, Roots};
use containerkit::{Digest, ErrorKind, InstanceName, Result, SnapshotKey, chain_id};

use super::{Stores, holder_of};
use crate::document::{self, DOCUMENT, Document, digest_of};

/// Why something is kept.
pub(super) type Reason = Arc<str>;

/// What was reached so far.
pub(super) struct Marks<'a> {
    stores: &'a Stores<'a>,
    pub(super) blobs: HashMap<Digest, Reason>,
    /// Chain IDs, kept in every snapshotter.
    pub(super) chains: HashMap<SnapshotKey, Reason>,
    pub(super) snapshots: HashMap<(InstanceName, SnapshotKey), Reason>,
    /// Containers, whose snapshots are theirs whatever their labels say.
    pub(super) containers: HashSet<String>,
    /// The roots that were walked.
    pub(super) known: BTreeSet<Root>,
    /// Why nothing may be removed: what some root refers to is unknown.
    pub(super) unknown: Option<Reason>,
    walked: HashSet<Digest>,
}

/// What reading a blob for its references gave.
enum Read {
    /// Not in any store.
    Missing,
    /// It refers to nothing.
    Leaf,
    Document(Document),
    Damaged(String),
}

impl<'a> Marks<'a> {
    pub(super) fn new(stores: &'a Stores<'a>) -> Marks<'a> {
        Marks {
            stores,
            blobs: HashMap::new(),
            chains: HashMap::new(),
            snapshots: HashMap::new(),
            containers: HashSet::new(),
            known: BTreeSet::new(),
            unknown: None,
            walked: HashSet::new(),
        }
    }

    /// Walks the roots that are new, and what is reached from them.
    pub(super) fn walk(&mut self, roots: &Roots) -> Result<()> {
        for image in &roots.images {
            let owner = format!("image {}", image.name);
            if self.is_new(owner, Object::Blob(image.digest.clone())) {
                let reason: Reason = format!("image {}", image.name).into();
                self.document(&image.digest, &reason, Wanted::Whole)?;
            }
        }
        for container in &roots.containers {
            self.containers.insert(container.id.to_string());
            let reason: Reason = format!("container {}", container.name).into();
            let owner = format!("container {}", container.id);
            if let Some(digest) = &container.image_digest
                && self.is_new(owner, Object::Blob(digest.clone()))
            {
                // It runs without its image's blobs: they may be gone.
                self.document(digest, &reason, Wanted::IfThere)?;
            }
            if let (Some(stamp), Some(key)) = (&container.snapshotter, &container.snapshot) {
                self.snapshots
                    .insert((stamp.instance.clone(), key.clone()), reason);
            }
        }
        for lease in &roots.leases {
            let reason: Reason = format!("lease {}, {}", lease.id.short(), holder_of(lease)).into();
            for object in lease.objects() {
                let owner = format!("lease {}", lease.id);
                if !self.is_new(owner, object.clone()) {
                    continue;
                }
                match object {
                    // Named before it is looked for: it may not be there yet.
                    Object::Blob(digest) => self.document(&digest, &reason, Wanted::IfThere)?,
                    Object::Snapshot(instance, key) => {
                        self.snapshots
                            .entry((instance, key))
                            .or_insert_with(|| reason.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn is_new(&mut self, owner: String, object: Object) -> bool {
        self.known.insert(Root { owner, object })
    }

    /// Marks a blob that may be an index or a manifest, and what it refers to.
    pub(super) fn document(
        &mut self,
        digest: &Digest,
        reason: &Reason,
        wanted: Wanted,
    ) -> Result<()> {
        let mut pending = vec![digest.clone()];
        while let Some(next) = pending.pop() {
            self.blobs
                .entry(next.clone())
                .or_insert_with(|| reason.clone());
            if self.walked.contains(&next) {
                continue;
            }
            let read = self.read(&next)?;
            // What is missing may have come when the next root names it.
            if matches!(read, Read::Leaf | Read::Document(_)) {
                self.walked.insert(next.clone());
            }
            match read {
                Read::Leaf => {}
                // Another platform's, left out of a sparse layout.
                Read::Missing if next != *digest || wanted == Wanted::IfThere => {}
                Read::Missing => self.give_up(format!(
                    "blob {next} of {reason} is missing, and what it refers to unknown"
                )),
                Read::Damaged(why) => self.give_up(format!(
                    "blob {next} of {reason} is damaged, and what it refers to unknown: {why}"
                )),
                Read::Document(Document::Index(index)) => {
                    for child in index.manifests() {
                        pending.push(digest_of(child)?);
                    }
                }
                Read::Document(Document::Manifest(manifest)) => {
                    let mut blobs = vec![digest_of(manifest.config())?];
                    for layer in manifest.layers() {
                        blobs.push(digest_of(layer)?);
                    }
                    self.config(&blobs[0], reason)?;
                    for blob in blobs {
                        self.blobs.entry(blob).or_insert_with(|| reason.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks the snapshots of an image's layers, by its config.
    fn config(&mut self, digest: &Digest, reason: &Reason) -> Result<()> {
        let data = match self.bytes(digest)? {
            Ok(data) => data,
            Err(Read::Damaged(why)) => {
                self.give_up(format!(
                    "config {digest} of {reason} is damaged, and its layers are unknown: {why}"
                ));
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        // Of an artifact that is no image.
        let Ok(config) = document::parse_config(&data) else {
            return Ok(());
        };
        let mut chain: Option<Digest> = None;
        for diff_id in config.rootfs().diff_ids() {
            let Ok(diff_id) = diff_id.parse::<Digest>() else {
                break;
            };
            let next = match chain {
                None => Some(diff_id),
                Some(parent) => chain_id(&[parent, diff_id]),
            };
            let Some(next) = next else { break };
            self.chains
                .entry(next.to_string().parse()?)
                .or_insert_with(|| reason.clone());
            chain = Some(next);
        }
        Ok(())
    }

    fn give_up(&mut self, why: String) {
        if self.unknown.is_none() {
            log::warn!("{why}");
            self.unknown = Some(why.into());
        }
    }

    /// The bytes of a blob that is small enough for a document, from whatever
    /// store has it whole.
    fn bytes(&self, digest: &Digest) -> Result<Result<Vec<u8>, Read>> {
        let mut found = Read::Missing;
        for store in &self.stores.contents {
            match read_blob(&*store.driver, digest, DOCUMENT) {
                Ok(data) => return Ok(Ok(data)),
                Err(error) => match error.kind() {
                    ErrorKind::NotFound => {}
                    ErrorKind::ResourceExhausted => found = Read::Leaf,
                    ErrorKind::DataLoss => found = Read::Damaged(error.to_string()),
                    _ => return Err(error),
                },
            }
        }
        Ok(Err(found))
    }

    fn read(&self, digest: &Digest) -> Result<Read> {
        let data = match self.bytes(digest)? {
            Ok(data) => data,
            Err(read) => return Ok(read),
        };
        Ok(match document::recognize(&data) {
            Some(document) => Read::Document(document),
            None => Read::Leaf,
        })
    }
}

/// What a root promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The blob was there when the root was made.
    Whole,
    /// The blob may be missing.
    IfThere,
}
