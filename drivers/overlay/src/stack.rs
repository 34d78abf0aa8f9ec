//! From a chain of folders to a [`Mount`].

use std::path::Path;

use containerkit::mounter::OVERLAY_LAYERS;
use containerkit::snapshot::SnapshotKind;
use containerkit::{Error, ErrorKind, Mount, Result};

use crate::folders::Folders;
use crate::rows::Snapshot;

/// A layer must be readable as plain files by whoever exports or copies it,
/// and must do as a layer of another chain:
/// - `redirect_dir=off`: a renamed folder is copied, never a pointer to its
///   old name (the rename fails with `EXDEV`, and `mv` copies);
/// - `metacopy=off`: a changed owner or mode copies the file's data too;
/// - `index=off`: an upper is not bound to the very lower it was first mounted
///   on, and lower layers that others share are not refused.
///
/// With all three off the kernel also leaves new folders without an opaque
/// mark, which is what lets a layer be written through a mount on nothing and
/// then committed on a parent.
const FEATURES: [&str; 3] = ["index=off", "redirect_dir=off", "metacopy=off"];

/// The mounts of a snapshot on these folders, topmost first.
pub(crate) fn mounts(folders: &Folders, id: i64, kind: SnapshotKind, chain: &[i64]) -> Vec<Mount> {
    let mut options: Vec<String> = FEATURES.iter().map(|option| (*option).into()).collect();
    let lower = |path: &Path| format!("lowerdir+={}", path.display());
    if chain.is_empty() {
        options.push(lower(&folders.empty()));
    }
    options.extend(chain.iter().map(|layer| lower(&folders.fs(*layer))));
    options.push(format!("upperdir={}", folders.fs(id).display()));
    options.push(format!("workdir={}", folders.work(id).display()));
    if kind == SnapshotKind::View {
        options.push("ro".into());
    }
    vec![Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options,
    }]
}

/// Refuses a parent that nothing can be mounted on.
pub(crate) fn check_height(parent: &Snapshot) -> Result<()> {
    if parent.layers <= OVERLAY_LAYERS as i64 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ResourceExhausted,
        format!(
            "snapshot {} has {} layers, more than the {OVERLAY_LAYERS} that the kernel's overlay can stack",
            parent.info.key, parent.layers
        ),
    )
    .with_hint("squash some layers of the image, or use a copying snapshotter"))
}
