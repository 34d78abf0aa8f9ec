//! [`Overlay`]: the contract, method by method.

use std::collections::HashSet;
use std::path::PathBuf;

use containerkit::fs::disk_usage;
use containerkit::process::boot_id;
use containerkit::snapshot::*;
use containerkit::value::check_labels;
use containerkit::{
    Driver, DriverContext, DriverInfo, DriverKind, Error, ErrorKind, LabelChanges, Labels, Mount,
    Page, Result, SnapshotKey, Usage,
};

use crate::database::{Database, Durability};
use crate::folders::Folders;
use crate::rows::{self, Snapshot};
use crate::{probe, stack, usage};

/// A snapshotter on the kernel's overlay file system.
#[derive(Debug)]
pub struct Overlay {
    database: Database,
    folders: Folders,
}

impl Driver for Overlay {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "overlay".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Snapshotter,
            options: Vec::new(),
        }
    }

    fn open(context: DriverContext) -> Result<Overlay> {
        context.check_options(&Overlay::info().options)?;
        let root = &context.root;
        if !root.is_absolute() || root.to_str().is_none() {
            return Err(Error::invalid(format!(
                "overlay root {root:?}: want an absolute path in UTF-8"
            )));
        }
        let folders = Folders::open(root)?;
        let overlay = Overlay {
            database: Database::open(&root.join("metadata.db"))?,
            folders,
        };
        let identity = probe::identity(root)?;
        let boot = boot_id()?;
        let (probed, booted) = overlay
            .database
            .read(|db| Ok((rows::meta(db, "probe")?, rows::meta(db, "boot")?)))?;
        if probed.as_ref() != Some(&identity) {
            probe::run(root, &overlay.folders.trash_path())?;
            overlay.database.write(Durability::Normal, |db| {
                rows::set_meta(db, "probe", &identity)
            })?;
        }
        if booted.as_ref() != Some(&boot) {
            overlay.drop_lost(&boot)?;
        }
        Ok(overlay)
    }
}

impl Overlay {
    /// A power cut can take a folder and leave its row, or bring a removed row
    /// back: once a boot, rows without a folder are dropped, unless something
    /// stands on them, and folders without a row are set aside.
    fn drop_lost(&self, boot: &str) -> Result<()> {
        self.database.write(Durability::Normal, |db| {
            // Another process may have looked while this one waited.
            if rows::meta(db, "boot")?.as_deref() == Some(boot) {
                return Ok(());
            }
            // Listed inside the transaction: no folder is being made now.
            let there: HashSet<i64> = self.folders.list()?.into_iter().collect();
            let mut lost = rows::all_ids(db)?;
            let known: HashSet<i64> = lost.iter().map(|(id, _)| *id).collect();
            for id in there.difference(&known) {
                if let Some(_held) = usage::try_operate(&self.folders, *id)? {
                    self.folders.set_aside(&id.to_string())?;
                }
            }
            lost.retain(|(id, _)| !there.contains(id));
            loop {
                let before = lost.len();
                let mut kept = Vec::new();
                for (id, key) in lost {
                    if rows::a_child(db, id)?.is_some() {
                        kept.push((id, key));
                        continue;
                    }
                    log::warn!("snapshot {key} did not survive the last shutdown: dropped");
                    rows::delete(db, id)?;
                }
                lost = kept;
                if lost.len() == before {
                    break;
                }
            }
            rows::set_meta(db, "boot", boot)
        })
    }

