//! Record, snapshot, bundle.

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::Config as ImageConfig;

use super::{Containers, Settings};
use crate::bundle::Bundle;
use crate::digest::Digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fs::{self, Root};
use crate::ids::{ContainerId, InstanceName, SnapshotKey};
use crate::lock::{FileLock, Wait};
use crate::mount::{Access, Mount};
use crate::process::ProcessIdentity;
use crate::record::{AfterExit, ContainerRecord, DriverStamp, Lifetime};
use crate::reference::Reference;
use crate::runtime::CheckpointRequest;
use crate::shim::RuntimeRef;
use crate::spec::{self, LogOptions, SpecRequest};
use crate::step::step;
use crate::value::{Labels, Timestamp};

/// Where a container's root file system comes from.
#[derive(Clone, Debug)]
pub enum RootSource {
    /// A new snapshot on an unpacked image.
    Image {
        /// The image's name.
        name: Reference,
        /// The manifest.
        digest: Digest,
        /// The committed snapshot of its top layer; `None` without layers.
        top: Option<SnapshotKey>,
        /// The image's `config`.
        config: Option<Box<ImageConfig>>,
    },
    /// A folder of the host, as it is.
    Directory(PathBuf),
}

/// A container to make.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Its name; the short id without one.
    pub name: Option<ContainerId>,
    /// Its root file system.
    pub source: RootSource,
    /// What it shall be. `image`, `bundle`, `volumes_dir` and `cgroups_path`
    /// are set here.
    pub spec: SpecRequest,
    /// What the shim loads to run it.
    pub runtime: RuntimeRef,
    /// The same as the record keeps it.
    pub runtime_stamp: DriverStamp,
    /// The snapshotter; the default without one.
    pub snapshotter: Option<InstanceName>,
    /// Kept or removed at its end.
    pub after_exit: AfterExit,
    /// Whether it can be started again, after a reboot too.
    pub lifetime: Lifetime,
    /// Whether its standard input stays open for clients.
    pub open_stdin: bool,
    /// A file that gets its pid at each start, absolute.
    pub pidfile: Option<PathBuf>,
    /// How its output is logged.
    pub log: LogOptions,
    /// Labels that the user gave.
    pub labels: Labels,
}

/// A container that is prepared, and held by this process. A new one that is
/// dropped without [`launch`](Created::launch) or [`keep`](Created::keep) is
/// removed again.
pub struct Created {
    pub(super) containers: Containers,
    /// Whether dropping it removes the container.
    pub(super) armed: bool,
    pub(super) lock: Option<FileLock>,
    pub(super) mounts: Vec<Mount>,
    pub(super) terminal: bool,
    /// The saved processes to start from.
    pub(super) restore: Option<CheckpointRequest>,
    /// What its shim loads to run it.
    pub runtime: RuntimeRef,
    /// Its record. Its spec is in its bundle.
    pub record: ContainerRecord,
}

