//! The folders and files of a root.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit_plugin::fs::{
    Durability, disk_usage, ensure_dir, remove_tree_path, sync_dir, unique_name, write_atomic,
};
use containerkit_plugin::lock::{FileLock, Wait};
use containerkit_plugin::serde_json;
use containerkit_plugin::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit_plugin::{Error, ErrorKind, IoContext, Result, SnapshotKey, Usage, log};

/// Of `info.json`.
const VERSION: u64 = 1;

/// A snapshot's folder and what is known of it.
pub(crate) type Found = (String, SnapshotInfo);

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A snapshot being made; its maker's lock keeps `cleanup` away.
#[derive(Debug)]
pub(crate) struct Making {
    id: String,
    path: PathBuf,
    _lock: File,
    done: bool,
}

/// A folder in the trash, locked by who deletes it.
#[derive(Debug)]
pub(crate) struct Aside {
    path: PathBuf,
    _lock: Option<File>,
}

impl Making {
    pub(crate) fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = remove_tree_path(&self.path)
        {
            log::warn!("{error}");
        }
    }
}

impl Aside {
    pub(crate) fn delete(self) -> Result<()> {
        remove_tree_path(&self.path)
    }
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Store> {
        if !root.is_absolute() || root.to_str().is_none() {
            return Err(Error::invalid(format!(
                "native root {root:?}: want an absolute path in UTF-8"
            )));
        }
        for name in ["snapshots", "making", "trash"] {
            ensure_dir(&root.join(name), 0o700)?;
        }
        Ok(Store { root: root.into() })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// The tree of a snapshot.
    pub(crate) fn fs(&self, id: &str) -> PathBuf {
        self.path(id).join("fs")
    }

    /// Held while a snapshot appears, turns or goes, and never while files are
    /// copied or deleted.
    pub(crate) fn lock(&self) -> Result<FileLock> {
        let wait = Wait::AtMost(Duration::from_secs(30));
        FileLock::acquire(&self.root.join("lock"), "the native snapshots", wait)
    }

    /// All snapshots, in no order.
    pub(crate) fn load(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for id in names(&self.root.join("snapshots"))? {
            let id = id.to_string_lossy().into_owned();
            match fs::read(self.path(&id).join("info.json")) {
                Ok(text) => all.push((id.clone(), parse(&self.path(&id), &text)?)),
                // Removed since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = self.path(&id);
                    return Err(Error::io(format!("read {}", path.display()), error));
                }
            }
        }
        Ok(all)
    }

    fn find(&self, key: &SnapshotKey) -> Result<Option<Found>> {
        let all = self.load()?;
        Ok(all.into_iter().find(|(_, info)| info.key == *key))
    }

    pub(crate) fn get(&self, key: &SnapshotKey) -> Result<Found> {
        self.find(key)?
            .ok_or_else(|| Error::not_found(format!("snapshot {key} does not exist")))
    }

    pub(crate) fn check_free(&self, key: &SnapshotKey) -> Result<()> {
        match self.find(key)? {
            None => Ok(()),
            Some((_, info)) => Err(Error::already_exists(format!(
                "snapshot {key} exists already, {}",
                info.kind
            ))),
        }
    }

