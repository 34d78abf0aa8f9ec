//! A content store in memory and a snapshotter that copies folders: enough to
//! test without a driver.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use containerkit::content::*;
use containerkit::snapshot::*;
use containerkit::*;

type Blobs = Arc<Mutex<BTreeMap<Digest, Arc<Vec<u8>>>>>;

#[derive(Default)]
pub struct Memory {
    pub blobs: Blobs,
    pub held: Arc<Mutex<HashSet<String>>>,
    /// Refs of ingests that were begun and neither committed nor aborted.
    pub ingests: Arc<Mutex<HashSet<String>>>,
}

impl Memory {
    /// Puts other bytes under a digest.
    pub fn damage(&self, digest: &Digest, data: &[u8]) {
        let mut blobs = self.blobs.lock().expect("lock");
        blobs.insert(digest.clone(), Arc::new(data.to_vec()));
    }

    pub fn data(&self, digest: &Digest) -> Arc<Vec<u8>> {
        self.blobs.lock().expect("lock")[digest].clone()
    }

    pub fn put(&self, data: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(data);
        self.blobs
            .lock()
            .expect("lock")
            .insert(digest.clone(), Arc::new(data.to_vec()));
        digest
    }

    pub fn len(&self) -> usize {
        self.blobs.lock().expect("lock").len()
    }
}

struct Reader(Arc<Vec<u8>>);

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let part = rest.len().min(buf.len());
        buf[..part].copy_from_slice(&rest[..part]);
        Ok(part)
    }
}

struct Writer {
    blobs: Blobs,
    held: Arc<Mutex<HashSet<String>>>,
    ingests: Arc<Mutex<HashSet<String>>>,
    name: IngestRef,
    expected: Expected,
    data: Vec<u8>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.held.lock().expect("lock").remove(self.name.as_str());
    }
}

impl IngestWriter for Writer {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.data.extend_from_slice(data);
        Ok(())
    }
    fn status(&self) -> Result<IngestStatus> {
        Ok(IngestStatus {
            name: self.name.clone(),
            offset: self.data.len() as u64,
            total: self.expected.size,
            expected: self.expected.digest.clone(),
            started: Timestamp::now(),
            updated: Timestamp::now(),
            holder: Some(std::process::id()),
        })
    }
    fn truncate(&mut self, size: u64) -> Result<()> {
        self.data.truncate(size as usize);
        Ok(())
    }
    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        let digest = Algorithm::Sha256.digest(&self.data);
        let size = self.data.len() as u64;
        if expected.size.is_some_and(|want| want != size)
            || expected.digest.as_ref().is_some_and(|want| *want != digest)
        {
            return Err(Error::precondition(format!(
                "the ingest has {size} bytes and the digest {digest}"
            )));
        }
        self.ingests
            .lock()
            .expect("lock")
            .remove(self.name.as_str());
        self.blobs
            .lock()
            .expect("lock")
            .insert(digest.clone(), Arc::new(std::mem::take(&mut self.data)));
        Ok(BlobInfo {
            digest,
            size,
            labels: labels.clone(),
            created: Timestamp::now(),
            updated: Timestamp::now(),
        })
    }
}

impl ContentStore for Memory {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities::default()
    }
    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        let blobs = self.blobs.lock().expect("lock");
        let data = blobs
            .get(digest)
            .ok_or_else(|| Error::not_found(format!("blob {digest}")))?;
        Ok(BlobInfo {
            digest: digest.clone(),
            size: data.len() as u64,
            labels: Labels::new(),
            created: Timestamp::now(),
            updated: Timestamp::now(),
        })
    }
    fn update(&self, digest: &Digest, _: &LabelChanges) -> Result<BlobInfo> {
        self.info(digest)
    }
    fn walk(&self, _: &BlobFilter, _: &Page) -> Result<Vec<BlobInfo>> {
        Err(Error::unimplemented("walk"))
    }
    fn delete(&self, digest: &Digest) -> Result<()> {
        self.info(digest)?;
        self.blobs.lock().expect("lock").remove(digest);
        Ok(())
    }
    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        let blobs = self.blobs.lock().expect("lock");
        let data = blobs
            .get(digest)
            .ok_or_else(|| Error::not_found(format!("blob {digest}")))?;
        Ok(Box::new(Reader(data.clone())))
    }
    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        if let Some(digest) = &expected.digest
            && self.info(digest).is_ok()
        {
            return Err(Error::already_exists(format!("blob {digest}")));
        }
        if !self.held.lock().expect("lock").insert(name.to_string()) {
            return Err(Error::conflict(format!(
                "ingest {name} is held by process 1"
            )));
        }
        self.ingests.lock().expect("lock").insert(name.to_string());
        Ok(Box::new(Writer {
            blobs: self.blobs.clone(),
            held: self.held.clone(),
            ingests: self.ingests.clone(),
            name: name.clone(),
            expected: expected.clone(),
            data: Vec::new(),
        }))
    }
    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        Err(Error::not_found(format!("ingest {name}")))
    }
    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        Ok(Vec::new())
    }
    fn abort(&self, name: &IngestRef) -> Result<()> {
        assert!(!self.held.lock().expect("lock").contains(name.as_str()));
        match self.ingests.lock().expect("lock").remove(name.as_str()) {
            true => Ok(()),
            false => Err(Error::not_found(format!("ingest {name}"))),
        }
    }
}

