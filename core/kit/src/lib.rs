//! The contracts of containerkit: traits, the values they share, and the
//! plain-file helpers that drivers and core have in common.
//!
//! A program links this crate with the drivers it likes, or loads them with
//! `containerkit-plugin`; both give the same trait objects. There is no
//! dlopen, no TOML and no ABI type here.
//!
//! | module | what lives there |
//! |---|---|
//! | [`snapshot`], [`content`], [`runtime`] | the contracts; begin with their stories |
//! | [`driver`], [`kit`] | what every driver has; how instances are reached |
//! | [`mount`], [`mounter`] | the noun that joins snapshotters and runtimes; what performs it |
//! | [`cancel`], [`error`], [`digest`], [`ids`], [`mod@reference`], [`pattern`], [`value`] | what calls are made of |
//! | [`container`] | the life of a container, joined from all of these |
//! | [`record`], [`events`] | what the kit remembers; what happened |
//! | [`lease`] | keeping blobs and snapshots from being collected while they are used |
//! | [`stats`] | counters and processes of a running container |
//! | [`shim`], [`logs`] | the supervisor of one container, from outside; the files of its output |
//! | [`idmap`] | users of a container as other users of the host |
//! | [`spec`], [`bundle`] | from an image and a user's wishes to what a runtime is given |
//! | [`document`], [`platform`] | manifests and indexes told apart; which of an image's platforms is meant |
//! | [`fs`], [`lock`], [`process`] | files beneath a root, locks, process identity |
//! | [`mod@step`] | where a test may kill or pause a process; nothing in a release |

pub mod bundle;
pub mod cancel;
pub mod container;
pub mod content;
pub mod digest;
pub mod document;
pub mod driver;
pub mod error;
pub mod events;
pub mod fs;
pub mod idmap;
pub mod ids;
pub mod kit;
pub mod lease;
pub mod lock;
pub mod logs;
pub mod mount;
pub mod mounter;
pub mod pattern;
pub mod platform;
pub mod process;
pub mod record;
pub mod reference;
pub mod runtime;
pub mod shim;
pub mod snapshot;
pub mod spec;
pub mod stats;
pub mod step;
mod sys;
pub mod value;

pub use bundle::{Bundle, BundleFile};
pub use cancel::Cancel;
pub use content::{BlobReader, ContentStore, IngestWriter};
pub use digest::{Algorithm, Digest, Hasher, chain_id};
pub use driver::{Driver, DriverContext, DriverInfo, DriverKind, OptionKind, OptionSpec};
pub use error::{Context, Error, ErrorKind, ExecFailure, IoContext, Result, quote};
pub use ids::{ContainerId, IngestRef, InstanceName, SnapshotKey};
pub use kit::{Drivers, Opened};
pub use mount::{Access, Mount};
pub use pattern::Pattern;
pub use platform::PlatformChoice;
pub use record::Records;
pub use reference::Reference;
pub use runtime::Runtime;
pub use snapshot::Snapshotter;
pub use step::step;
pub use value::{LabelChanges, Labels, Page, Timestamp, Usage};

/// The OCI types of the contracts, so that a driver names one crate.
pub use oci_spec;