impl Containers {
    /// Makes a container up to the point where a shim can take it.
    ///
    /// `interrupted` is asked between the steps; once it says so, everything
    /// is undone and the error is `Cancelled`. A name that a killed command's
    /// `--rm` container still has is freed first.
    pub fn create(&self, new: NewContainer, interrupted: &dyn Fn() -> bool) -> Result<Created> {
        new.spec.check()?;
        let id = ContainerId::generate()?;
        let users = new.spec.mapping(&id)?;
        if let Some(users) = &users {
            users.check_reach(&self.bundle_dir(&id))?;
        }
        let name = match &new.name {
            Some(name) => name.clone(),
            None => id.short().parse()?,
        };
        let (image, snapshotter) = match &new.source {
            RootSource::Directory(_) => (None, None),
            RootSource::Image { name, digest, .. } => {
                let snapshotter = self.drivers.snapshotter(new.snapshotter.as_ref())?;
                (Some((name.clone(), digest.clone())), Some(snapshotter))
            }
        };
        if let (Some(_), Some(snapshotter)) = (&users, &snapshotter)
            && !snapshotter.capabilities().idmap
        {
            return Err(Error::new(
                ErrorKind::Unimplemented,
                format!(
                    "mapped users: the snapshotter {} cannot show its files with other owners",
                    snapshotter.stamp.instance
                ),
            )
            .with_hint("leave --userns out, or use a snapshotter with the capability IDMAP"));
        }
        let snapshot: Option<SnapshotKey> = match snapshotter {
            Some(_) => Some(id.as_str().parse()?),
            None => None,
        };
        let record = ContainerRecord {
            id: id.clone(),
            name,
            image: image.as_ref().map(|(name, _)| name.clone()),
            image_digest: image.map(|(_, digest)| digest),
            runtime: new.runtime_stamp.clone(),
            snapshotter: snapshotter.as_ref().map(|opened| opened.stamp.clone()),
            snapshot: snapshot.clone(),
            after_exit: new.after_exit,
            lifetime: new.lifetime,
            labels: new.labels.clone(),
            created: Timestamp::now(),
            creator: ProcessIdentity::of(std::process::id())?,
        };
        self.record(&record)?;
        step("container.recorded");
        let mut created = Created {
            containers: self.clone(),
            armed: true,
            runtime: new.runtime.clone(),
            lock: None,
            mounts: Vec::new(),
            terminal: new.spec.terminal,
            restore: None,
            record,
        };
        let check = || match interrupted() {
            true => Err(Error::new(ErrorKind::Cancelled, "interrupted")),
            false => Ok(()),
        };
        check()?;
        self.make_state_dir(&id)?;
        created.lock = Some(FileLock::acquire(
            &self.lock_path(&id),
            &format!("container {}", created.record.name),
            Wait::AtMost(Duration::from_secs(1)),
        )?);
        check()?;
        created.mounts = match (&new.source, &snapshotter, &snapshot) {
            (RootSource::Image { top, .. }, Some(snapshotter), Some(key)) => {
                let mut labels = Labels::new();
                labels.insert(super::SNAPSHOT_LABEL.into(), id.to_string());
                snapshotter.prepare(key, top.as_ref(), &labels)?
            }
            (RootSource::Directory(dir), ..) => vec![Mount::bind(dir, Access::ReadWrite)],
            _ => return Err(Error::internal("an image container without a snapshotter")),
        };
        step("container.prepared");
        if let Some(users) = &users {
            created.mounts = users.mounts(std::mem::take(&mut created.mounts))?;
        }
        check()?;
        if new.lifetime == Lifetime::Ephemeral {
            let mounts = std::mem::take(&mut created.mounts);
            created.mounts = mounts.into_iter().map(Mount::volatile).collect();
        }
        self.make_bundle(&created, new)?;
        if created.record.lifetime == Lifetime::Durable {
            self.keep_bundle(&id)?;
        }
        self.tell(&created.record, "create", |event| event);
        Ok(created)
    }

    /// Records, and frees the name first where only a dead command has it.
    fn record(&self, record: &ContainerRecord) -> Result<()> {
        let error = match self.records.create_container(record) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Conflict {
            return Err(error);
        }
        let Ok(holder) = self.records.find_container(record.name.as_str()) else {
            return Err(error);
        };
        let freed = self
            .repair(&holder)
            .context(|| format!("clean up after container {}", holder.name))?;
        if !freed {
            return Err(error);
        }
        self.records.create_container(record)
    }

    /// The bundle, its spec resolved against a read-only look at the root file
    /// system.
    fn make_bundle(&self, created: &Created, new: NewContainer) -> Result<()> {
        let id = &created.record.id;
        let image = match &new.source {
            RootSource::Image { config, .. } => config.as_deref().cloned(),
            RootSource::Directory(_) => None,
        };
        let request = SpecRequest {
            image,
            bundle: self.bundle_dir(id),
            volumes_dir: self.root_dir(id).join("volumes"),
            cgroups_path: self.cgroups_path(id),
            ..new.spec
        };
        let look: Vec<Mount> = created
            .mounts
            .iter()
            .cloned()
            .map(Mount::read_only)
            .collect();
        let root = Root::from_fd(crate::mounter::mount_detached(&look)?);
        let built = spec::build(&request, id, &root)?;
        spec::program::check(&built.spec, &root)?;
        if !built.volumes.is_empty() {
            fs::ensure_dir(&self.root, 0o711)?;
            fs::ensure_dir(&request.volumes_dir, 0o711)?;
            for volume in &built.volumes {
                spec::volume::populate(&root, volume)?;
            }
        }
        let mut settings = Settings::new(
            request.terminal,
            built.stop_signal,
            new.runtime.instance.clone(),
        );
        settings.open_stdin = new.open_stdin;
        settings.log = new.log;
        settings.pidfile = new.pidfile;
        if let RootSource::Directory(dir) = &new.source {
            settings.rootfs = Some(dir.clone());
        }
        let mut files = built.files;
        files.push(settings.to_file()?);
        Bundle::create(&request.bundle, &built.spec, &files).map(drop)
    }
}

impl Created {
    /// Leaves a durable container as it is, to be started later.
    pub fn keep(mut self) -> ContainerRecord {
        self.armed = false;
        self.record.clone()
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.armed {
            self.lock = None;
            self.containers.undo(&self.record);
        }
    }
}

impl Containers {
    fn undo(&self, record: &ContainerRecord) {
        if let Err(error) = self.remove(record, super::RemoveMode::Force) {
            log::warn!("undo container {}: {error}", record.name);
        }
    }
}
