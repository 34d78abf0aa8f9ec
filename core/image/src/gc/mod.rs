//! Collects what nothing needs any more.
//!
//! Roots are images, containers, leases, ingests that are held, and what bears
//! the label [`ROOT_LABEL`](containerkit::lease::ROOT_LABEL). From a manifest everything that it refers to is
//! reached, the snapshots of its chain IDs in every snapshotter among them; from
//! a snapshot those below it. What no root reaches goes: snapshots from the top
//! down, then blobs, then ingests that nobody went on with for long.
//!
//! Nothing that others use is ever in danger, and nobody waits for a whole
//! collection. The order is the proof:
//!
//! 1. what there is, is **listed**;
//! 2. the **roots** are read. What is listed was made before; whoever made it
//!    had named it in a [lease](containerkit::lease) first, and gives the lease
//!    up only when a root reaches it. So what the roots do not reach now, nobody
//!    who is at work relies on;
//! 3. a batch is **condemned** in one transaction, which is refused when there
//!    is a root that was not walked: then that one is walked, and the batch is
//!    looked through again. Who names a condemned object in a lease afterwards
//!    waits until the batch is done, and finds the object gone;
//! 4. the batch is **removed** and pardoned, and the next one condemned.
//!
//! Killed anywhere, a collection leaves rows of a dead process, which count for
//! nothing, and objects that the next one takes.

mod mark;
mod sweep;

use std::time::Duration;

use containerkit::content::{BlobFilter, BlobInfo, IngestStatus};
use containerkit::record::{LeaseRecord, Records};
use containerkit::snapshot::{SnapshotFilter, SnapshotInfo};
use containerkit::value::all_pages;
use containerkit::{ContentStore, Digest, InstanceName, Opened, Result, Snapshotter};
use serde::Serialize;

use crate::Cancel;
use mark::Marks;

pub use sweep::MOUNT_LABEL;

/// The stores of one set of records: all of them, for what one keeps may
/// stand in another.
pub struct Stores<'a> {
    /// Images, containers and leases.
    pub records: &'a dyn Records,
    /// Every content store.
    pub contents: Vec<Opened<dyn ContentStore>>,
    /// Every snapshotter.
    pub snapshotters: Vec<Opened<dyn Snapshotter>>,
}

/// What a collection does about what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Removes it.
    Remove,
    /// Tells what it would remove.
    Tell,
}

/// Whose size is told; a snapshot's may have to be counted file by file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Of what goes.
    Removed,
    /// Of everything.
    All,
}

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Whether anything is removed.
    pub mode: Mode,
    /// Whose size is told.
    pub measure: Measure,
    /// An ingest that nobody holds goes when it was not written for so long.
    pub ingest_age: Duration,
    /// Ends it early, between two batches.
    pub cancel: Cancel,
}

impl Default for GcOptions {
    /// Removes, measures that, keeps resumable ingests for a day.
    fn default() -> GcOptions {
        GcOptions {
            mode: Mode::Remove,
            measure: Measure::Removed,
            ingest_age: Duration::from_secs(24 * 3600),
            cancel: Cancel::default(),
        }
    }
}

/// The kind of what a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A lease.
    Lease,
    /// A snapshot.
    Snapshot,
    /// A blob.
    Blob,
    /// An ingest.
    Ingest,
}

impl Kind {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Lease => "lease",
            Kind::Snapshot => "snapshot",
            Kind::Blob => "blob",
            Kind::Ingest => "ingest",
        }
    }
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It stays.
    Keep,
    /// It went, or would.
    Remove,
}

/// One object, and why it is kept or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What it is.
    pub kind: Kind,
    /// The instance that has it; none has a lease.
    pub store: Option<InstanceName>,
    /// Digest, snapshot key, ingest ref or lease id.
    pub id: String,
    /// Bytes; `None` when it was not measured.
    pub size: Option<u64>,
    /// What becomes of it.
    pub action: Action,
    /// Why.
    pub reason: String,
}

/// What came of a collection.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Every object of the stores, leases first.
    pub verdicts: Vec<Verdict>,
    /// What should have gone and could not, in words.
    pub failures: Vec<String>,
}

