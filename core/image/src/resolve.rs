//! From what a name points at to one platform's image.
//!
//! Everything read on the way is at most 4 MiB, has the size and digest that
//! its descriptor says, and is one thing only (see `document`). Indexes may
//! hold indexes, four deep.

use std::collections::BTreeSet;

use containerkit::content::ContentStore;
use containerkit::document::{DEPTH, DOCUMENTS};
use containerkit::oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};
use containerkit::platform::Offered;
use containerkit::record::ImageRecord;
use containerkit::{Context as _, Digest, Error, ErrorKind, Result, chain_id};

use crate::PlatformChoice;
use crate::document::{self, Document, digest_of};

/// A layer of a resolved image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob, as the manifest describes it.
    pub descriptor: Descriptor,
    /// The digest of the blob in the store.
    pub digest: Digest,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The digest of this layer and those below it: the snapshot's key.
    pub chain_id: Digest,
}

/// One platform's image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where the manifest is.
    pub manifest_descriptor: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// Where the config is.
    pub config_descriptor: Descriptor,
    /// The config.
    pub config: ImageConfiguration,
    /// The layers, base first; none is an image too.
    pub layers: Vec<Layer>,
    /// `OS/ARCHITECTURE[/VARIANT]`.
    pub platform: String,
}

impl Image {
    /// The digest of the manifest.
    pub fn digest(&self) -> Result<Digest> {
        digest_of(&self.manifest_descriptor)
    }

    /// The bytes of config and layers as they are stored.
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(self.config_descriptor.size(), |sum, layer| {
                sum.saturating_add(layer.descriptor.size())
            })
    }
}

/// The descriptor of what a record points at.
pub fn descriptor(record: &ImageRecord) -> Result<Descriptor> {
    let digest: containerkit::oci_spec::image::Digest =
        record.digest.to_string().parse().map_err(|error| {
            Error::internal(format!("image {}: its digest", record.name)).with_source(error)
        })?;
    let media_type = MediaType::from(record.media_type.as_str());
    Ok(Descriptor::new(media_type, record.size, digest))
}

/// Counts documents, so that an index of many costs an error and not a day.
struct Budget(u32);

impl Budget {
    fn take(&mut self) -> Result<()> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            crate::limits::exhausted(format!("the image has more than {DOCUMENTS} manifests"))
        })?;
        Ok(())
    }
}

/// The image of a platform. `NotFound` names the platforms that are there.
pub fn resolve(
    store: &dyn ContentStore,
    target: &Descriptor,
    platform: &PlatformChoice,
) -> Result<Image> {
    let (best, others) = choose(store, target, platform)?;
    let Some(descriptor) = best else {
        let others: Vec<String> = others.into_iter().take(16).collect();
        let what = if others.is_empty() {
            "it has none that can run".to_string()
        } else {
            format!("it has {}", crate::show(others.join(", ").as_bytes()))
        };
        return Err(Error::not_found(format!(
            "image {} has no manifest for {platform}: {what}",
            target.digest()
        )));
    };
    image(store, &descriptor)
}

/// Whether an image has a manifest for a platform, be it there or not.
pub fn offers(
    store: &dyn ContentStore,
    target: &Descriptor,
    platform: &PlatformChoice,
) -> Result<bool> {
    Ok(choose(store, target, platform)?.0.is_some())
}

/// The manifest that fits a platform best, and the other platforms.
fn choose(
    store: &dyn ContentStore,
    target: &Descriptor,
    platform: &PlatformChoice,
) -> Result<(Option<Descriptor>, BTreeSet<String>)> {
    let mut candidates = Vec::new();
    let mut others = BTreeSet::new();
    for (descriptor, offered) in manifests(store, target)? {
        match platform.rank(&offered) {
            Some(rank) => candidates.push((rank, descriptor)),
            None => drop(others.insert(offered.to_string())),
        }
    }
    // The first of the best: order in an index is preference.
    let mut best: Option<(u32, Descriptor)> = None;
    for (rank, descriptor) in candidates {
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, descriptor));
        }
    }
    Ok((best.map(|(_, descriptor)| descriptor), others))
}

/// Every image manifest behind a name with its platform, in order, be it in
/// the store or not.
pub(crate) fn manifests(
    store: &dyn ContentStore,
    target: &Descriptor,
) -> Result<Vec<(Descriptor, Offered)>> {
    let mut found = Vec::new();
    let mut budget = Budget(DOCUMENTS);
    collect(
        store,
        target,
        DEPTH,
        &mut budget,
        &mut |descriptor, offered| found.push((descriptor.clone(), offered)),
    )?;
    Ok(found)
}

/// The descriptor of a stored manifest or index, of which only the digest is
/// known.
pub fn describe(store: &dyn ContentStore, digest: &Digest) -> Result<Descriptor> {
    let data = containerkit::content::read_blob(store, digest, document::DOCUMENT)?;
    document::describe(&data, digest)
}

/// The platforms of an image whose manifests are in the store.
pub fn platforms(store: &dyn ContentStore, target: &Descriptor) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (descriptor, offered) in manifests(store, target)? {
        let text = offered.to_string();
        let there = digest_of(&descriptor).is_ok_and(|digest| store.info(&digest).is_ok());
        if there && !found.contains(&text) {
            found.push(text);
        }
    }
    Ok(found)
}

