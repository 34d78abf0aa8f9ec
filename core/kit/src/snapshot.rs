//! The snapshotter contract: layered root file systems.
//!
//! # Vocabulary
//! A **snapshot** is a file-system tree with a **key**. It is of one of three
//! kinds. An **active** snapshot is writable, made by `prepare` on a parent or
//! on nothing. `commit` turns it into a **committed** one under a new key,
//! which never changes again and is the only kind that can be a parent. A
//! **view** is read-only and cannot be committed. The **chain** of a snapshot
//! is itself and its parents.
//!
//! A snapshotter gives [`Mount`]s and performs none: the caller mounts them
//! where it wants, and unmounts before `commit` and `remove`. It knows nothing
//! of images, tars or digests. Every call works across processes: what one
//! committed, another sees at its next call.
//!
//! # A story
//! Importing a layer, the next layer on top, and a container on both:
//!
//! ```
//! use containerkit::snapshot::*;
//! # use containerkit::{Error, Labels, Mount, Result, SnapshotKey, Timestamp, Usage, LabelChanges, Page};
//! # use std::{collections::BTreeMap, sync::Mutex};
//! # #[derive(Default)]
//! # struct Memory(Mutex<BTreeMap<SnapshotKey, SnapshotInfo>>);
//! # impl Memory {
//! #     fn make(&self, key: &SnapshotKey, parent: Option<&SnapshotKey>, kind: SnapshotKind, labels: Labels) -> Result<Vec<Mount>> {
//! #         let mut map = self.0.lock().unwrap();
//! #         if map.contains_key(key) { return Err(Error::already_exists(format!("snapshot {key}"))); }
//! #         if let Some(parent) = parent {
//! #             let info = map.get(parent).ok_or_else(|| Error::not_found(format!("snapshot {parent}")))?;
//! #             if info.kind != SnapshotKind::Committed { return Err(Error::precondition(format!("snapshot {parent} is not committed"))); }
//! #         }
//! #         let now = Timestamp::now();
//! #         map.insert(key.clone(), SnapshotInfo { key: key.clone(), kind, parent: parent.cloned(), labels, created: now, updated: now });
//! #         Ok(vec![Mount::default()])
//! #     }
//! # }
//! # impl Snapshotter for Memory {
//! #     fn capabilities(&self) -> SnapshotterCapabilities { SnapshotterCapabilities::default() }
//! #     fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> { self.0.lock().unwrap().get(key).cloned().ok_or_else(|| Error::not_found(format!("snapshot {key}"))) }
//! #     fn update(&self, key: &SnapshotKey, _: &LabelChanges) -> Result<SnapshotInfo> { self.stat(key) }
//! #     fn usage(&self, _: &SnapshotKey) -> Result<Usage> { Ok(Usage::default()) }
//! #     fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> { self.stat(key).map(|_| vec![Mount::default()]) }
//! #     fn prepare(&self, key: &SnapshotKey, parent: Option<&SnapshotKey>, labels: &Labels) -> Result<Vec<Mount>> { self.make(key, parent, SnapshotKind::Active, labels.clone()) }
//! #     fn view(&self, key: &SnapshotKey, parent: Option<&SnapshotKey>, labels: &Labels) -> Result<Vec<Mount>> { self.make(key, parent, SnapshotKind::View, labels.clone()) }
//! #     fn commit(&self, name: &SnapshotKey, active: &SnapshotKey, options: &CommitOptions) -> Result<SnapshotInfo> {
//! #         let mut info = self.stat(active)?;
//! #         self.0.lock().unwrap().remove(active);
//! #         info.key = name.clone(); info.kind = SnapshotKind::Committed; info.labels = options.labels.clone();
//! #         self.0.lock().unwrap().insert(name.clone(), info.clone());
//! #         Ok(info)
//! #     }
//! #     fn remove(&self, key: &SnapshotKey) -> Result<()> {
//! #         if self.0.lock().unwrap().values().any(|s| s.parent.as_ref() == Some(key)) { return Err(Error::precondition(format!("snapshot {key} has children"))); }
//! #         self.0.lock().unwrap().remove(key); Ok(())
//! #     }
//! #     fn walk(&self, _: &SnapshotFilter, _: &Page) -> Result<Vec<SnapshotInfo>> { Ok(self.0.lock().unwrap().values().cloned().collect()) }
//! #     fn cleanup(&self) -> Result<Usage> { Ok(Usage::default()) }
//! # }
//! # let snapshotter = Memory::default();
//! # let labels = Labels::new();
//! let key = |text: &str| text.parse::<SnapshotKey>();
//!
//! // A layer: prepare on nothing, mount, write the files, unmount, commit.
//! let mounts = snapshotter.prepare(&key("extract-1")?, None, &labels)?;
//! assert!(!mounts.is_empty());
//! snapshotter.commit(&key("sha256:aa")?, &key("extract-1")?, &CommitOptions::default())?;
//!
//! // The next layer: the same on the first.
//! snapshotter.prepare(&key("extract-2")?, Some(&key("sha256:aa")?), &labels)?;
//! snapshotter.commit(&key("sha256:bb")?, &key("extract-2")?, &CommitOptions::default())?;
//!
//! // A container: an active snapshot on the top layer, removed with the container.
//! snapshotter.prepare(&key("container-1")?, Some(&key("sha256:bb")?), &labels)?;
//! assert!(snapshotter.remove(&key("sha256:bb")?).is_err(), "a parent stays");
//! snapshotter.remove(&key("container-1")?)?;
//! # Ok::<(), containerkit::Error>(())
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, quote};
use crate::ids::SnapshotKey;
use crate::mount::Mount;
use crate::value::{LabelChanges, Labels, Page, Timestamp, Usage};

