//! From one place to another, digests preserved: push and copy.
//!
//! Blobs first, side by side; then documents, each after what it refers to;
//! then what refers to them (referrers, and signatures by cosign's tags); the
//! tag last, so that it never names what is not there whole.

mod layout;
mod remote;
mod stored;

use std::collections::HashSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use containerkit::content::ContentStore;
use containerkit::document::{self, DEPTH};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Cancel, Context as _, Digest, Error, ErrorKind, Reference, Result};

use crate::client::Registry;
use crate::event::{Event, How, Transfer, Watcher};
use crate::manifest::Manifest;
use crate::referrers;
use crate::tree::{self, Documents, Platforms};
use layout::Layout;
use remote::Remote;
use stored::Stored;

/// Suffixes of the tags `sha256-HEX.SUFFIX` under which cosign keeps what
/// belongs to a manifest.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

/// Where something is copied from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository of a registry.
    Registry(Reference),
    /// An OCI layout folder.
    Layout {
        /// The folder; made when it is copied to.
        dir: PathBuf,
        /// The name in it; without one a layout of one image has it.
        tag: Option<String>,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Registry(reference) => reference.fmt(f),
            Place::Layout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Place::Layout {
                dir,
                tag: Some(tag),
            } => write!(f, "oci:{}:{tag}", dir.display()),
        }
    }
}

/// How to copy or push.
pub struct CopyOptions<'a> {
    /// Which platforms; with one, its manifest is what is copied.
    pub platforms: Platforms,
    /// Has its say on what is copied, when it is known.
    pub check: crate::Check<'a>,
    /// Told of each blob.
    pub progress: Watcher<'a>,
}

/// A place that something comes from.
trait Source: Documents + Sync {
    /// What a tag or a digest names; `None` when it names nothing.
    fn find(&self, name: &Name) -> Result<Option<Manifest>>;
    /// What refers to a digest.
    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>>;
    /// A blob from an offset.
    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>>;
    /// The repository of a registry that a blob can be mounted from.
    fn home(&self, digest: &Digest, domain: &str) -> Option<String>;
}

/// A place that something goes to.
trait Sink: Sync {
    fn blob(&self, blob: &Descriptor, source: &dyn Source, watch: Watcher<'_>) -> Result<How>;
    fn document(&self, descriptor: &Descriptor, data: &[u8], under: Under<'_>) -> Result<()>;
}

/// How a document is to be found afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under<'a> {
    Tag(&'a str),
    /// By its digest, on its own.
    Digest,
    /// By an index that is above it.
    Index,
}

impl<'a> Under<'a> {
    fn tag(tag: Option<&'a str>) -> Under<'a> {
        tag.map_or(Under::Digest, Under::Tag)
    }
}

/// What is looked for.
#[derive(Clone, Debug)]
enum Name {
    /// What the place itself names.
    Own,
    Tag(String),
}

/// Copies an image or artifact with all that belongs to it. Gives what was
/// copied.
pub fn copy(
    registry: &Registry,
    from: &Place,
    to: &Place,
    options: &CopyOptions<'_>,
) -> Result<Descriptor> {
    let source: Box<dyn Source + '_> = match from {
        Place::Registry(reference) => Box::new(Remote::new(registry, reference)?),
        Place::Layout { dir, tag } => Box::new(Layout::open(dir, tag.clone())?),
    };
    let named = match from {
        Place::Registry(reference) => Some(reference),
        Place::Layout { .. } => None,
    };
    let (sink, tag): (Box<dyn Sink + '_>, Option<String>) = match to {
        Place::Registry(reference) => (
            Box::new(Remote::new(registry, reference)?),
            tag_of(reference),
        ),
        Place::Layout { dir, tag } => {
            let own = named.and_then(tag_of);
            (Box::new(Layout::make(dir)?), tag.clone().or(own))
        }
    };
    let target = source
        .find(&Name::Own)?
        .ok_or_else(|| Error::not_found(format!("{from} names nothing")))?;
    if let Some(named) = named {
        (options.check)(named, &document::digest_of(&target.descriptor)?)?;
    }
    let cancel = &registry.0.http.cancel;
    let mut run = Run {
        source: &*source,
        sink: &*sink,
        options,
        cancel,
        jobs: registry.settings().jobs(),
        copied: HashSet::new(),
    };
    run.target(target, tag.as_deref(), Belongings::Too)
        .context(|| format!("copy {from} to {to}"))
}

/// Pushes what a content store has to a reference.
pub fn push(
    registry: &Registry,
    store: &dyn ContentStore,
    target: &Descriptor,
    reference: &Reference,
    options: &CopyOptions<'_>,
) -> Result<Descriptor> {
    let source = Stored { store };
    let sink = Remote::new(registry, reference)?;
    let data = source.document(target)?;
    let mut run = Run {
        source: &source,
        sink: &sink,
        options,
        cancel: &registry.0.http.cancel,
        jobs: registry.settings().jobs(),
        copied: HashSet::new(),
    };
    let target = Manifest {
        descriptor: target.clone(),
        data,
    };
    run.target(target, tag_of(reference).as_deref(), Belongings::Not)
        .context(|| format!("push {reference}"))
}

/// A digest wins over a tag: then there is none to move.
fn tag_of(reference: &Reference) -> Option<String> {
    match reference.digest() {
        Some(_) => None,
        None => reference.tag().map(str::to_owned),
    }
}

/// Whether what refers to a manifest goes with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Belongings {
    Too,
    Not,
}

struct Run<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    options: &'a CopyOptions<'a>,
    cancel: &'a Cancel,
    jobs: usize,
    copied: HashSet<Digest>,
}

