//! Snapshots of random trees, and trees of layers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerkit::snapshot::{CommitOptions, Snapshotter};
use containerkit::{Driver, DriverContext, Labels, Mount, SnapshotKey, mounter};
use containerkit_image::diff::{Trees, of_snapshot};
use containerkit_image::{ApplyOptions, DiffOptions, apply};
use containerkit_overlay::Overlay;

use super::trees::{Links, tree};
use super::wild::{Rng, Wild};

pub fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

pub fn overlay(dir: &Path) -> Overlay {
    let (root, state) = (dir.join("overlay"), dir.join("overlay-state"));
    for path in [&root, &state] {
        containerkit::fs::ensure_dir(path, 0o711).unwrap();
    }
    Overlay::open(DriverContext::new("overlay".parse().unwrap(), root, state)).unwrap()
}

/// A mounted snapshot; the path is for as long as the descriptor.
pub fn mounted(mounts: &[Mount]) -> (OwnedFd, PathBuf) {
    let fd = mounter::mount_detached(mounts).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
    (fd, path)
}

/// The tree without the root's own time, which is nobody's.
pub fn shown(mounts: &[Mount]) -> String {
    let (_fd, path) = mounted(mounts);
    let text = tree(&path, Links::Told);
    let (root, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let words: Vec<&str> = root.split(' ').collect();
    format!("{}\n{rest}", words[..4].join(" "))
}

#[track_caller]
pub fn assert_same(want: &str, found: &str, what: &str) {
    let only = |a: &str, b: &str| -> Vec<String> {
        let there: std::collections::HashSet<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !there.contains(line))
            .map(str::to_string)
            .collect()
    };
    assert!(
        want == found,
        "{what}: lost {:#?}\ngot {:#?}",
        only(want, found),
        only(found, want)
    );
}

pub fn layer_of(mut trees: Trees<'_>) -> Vec<u8> {
    let options = DiffOptions::default();
    let changes = trees.changes(&options).unwrap();
    let mut layer = Vec::new();
    trees.write(&changes, &mut layer, &options).unwrap();
    layer
}

/// Base and edit at random; gives the layers of both.
pub fn disturbed(snapshotter: &dyn Snapshotter, seed: u64) -> [Vec<u8>; 2] {
    let mut rng = Rng::new(seed);
    let labels = Labels::new();
    let mounts = snapshotter.prepare(&key("one"), None, &labels).unwrap();
    {
        let (_fd, path) = mounted(&mounts);
        Wild::new(&path, &mut rng).disturb(60);
    }
    let base = layer_of(of_snapshot(snapshotter, &key("one"), None).unwrap());
    snapshotter
        .commit(&key("base"), &key("one"), &CommitOptions::default())
        .unwrap();
    let mounts = snapshotter
        .prepare(&key("edit"), Some(&key("base")), &labels)
        .unwrap();
    {
        let (_fd, path) = mounted(&mounts);
        Wild::new(&path, &mut rng).disturb(40);
    }
    let edit = layer_of(of_snapshot(snapshotter, &key("edit"), None).unwrap());
    [base, edit]
}

/// Applies layers, each to a snapshot on the one before; the last is active.
pub fn applied(snapshotter: &dyn Snapshotter, layers: &[Vec<u8>]) -> Vec<Mount> {
    let mut parent = None;
    for (n, layer) in layers.iter().enumerate() {
        let active = key(&format!("apply-{n}"));
        let mounts = snapshotter
            .prepare(&active, parent.as_ref(), &Labels::new())
            .unwrap();
        let (fd, _) = mounted(&mounts);
        apply(&mut &layer[..], fd.as_fd(), &ApplyOptions::default()).unwrap();
        drop(fd);
        if n + 1 == layers.len() {
            return mounts;
        }
        let name = key(&format!("applied-{n}"));
        snapshotter
            .commit(&name, &active, &CommitOptions::default())
            .unwrap();
        parent = Some(name);
    }
    unreachable!("there are layers")
}