/// The kind of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum SnapshotKind {
    /// Read-only, cannot be committed.
    View = 1,
    /// Writable.
    Active = 2,
    /// Immutable, can be a parent.
    Committed = 3,
}

impl SnapshotKind {
    /// The number that is stored and crosses to drivers.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The kind of a code.
    pub fn from_code(code: u32) -> Option<SnapshotKind> {
        match code {
            1 => Some(SnapshotKind::View),
            2 => Some(SnapshotKind::Active),
            3 => Some(SnapshotKind::Committed),
            _ => None,
        }
    }

    /// Lowercase name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }
    }
}

impl fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SnapshotKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<SnapshotKind> {
        match text {
            "view" => Ok(SnapshotKind::View),
            "active" => Ok(SnapshotKind::Active),
            "committed" => Ok(SnapshotKind::Committed),
            _ => Err(Error::invalid(format!(
                "snapshot kind {}: want view, active or committed",
                quote(text)
            ))),
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its key.
    pub key: SnapshotKey,
    /// Its kind.
    pub kind: SnapshotKind,
    /// The committed snapshot below it.
    pub parent: Option<SnapshotKey>,
    /// Its labels.
    pub labels: Labels,
    /// When it was prepared; `commit` begins a new time.
    pub created: Timestamp,
    /// When its labels were last changed; at first equal to `created`.
    pub updated: Timestamp,
}

/// What `walk` returns: the snapshots for which every given condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Of this kind.
    pub kind: Option<SnapshotKind>,
    /// With this parent; `Some(None)`: without a parent.
    pub parent: Option<Option<SnapshotKey>>,
    /// With these labels; a `None` value asks for the key alone.
    pub labels: Vec<(String, Option<String>)>,
}

impl SnapshotFilter {
    /// Whether a snapshot passes.
    pub fn matches(&self, info: &SnapshotInfo) -> bool {
        self.kind.is_none_or(|kind| info.kind == kind)
            && self
                .parent
                .as_ref()
                .is_none_or(|parent| info.parent == *parent)
            && label_filter_matches(&self.labels, &info.labels)
    }
}

/// Whether labels hold every wanted key, and value where one is given.
pub(crate) fn label_filter_matches(wanted: &[(String, Option<String>)], labels: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| match (labels.get(key), value) {
            (Some(found), Some(value)) => found == value,
            (Some(_), None) => true,
            (None, _) => false,
        })
}

/// How to commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Labels of the committed snapshot; those of the active one are dropped.
    pub labels: Labels,
    /// Commit on this parent instead of the one it was prepared with. Needs
    /// [`SnapshotterCapabilities::rebase`], and an active snapshot prepared
    /// without a parent.
    pub parent: Option<SnapshotKey>,
}

/// What a snapshotter can do beyond the contract's core. A method behind an
/// ability answers [`Unimplemented`](crate::ErrorKind::Unimplemented) without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotterCapabilities {
    /// `REBASE`: [`CommitOptions::parent`] may be given, so that the layers
    /// of an image can be unpacked side by side.
    pub rebase: bool,
    /// `IDMAP`: its mounts may be given [mapped owners](crate::idmap::IdMapping::mounts).
    pub idmap: bool,
    /// `QUOTA`: the label [`QUOTA_LABEL`] limits an active snapshot.
    pub quota: bool,
    /// `DIRECT_UPPER`: [`Snapshotter::upper`] works.
    pub direct_upper: bool,
}

