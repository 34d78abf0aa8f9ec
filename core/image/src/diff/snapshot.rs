//! What a snapshot changes in its parent.

use containerkit::snapshot::SnapshotKind;
use containerkit::{Mount, Result, SnapshotKey, Snapshotter};

use super::trees::Trees;
use crate::unpack::{PROCESS_LABEL, flight};

/// A view for as long as it is looked at. What a killed process leaves, the
/// next one removes, be it to unpack or to look.
pub(super) struct View<'a> {
    snapshotter: &'a dyn Snapshotter,
    key: SnapshotKey,
    mounts: Vec<Mount>,
}

impl<'a> View<'a> {
    fn new(snapshotter: &'a dyn Snapshotter, of: &SnapshotKey) -> Result<View<'a>> {
        if let Err(error) = flight::remove_stale(snapshotter, (PROCESS_LABEL, None)) {
            log::warn!("look for what killed processes left: {error}");
        }
        let key = flight::temporary_key("diff")?;
        let mounts = snapshotter.view(&key, Some(of), &flight::labels(of)?)?;
        Ok(View {
            snapshotter,
            key,
            mounts,
        })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let removed = self.snapshotter.remove(&self.key);
        if let Err(error) = removed.and_then(|()| self.snapshotter.cleanup().map(drop)) {
            log::warn!("remove {}: {error}", self.key);
        }
    }
}

/// A tree of the caller's beside that of a committed snapshot.
pub fn on_snapshot<'a>(
    snapshotter: &'a dyn Snapshotter,
    key: &SnapshotKey,
    upper: &[Mount],
) -> Result<Trees<'a>> {
    let view = View::new(snapshotter, key)?;
    Ok(Trees::of_mounts(&view.mounts, upper)?.keep([view]))
}

/// A snapshot's tree beside that of `from`, a committed snapshot; beside its
/// parent's without one.
pub fn of_snapshot<'a>(
    snapshotter: &'a dyn Snapshotter,
    key: &SnapshotKey,
    from: Option<&SnapshotKey>,
) -> Result<Trees<'a>> {
    let info = snapshotter.stat(key)?;
    let mut views = Vec::new();
    let upper = match info.kind {
        SnapshotKind::Active | SnapshotKind::View => snapshotter.mounts(key)?,
        SnapshotKind::Committed => {
            let view = View::new(snapshotter, key)?;
            let mounts = view.mounts.clone();
            views.push(view);
            mounts
        }
    };
    let lower = match from.or(info.parent.as_ref()) {
        None => Vec::new(),
        Some(parent) => {
            let view = View::new(snapshotter, parent)?;
            let mounts = view.mounts.clone();
            views.push(view);
            mounts
        }
    };
    Ok(Trees::of_mounts(&lower, &upper)?.keep(views))
}
