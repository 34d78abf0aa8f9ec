//! Snapshots for a moment: a layer written apart from its own, and a look at a
//! committed one. They bear the labels of what is being unpacked, so that a
//! killed process's are found and removed as those are.

use std::os::fd::{AsFd, OwnedFd};

use containerkit::content::ContentStore;
use containerkit::snapshot::CommitOptions;
use containerkit::{Error, IoContext, Labels, Mount, Result, SnapshotKey, Snapshotter, mounter};

use super::line::open_root;
use super::worker::drop_active;
use super::{EPOCH, flight, source};
use crate::Cancel;
use crate::apply::{ApplyOptions, WhiteoutForm, apply};
use crate::limits::Limits;
use crate::resolve::Layer;

/// An active snapshot or a view that is mounted nowhere but here, and goes when
/// it is dropped.
pub(crate) struct Scratch<'a> {
    snapshotter: &'a dyn Snapshotter,
    key: SnapshotKey,
    root: Option<OwnedFd>,
    tree: Option<OwnedFd>,
    kept: bool,
}

impl<'a> Scratch<'a> {
    /// A writable one on `parent`, to become `chain`.
    pub(crate) fn prepare(
        snapshotter: &'a dyn Snapshotter,
        chain: &SnapshotKey,
        parent: Option<&SnapshotKey>,
    ) -> Result<Scratch<'a>> {
        let key = flight::active_key(chain)?;
        let mounts = snapshotter.prepare(&key, parent, &flight::labels(chain)?)?;
        containerkit::step("scratch.prepared");
        Scratch::mounted(snapshotter, key, &mounts)
    }

    /// A look at a committed snapshot.
    pub(crate) fn view(
        snapshotter: &'a dyn Snapshotter,
        chain: &SnapshotKey,
    ) -> Result<Scratch<'a>> {
        let key = flight::active_key(chain)?;
        let mounts = snapshotter.view(&key, Some(chain), &flight::labels(chain)?)?;
        Scratch::mounted(snapshotter, key, &mounts)
    }

    fn mounted(
        snapshotter: &'a dyn Snapshotter,
        key: SnapshotKey,
        mounts: &[Mount],
    ) -> Result<Scratch<'a>> {
        let mut scratch = Scratch {
            snapshotter,
            key,
            root: None,
            tree: None,
            kept: false,
        };
        let tree = mounter::mount_detached(mounts)?;
        scratch.root = Some(open_root(&tree)?);
        scratch.tree = Some(tree);
        Ok(scratch)
    }

    /// Its root folder.
    pub(crate) fn root(&self) -> Result<&OwnedFd> {
        self.root
            .as_ref()
            .ok_or_else(|| Error::internal("a snapshot that is not mounted"))
    }

    /// Makes it durable and commits it.
    pub(crate) fn commit(mut self, chain: &SnapshotKey, labels: Labels) -> Result<()> {
        rustix::fs::syncfs(self.root()?).io_context(|| "write the snapshot to the disk")?;
        (self.root, self.tree) = (None, None);
        containerkit::step("scratch.synced");
        let options = CommitOptions {
            labels,
            parent: None,
        };
        self.snapshotter.commit(chain, &self.key, &options)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        (self.root, self.tree) = (None, None);
        if !self.kept {
            drop_active(self.snapshotter, &self.key);
        }
    }
}

/// Applies a layer's blob on a tree, and compares the digest of its content
/// with the layer's DiffID.
pub(crate) fn write(
    store: &dyn ContentStore,
    layer: &Layer,
    root: &OwnedFd,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<()> {
    let mut stream = Cancelled {
        stream: source::open(store, layer, limits)?,
        cancel,
    };
    if layer.chain_id == layer.diff_id {
        rustix::fs::futimens(root, &EPOCH).io_context(|| "set the time of the root")?;
    }
    apply(
        &mut stream,
        root.as_fd(),
        &ApplyOptions {
            whiteouts: WhiteoutForm::Remove,
            limits: limits.clone(),
            ..ApplyOptions::default()
        },
    )?;
    source::verify(stream.stream, layer)
}

/// Reads a layer's blob to its end, and compares the digest of its content with
/// the layer's DiffID.
pub(crate) fn read(
    store: &dyn ContentStore,
    layer: &Layer,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<()> {
    let mut stream = Cancelled {
        stream: source::open(store, layer, limits)?,
        cancel,
    };
    std::io::copy(&mut stream, &mut std::io::sink())
        .map_err(|error| Error::data_loss(format!("layer {}", layer.digest)).with_source(error))?;
    source::verify(stream.stream, layer)
}

/// A stream that ends when it is told to.
struct Cancelled<'a, S> {
    stream: S,
    cancel: &'a Cancel,
}

impl<S: std::io::Read> std::io::Read for Cancelled<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        self.stream.read(buf)
    }
}