impl Run<'_> {
    fn target(
        &mut self,
        target: Manifest,
        tag: Option<&str>,
        belongings: Belongings,
    ) -> Result<Descriptor> {
        let tree = tree::walk(
            self.source,
            &target.descriptor,
            target.data,
            &self.options.platforms,
        )?;
        let mut documents = tree.documents;
        if self.options.platforms != Platforms::All {
            // One platform's manifest is an image of its own; the index would
            // promise what does not come along.
            documents.truncate(1);
        }
        let blobs: Vec<Descriptor> = [tree.configs, tree.layers].concat();
        self.blobs(&blobs)?;
        let (top, below) = documents
            .split_last()
            .ok_or_else(|| Error::internal("an image without a manifest"))?;
        for (descriptor, data) in below {
            self.document(descriptor, data, Under::Index)?;
        }
        if belongings == Belongings::Too {
            // They may be there before what they refer to: so the tag never
            // names an image whose signature is still to come.
            for (descriptor, _) in &documents {
                self.belongings(&document::digest_of(descriptor)?, DEPTH)?;
            }
        }
        self.document(&top.0, &top.1, Under::tag(tag))?;
        Ok(top.0.clone())
    }

    fn document(&mut self, descriptor: &Descriptor, data: &[u8], under: Under<'_>) -> Result<()> {
        self.cancel.check()?;
        let new = self.copied.insert(document::digest_of(descriptor)?);
        if !new && under == Under::Index {
            return Ok(());
        }
        self.sink.document(descriptor, data, under)
    }

    /// Referrers, theirs, and what cosign's tags name.
    fn belongings(&mut self, digest: &Digest, depth: u32) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Ok(());
        };
        for referrer in self.source.referrers(digest)? {
            if !document::is_document(referrer.media_type().as_ref()) {
                log::warn!("referrer {} of {digest} is no manifest", referrer.digest());
                continue;
            }
            let data = self.source.document(&referrer)?;
            // A list may claim what the document itself does not say.
            if referrers::subject_of(&data)?.as_ref() != Some(digest) {
                log::warn!(
                    "{} is listed as a referrer of {digest} and is none",
                    referrer.digest()
                );
                continue;
            }
            self.one(&referrer, data, None, depth)?;
        }
        for suffix in COSIGN {
            let tag = format!("{}.{suffix}", referrers::fallback_tag(digest));
            if let Some(found) = self.source.find(&Name::Tag(tag.clone()))? {
                self.one(&found.descriptor, found.data, Some(&tag), depth)?;
            }
        }
        Ok(())
    }

    /// One artifact, with what belongs to it.
    fn one(
        &mut self,
        descriptor: &Descriptor,
        data: Vec<u8>,
        tag: Option<&str>,
        depth: u32,
    ) -> Result<()> {
        let tree = tree::walk(self.source, descriptor, data, &Platforms::All)?;
        let blobs: Vec<Descriptor> = [tree.configs, tree.layers].concat();
        self.blobs(&blobs)?;
        let last = tree.documents.len().saturating_sub(1);
        for (place, (descriptor, data)) in tree.documents.iter().enumerate() {
            let new = !self.copied.contains(&document::digest_of(descriptor)?);
            let under = match place == last {
                true => Under::tag(tag),
                false => Under::Index,
            };
            self.document(descriptor, data, under)?;
            if new {
                self.belongings(&document::digest_of(descriptor)?, depth)?;
            }
        }
        Ok(())
    }

    /// Moves blobs side by side. The first error ends it.
    fn blobs(&mut self, blobs: &[Descriptor]) -> Result<()> {
        let mut queue = Vec::new();
        for blob in blobs {
            if self.copied.insert(document::digest_of(blob)?) {
                queue.push(blob);
            }
        }
        queue.sort_by_key(|blob| blob.size());
        let jobs = self.jobs.min(queue.len());
        let queue = Mutex::new(queue);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let (source, sink, watch) = (self.source, self.sink, self.options.progress);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let (queue, failure) = (&queue, &failure);
                let worker = move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                        let Some(blob) = next else { return };
                        let moved = sink
                            .blob(blob, source, watch)
                            .context(|| format!("blob {}", blob.digest()));
                        if let Err(error) = moved {
                            queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                            let mut failure =
                                failure.lock().unwrap_or_else(PoisonError::into_inner);
                            failure.get_or_insert(error);
                        }
                    }
                };
                std::thread::Builder::new()
                    .name("copy".into())
                    .spawn_scoped(scope, worker)
                    .map_err(|error| Error::io("start a thread", error))?;
            }
            Ok::<(), Error>(())
        })?;
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Tells of a blob that was there.
fn there(watch: Watcher<'_>, digest: &Digest) -> How {
    watch(Event::End {
        transfer: Transfer::Upload,
        digest: digest.clone(),
        how: How::There,
    });
    How::There
}

/// `None` for what is not found.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