    fn make(
        &self,
        kind: SnapshotKind,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        check_labels(labels)?;
        let mut made = None;
        let result = self.database.write(Durability::Normal, |db| {
            rows::check_free(db, key)?;
            let parent = parent.map(|parent| rows::parent(db, parent)).transpose()?;
            if let Some(parent) = &parent {
                stack::check_height(parent)?;
            }
            let id = rows::insert(db, key, kind, parent.as_ref(), labels)?;
            let below = parent.as_ref().map(|parent| parent.id);
            made = Some(id);
            let aside = self.folders.create(id, below)?;
            Ok((id, rows::chain(db, below)?, aside))
        });
        match (result, made) {
            (Ok((id, chain, aside)), _) => {
                if let Some(Err(error)) = aside.map(|name| self.folders.delete(&name)) {
                    log::warn!("{error}");
                }
                Ok(stack::mounts(&self.folders, id, kind, &chain))
            }
            (Err(error), made) => {
                if made.is_some()
                    && let Err(second) = self.cleanup()
                {
                    log::warn!("{second}");
                }
                Err(error)
            }
        }
    }

    /// Deletes what the transaction just now noted as garbage; it is held.
    /// Best effort: `cleanup` is there for what stays.
    fn discard(&self, path: &str) {
        let deleted = self.folders.set_aside(path).and_then(|aside| {
            self.database
                .write(Durability::Normal, |db| rows::drop_garbage(db, path))?;
            match aside {
                Some(name) => self.folders.delete(&name),
                None => Ok(()),
            }
        });
        if let Err(error) = deleted {
            log::warn!("snapshots/{path} is left to cleanup: {error}");
        }
    }

    /// Sets aside what killed processes left: folders that were noted, and one
    /// that was made for the next number and got no row.
    fn set_garbage_aside(&self) -> Result<()> {
        let (noted, next) = self
            .database
            .read(|db| Ok((rows::garbage(db)?, rows::next_id(db)?)))?;
        if noted.is_empty() && self.folders.open_one(next)?.is_none() {
            return Ok(());
        }
        // The only writer: no folder is being made now, and a folder without a
        // row belongs to nobody but a removal that holds it.
        self.database.write(Durability::Normal, |db| {
            let next = rows::next_id(db)?.to_string();
            for path in rows::garbage(db)?.iter().chain([&next]) {
                let (number, inner) = path.split_once('/').unwrap_or((path, ""));
                let id: i64 = number
                    .parse()
                    .map_err(|_| Error::data_loss("the list of garbage is damaged"))?;
                // Work folders alone go from what is there.
                if inner.is_empty() && rows::has_id(db, id)? {
                    rows::drop_garbage(db, path)?;
                    continue;
                }
                let there = self.folders.open_one(id)?.is_some();
                let held = usage::try_operate(&self.folders, id)?;
                if there && held.is_none() {
                    continue;
                }
                self.folders.set_aside(path)?;
                rows::drop_garbage(db, path)?;
            }
            Ok(())
        })
    }

    fn get(&self, key: &SnapshotKey) -> Result<Snapshot> {
        self.database.read(|db| rows::get(db, key))
    }

    /// Takes a snapshot for an operation. The row is read again after the
    /// lock, since whoever held it may have made the key another's.
    fn take(&self, key: &SnapshotKey) -> Result<(Snapshot, Option<std::os::fd::OwnedFd>)> {
        loop {
            let snapshot = self.get(key)?;
            let held = usage::operate(&self.folders, snapshot.id, key)?;
            let again = self.get(key)?;
            if again.id == snapshot.id && again.info.kind == snapshot.info.kind {
                return Ok((again, held));
            }
        }
    }
}

