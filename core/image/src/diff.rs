//! The changes between two trees, and the layer that makes them: the inverse
//! of [`apply`](mod@crate::apply).
//!
//! Two trees are walked side by side, whatever the snapshotter. Where both are
//! overlays of the same lower layers, only the upper folder is read: what is
//! not in it has not changed, its whiteouts are what was deleted, and each
//! thing in it is held against the layers below, so that both ways find the
//! same changes and make the same layer, byte for byte. An upper folder with
//! what only the kernel can resolve (redirects, files without their data) is
//! mounted and walked like any other tree.
//!
//! What counts as a change: another kind, mode, owner, device, symlink target,
//! extended attribute, modification time to the nanosecond, size or content.
//! Files that agree in all but content are read and compared, unless they are
//! one inode: a time can be set back. Of the root folder the time does not
//! count, for whoever makes a mount point in it changes it; and that two equal
//! files are one inode, or no more, is no change by itself.
//!
//! A layer is written as the tools of the field expect it (OCI image-spec
//! `layer.md`): parents of what is in it are in it too, deletions are `.wh.`
//! files, and every name of a file that has several and changed under one is
//! in it, the first with the data, the others as hard links. Names are in
//! order, folders before what is in them. Overlay's own attributes and the
//! labels of the system's policy are left out, sockets as well. Access times
//! are not told. The root is told when it differs.
//!
//! A file with holes is stored as sparse where they are at least a mebibyte,
//! for it could otherwise fill any disk; smaller ones are stored as zeros,
//! because sparse entries are what tar readers agree on least.

mod list;
pub(crate) mod node;
mod snapshot;
mod trees;
mod walk;
pub(crate) mod write;

use std::io::Write;
use std::path::PathBuf;

use containerkit::idmap::IdMapping;
use containerkit::{Mount, Result};
use serde::{Serialize, Serializer};

use crate::Cancel;

pub use snapshot::{of_snapshot, on_snapshot};
pub use trees::Trees;

/// How to compare, and how to write the layer.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// No time in the layer is later than this, in seconds since the epoch
    /// (`SOURCE_DATE_EPOCH`); those of whiteouts are this, or 0. Two later
    /// times are equal.
    pub epoch: Option<i64>,
    /// The changed tree belongs to mapped users: the layer has their ids as
    /// they are in the container.
    pub mapping: Option<IdMapping>,
    /// Where something was mounted: an empty file or folder that was added
    /// there is the mount's and not a change.
    pub mount_points: Vec<PathBuf>,
    /// Ends it early.
    pub cancel: Cancel,
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was there and is another.
    Modified,
    /// It is gone, with everything below it.
    Deleted,
    /// It is as it was, and in the layer for the sake of something else: a
    /// folder above a change, another name of a changed file.
    Kept,
}

impl ChangeKind {
    /// One letter: `A`, `C`, `D`, and a dot for what is kept.
    pub const fn letter(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
            ChangeKind::Kept => '.',
        }
    }
}

/// A name that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its path in the root, without a slash at its beginning; empty for the
    /// root itself. Any bytes but NUL.
    #[serde(serialize_with = "as_text")]
    pub path: Vec<u8>,
    /// What became of it.
    pub kind: ChangeKind,
}

/// As a path from `/`; what is not UTF-8 is told approximately.
fn as_text<S: Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("/{}", String::from_utf8_lossy(path)))
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diffed {
    /// Entries of the layer, whiteouts included.
    pub entries: u64,
    /// Bytes of the uncompressed layer.
    pub bytes: u64,
}

/// Writes the layer that makes `upper` of `lower` (none: of nothing).
///
/// The mounts are those that a snapshotter gives: `lower` of a view of the
/// parent, `upper` of the snapshot. Neither tree is written to. What changes
/// while it is read makes a `Conflict`, where it is seen.
///
/// ```
/// use containerkit::{Access, Mount};
/// use containerkit_image::{DiffOptions, diff};
/// # fn main() -> containerkit::Result<()> {
/// # let dir = tempfile::tempdir().expect("tempdir");
/// std::fs::write(dir.path().join("hello"), "world").expect("write");
/// let upper = [Mount::bind(dir.path(), Access::ReadOnly)];
/// let mut layer = Vec::new();
/// let diffed = diff(&[], &upper, &mut layer, &DiffOptions::default())?;
/// assert_eq!((diffed.entries, diffed.bytes), (2, layer.len() as u64));
/// # Ok(())
/// # }
/// ```
pub fn diff(
    lower: &[Mount],
    upper: &[Mount],
    layer: &mut dyn Write,
    options: &DiffOptions,
) -> Result<Diffed> {
    let mut trees = Trees::of_mounts(lower, upper)?;
    let changes = trees.changes(options)?;
    trees.write(&changes, layer, options)
}
