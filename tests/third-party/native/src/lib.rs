//! `native`: a snapshotter that copies.
//!
//! Every snapshot is a full copy of its parent, made by `cp`, and is mounted
//! by a bind. It needs no overlay, whiteouts or special file system, and costs
//! the space and time of the copies (less where files can be reflinked).
//!
//! ```text
//! ROOT/snapshots/ID/info.json   what is known of it; ID is no key
//! ROOT/snapshots/ID/fs          its tree
//! ROOT/making/ID                one being copied, locked by its maker
//! ROOT/trash/                   removed, to be deleted
//! ROOT/lock                     held while a snapshot appears, turns or goes
//! ```
//!
//! A snapshot appears by the rename of its whole folder, is committed by the
//! rename of its `info.json`, and goes by the rename of its folder into the
//! trash: a process killed at any instruction leaves a state before or after.
//! Copying and deleting are done outside the lock. Keys are found by reading
//! all `info.json`, which is simple and fast enough for some hundred
//! snapshots.

mod copy;
mod store;

use containerkit_plugin::fs::disk_usage;
use containerkit_plugin::snapshot::{
    CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotKind, SnapshotterCapabilities,
};
use containerkit_plugin::value::check_labels;
use containerkit_plugin::{
    Access, Driver, DriverContext, DriverInfo, DriverKind, Error, LabelChanges, Labels, Mount,
    Page, Result, SnapshotKey, Snapshotter, Timestamp, Usage, log,
};

use store::{Store, lock_tree, share_tree};

/// A snapshotter that copies.
#[derive(Debug)]
pub struct Native {
    store: Store,
}

impl Driver for Native {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "native".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Snapshotter,
            options: Vec::new(),
        }
    }

    fn open(context: DriverContext) -> Result<Native> {
        context.check_options(&Native::info().options)?;
        Ok(Native {
            store: Store::open(&context.root)?,
        })
    }
}

impl Native {
    fn make(
        &self,
        kind: SnapshotKind,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        check_labels(labels)?;
        self.store.check_free(key)?;
        let parent = parent.map(|parent| self.store.parent(parent)).transpose()?;
        let making = self.store.begin()?;
        if let Some((id, info)) = &parent {
            // Shared, so that nobody removes it under the copy.
            let fs = self.store.fs(id);
            let _held = share_tree(&fs, &info.key)?;
            copy::tree(&fs, &making.fs())?;
        }
        let now = Timestamp::now();
        let info = SnapshotInfo {
            key: key.clone(),
            kind,
            parent: parent.as_ref().map(|(_, info)| info.key.clone()),
            labels: labels.clone(),
            created: now,
            updated: now,
        };
        let id = self.store.finish(making, &info, parent.as_ref())?;
        Ok(self.mount(&id, kind))
    }

    fn mount(&self, id: &str, kind: SnapshotKind) -> Vec<Mount> {
        let access = match kind {
            SnapshotKind::Active => Access::ReadWrite,
            SnapshotKind::View | SnapshotKind::Committed => Access::ReadOnly,
        };
        vec![Mount::bind(self.store.fs(id), access)]
    }
}

impl Snapshotter for Native {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::default()
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.store.get(key).map(|(_, info)| info)
    }

    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        let _lock = self.store.lock()?;
        let (id, mut info) = self.store.get(key)?;
        info.labels = changes.apply(&info.labels)?;
        let next = Timestamp::from_unix_nanos(info.updated.unix_nanos().saturating_add(1));
        info.updated = Timestamp::now().max(next);
        self.store.write(&id, &info)?;
        Ok(info)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        let (id, _) = self.store.get(key)?;
        disk_usage(&self.store.fs(&id))
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let (id, info) = self.store.get(key)?;
        match info.kind {
            SnapshotKind::Committed => Err(Error::precondition(format!(
                "snapshot {key} is committed and is not mounted itself: prepare or view one on it"
            ))),
            kind => Ok(self.mount(&id, kind)),
        }
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.make(SnapshotKind::Active, key, parent, labels)
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.make(SnapshotKind::View, key, parent, labels)
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        check_labels(&options.labels)?;
        let _lock = self.store.lock()?;
        let (id, info) = self.store.get(active)?;
        if info.kind != SnapshotKind::Active {
            return Err(Error::precondition(format!(
                "snapshot {active} is {} and cannot be committed",
                info.kind
            )));
        }
        if options.parent.is_some() && options.parent != info.parent {
            return Err(Error::unimplemented("committing on another parent"));
        }
        self.store.check_free(name)?;
        let _unmounted = lock_tree(&self.store.fs(&id), active, "committed")?;
        let now = Timestamp::now();
        let committed = SnapshotInfo {
            key: name.clone(),
            kind: SnapshotKind::Committed,
            parent: info.parent,
            labels: options.labels.clone(),
            created: now,
            updated: now,
        };
        self.store.write(&id, &committed)?;
        Ok(committed)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let lock = self.store.lock()?;
        let (id, _) = self.store.get(key)?;
        let mut all = self.store.load()?;
        all.retain(|(_, info)| info.parent.as_ref() == Some(key));
        if let Some((_, child)) = all.first() {
            return Err(Error::precondition(format!(
                "cannot remove snapshot {key}: it has children, such as {}",
                child.key
            )));
        }
        let unmounted = lock_tree(&self.store.fs(&id), key, "removed")?;
        let aside = self.store.set_aside(&id)?;
        drop((lock, unmounted));
        // The name is free; the rest is tidying, which `cleanup` repeats.
        if let Err(error) = aside.delete() {
            log::warn!("snapshot {key} is removed, its files are left to cleanup: {error}");
        }
        Ok(())
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        let mut all: Vec<SnapshotInfo> = self
            .store
            .load()?
            .into_iter()
            .map(|(_, info)| info)
            .filter(|info| filter.matches(info))
            .filter(|info| {
                page.after
                    .as_ref()
                    .is_none_or(|after| info.key.as_str() > after.as_str())
            })
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.truncate(page.limit.max(1) as usize);
        Ok(all)
    }

    fn cleanup(&self) -> Result<Usage> {
        self.store.cleanup()
    }
}
