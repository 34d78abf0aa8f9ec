//! Leases: what a process relies on is not collected while it does.
//!
//! Name first, look after: an object that was named in a lease and is there
//! afterwards stays. One that a collection is removing just then is waited
//! for, so that whoever looks finds it gone and makes it anew.
//!
//! [`Lease::content`] and [`Lease::snapshotter`] give stores that name what
//! they are asked for, so that code which knows of no leases (importing,
//! unpacking) keeps this order by itself.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, ContentStore, Expected, IngestStatus,
    IngestWriter,
};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ContainerId, IngestRef, InstanceName, SnapshotKey};
use crate::lock::name_process;
use crate::mount::Mount;
use crate::process::ProcessIdentity;
use crate::record::{LeaseRecord, Object, Records};
use crate::snapshot::{
    CommitOptions, SnapshotFilter, SnapshotInfo, Snapshotter, SnapshotterCapabilities,
};
use crate::step::step;
use crate::value::{LabelChanges, Labels, Page, Timestamp, Usage};

/// How long to wait for the removal of what is wanted; a collection condemns
/// few objects at a time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A label that makes a blob or a snapshot a root, whatever its value.
pub const ROOT_LABEL: &str = "containerkit.gc.root";

/// A lease of this process, ended when it is dropped, or by the process's
/// death.
pub struct Lease {
    records: Arc<dyn Records>,
    id: ContainerId,
    held: Mutex<HashSet<Object>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.id)
    }
}

impl Lease {
    /// Begins a lease on these objects. When it returns, those that are there
    /// stay.
    pub fn take(records: Arc<dyn Records>, objects: &[Object]) -> Result<Lease> {
        let mut record = LeaseRecord {
            id: ContainerId::generate()?,
            expires: None,
            created: Timestamp::now(),
            holder: Some(ProcessIdentity::of(std::process::id())?),
            blobs: Vec::new(),
            snapshots: Vec::new(),
        };
        for object in objects {
            match object.clone() {
                Object::Blob(digest) => record.blobs.push(digest),
                Object::Snapshot(instance, key) => record.snapshots.push((instance, key)),
            }
        }
        records.put_lease(&record)?;
        step("lease.taken");
        let lease = Lease {
            records,
            id: record.id,
            held: Mutex::new(objects.iter().cloned().collect()),
        };
        lease.outlast(objects)?;
        Ok(lease)
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Adds to it. When it returns, those of the objects that are there stay.
    pub fn add(&self, objects: &[Object]) -> Result<()> {
        let new: Vec<Object> = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let new = objects.iter().filter(|object| !held.contains(object));
            new.cloned().collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        self.records.extend_lease(&self.id, &new)?;
        step("lease.extended");
        self.outlast(&new)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(new);
        Ok(())
    }

    /// Waits until none of these is being removed.
    fn outlast(&self, objects: &[Object]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let mut living = None;
            for (object, holder) in self.records.condemned(objects)? {
                // A process can wait for its own: two threads of it.
                if holder.open()?.is_some() {
                    living = Some((object, holder));
                    break;
                }
            }
            let Some((object, holder)) = living else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(Error::conflict(format!(
                    "{object} is being removed by {} for more than {} s",
                    name_process(holder.pid),
                    PATIENCE.as_secs()
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// The store, with what it is asked for named in this lease.
    pub fn content<'a>(&'a self, store: &'a dyn ContentStore) -> LeasedContent<'a> {
        LeasedContent { lease: self, store }
    }

    /// The snapshotter, with what it is asked for named in this lease.
    pub fn snapshotter<'a>(
        &'a self,
        instance: &InstanceName,
        snapshotter: &'a dyn Snapshotter,
    ) -> LeasedSnapshotter<'a> {
        LeasedSnapshotter {
            lease: self,
            instance: instance.clone(),
            snapshotter,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = self.records.delete_lease(&self.id)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("lease {} ends with this process: {error}", self.id.short());
        }
    }
}

/// A content store whose blobs are named in a lease before they are looked
/// for. What is stored without a known digest is not: its writer asks for it
/// (`info`) once the digest is known, before it commits.
pub struct LeasedContent<'a> {
    lease: &'a Lease,
    store: &'a dyn ContentStore,
}

impl LeasedContent<'_> {
    fn add(&self, digest: &Digest) -> Result<()> {
        self.lease.add(&[Object::Blob(digest.clone())])
    }
}

impl ContentStore for LeasedContent<'_> {
    fn capabilities(&self) -> ContentCapabilities {
        self.store.capabilities()
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        self.add(digest)?;
        self.store.info(digest)
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        self.add(digest)?;
        self.store.update(digest, changes)
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        self.store.walk(filter, page)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        self.add(digest)?;
        self.store.reader(digest)
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        if let Some(digest) = &expected.digest {
            self.add(digest)?;
        }
        self.store.writer(name, expected)
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        self.store.status(name)
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        self.store.list_statuses()
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        self.store.abort(name)
    }
}

/// A snapshotter whose committed snapshots are named in a lease before they
/// are looked for.
pub struct LeasedSnapshotter<'a> {
    lease: &'a Lease,
    instance: InstanceName,
    snapshotter: &'a dyn Snapshotter,
}

impl LeasedSnapshotter<'_> {
    fn add(&self, keys: &[Option<&SnapshotKey>]) -> Result<()> {
        let object = |key: &SnapshotKey| Object::Snapshot(self.instance.clone(), key.clone());
        let objects: Vec<Object> = keys.iter().flatten().map(|key| object(key)).collect();
        self.lease.add(&objects)
    }
}

impl Snapshotter for LeasedSnapshotter<'_> {
    fn capabilities(&self) -> SnapshotterCapabilities {
        self.snapshotter.capabilities()
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.add(&[Some(key)])?;
        self.snapshotter.stat(key)
    }

    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        self.add(&[Some(key)])?;
        self.snapshotter.update(key, changes)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        self.snapshotter.usage(key)
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        self.snapshotter.mounts(key)
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.add(&[parent])?;
        self.snapshotter.prepare(key, parent, labels)
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.add(&[parent])?;
        self.snapshotter.view(key, parent, labels)
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        self.add(&[Some(name), options.parent.as_ref()])?;
        self.snapshotter.commit(name, active, options)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        self.snapshotter.remove(key)
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        self.snapshotter.walk(filter, page)
    }

    fn cleanup(&self) -> Result<Usage> {
        self.snapshotter.cleanup()
    }

    fn upper(&self, key: &SnapshotKey) -> Result<PathBuf> {
        self.snapshotter.upper(key)
    }
}
