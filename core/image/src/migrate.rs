//! Committed snapshots replayed into another snapshotter, from the lowest up.
//!
//! Each is written from its layer's blob where there is one, else copied from a
//! look at the original; then both trees are compared, and only what is equal
//! is committed, under the same key. So what a killed migration has committed is
//! right, the rest is what a killed unpacking leaves, and the next run goes on
//! after it. One flight per key, together with whoever unpacks the same image
//! there.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use containerkit::lock::Wait;
use containerkit::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit::{
    ContentStore, Digest, Error, ErrorKind, InstanceName, LabelChanges, Labels, Opened, Result,
    SnapshotKey, Snapshotter,
};

use crate::Cancel;
use crate::limits::Limits;
use crate::mirror;
use crate::resolve::Layer;
use crate::unpack::scratch::{self, Scratch};
use crate::unpack::{UnpackOptions, flight};

/// On a snapshot that was compared with the one that it was made from: the
/// snapshotter that has it.
pub const EQUAL_LABEL: &str = "containerkit.migrate.equal";

/// How to migrate.
#[derive(Clone, Debug)]
pub struct MigrateOptions {
    /// The folder of the locks of unpacking into the target.
    pub locks: PathBuf,
    /// What a layer may cost.
    pub limits: Limits,
    /// Ends it early, with whole snapshots only.
    pub cancel: Cancel,
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// Written from its layer's blob.
    Applied,
    /// Copied file by file.
    Copied,
    /// It was there, and is equal.
    There,
}

impl Migrated {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Migrated::Applied => "applied",
            Migrated::Copied => "copied",
            Migrated::There => "there",
        }
    }
}

/// A snapshotter that is migrated from, and one that is migrated to.
pub struct Route<'a> {
    /// Where the snapshots are.
    pub from: &'a Opened<dyn Snapshotter>,
    /// Where they are wanted.
    pub to: &'a dyn Snapshotter,
    /// The blobs of layers, by the key of the snapshot that each gives.
    pub layers: HashMap<SnapshotKey, (&'a dyn ContentStore, Layer)>,
}

/// Replays the chain of a committed snapshot, its lowest first. `told` hears of
/// each. What the target has already is compared, once.
pub fn migrate(
    route: &Route<'_>,
    key: &SnapshotKey,
    options: &MigrateOptions,
    told: &mut dyn FnMut(&SnapshotKey, Migrated),
) -> Result<()> {
    let mut chain = Vec::new();
    let mut next = Some(key.clone());
    while let Some(key) = next {
        let info = route.from.stat(&key)?;
        if info.kind != SnapshotKind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {key} is {}: only committed ones can be migrated",
                info.kind
            )));
        }
        next = info.parent.clone();
        chain.push(info);
        if chain.len() > options.limits.layers {
            return Err(Error::data_loss(format!(
                "snapshot {} has more below it than can be stacked",
                chain[0].key
            )));
        }
    }
    for info in chain.iter().rev() {
        options.cancel.check()?;
        let done = one(route, info, options)
            .map_err(|error| error.context(format!("migrate snapshot {}", info.key)))?;
        told(&info.key, done);
    }
    Ok(())
}

fn one(route: &Route<'_>, info: &SnapshotInfo, options: &MigrateOptions) -> Result<Migrated> {
    let from: &InstanceName = &route.from.stamp.instance;
    if is_done(route.to, &info.key, from)? {
        return Ok(Migrated::There);
    }
    // Keys of images are chain IDs, and who unpacks one holds its lock.
    let chain = info.key.as_str().parse::<Digest>();
    let mut locking = UnpackOptions::new(&options.locks);
    locking.cancel = options.cancel.clone();
    let _lock = match &chain {
        Ok(chain) => {
            containerkit::fs::ensure_dir(&options.locks, 0o700)?;
            Some(flight::take(chain, &locking, Wait::AtMost(locking.wait))?)
        }
        Err(_) => None,
    };
    if is_done(route.to, &info.key, from)? {
        return Ok(Migrated::There);
    }
    flight::drop_abandoned(route.to, &info.key)?;
    let original = Scratch::view(&*route.from.driver, &info.key)?;
    if route.to.stat(&info.key).is_ok() {
        let there = Scratch::view(route.to, &info.key)?;
        equal(&original, &there, options)?;
        drop(there);
        let changes = LabelChanges {
            set: [(EQUAL_LABEL.into(), Some(from.to_string()))].into(),
            ..LabelChanges::default()
        };
        route.to.update(&info.key, &changes)?;
        return Ok(Migrated::There);
    }
    let (made, how) = make(route, info, &original, options)?;
    equal(&original, &made, options)?;
    containerkit::step("migrate.equal");
    let mut labels: Labels = info.labels.clone();
    labels.insert(EQUAL_LABEL.into(), from.to_string());
    made.commit(&info.key, labels)?;
    containerkit::step("migrate.committed");
    Ok(how)
}

/// Whether the target has it, compared. `FailedPrecondition` for what is no
/// layer.
fn is_done(to: &dyn Snapshotter, key: &SnapshotKey, from: &InstanceName) -> Result<bool> {
    match to.stat(key) {
        Ok(info) if info.kind != SnapshotKind::Committed => Err(Error::precondition(format!(
            "the target has a snapshot {key}, which is {}",
            info.kind
        ))),
        Ok(info) => Ok(info.labels.get(EQUAL_LABEL).map(String::as_str) == Some(from.as_str())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The snapshot anew, not committed yet.
fn make<'a>(
    route: &Route<'a>,
    info: &SnapshotInfo,
    original: &Scratch<'_>,
    options: &MigrateOptions,
) -> Result<(Scratch<'a>, Migrated)> {
    if let Some((store, layer)) = route.layers.get(&info.key) {
        let made = Scratch::prepare(route.to, &info.key, info.parent.as_ref())?;
        match scratch::write(
            *store,
            layer,
            made.root()?,
            &options.limits,
            &options.cancel,
        ) {
            Ok(()) => return Ok((made, Migrated::Applied)),
            // Without its blob, or with a damaged one, there is the original.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted => return Err(error),
            Err(error) => {
                options.cancel.check()?;
                log::info!("layer {}: {error}; its snapshot is copied", layer.digest);
            }
        }
    }
    let made = Scratch::prepare(route.to, &info.key, info.parent.as_ref())?;
    mirror::copy(
        original.root()?.as_fd(),
        made.root()?.as_fd(),
        &options.cancel,
    )?;
    Ok((made, Migrated::Copied))
}

fn equal(original: &Scratch<'_>, made: &Scratch<'_>, options: &MigrateOptions) -> Result<()> {
    let (one, other) = (original.root()?.as_fd(), made.root()?.as_fd());
    match mirror::compare(one, other, 1, &options.cancel)?.first() {
        None => Ok(()),
        Some(difference) => Err(Error::data_loss(format!(
            "the tree there is not equal to the one here: {difference}"
        ))
        .with_hint("`containerkit check` tells which of them is damaged")),
    }
}
