//! A snapshotter whose records are in memory and whose trees are copies.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerkit::fs::{disk_usage, ensure_dir, open_dir, remove_tree_path, unique_name};
use containerkit::mount::Access;
use containerkit::snapshot::{
    CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotKind, SnapshotterCapabilities,
};
use containerkit::value::check_labels;
use containerkit::{
    Error, ErrorKind, IoContext, LabelChanges, Labels, Mount, Page, Result, SnapshotKey,
    Snapshotter, Timestamp, Usage,
};
use rustix::fs::FlockOperation;

/// A snapshotter that copies trees beneath a scratch folder and binds them.
/// It claims no capability.
#[derive(Clone)]
pub struct Copying {
    root: PathBuf,
    records: Arc<Mutex<Records>>,
}

type Records = BTreeMap<SnapshotKey, Record>;

#[derive(Clone)]
struct Record {
    info: SnapshotInfo,
    tree: PathBuf,
}

impl Record {
    fn mounts(&self) -> Vec<Mount> {
        let access = match self.info.kind {
            SnapshotKind::Active => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        vec![Mount::bind(&self.tree, access)]
    }
}

impl Copying {
    /// A snapshotter with its trees beneath `root`, an existing folder that
    /// the caller removes.
    pub fn new(root: &Path) -> Copying {
        Copying {
            root: root.to_path_buf(),
            records: Arc::default(),
        }
    }

    /// The folder with a snapshot's files.
    pub fn path(&self, key: &SnapshotKey) -> Option<PathBuf> {
        self.records().get(key).map(|record| record.tree.clone())
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.records().keys().map(SnapshotKey::to_string).collect()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        check_labels(labels)?;
        let mut records = self.records();
        if records.contains_key(key) {
            return Err(Error::already_exists(format!("snapshot {key}")));
        }
        let tree = self.root.join(unique_name("tree"));
        match parent {
            None => ensure_dir(&tree, 0o755)?,
            Some(parent) => {
                let below = get(&records, parent)?;
                if below.info.kind != SnapshotKind::Committed {
                    return Err(Error::precondition(format!(
                        "snapshot {parent} is {} and cannot be the parent of {key}",
                        below.info.kind
                    )));
                }
                copy(&below.tree, &tree)?;
            }
        }
        let now = Timestamp::now();
        let info = SnapshotInfo {
            key: key.clone(),
            kind,
            parent: parent.cloned(),
            labels: labels.clone(),
            created: now,
            updated: now,
        };
        let record = Record { info, tree };
        let mounts = record.mounts();
        records.insert(key.clone(), record);
        Ok(mounts)
    }
}

fn get<'a>(records: &'a Records, key: &SnapshotKey) -> Result<&'a Record> {
    records
        .get(key)
        .ok_or_else(|| Error::not_found(format!("snapshot {key}")))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp")
        .args(["--archive", "--no-target-directory", "--"])
        .args([from, to])
        .output()
        .io_context(|| "start cp")?;
    if output.status.success() {
        return Ok(());
    }
    remove_tree_path(to)?;
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Error::internal(format!("copy a tree: {}", why.trim())))
}

/// The tree locked against those who hold it; refused while it is mounted.
fn unused(record: &Record, what: &str) -> Result<OwnedFd> {
    let refuse = |why: &str| {
        Error::precondition(format!(
            "snapshot {} cannot be {what}: {why}",
            record.info.key
        ))
    };
    let lock = open_dir(&record.tree)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| refuse("it is held"))?;
    let id = |path: &Path| fs::metadata(path).map(|stat| (stat.dev(), stat.ino()));
    let tree = id(&record.tree).io_context(|| "stat a tree")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").io_context(|| "read the mounts")?;
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if id(Path::new(place)).is_ok_and(|found| found == tree) {
            return Err(refuse(&format!("it is mounted at {place}")));
        }
    }
    Ok(lock)
}

impl Snapshotter for Copying {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::default()
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        get(&self.records(), key).map(|record| record.info.clone())
    }

    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        let mut records = self.records();
        let mut record = get(&records, key)?.clone();
        record.info.labels = changes.apply(&record.info.labels)?;
        record.info.updated = Timestamp::now();
        let info = record.info.clone();
        records.insert(key.clone(), record);
        Ok(info)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        let tree = get(&self.records(), key)?.tree.clone();
        disk_usage(&tree)
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let records = self.records();
        let record = get(&records, key)?;
        match record.info.kind {
            SnapshotKind::Committed => Err(Error::precondition(format!(
                "snapshot {key} is committed and has no mounts"
            ))),
            _ => Ok(record.mounts()),
        }
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.make(key, parent, SnapshotKind::Active, labels)
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.make(key, parent, SnapshotKind::View, labels)
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        check_labels(&options.labels)?;
        let mut records = self.records();
        let record = get(&records, active)?;
        if record.info.kind != SnapshotKind::Active {
            return Err(Error::precondition(format!(
                "snapshot {active} is {} and cannot be committed",
                record.info.kind
            )));
        }
        if options.parent.is_some() && options.parent != record.info.parent {
            return Err(Error::unimplemented("commit on another parent"));
        }
        if records.contains_key(name) {
            return Err(Error::already_exists(format!("snapshot {name}")));
        }
        let _lock = unused(record, "committed")?;
        let now = Timestamp::now();
        let info = SnapshotInfo {
            key: name.clone(),
            kind: SnapshotKind::Committed,
            parent: record.info.parent.clone(),
            labels: options.labels.clone(),
            created: now,
            updated: now,
        };
        let committed = Record {
            info: info.clone(),
            tree: record.tree.clone(),
        };
        records.remove(active);
        records.insert(name.clone(), committed);
        Ok(info)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let mut records = self.records();
        let record = get(&records, key)?;
        let mut all = records.values();
        if let Some(child) = all.find(|record| record.info.parent.as_ref() == Some(key)) {
            return Err(Error::precondition(format!(
                "cannot remove snapshot {key}: {} is on it",
                child.info.key
            )));
        }
        let _lock = unused(record, "removed")?;
        remove_tree_path(&record.tree)?;
        records.remove(key);
        Ok(())
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        let records = self.records();
        let after = page.after.as_deref();
        Ok(records
            .values()
            .map(|record| &record.info)
            .filter(|info| after.is_none_or(|after| info.key.as_str() > after))
            .filter(|info| filter.matches(info))
            .take(page.limit as usize)
            .cloned()
            .collect())
    }

    fn cleanup(&self) -> Result<Usage> {
        let records = self.records();
        let mut freed = Usage::default();
        for entry in fs::read_dir(&self.root).io_context(|| "read the trees")? {
            let path = entry.io_context(|| "read the trees")?.path();
            let known = records.values().any(|record| record.tree == path);
            let ours = path
                .file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(b"tree"));
            if ours && !known {
                let usage = disk_usage(&path)?;
                freed.size += usage.size;
                freed.inodes += usage.inodes;
                match remove_tree_path(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(freed)
    }
}

/// A factory for the suite: the same records for the same root.
pub fn copyings() -> Box<crate::snapshot::Factory> {
    let opened: Mutex<BTreeMap<PathBuf, Copying>> = Mutex::default();
    Box::new(move |root| {
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = opened
            .entry(root.to_path_buf())
            .or_insert_with(|| Copying::new(root));
        Ok(Arc::new(instance.clone()))
    })
}