impl SnapshotterCapabilities {
    const TABLE: [(u64, &'static str); 4] = [
        (1, "REBASE"),
        (2, "IDMAP"),
        (4, "QUOTA"),
        (8, "DIRECT_UPPER"),
    ];

    /// As bits, which cross to drivers and are stable for ever.
    pub fn bits(self) -> u64 {
        let flags = [self.rebase, self.idmap, self.quota, self.direct_upper];
        Self::TABLE
            .iter()
            .zip(flags)
            .filter(|(_, set)| *set)
            .map(|((bit, _), _)| bit)
            .sum()
    }

    /// From bits; unknown ones (a newer driver's) are ignored.
    pub fn from_bits(bits: u64) -> SnapshotterCapabilities {
        SnapshotterCapabilities {
            rebase: bits & 1 != 0,
            idmap: bits & 2 != 0,
            quota: bits & 4 != 0,
            direct_upper: bits & 8 != 0,
        }
    }

    /// The names of what it can, for people and JSON.
    pub fn names(self) -> Vec<&'static str> {
        let bits = self.bits();
        Self::TABLE
            .iter()
            .filter(|(bit, _)| bits & bit != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

/// The label that limits an active snapshot's bytes, where `QUOTA` is offered.
pub const QUOTA_LABEL: &str = "containerkit.quota";

/// A snapshotter driver. See the [module](self) for the vocabulary.
///
/// Errors: an unknown key is `NotFound`; a taken one `AlreadyExists`; an
/// operation that the kind, a child or a live mount forbids
/// `FailedPrecondition`; a key that another process is working on `Conflict`,
/// naming the holder. Labels outside the limits of [`Labels`] are
/// `InvalidArgument` ([`check_labels`](crate::value::check_labels)). A failed
/// call leaves the state as it was.
///
/// Mounted is what shows in this mount namespace, and what is held: whoever
/// mounts keeps a shared `flock` on the folder that is the snapshot's own
/// ([`mounter::hold`](crate::mounter::hold)), and `commit` and `remove` take it
/// exclusively.
pub trait Snapshotter: Send + Sync {
    /// What this instance can do, fixed while it is open.
    fn capabilities(&self) -> SnapshotterCapabilities;

    /// What is known of a snapshot.
    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo>;

    /// Changes labels; everything else is immutable. Moves `updated`.
    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo>;

    /// What the snapshot itself takes on disk, its parents not counted. Of an
    /// active one it is what is there now.
    fn usage(&self, key: &SnapshotKey) -> Result<Usage>;

    /// The mounts of an active snapshot or a view, as `prepare` or `view`
    /// gave them. `FailedPrecondition` for a committed one.
    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>>;

    /// A writable snapshot on a committed parent, or an empty one whose root
    /// has mode 0755. Returns its mounts.
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>>;

    /// A read-only snapshot of a committed parent, or an empty one. Its
    /// mounts cannot be written through.
    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>>;

    /// Turns the active snapshot into the committed one `name`; the active
    /// key is free afterwards. `FailedPrecondition` while it is mounted. An
    /// interrupted commit has happened or has not, and one that returned
    /// survives power loss; so do the files in it if whoever wrote them made
    /// them durable before (`syncfs`).
    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo>;

    /// Removes a snapshot of any kind. `FailedPrecondition` while it has
    /// children, which the error names and says to remove first, or is
    /// mounted. Returns once the name is free; the files may be deleted by
    /// `cleanup`.
    fn remove(&self, key: &SnapshotKey) -> Result<()>;

    /// One page of the snapshots that pass the filter, in key order.
    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>>;

    /// Deletes what removals and killed processes left behind, and says how
    /// much. Touches nothing that is in use or being made.
    fn cleanup(&self) -> Result<Usage>;

    /// The folder that a layer can be written straight into, without a mount,
    /// in overlay's on-disk form (a character device 0/0 is a whiteout,
    /// `trusted.overlay.opaque` an opaque folder). `DIRECT_UPPER` only, for
    /// active snapshots.
    fn upper(&self, key: &SnapshotKey) -> Result<PathBuf> {
        let _ = key;
        Err(Error::unimplemented("upper"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_bits_round_trip() {
        for bits in 0..16 {
            let caps = SnapshotterCapabilities::from_bits(bits);
            assert_eq!(caps.bits(), bits);
            assert_eq!(caps.names().len() as u32, bits.count_ones());
        }
    }
}
