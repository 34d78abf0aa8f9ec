//! Records: what the kit remembers of images, containers and leases.
//!
//! The store behind this trait is `containerkit-records` (SQLite). Every call
//! is one transaction; many processes use one store.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Result;
use crate::ids::{ContainerId, InstanceName, SnapshotKey};
use crate::process::ProcessIdentity;
use crate::reference::Reference;
use crate::value::{Labels, Page, Timestamp};

/// A name for a blob that is a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The normalized reference.
    pub name: Reference,
    /// The manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The content instance that holds its blobs.
    pub content: InstanceName,
    /// Labels that the user gave; never taken from the image.
    pub labels: Labels,
    /// When the name was first recorded.
    pub created: Timestamp,
    /// When it was last pointed elsewhere.
    pub updated: Timestamp,
}

/// A driver as a container was made with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverStamp {
    /// The instance's name in the configuration.
    pub instance: InstanceName,
    /// The driver's name.
    pub driver: String,
    /// The driver's version.
    pub version: String,
}

/// What becomes of a container when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterExit {
    /// It is kept until it is deleted.
    Keep,
    /// It is removed (`--rm`).
    Remove,
}

/// Whether a container outlives a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// It ends with its one run, or with the boot: nothing of it is synced.
    #[default]
    Ephemeral,
    /// It can be started again, after a reboot too.
    Durable,
}

/// A container, recorded before anything of it exists: whatever a killed
/// command leaves behind is found from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// Its name, unique among containers and never another one's id.
    pub name: ContainerId,
    /// The image it was made from, when there was one.
    pub image: Option<Reference>,
    /// The manifest it was made from.
    pub image_digest: Option<Digest>,
    /// The runtime.
    pub runtime: DriverStamp,
    /// The snapshotter, when it has a snapshot.
    pub snapshotter: Option<DriverStamp>,
    /// Its active snapshot.
    pub snapshot: Option<SnapshotKey>,
    /// Kept or removed at its end.
    pub after_exit: AfterExit,
    /// Whether it outlives a reboot.
    #[serde(default)]
    pub lifetime: Lifetime,
    /// Labels that the user gave.
    pub labels: Labels,
    /// When it was recorded.
    pub created: Timestamp,
    /// The command that made it.
    pub creator: ProcessIdentity,
}

/// What a collection may remove, and what keeps it from that names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// A blob, in whatever content store.
    Blob(Digest),
    /// A snapshot of a snapshotter instance.
    Snapshot(InstanceName, SnapshotKey),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Blob(digest) => write!(f, "blob {digest}"),
            Object::Snapshot(instance, key) => write!(f, "snapshot {key} of {instance}"),
        }
    }
}

/// What keeps content and snapshots from being collected for a while. A
/// program takes one by [`lease::Lease`](crate::lease::Lease).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Its id.
    pub id: ContainerId,
    /// When it ends by itself, unless its process lives.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// The process that it ends with.
    pub holder: Option<ProcessIdentity>,
    /// The blobs it keeps, with all that they refer to.
    pub blobs: Vec<Digest>,
    /// The snapshots it keeps with those below them, by snapshotter instance.
    pub snapshots: Vec<(InstanceName, SnapshotKey)>,
}

impl LeaseRecord {
    /// What it keeps.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let blobs = self.blobs.iter().cloned().map(Object::Blob);
        let snapshots = self.snapshots.iter().cloned();
        blobs.chain(snapshots.map(|(instance, key)| Object::Snapshot(instance, key)))
    }

    /// Why it counts no more; `None` while it does. With a holder it counts as
    /// long as that lives, whatever its expiry says.
    pub fn ended(&self) -> Result<Option<String>> {
        if let Some(holder) = &self.holder {
            return Ok(match holder.open()? {
                Some(_) => None,
                None => Some(format!("its process {} has ended", holder.pid)),
            });
        }
        Ok(self
            .expires
            .filter(|expires| *expires <= Timestamp::now())
            .map(|expires| format!("it expired at {expires}")))
    }
}

