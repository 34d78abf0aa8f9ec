//! What a target refers to: documents, configs and layers, wherever they are.
//!
//! Indexes may hold indexes, four deep, and 512 documents are read in all. A
//! document cannot hold itself (its digest would have to be known before its
//! bytes), but what a server claims is bounded all the same.

use std::collections::HashSet;

use containerkit::document::{self, DEPTH, DOCUMENTS, Document};
use containerkit::oci_spec::image::Descriptor;
use containerkit::platform::Offered;
use containerkit::{Context as _, Digest, Error, ErrorKind, PlatformChoice, Result};

/// Which of an image's platforms are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// All, and what else an index holds.
    All,
    /// The best for this one.
    One(PlatformChoice),
}

/// Where documents come from, whole and verified.
pub(crate) trait Documents {
    /// An index or a manifest.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// A config, at most 4 MiB.
    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;
}

/// Everything below a target.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Indexes and manifests, each after what it refers to.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
    pub(crate) configs: Vec<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
}

struct Walk<'a> {
    source: &'a dyn Documents,
    tree: Tree,
    known: HashSet<Digest>,
    left: u32,
}

/// Reads what is below a target whose bytes are at hand.
pub(crate) fn walk(
    source: &dyn Documents,
    target: &Descriptor,
    data: Vec<u8>,
    which: &Platforms,
) -> Result<Tree> {
    let mut walk = Walk {
        source,
        tree: Tree::default(),
        known: HashSet::new(),
        left: DOCUMENTS,
    };
    match which {
        Platforms::All => walk.all(target, data, DEPTH)?,
        Platforms::One(platform) => walk.one(target, data, platform)?,
    }
    Ok(walk.tree)
}

