//! Records: what the kit remembers of images, containers and leases.
//!
//! The store behind this trait is `containerkit-records` (SQLite). Every call
//! is one transaction; many processes use one store.

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

/// What keeps content and snapshots from being collected for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Its id.
    pub id: ContainerId,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// The blobs it keeps.
    pub blobs: Vec<Digest>,
    /// The snapshots it keeps, by snapshotter instance.
    pub snapshots: Vec<(InstanceName, SnapshotKey)>,
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
    /// One page of leases, in id order.
    fn leases(&self, page: &Page) -> Result<Vec<LeaseRecord>>;
    /// Ends a lease; what is gone already is success.
    fn delete_lease(&self, id: &ContainerId) -> Result<()>;
}