/// The blobs that an image refers to, of whatever platform, and that the
/// store does not have. None: the image is complete.
pub fn is_complete(store: &dyn ContentStore, target: &Descriptor) -> Result<Vec<Digest>> {
    let mut missing = Vec::new();
    let mut budget = Budget(DOCUMENTS);
    collect_missing(store, target, DEPTH, &mut budget, &mut missing)?;
    missing.sort();
    missing.dedup();
    Ok(missing)
}

fn collect_missing(
    store: &dyn ContentStore,
    target: &Descriptor,
    depth: u32,
    budget: &mut Budget,
    missing: &mut Vec<Digest>,
) -> Result<()> {
    let digest = digest_of(target)?;
    if !is_there(store, &digest)? {
        missing.push(digest);
        return Ok(());
    }
    if !document::is_document(target.media_type().as_ref()) {
        return Ok(());
    }
    budget.take()?;
    match document::load(store, target)? {
        Document::Index(index) => {
            let depth = deeper(depth)?;
            for child in index.manifests() {
                collect_missing(store, child, depth, budget, missing)?;
            }
        }
        Document::Manifest(manifest) => {
            for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                let digest = digest_of(blob)?;
                if !is_there(store, &digest)? {
                    missing.push(digest);
                }
            }
        }
    }
    Ok(())
}

fn deeper(depth: u32) -> Result<u32> {
    depth
        .checked_sub(1)
        .ok_or_else(|| Error::invalid(format!("indexes are nested more than {DEPTH} deep")))
}

pub(crate) fn is_there(store: &dyn ContentStore, digest: &Digest) -> Result<bool> {
    match store.info(digest) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives every image manifest below `target` with its platform, in order.
fn collect(
    store: &dyn ContentStore,
    target: &Descriptor,
    depth: u32,
    budget: &mut Budget,
    found: &mut dyn FnMut(&Descriptor, Offered),
) -> Result<()> {
    budget.take()?;
    match document::load(store, target)? {
        Document::Manifest(manifest) => {
            if let Some(offered) = platform_of(store, target, &manifest)? {
                found(target, offered);
            }
        }
        Document::Index(index) => {
            let depth = deeper(depth)?;
            for child in index.manifests() {
                let media_type = child.media_type().as_ref();
                let nested = match media_type {
                    // What is said of a manifest here is believed: reading
                    // it is left to who wants it.
                    _ if !document::is_document(media_type) => continue,
                    _ if document::is_index(media_type) => true,
                    _ => child.platform().is_none(),
                };
                if !nested {
                    if let Some(platform) = child.platform() {
                        let offered = Offered::of(platform);
                        if !offered.is_unknown() {
                            found(child, offered);
                        }
                    }
                    continue;
                }
                match collect(store, child, depth, budget, found) {
                    // Another platform's, left out of a sparse layout.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    result => result?,
                }
            }
        }
    }
    Ok(())
}

/// The platform that a manifest's config tells; `None` when it is no image.
fn platform_of(
    store: &dyn ContentStore,
    descriptor: &Descriptor,
    manifest: &ImageManifest,
) -> Result<Option<Offered>> {
    if let Some(platform) = descriptor.platform() {
        let offered = Offered::of(platform);
        return Ok((!offered.is_unknown()).then_some(offered));
    }
    if !document::is_config(manifest.config().media_type().as_ref()) {
        return Ok(None);
    }
    let config = config(store, manifest.config())?;
    Ok(Some(offered_by(&config)))
}

fn offered_by(config: &ImageConfiguration) -> Offered {
    Offered::new(
        &config.os().to_string(),
        &config.architecture().to_string(),
        config.variant().as_deref(),
    )
}

fn config(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<ImageConfiguration> {
    let data = document::read(store, descriptor)?;
    document::parse_config(&data).context(|| format!("config {}", descriptor.digest()))
}

/// The image of one manifest.
pub(crate) fn image(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Image> {
    let Document::Manifest(manifest) = document::load(store, descriptor)? else {
        return Err(Error::invalid(format!(
            "{} is an index where a manifest was announced",
            descriptor.digest()
        )));
    };
    let bad = |why: String| Error::invalid(format!("image {}: {why}", descriptor.digest()));
    if !document::is_config(manifest.config().media_type().as_ref()) {
        return Err(bad(format!(
            "it is no container image: its config is of type {}",
            containerkit::quote(manifest.config().media_type().as_ref())
        )));
    }
    let config = config(store, manifest.config())?;
    let diff_ids: Vec<Digest> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_>>()
        .context(|| format!("image {}: a DiffID", descriptor.digest()))?;
    if diff_ids.len() != manifest.layers().len() {
        return Err(bad(format!(
            "its manifest has {} layers and its config {}",
            manifest.layers().len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    let mut chain: Option<Digest> = None;
    for (descriptor, diff_id) in manifest.layers().iter().zip(&diff_ids) {
        // The chain ID of a chain is that of its parent's with one more.
        let next = match &chain {
            None => diff_id.clone(),
            Some(parent) => chain_id(&[parent.clone(), diff_id.clone()])
                .ok_or_else(|| Error::internal("a chain of two has no chain ID"))?,
        };
        layers.push(Layer {
            descriptor: descriptor.clone(),
            digest: digest_of(descriptor)?,
            diff_id: diff_id.clone(),
            chain_id: next.clone(),
        });
        chain = Some(next);
    }
    let platform = offered_by(&config).to_string();
    Ok(Image {
        manifest_descriptor: descriptor.clone(),
        config_descriptor: manifest.config().clone(),
        manifest: *manifest,
        config,
        layers,
        platform,
    })
}
