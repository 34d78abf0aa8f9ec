//! A container's root file system, from outside.
//!
//! While it runs it is the root of its own process, with all that is mounted
//! there. Otherwise it is its snapshot, mounted nowhere, with the binds of its
//! spec; the container's lock is held meanwhile, so that it is neither started
//! nor removed under the reader's hands.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Mount as SpecMount, Spec};
use rustix::fs::{FileType, Mode, OFlags};

use super::Containers;
use crate::error::{Error, IoContext, Result};
use crate::fs::Root;
use crate::idmap::IdMapping;
use crate::ids::ContainerId;
use crate::lock::{FileLock, Wait};
use crate::mount::{Access, Mount};
use crate::mounter;
use crate::process::ProcessIdentity;
use crate::record::{ContainerRecord, Lifetime};
use crate::spec;

/// How long a shim that is ending may take.
const SHIM_END: Duration = Duration::from_secs(20);

/// The root file system of a container; dropping it lets the container go.
pub struct ContainerRoot {
    /// The container.
    pub id: ContainerId,
    /// Its folder: nothing leads out of it.
    pub root: Root,
    /// How its users are those of the host, when they are mapped.
    pub mapping: Option<IdMapping>,
    /// What the container will mount over when it starts, and what is not to
    /// be seen here.
    hidden: Vec<PathBuf>,
    _held: Vec<OwnedFd>,
    _lock: Option<FileLock>,
}

impl ContainerRoot {
    /// Refuses a path in something that is mounted only while the container
    /// runs.
    pub fn check(&self, path: &Path) -> Result<()> {
        let path = plain(path);
        match self.hidden.iter().find(|hidden| path.starts_with(hidden)) {
            None => Ok(()),
            Some(hidden) => Err(Error::precondition(format!(
                "{}: something is mounted there when the container starts",
                hidden.display()
            ))
            .with_hint("start the container first, or use the folder that it mounts")),
        }
    }
}

impl Containers {
    /// The root file system of a container in whatever state. `Conflict` when
    /// something else is at a stopped one.
    pub fn root(&self, record: &ContainerRecord, access: Access) -> Result<ContainerRoot> {
        let status = self.status(record)?;
        match &status.init {
            Some(init) if status.is_live() => self.live_root(record, init),
            _ => self.resting_root(record, access),
        }
    }

    fn live_root(&self, record: &ContainerRecord, init: &ProcessIdentity) -> Result<ContainerRoot> {
        let path = format!("/proc/{}/root", init.pid);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        // Opened first, looked at after: it is that of just this process.
        if init.open()?.is_none() {
            return Err(Error::precondition(format!(
                "container {} has ended",
                record.name
            )));
        }
        let fd = opened.io_context(|| format!("open the root of container {}", record.name))?;
        Ok(ContainerRoot {
            id: record.id.clone(),
            root: Root::from_fd(fd),
            mapping: spec::mapping_of(&self.spec(&record.id)?)?,
            hidden: Vec::new(),
            _held: Vec::new(),
            _lock: None,
        })
    }

    fn resting_root(&self, record: &ContainerRecord, access: Access) -> Result<ContainerRoot> {
        if record.lifetime != Lifetime::Durable || !self.is_whole(&record.id) {
            return Err(Error::precondition(format!(
                "container {} is being made, or removed at its end",
                record.name
            )));
        }
        self.make_state_dir(&record.id)?;
        let what = format!("container {}", record.name);
        let lock = FileLock::acquire(&self.lock_path(&record.id), &what, Wait::AtMost(SHIM_END))?;
        let record = self.records.container(&record.id)?;
        let spec = self.spec(&record.id)?;
        let mut mounts = self.root_mounts(&record, &spec)?;
        let held = mounter::hold(&mounts)?;
        let read_only = spec.root().as_ref().and_then(|root| root.readonly());
        if access == Access::ReadOnly || read_only == Some(true) {
            mounts = mounts.into_iter().map(Mount::read_only).collect();
        }
        let look: Vec<Mount> = mounts.iter().cloned().map(Mount::read_only).collect();
        let look = Root::from_fd(mounter::mount_detached(&look)?);
        let mut hidden = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            match bind(mount, &look, access) {
                Some(bind) => mounts.push(bind),
                None => hidden.push(plain(mount.destination())),
            }
        }
        Ok(ContainerRoot {
            id: record.id.clone(),
            root: Root::from_fd(mounter::mount_detached(&mounts)?),
            mapping: spec::mapping_of(&spec)?,
            hidden,
            _held: held,
            _lock: Some(lock),
        })
    }

    /// The mounts that make a container's root file system, its users mapped.
    pub(super) fn root_mounts(&self, record: &ContainerRecord, spec: &Spec) -> Result<Vec<Mount>> {
        let mounts = match (&record.snapshotter, &record.snapshot) {
            (Some(stamp), Some(key)) => self
                .drivers
                .snapshotter(Some(&stamp.instance))?
                .mounts(key)?,
            _ => self.directory(record)?,
        };
        match spec::mapping_of(spec)? {
            Some(users) => users.mounts(mounts),
            None => Ok(mounts),
        }
    }
}

/// A bind of the spec as a mount in the root; `None` where its target is not
/// there yet, or its source is not, or it is none.
fn bind(mount: &SpecMount, root: &Root, access: Access) -> Option<Mount> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let source = mount.source().as_deref()?;
    if !(has("bind") || has("rbind")) || !source.is_absolute() {
        return None;
    }
    let kind = |file: &OwnedFd| {
        let stat = rustix::fs::fstat(file).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    let target = root.open_at(mount.destination(), OFlags::PATH, 0).ok()?;
    let opened = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    if kind(&target)? != kind(&opened)? {
        return None;
    }
    let access = match has("ro") {
        true => Access::ReadOnly,
        false => access,
    };
    let mut bind = Mount::bind(source, access);
    bind.target = mount.destination().to_string_lossy().into_owned();
    Some(bind)
}

/// Absolute, without `.`, and with `..` taken as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}
