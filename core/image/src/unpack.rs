//! Unpacks an image's layers into committed snapshots, each under its chain
//! ID, so that images share what they have in common.
//!
//! Where the snapshotter has `REBASE` and `DIRECT_UPPER`, layers are written
//! side by side, each straight into its own upper folder, blind to the layers
//! below. In chain order each is then held against the layers below and set
//! right; one that cannot be set right (a path through a symlink below, a hard
//! link into a layer below) is written anew through a mount of its parent.
//! Elsewhere every layer is written so. Snapshots are committed in chain order
//! after one `syncfs` for all of them.
//!
//! One flight per chain ID across processes: the second waits on a lock file
//! and then finds the snapshot; when the first was killed, it goes on itself.
//! A layer is written into an active snapshot with a random key, labelled with
//! the process that writes it; killed, it leaves just that, and the next
//! unpacking of whatever image removes it.

pub(crate) mod flight;
mod line;
pub(crate) mod scratch;
mod source;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use containerkit::content::ContentStore;
use containerkit::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit::{Error, ErrorKind, Result, SnapshotKey, Snapshotter};

use crate::Cancel;
use crate::document;
use crate::event::{Event, Watcher};
use crate::limits::Limits;
use crate::resolve::{Image, Layer};

/// On a snapshot that is being written: the chain ID that it is for.
pub const CHAIN_LABEL: &str = "containerkit.unpack.chain";
/// On a snapshot that is being written: the process that does, as JSON.
pub const PROCESS_LABEL: &str = "containerkit.unpack.process";

/// Layers that are written before they are committed. It bounds open
/// descriptors, and what a killed process has to do again.
const BATCH: usize = 64;

/// The time of a root that no layer has an entry for.
const EPOCH: rustix::fs::Timestamps = {
    let zero = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::fs::Timestamps {
        last_access: zero,
        last_modification: zero,
    }
};

/// How to unpack.
pub struct UnpackOptions<'a> {
    /// A folder for lock files, one set for one snapshotter; made if missing.
    pub locks: PathBuf,
    /// How long to wait for another process that unpacks the same layer.
    pub wait: Duration,
    /// What a layer may cost.
    pub limits: Limits,
    /// Layers written at a time, at most; each takes some megabytes and two
    /// threads more for inflating and hashing.
    pub workers: usize,
    /// Ends it early.
    pub cancel: Cancel,
    /// Told of each layer.
    pub progress: Watcher<'a>,
}

impl UnpackOptions<'_> {
    /// Default limits, half an hour's wait, a layer a core, nobody watching.
    pub fn new(locks: impl Into<PathBuf>) -> UnpackOptions<'static> {
        UnpackOptions {
            locks: locks.into(),
            wait: Duration::from_secs(1800),
            limits: Limits::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            cancel: Cancel::default(),
            progress: &crate::event::ignore,
        }
    }
}

/// What is to be unpacked into what.
struct Task<'a> {
    store: &'a dyn ContentStore,
    snapshotter: &'a dyn Snapshotter,
    layers: &'a [Layer],
    keys: &'a [SnapshotKey],
    options: &'a UnpackOptions<'a>,
}

/// Unpacks what is not unpacked yet. Returns the key of the top layer's
/// snapshot, `None` for an image without layers.
pub fn unpack(
    store: &dyn ContentStore,
    snapshotter: &dyn Snapshotter,
    image: &Image,
    options: &UnpackOptions<'_>,
) -> Result<Option<SnapshotKey>> {
    let total = image.layers.len();
    if total > options.limits.layers {
        return Err(document::too_many_layers(total, options.limits.layers));
    }
    let keys: Vec<SnapshotKey> = image
        .layers
        .iter()
        .map(|layer| layer.chain_id.to_string().parse())
        .collect::<Result<_>>()?;
    // From the top: what is there has its parents.
    let mut done = 0;
    for index in (0..total).rev() {
        if committed(snapshotter, &keys[index])? {
            done = index + 1;
            break;
        }
    }
    for layer in 1..=done {
        (options.progress)(shared(layer));
    }
    if done < total {
        containerkit::fs::ensure_dir(&options.locks, 0o700)?;
        if let Err(error) = flight::remove_stale(snapshotter, (PROCESS_LABEL, None)) {
            log::warn!("look for what killed processes left: {error}");
        }
    }
    let task = Task {
        store,
        snapshotter,
        layers: &image.layers,
        keys: &keys,
        options,
    };
    while done < total {
        let end = total.min(done + BATCH);
        line::unpack(&task, done..end)?;
        done = end;
    }
    Ok(keys.into_iter().next_back())
}

/// The event of a layer that was there.
fn shared(layer: usize) -> Event {
    Event::Unpacked {
        layer,
        entries: 0,
        bytes: 0,
    }
}

/// Whether the image's snapshots are all there.
pub fn is_unpacked(snapshotter: &dyn Snapshotter, image: &Image) -> Result<bool> {
    match image.layers.last() {
        None => Ok(true),
        Some(layer) => committed(snapshotter, &layer.chain_id.to_string().parse()?),
    }
}

/// Whether the process that wrote a snapshot here has ended. `false` for what
/// was not written by unpacking.
pub(crate) fn abandoned(info: &SnapshotInfo) -> Result<bool> {
    flight::is_abandoned(info)
}

fn committed(snapshotter: &dyn Snapshotter, key: &SnapshotKey) -> Result<bool> {
    match snapshotter.stat(key) {
        Ok(info) if info.kind == SnapshotKind::Committed => Ok(true),
        Ok(info) => Err(Error::precondition(format!(
            "snapshot {key} is {}, which is no layer",
            info.kind
        ))
        .with_hint(format!(
            "remove it with `containerkit snapshot rm {key}` and try again"
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