impl Collected {
    /// Objects that went, or would, and their bytes.
    pub fn removed(&self) -> (usize, u64) {
        let removed = self.verdicts.iter().filter(|v| v.action == Action::Remove);
        removed.fold((0, 0), |(count, size), verdict| {
            (count + 1, size + verdict.size.unwrap_or(0))
        })
    }
}

/// What there is in the stores; in the order of [`Stores`].
struct Listing {
    blobs: Vec<Vec<BlobInfo>>,
    ingests: Vec<Vec<IngestStatus>>,
    snapshots: Vec<Vec<SnapshotInfo>>,
}

fn list(stores: &Stores<'_>) -> Result<Listing> {
    let mut listing = Listing {
        blobs: Vec::new(),
        ingests: Vec::new(),
        snapshots: Vec::new(),
    };
    // Snapshots first: a view is never younger than the snapshot below it.
    for snapshotter in &stores.snapshotters {
        listing.snapshots.push(all_pages(
            |page| snapshotter.walk(&SnapshotFilter::default(), page),
            |info| info.key.to_string(),
        )?);
    }
    for store in &stores.contents {
        listing.ingests.push(store.list_statuses()?);
        listing.blobs.push(all_pages(
            |page| store.walk(&BlobFilter::default(), page),
            |info| info.digest.to_string(),
        )?);
    }
    Ok(listing)
}

/// Collects, or tells what it would collect. An error of one object does not
/// keep the others; one of the records, or of a store as a whole, ends it.
pub fn collect(stores: &Stores<'_>, options: &GcOptions) -> Result<Collected> {
    let mut collected = Collected::default();
    let ended = match options.mode {
        Mode::Remove => stores.records.end_leases()?,
        Mode::Tell => Vec::new(),
    };
    for lease in &ended {
        collected.verdicts.push(of_lease(lease)?);
    }
    let listing = list(stores)?;
    containerkit::step("gc.listed");
    let mut roots = stores.records.roots()?;
    containerkit::step("gc.roots");
    if options.mode == Mode::Tell {
        let mut living = Vec::new();
        for lease in std::mem::take(&mut roots.leases) {
            let verdict = of_lease(&lease)?;
            if verdict.action == Action::Keep {
                living.push(lease);
            } else {
                collected.verdicts.push(verdict);
            }
        }
        roots.leases = living;
    }
    for lease in &roots.leases {
        collected.verdicts.push(of_lease(lease)?);
    }
    let mut marks = Marks::new(stores);
    marks.walk(&roots)?;
    sweep::run(stores, &listing, &mut marks, options, &mut collected)?;
    Ok(collected)
}

/// The blobs that a manifest or an index keeps, itself among them, be they
/// there or not.
pub fn named_by(stores: &Stores<'_>, digest: &Digest) -> Result<Vec<Digest>> {
    let mut marks = Marks::new(stores);
    marks.document(digest, &"it".into(), mark::Wanted::IfThere)?;
    Ok(marks.blobs.into_keys().collect())
}

/// Those of them that are there, with their sizes.
pub fn blobs_of(stores: &Stores<'_>, digest: &Digest) -> Result<Vec<(Digest, u64)>> {
    let mut found = Vec::new();
    for blob in named_by(stores, digest)? {
        let sizes = stores.contents.iter().map(|store| store.info(&blob));
        if let Some(info) = sizes.flatten().next() {
            found.push((blob, info.size));
        }
    }
    Ok(found)
}

fn of_lease(lease: &LeaseRecord) -> Result<Verdict> {
    let (action, reason) = match lease.ended()? {
        Some(why) => (Action::Remove, why),
        None => (Action::Keep, holder_of(lease)),
    };
    Ok(Verdict {
        kind: Kind::Lease,
        store: None,
        id: lease.id.to_string(),
        size: Some(0),
        action,
        reason,
    })
}

fn holder_of(lease: &LeaseRecord) -> String {
    match (&lease.holder, &lease.expires) {
        (Some(holder), _) => format!("held by {}", containerkit::lock::name_process(holder.pid)),
        (None, Some(expires)) => format!("it holds until {expires}"),
        (None, None) => "it holds until it is removed".into(),
    }
}