impl Walk<'_> {
    fn take(&mut self) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Error::new(
                ErrorKind::ResourceExhausted,
                format!("the image has more than {DOCUMENTS} manifests"),
            )
        })?;
        Ok(())
    }

    fn parse(&mut self, descriptor: &Descriptor, data: &[u8]) -> Result<Document> {
        self.take()?;
        document::parse(data, descriptor.media_type().as_ref())
            .context(|| format!("manifest {}", descriptor.digest()))
    }

    fn all(&mut self, descriptor: &Descriptor, data: Vec<u8>, depth: u32) -> Result<()> {
        if !self.known.insert(document::digest_of(descriptor)?) {
            return Ok(());
        }
        match self.parse(descriptor, &data)? {
            Document::Manifest(manifest) => {
                self.config(manifest.config())?;
                for layer in manifest.layers() {
                    self.layer(layer)?;
                }
            }
            Document::Index(index) => {
                let depth = deeper(depth)?;
                for child in index.manifests() {
                    match document::is_document(child.media_type().as_ref()) {
                        false => self.layer(child)?,
                        true => {
                            if !self.known.contains(&document::digest_of(child)?) {
                                let data = self.source.document(child)?;
                                self.all(child, data, depth)?;
                            }
                        }
                    }
                }
            }
        }
        self.tree.documents.push((descriptor.clone(), data));
        Ok(())
    }

    fn config(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = document::digest_of(descriptor)?;
        if document::is_config(descriptor.media_type().as_ref())
            && descriptor.size() > document::DOCUMENT
        {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "config {digest} has {} bytes, more than the {} allowed",
                    descriptor.size(),
                    document::DOCUMENT
                ),
            ));
        }
        if self.known.insert(digest) {
            self.tree.configs.push(descriptor.clone());
        }
        Ok(())
    }

    fn layer(&mut self, descriptor: &Descriptor) -> Result<()> {
        if self.known.insert(document::digest_of(descriptor)?) {
            self.tree.layers.push(descriptor.clone());
        }
        Ok(())
    }

    /// The indexes on the way, and the manifest that fits best.
    fn one(&mut self, target: &Descriptor, data: Vec<u8>, platform: &PlatformChoice) -> Result<()> {
        let Document::Index(_) = self.parse(target, &data)? else {
            // Asked for by name: it is for whom it is for.
            return self.all(target, data, DEPTH);
        };
        let mut found = Found::default();
        self.candidates(target, data, DEPTH, platform, &mut found)?;
        let Some((_, descriptor)) = found.best else {
            let others: Vec<String> = found.others.into_iter().take(16).collect();
            let what = match others.is_empty() {
                true => "it has none that can run".to_string(),
                false => format!("it has {}", containerkit::quote(&others.join(", "))),
            };
            return Err(Error::not_found(format!(
                "image {} has no manifest for {platform}: {what}",
                target.digest()
            )));
        };
        let data = match found.read {
            Some((digest, data)) if digest == *descriptor.digest().as_ref() => data,
            _ => self.source.document(&descriptor)?,
        };
        let Document::Manifest(_) = document::parse(&data, descriptor.media_type().as_ref())
            .context(|| format!("manifest {}", descriptor.digest()))?
        else {
            return Err(Error::invalid(format!(
                "{} is an index where a manifest was announced",
                descriptor.digest()
            )));
        };
        let indexes = std::mem::take(&mut self.tree.documents);
        self.all(&descriptor, data, DEPTH)?;
        self.tree.documents.extend(indexes);
        Ok(())
    }

    fn candidates(
        &mut self,
        index: &Descriptor,
        data: Vec<u8>,
        depth: u32,
        platform: &PlatformChoice,
        found: &mut Found,
    ) -> Result<()> {
        let Document::Index(parsed) = self.parse(index, &data)? else {
            return Err(Error::invalid(format!(
                "{} is a manifest where an index was announced",
                index.digest()
            )));
        };
        let depth = deeper(depth)?;
        for child in parsed.manifests() {
            let media_type = child.media_type().as_ref();
            if document::is_index(media_type) {
                let data = self.source.document(child)?;
                self.candidates(child, data, depth, platform, found)?;
            } else if document::is_document(media_type) {
                match child.platform() {
                    Some(offers) => found.offer(child, Offered::of(offers), platform),
                    None => self.ask(child, platform, found)?,
                }
            }
        }
        self.tree.documents.push((index.clone(), data));
        Ok(())
    }

    /// A manifest whose platform only its config tells.
    fn ask(
        &mut self,
        child: &Descriptor,
        platform: &PlatformChoice,
        found: &mut Found,
    ) -> Result<()> {
        let data = self.source.document(child)?;
        let Document::Manifest(manifest) = self.parse(child, &data)? else {
            return Err(Error::invalid(format!(
                "{} is an index where a manifest was announced",
                child.digest()
            )));
        };
        if !document::is_config(manifest.config().media_type().as_ref()) {
            return Ok(());
        }
        let config = document::parse_config(&self.source.config(manifest.config())?)
            .context(|| format!("config {}", manifest.config().digest()))?;
        let offered = Offered::new(
            &config.os().to_string(),
            &config.architecture().to_string(),
            config.variant().as_deref(),
        );
        found.offer(child, offered, platform);
        found.read = Some((child.digest().as_ref().to_string(), data));
        Ok(())
    }
}

#[derive(Default)]
struct Found {
    best: Option<(u32, Descriptor)>,
    others: Vec<String>,
    /// The last manifest that had to be read for it.
    read: Option<(String, Vec<u8>)>,
}

impl Found {
    fn offer(&mut self, descriptor: &Descriptor, offered: Offered, platform: &PlatformChoice) {
        if offered.is_unknown() {
            return;
        }
        match platform.rank(&offered) {
            // The first of the best: order in an index is preference.
            Some(rank) if self.best.as_ref().is_none_or(|(known, _)| rank > *known) => {
                self.best = Some((rank, descriptor.clone()));
            }
            Some(_) => {}
            None => {
                let text = offered.to_string();
                if !self.others.contains(&text) {
                    self.others.push(text);
                }
            }
        }
    }
}

fn deeper(depth: u32) -> Result<u32> {
    depth
        .checked_sub(1)
        .ok_or_else(|| Error::invalid(format!("indexes are nested more than {DEPTH} deep")))
}
