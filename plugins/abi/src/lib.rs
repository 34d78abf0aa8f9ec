//! The one crate that a containerkit driver names: the contracts, and the
//! line that makes a shared object of a driver.
//!
//! # A driver in ten minutes
//! A driver is a type that implements [`Driver`] and the trait of its kind:
//! [`Snapshotter`], [`ContentStore`] or [`Runtime`]. It is an ordinary type:
//! a program can link it, and tests call it as it is.
//!
//! `Cargo.toml` of a driver:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! containerkit-plugin = "1"
//! ```
//!
//! `src/lib.rs`, here a snapshotter that keeps plain folders and supports no
//! parents; what it cannot do, it says:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::{Mutex, MutexGuard, PoisonError};
//!
//! use containerkit_plugin::snapshot::*;
//! use containerkit_plugin::*;
//!
//! /// What an instance has.
//! pub struct Folders {
//!     context: DriverContext,
//!     known: Mutex<BTreeMap<SnapshotKey, SnapshotInfo>>,
//! }
//!
//! // The one line that makes it loadable. The crate exports one symbol.
//! export_driver!(snapshotter: Folders);
//!
//! impl Driver for Folders {
//!     fn info() -> DriverInfo {
//!         DriverInfo {
//!             name: "folders".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             kind: DriverKind::Snapshotter,
//!             // Options are refused unless they are told here.
//!             options: vec![OptionSpec::new(
//!                 "mode", OptionKind::Integer, "493", "Mode of new folders.",
//!             )],
//!         }
//!     }
//!
//!     // Whatever is wrong with the surroundings is an error here and now.
//!     fn open(context: DriverContext) -> Result<Folders> {
//!         log::debug!("instance {} in {}", context.instance, context.root.display());
//!         let mode = context.integer("mode")?.unwrap_or(0o755);
//!         if !(0..=0o777).contains(&mode) {
//!             return Err(Error::invalid(format!("option mode: {mode} is no mode")));
//!         }
//!         Ok(Folders { context, known: Mutex::default() })
//!     }
//! }
//!
//! impl Folders {
//!     fn known(&self) -> MutexGuard<'_, BTreeMap<SnapshotKey, SnapshotInfo>> {
//!         self.known.lock().unwrap_or_else(PoisonError::into_inner)
//!     }
//!
//!     fn make(
//!         &self, key: &SnapshotKey, parent: Option<&SnapshotKey>, labels: &Labels, kind: SnapshotKind,
//!     ) -> Result<Vec<Mount>> {
//!         if parent.is_some() {
//!             return Err(Error::unimplemented("parents"));
//!         }
//!         let now = Timestamp::now();
//!         let mut known = self.known();
//!         if known.contains_key(key) {
//!             return Err(Error::already_exists(format!("snapshot {key}")));
//!         }
//!         known.insert(key.clone(), SnapshotInfo {
//!             key: key.clone(), kind, parent: None, labels: labels.clone(), created: now, updated: now,
//!         });
//!         drop(known);
//!         self.mounts(key)
//!     }
//! }
//!
//! impl Snapshotter for Folders {
//!     fn capabilities(&self) -> SnapshotterCapabilities {
//!         SnapshotterCapabilities::default()
//!     }
//!     fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
//!         let found = self.known().get(key).cloned();
//!         found.ok_or_else(|| Error::not_found(format!("snapshot {key}")))
//!     }
//!     fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
//!         let access = match self.stat(key)?.kind {
//!             SnapshotKind::Active => Access::ReadWrite,
//!             SnapshotKind::View => Access::ReadOnly,
//!             SnapshotKind::Committed => {
//!                 return Err(Error::precondition(format!("snapshot {key} is committed")));
//!             }
//!         };
//!         // A key is a name, never a path: hash it where a file name is wanted.
//!         let name = Algorithm::Sha256.digest(key.as_str().as_bytes());
//!         Ok(vec![Mount::bind(self.context.root.join(name.hex()), access)])
//!     }
//!     fn prepare(&self, key: &SnapshotKey, parent: Option<&SnapshotKey>, labels: &Labels) -> Result<Vec<Mount>> {
//!         self.make(key, parent, labels, SnapshotKind::Active)
//!     }
//!     fn view(&self, key: &SnapshotKey, parent: Option<&SnapshotKey>, labels: &Labels) -> Result<Vec<Mount>> {
//!         self.make(key, parent, labels, SnapshotKind::View)
//!     }
//!     fn commit(&self, name: &SnapshotKey, active: &SnapshotKey, options: &CommitOptions) -> Result<SnapshotInfo> {
//!         let mut info = self.stat(active)?;
//!         info.key = name.clone();
//!         info.kind = SnapshotKind::Committed;
//!         info.labels = options.labels.clone();
//!         let mut known = self.known();
//!         known.remove(active);
//!         known.insert(name.clone(), info.clone());
//!         Ok(info)
//!     }
//!     fn remove(&self, key: &SnapshotKey) -> Result<()> {
//!         let removed = self.known().remove(key);
//!         removed.map(drop).ok_or_else(|| Error::not_found(format!("snapshot {key}")))
//!     }
//!     fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
//!         let mut info = self.stat(key)?;
//!         info.labels = changes.apply(&info.labels)?;
//!         info.updated = Timestamp::now();
//!         self.known().insert(key.clone(), info.clone());
//!         Ok(info)
//!     }
//!     fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
//!         self.stat(key).map(|_| Usage::default())
//!     }
//!     fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
//!         let known = self.known();
//!         let all = known.values().filter(|info| filter.matches(info));
//!         let rest = all.filter(|info| page.after.as_deref().is_none_or(|after| info.key.as_str() > after));
//!         Ok(rest.take(page.limit as usize).cloned().collect())
//!     }
//!     fn cleanup(&self) -> Result<Usage> {
//!         Ok(Usage::default())
//!     }
//! }
//!
//! // A driver's own test needs no loading.
//! let context = DriverContext::new("mine".parse()?, "/var/lib/x", "/run/x");
//! let driver = Folders::open(context)?;
//! let mounts = driver.prepare(&"container-1".parse()?, None, &Labels::new())?;
//! assert_eq!(mounts[0].fstype, "bind");
//! # Ok::<(), Error>(())
//! ```
//!
//! A real one keeps its snapshots on disk, where other processes see them;
//! `containerkit-conformance` tells where it breaks the contract. Then one
//! entry of TOML puts it to use:
//!
//! ```toml
//! [snapshotter.mine]
//! driver = "libfolders.so"
//! options = { mode = 448 }
//! ```
//!
//! `containerkit driver check libfolders.so` says which promises it keeps.
//!
//! # What a first version misses
//! - Any kind: [`DriverContext::check_options`] also where the driver is
//!   linked; an error of the contract's [`ErrorKind`] that names the object in
//!   one line ([`quote`]); another process, and another instance, that sees at
//!   once what this one did; [`lock::FileLock`] for what one process does at a
//!   time, whose error names the holder; an `flock` is unlocked, not only
//!   closed, where threads start programs: until it is executed, a program has
//!   a copy of every descriptor.
//! - A snapshotter: labels are checked ([`value::check_labels`]); `created` of
//!   a committed snapshot is the commit's time; `commit` and `remove` refuse
//!   what is mounted or held ([`mounter::hold`]); `walk` gives keys after
//!   `page.after`, whether that key is there or not.
//! - A content store: a wrong size or digest leaves the ingest as it was; what
//!   exists is `AlreadyExists` and names the digest; a writer that is dropped
//!   keeps its bytes; a deleted blob's readers go on.
//! - A runtime: `run` is given by `create` and `start`; a program that cannot
//!   be executed carries an [`ExecFailure`]; nothing of a failed `create`
//!   stays; nobody waits for a container but the caller, a subreaper.
//!
//! `tests/third-party` of the checkout has a driver of each kind that depends
//! on this crate and on nothing else of containerkit.
//!
//! # What a driver may rely on
//! - A panic in any method, in `open` and in `drop` is caught at the boundary
//!   and becomes an [`Error`] that names the driver and the method; build with
//!   `panic = "unwind"`, cargo's default.
//! - The [`log`] facade reaches the program's logger; use the re-export, so
//!   that its version is the SDK's.
//! - [`DriverContext::root`] and `state` exist and are the instance's own.
//! - Any minor version of this crate's major works with any other.
//!
//! `ABI.md` beside this crate numbers what a driver must do.
//!
//! # Loading drivers
//! With the feature `host`: `search` finds a file, `Library::load` checks and
//! loads it, and its `snapshotter`, `content` and `runtime` open instances
//! that implement the same traits as a linked driver.

pub use containerkit::*;
pub use log;
/// What options and feature documents are made of.
pub use serde_json;

mod export;

#[doc(hidden)]
pub mod abi;

#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub use host::{AbiVersion, Declaration, Library, Tried, declaration, search};