    /// The committed snapshot that is to be a parent.
    pub(crate) fn parent(&self, key: &SnapshotKey) -> Result<Found> {
        let found = self
            .find(key)?
            .ok_or_else(|| Error::not_found(format!("parent snapshot {key} does not exist")))?;
        if found.1.kind != SnapshotKind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {key} is {} and cannot be a parent: commit it first",
                found.1.kind
            )));
        }
        Ok(found)
    }

    /// A place to copy to, with an empty tree.
    pub(crate) fn begin(&self) -> Result<Making> {
        let id = unique_name("s");
        let path = self.root.join("making").join(&id);
        // Under the lock, so that `cleanup` never sees it without its own.
        let _lock = self.lock()?;
        make_dir(&path, 0o700)?;
        let lock = File::open(&path).io_context(|| format!("open {}", path.display()))?;
        lock.try_lock()
            .map_err(|error| Error::internal(format!("lock {}: {error}", path.display())))?;
        let making = Making {
            id,
            path,
            _lock: lock,
            done: false,
        };
        make_dir(&making.fs(), 0o755)?;
        Ok(making)
    }

    /// The made snapshot appears, unless its key was taken or its parent went
    /// away meanwhile.
    pub(crate) fn finish(
        &self,
        mut making: Making,
        info: &SnapshotInfo,
        parent: Option<&Found>,
    ) -> Result<String> {
        let json = making.path.join("info.json");
        write_atomic(&json, &render(info), 0o600, Durability::Volatile)?;
        let _lock = self.lock()?;
        self.check_free(&info.key)?;
        if let Some((id, parent)) = parent
            && self.parent(&parent.key)?.0 != *id
        {
            return Err(Error::conflict(format!(
                "snapshot {} was replaced while it was copied",
                parent.key
            )));
        }
        let path = self.path(&making.id);
        fs::rename(&making.path, &path).io_context(|| format!("rename to {}", path.display()))?;
        making.done = true;
        Ok(making.id.clone())
    }

    /// Replaces what is known of a snapshot, durably. Under the lock.
    pub(crate) fn write(&self, id: &str, info: &SnapshotInfo) -> Result<()> {
        let path = self.path(id);
        write_atomic(
            &path.join("info.json"),
            &render(info),
            0o600,
            Durability::Synced,
        )?;
        sync_dir(&self.root.join("snapshots"))
    }

    /// The snapshot goes, with key and tree at once. Under the lock.
    pub(crate) fn set_aside(&self, id: &str) -> Result<Aside> {
        let (from, path) = (self.path(id), self.root.join("trash").join(id));
        let lock = File::open(&from).io_context(|| format!("open {}", from.display()))?;
        fs::rename(&from, &path).io_context(|| format!("set {} aside", from.display()))?;
        // Nobody else looks at the trash while the lock of the root is held.
        let _ = lock.try_lock();
        Ok(Aside {
            path,
            _lock: Some(lock),
        })
    }

    /// Deletes the trash, and what killed makers left.
    pub(crate) fn cleanup(&self) -> Result<Usage> {
        let mut dead = Vec::new();
        let lock = self.lock()?;
        for place in ["making", "trash"] {
            for id in names(&self.root.join(place))? {
                let path = self.root.join(place).join(&id);
                match File::open(&path) {
                    Ok(file) if file.try_lock().is_ok() => dead.push(Aside {
                        path,
                        _lock: Some(file),
                    }),
                    Ok(_) => {}
                    Err(_) => dead.push(Aside { path, _lock: None }),
                }
            }
        }
        self.drop_temporaries()?;
        drop(lock);
        let mut total = Usage::default();
        let mut failed = None;
        for aside in dead {
            // Too deep a tree to be counted by paths is deleted all the same.
            let usage = disk_usage(&aside.path).unwrap_or_default();
            match aside.delete() {
                Ok(()) => {
                    total.size += usage.size;
                    total.inodes += usage.inodes;
                }
                Err(error) => {
                    log::warn!("cleanup: {error}");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(total), Err)
    }

    /// A process killed while it replaced an `info.json` leaves the new text
    /// beside it. Under the lock nobody else is replacing one.
    fn drop_temporaries(&self) -> Result<()> {
        let snapshots = self.root.join("snapshots");
        for id in names(&snapshots)? {
            let folder = snapshots.join(id);
            for name in names(&folder)? {
                if name.as_encoded_bytes().starts_with(b".info.json.tmp") {
                    let path = folder.join(name);
                    fs::remove_file(&path).io_context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let list = || {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<_>>()
    };
    list().io_context(|| format!("list {}", dir.display()))
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .io_context(|| format!("make {}", path.display()))
}

fn render(info: &SnapshotInfo) -> Vec<u8> {
    serde_json::json!({ "version": VERSION, "snapshot": info })
        .to_string()
        .into_bytes()
}

fn parse(path: &Path, text: &[u8]) -> Result<SnapshotInfo> {
    let damaged = || {
        Error::data_loss(format!("{}/info.json is damaged", path.display()))
            .with_hint("move that folder away; the snapshots on it cannot be used")
    };
    let mut value: serde_json::Value = serde_json::from_slice(text).map_err(|_| damaged())?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(VERSION) => {}
        Some(version) => {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{}/info.json has version {version}, and this native driver knows {VERSION}",
                    path.display()
                ),
            ));
        }
        None => return Err(damaged()),
    }
    let info = value.get_mut("snapshot").map(serde_json::Value::take);
    info.and_then(|info| serde_json::from_value(info).ok())
        .ok_or_else(damaged)
}

/// A locked tree. Closing the file would not free it while another thread
/// starts a program: until that is executed, it has a copy of the descriptor.
pub(crate) struct TreeLock(File);

impl Drop for TreeLock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Keeps a tree from being removed.
pub(crate) fn share_tree(fs: &Path, key: &SnapshotKey) -> Result<TreeLock> {
    let gone = || Error::not_found(format!("parent snapshot {key} does not exist"));
    let file = File::open(fs).map_err(|_| gone())?;
    file.try_lock_shared()
        .map_err(|_| Error::conflict(format!("snapshot {key} is being removed")))?;
    Ok(TreeLock(file))
}

/// Keeps a tree from being mounted, or fails while it is: by who holds it
/// (`containerkit_plugin::mounter::hold`), or by a bind in this namespace.
pub(crate) fn lock_tree(fs: &Path, key: &SnapshotKey, doing: &str) -> Result<TreeLock> {
    let used = |how: &str| {
        Error::precondition(format!("snapshot {key} is {how} and cannot be {doing}"))
            .with_hint("unmount it, or end the container that runs on it")
    };
    let file = File::open(fs).io_context(|| format!("open {}", fs.display()))?;
    file.try_lock()
        .map_err(|_| used("mounted or being copied"))?;
    let lock = TreeLock(file);
    let table =
        fs::read_to_string("/proc/self/mountinfo").io_context(|| "read /proc/self/mountinfo")?;
    // The fourth field is the bound folder as its own file system names it; a
    // snapshot's id is in no other path.
    let id = fs.parent().and_then(Path::file_name).unwrap_or_default();
    let end = format!("/{}/fs", id.to_string_lossy());
    let bound = |line: &str| {
        line.split(' ')
            .nth(3)
            .is_some_and(|root| root.ends_with(&end))
    };
    match table.lines().any(bound) {
        true => Err(used("mounted")),
        false => Ok(lock),
    }
}