/// Snapshots are folders; a child is a copy of its parent.
pub struct Copying {
    pub root: PathBuf,
    pub infos: Mutex<BTreeMap<SnapshotKey, (SnapshotInfo, PathBuf)>>,
}

impl Copying {
    pub fn new(root: PathBuf) -> Copying {
        Copying {
            root,
            infos: Mutex::default(),
        }
    }

    pub fn path(&self, key: &SnapshotKey) -> PathBuf {
        self.infos.lock().expect("lock")[key].1.clone()
    }

    pub fn keys(&self) -> Vec<String> {
        let infos = self.infos.lock().expect("lock");
        infos.keys().map(|key| key.to_string()).collect()
    }
}

impl Snapshotter for Copying {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::default()
    }
    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        let infos = self.infos.lock().expect("lock");
        infos
            .get(key)
            .map(|(info, _)| info.clone())
            .ok_or_else(|| Error::not_found(format!("snapshot {key}")))
    }
    fn update(&self, key: &SnapshotKey, _: &LabelChanges) -> Result<SnapshotInfo> {
        self.stat(key)
    }
    fn usage(&self, _: &SnapshotKey) -> Result<Usage> {
        Ok(Usage::default())
    }
    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        Ok(vec![Mount::bind(self.path(key), Access::ReadWrite)])
    }
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let path = self.root.join(containerkit::fs::unique_name("snapshot"));
        match parent {
            None => containerkit::fs::ensure_dir(&path, 0o755)?,
            Some(parent) => {
                let status = Command::new("cp")
                    .arg("-a")
                    .arg(self.path(parent))
                    .arg(&path)
                    .status()
                    .expect("cp");
                assert!(status.success());
            }
        }
        let now = Timestamp::now();
        let info = SnapshotInfo {
            key: key.clone(),
            kind: SnapshotKind::Active,
            parent: parent.cloned(),
            labels: labels.clone(),
            created: now,
            updated: now,
        };
        let mut infos = self.infos.lock().expect("lock");
        if infos.contains_key(key) {
            return Err(Error::already_exists(format!("snapshot {key}")));
        }
        infos.insert(key.clone(), (info, path.clone()));
        Ok(vec![Mount::bind(path, Access::ReadWrite)])
    }
    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.prepare(key, parent, labels)?;
        let mut infos = self.infos.lock().expect("lock");
        let (info, path) = infos.get_mut(key).expect("prepared");
        info.kind = SnapshotKind::View;
        Ok(vec![Mount::bind(&*path, Access::ReadOnly)])
    }
    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        let mut infos = self.infos.lock().expect("lock");
        if infos.contains_key(name) {
            return Err(Error::already_exists(format!("snapshot {name}")));
        }
        let (mut info, path) = infos.remove(active).expect("active");
        info.key = name.clone();
        info.kind = SnapshotKind::Committed;
        info.labels = options.labels.clone();
        infos.insert(name.clone(), (info.clone(), path));
        Ok(info)
    }
    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        match self.infos.lock().expect("lock").remove(key) {
            Some((_, path)) => containerkit::fs::remove_tree_path(&path),
            None => Err(Error::not_found(format!("snapshot {key}"))),
        }
    }
    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        let infos = self.infos.lock().expect("lock");
        Ok(infos
            .values()
            .map(|(info, _)| info)
            .filter(|info| filter.matches(info))
            .filter(|info| {
                page.after
                    .as_deref()
                    .is_none_or(|after| info.key.as_str() > after)
            })
            .take(page.limit as usize)
            .cloned()
            .collect())
    }
    fn cleanup(&self) -> Result<Usage> {
        Ok(Usage::default())
    }
}
