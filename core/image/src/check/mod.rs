//! Whether everything that is stored is what it should be, and mending what is
//! not.
//!
//! Every blob is hashed; of every image each manifest that is there is followed
//! to config and layers, and each layer's content is held against its DiffID;
//! every snapshot must stand on a committed one and be mountable; and of an
//! image's snapshots each is compared with what its layer gives, applied anew on
//! the snapshot below it, so that damage is told of the layer that has it.
//!
//! What others are doing meanwhile is no damage: what is gone when its turn
//! comes is looked for again, and counts only if its image is still recorded.
//! What killed processes left, and ingests that can be gone on with, are told
//! and are no damage either. What the host keeps from being looked at, a full
//! disk for one, is told as unchecked, and repairing leaves it alone.
//!
//! Repairing takes a blob from another store that has it whole, else drops it,
//! so that its image is incomplete and the next pull or import brings it anew;
//! and unpacks damaged snapshots again, with all above them, unless a container
//! stands there.

mod blobs;
mod images;
mod repair;
mod snapshots;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use containerkit::record::{ImageRecord, Roots};
use containerkit::{Digest, Error, ErrorKind, InstanceName, Result, SnapshotKey};
use serde::Serialize;

use crate::Cancel;
use crate::gc::Stores;
use crate::limits::Limits;
use crate::resolve::Image;

/// How to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Only these images and what they refer to; everything without.
    pub images: Option<Vec<ImageRecord>>,
    /// Whether damage is mended.
    pub repair: Repair,
    /// Folders of the locks of unpacking, by snapshotter instance, below this.
    pub locks: PathBuf,
    /// What a layer may cost.
    pub limits: Limits,
    /// Ends it early.
    pub cancel: Cancel,
}

/// Whether damage is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is told.
    No,
    /// As far as it can be.
    Yes,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is not what it should be.
    Damaged,
    /// Parts of it are missing.
    Incomplete,
    /// Somebody was killed over it, or left it to be gone on with: no damage.
    Leftover,
    /// It could not be looked at now: a full or read-only disk, too few
    /// descriptors. Nothing is known of it, and nothing is done about it.
    Unchecked,
}

impl State {
    /// What an error says of the object that was looked at, if anything: it
    /// may tell of the host as it is now.
    pub fn of(error: &Error) -> State {
        match error.kind() {
            ErrorKind::ResourceExhausted
            | ErrorKind::PermissionDenied
            | ErrorKind::Conflict
            | ErrorKind::Unavailable
            | ErrorKind::Timeout => State::Unchecked,
            _ => State::Damaged,
        }
    }

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            State::Damaged => "damaged",
            State::Incomplete => "incomplete",
            State::Leftover => "leftover",
            State::Unchecked => "unchecked",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `records`, `store`, `blob`, `image`, `snapshot`, `container`, `ingest` or `lease`.
    pub kind: &'static str,
    /// The instance that has it.
    pub store: Option<InstanceName>,
    /// Digest, key, name or id.
    pub id: String,
    /// How bad it is.
    pub state: State,
    /// What is wrong.
    pub reason: String,
    /// What was done about it.
    pub repaired: Option<String>,
    /// What can be done about it.
    pub mend: Option<String>,
}

impl Finding {
    /// One that nothing was done about.
    pub fn new(kind: &'static str, id: impl ToString, state: State, reason: String) -> Finding {
        Finding {
            kind,
            store: None,
            id: id.to_string(),
            state,
            reason,
            repaired: None,
            mend: None,
        }
    }

    fn of(mut self, store: &InstanceName) -> Finding {
        self.store = Some(store.clone());
        self
    }

    fn mend(mut self, mend: String) -> Finding {
        self.mend = Some(mend);
        self
    }

    /// Whether it is damage that is still there.
    pub fn is_damage(&self) -> bool {
        matches!(self.state, State::Damaged | State::Incomplete) && self.repaired.is_none()
    }
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// Blobs hashed.
    pub blobs: usize,
    /// Images followed.
    pub images: usize,
    /// Snapshots looked at.
    pub snapshots: usize,
    /// Snapshots compared with their layers, file by file.
    pub compared: usize,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// What is known in the course of a check.
struct Course<'a> {
    stores: &'a Stores<'a>,
    options: &'a CheckOptions,
    roots: Roots,
    /// Blobs that are not to be read, by store.
    bad_blobs: HashSet<Digest>,
    /// Every image manifest that is there, with the record that names it.
    resolved: Vec<(ImageRecord, Image)>,
    /// Damaged snapshots, by their place among the snapshotters.
    bad_snapshots: BTreeMap<usize, Vec<SnapshotKey>>,
    checked: Checked,
}

/// Checks, and mends where that is asked for.
pub fn check(stores: &Stores<'_>, options: &CheckOptions) -> Result<Checked> {
    let mut course = Course {
        stores,
        options,
        roots: stores.records.roots()?,
        bad_blobs: HashSet::new(),
        resolved: Vec::new(),
        bad_snapshots: BTreeMap::new(),
        checked: Checked::default(),
    };
    course.blobs()?;
    course.images()?;
    course.snapshots()?;
    if options.images.is_none() {
        course.leftovers()?;
    }
    if options.repair == Repair::Yes {
        course.rebuild()?;
    }
    Ok(course.checked)
}

/// How to have an image's blobs again.
fn refetch(image: &ImageRecord) -> String {
    format!(
        "`containerkit image pull {0}`, or `containerkit image import PATH --name {0}`, brings \
         what is missing",
        image.name
    )
}