/// All that a collection starts from, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Every image.
    pub images: Vec<ImageRecord>,
    /// Every container.
    pub containers: Vec<ContainerRecord>,
    /// Every lease, ended ones too.
    pub leases: Vec<LeaseRecord>,
}

/// One of them: who names what. A second owner of the same object is another
/// root, for what the object refers to may have come in between.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root {
    /// `image NAME`, `container ID` or `lease ID`.
    pub owner: String,
    /// A manifest or an index, or what a lease holds.
    pub object: Object,
}

/// What came of condemning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condemned {
    /// These are the caller's to remove; those of the given that are missing
    /// here, another living collection is removing.
    Yes(Vec<Object>),
    /// There are roots that the caller does not know of: nothing was done.
    Grown,
}

/// The record store.
pub trait Records: Send + Sync {
    /// Points a name at a blob, new or anew. `created` and the labels of an
    /// existing record are kept unless the given one has labels.
    fn put_image(&self, image: &ImageRecord) -> Result<ImageRecord>;
    /// The image of a name; `NotFound` names it.
    fn image(&self, name: &Reference) -> Result<ImageRecord>;
    /// One page of images, in name order.
    fn images(&self, page: &Page) -> Result<Vec<ImageRecord>>;
    /// Every name of a digest.
    fn images_of(&self, digest: &Digest) -> Result<Vec<ImageRecord>>;
    /// Forgets a name; `NotFound` names it.
    fn delete_image(&self, name: &Reference) -> Result<()>;

    /// Records a new container. `Conflict` when its id or name is taken, be
    /// it as an id or as a name, naming the container that has it.
    fn create_container(&self, container: &ContainerRecord) -> Result<()>;
    /// Replaces the record with this id; `NotFound` without one.
    fn update_container(&self, container: &ContainerRecord) -> Result<()>;
    /// The container with this id.
    fn container(&self, id: &ContainerId) -> Result<ContainerRecord>;
    /// The container that a user means: by name, by id, or by a prefix of
    /// just one id. An ambiguous prefix is `InvalidArgument`.
    fn find_container(&self, text: &str) -> Result<ContainerRecord>;
    /// One page of containers, in id order.
    fn containers(&self, page: &Page) -> Result<Vec<ContainerRecord>>;
    /// Whether any container was made from this manifest.
    fn image_in_use(&self, digest: &Digest) -> Result<Option<ContainerRecord>>;
    /// Forgets a container; what is gone already is success.
    fn delete_container(&self, id: &ContainerId) -> Result<()>;

    /// Records or replaces a lease.
    fn put_lease(&self, lease: &LeaseRecord) -> Result<()>;
    /// Adds to a lease; `NotFound` without one.
    fn extend_lease(&self, id: &ContainerId, objects: &[Object]) -> Result<()>;
    /// The lease with this id; `NotFound` names it.
    fn lease(&self, id: &ContainerId) -> Result<LeaseRecord>;
    /// One page of leases, in id order.
    fn leases(&self, page: &Page) -> Result<Vec<LeaseRecord>>;
    /// Ends a lease; what is gone already is success.
    fn delete_lease(&self, id: &ContainerId) -> Result<()>;
    /// Ends every lease that [counts no more](LeaseRecord::ended), and returns
    /// them. None is renewed in between.
    fn end_leases(&self) -> Result<Vec<LeaseRecord>>;

    /// Every root, at one moment.
    fn roots(&self) -> Result<Roots>;
    /// Marks objects as about to be removed by the process `by`, unless there
    /// is a root that is not in `known`. What an earlier call of `by` condemned
    /// is [pardoned](Records::pardon) by it.
    fn condemn(
        &self,
        by: &ProcessIdentity,
        objects: &[Object],
        known: &BTreeSet<Root>,
    ) -> Result<Condemned>;
    /// Ends what a process condemned: its removals are done.
    fn pardon(&self, by: &ProcessIdentity) -> Result<()>;
    /// Which of these objects are condemned, and by whom; the process may have
    /// died over it.
    fn condemned(&self, objects: &[Object]) -> Result<Vec<(Object, ProcessIdentity)>>;
}