impl Snapshotter for Overlay {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities {
            rebase: true,
            idmap: true,
            direct_upper: true,
            ..SnapshotterCapabilities::default()
        }
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.get(key).map(|snapshot| snapshot.info)
    }

    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        self.database.write(Durability::Full, |db| {
            let snapshot = rows::get(db, key)?;
            let labels = changes.apply(&snapshot.info.labels)?;
            rows::set_labels(db, snapshot.id, &labels)?;
            rows::touch(db, &snapshot)?;
            rows::get(db, key).map(|snapshot| snapshot.info)
        })
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        let snapshot = self.get(key)?;
        if let Some(usage) = snapshot.usage {
            return Ok(usage);
        }
        let path = self.folders.fs(snapshot.id);
        let usage = disk_usage(&path)?;
        if snapshot.info.kind == SnapshotKind::Committed {
            self.database.write(Durability::Normal, |db| {
                rows::set_usage(db, snapshot.id, usage)
            })?;
        }
        Ok(usage)
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let (snapshot, chain) = self.database.read(|db| {
            let snapshot = rows::get(db, key)?;
            let chain = rows::chain(db, snapshot.parent)?;
            Ok((snapshot, chain))
        })?;
        match snapshot.info.kind {
            SnapshotKind::Committed => Err(Error::precondition(format!(
                "snapshot {key} is committed and is not mounted itself: prepare or view one on it"
            ))),
            kind => Ok(stack::mounts(&self.folders, snapshot.id, kind, &chain)),
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
        let (snapshot, held) = self.take(active)?;
        let id = snapshot.id;
        if snapshot.info.kind != SnapshotKind::Active {
            return Err(Error::precondition(format!(
                "snapshot {active} is {} and cannot be committed",
                snapshot.info.kind
            )));
        }
        if held.is_none() {
            return Err(self.folders.gone(id));
        }
        // Asked before the mount is, so that a taken name is told as such.
        self.database.read(|db| rows::check_free(db, name))?;
        let _unmounted = usage::check_unmounted(&self.folders, id, active, "committed")?;
        self.folders.sync(id)?;
        let work = format!("{id}/work");
        let info = self.database.write(Durability::Full, |db| {
            rows::check_free(db, name)?;
            let parent = match (&options.parent, &snapshot.info.parent) {
                (Some(wanted), Some(prepared)) if wanted != prepared => {
                    return Err(Error::precondition(format!(
                        "snapshot {active} was prepared on {prepared} and cannot be committed on {wanted}: only one prepared without a parent can"
                    )));
                }
                (Some(wanted), None) => {
                    let parent = rows::parent(db, wanted)?;
                    stack::check_height(&parent)?;
                    Some(parent)
                }
                (_, Some(prepared)) => Some(rows::parent(db, prepared)?),
                (None, None) => None,
            };
            rows::commit(db, id, name, parent.as_ref(), &options.labels)?;
            // Only a mount needs it.
            rows::add_garbage(db, &work)?;
            rows::get(db, name).map(|snapshot| snapshot.info)
        })?;
        self.discard(&work);
        Ok(info)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let (snapshot, held) = self.take(key)?;
        let id = snapshot.id;
        let children = |db: &_| match rows::a_child(db, id)? {
            None => Ok(()),
            Some(child) => Err(Error::precondition(format!(
                "cannot remove snapshot {key}: it has children, such as {child}"
            ))),
        };
        self.database.read(|db| children(db))?;
        let _unmounted = usage::check_unmounted(&self.folders, id, key, "removed")?;
        let durability = match snapshot.info.kind {
            SnapshotKind::Committed => Durability::Full,
            SnapshotKind::Active | SnapshotKind::View => Durability::Normal,
        };
        self.database.write(durability, |db| {
            children(db)?;
            rows::delete(db, id)?;
            rows::add_garbage(db, &id.to_string())
        })?;
        // The name is free; what follows is tidying, which `cleanup` repeats.
        self.discard(&id.to_string());
        drop(held);
        // Whoever deletes also deletes what others were killed over.
        if let Err(error) = self.cleanup() {
            log::warn!("{error}");
        }
        Ok(())
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        self.database.read(|db| rows::walk(db, filter, page))
    }

    fn cleanup(&self) -> Result<Usage> {
        let aside = self.set_garbage_aside();
        let usage = self.folders.empty_trash()?;
        aside.map(|()| usage)
    }

    fn upper(&self, key: &SnapshotKey) -> Result<PathBuf> {
        let snapshot = self.get(key)?;
        if snapshot.info.kind != SnapshotKind::Active {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "snapshot {key} is {}: only an active one can be written",
                    snapshot.info.kind
                ),
            ));
        }
        Ok(self.folders.fs(snapshot.id))
    }
}
