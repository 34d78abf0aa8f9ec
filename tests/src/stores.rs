//! The default stores of a private containerkit, opened beside its commands,
//! and what must hold of them whatever was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use containerkit::content::BlobFilter;
use containerkit::snapshot::{SnapshotFilter, SnapshotKind};
use containerkit::value::all_pages;
use containerkit::{
    Algorithm, ContentStore, Digest, Driver, DriverContext, SnapshotKey, Snapshotter,
};
use containerkit_local::Local;
use containerkit_overlay::Overlay;

use crate::kit::Kit;

fn context(kit: &Kit, kind: &str, name: &str) -> DriverContext {
    let folder = |top: PathBuf| top.join(kind).join(name);
    let (root, state) = (folder(kit.root()), folder(kit.state()));
    containerkit::fs::ensure_dir(&kit.root(), 0o711).expect("root");
    containerkit::fs::ensure_dir(&root, 0o711).expect("root");
    DriverContext::new(name.parse().expect("name"), root, state)
}

/// The content store.
pub fn content(kit: &Kit) -> Local {
    Local::open(context(kit, "content", "local")).expect("open")
}

/// The snapshotter.
pub fn snapshotter(kit: &Kit) -> Overlay {
    Overlay::open(context(kit, "snapshotter", "overlay")).expect("open")
}

/// A key.
pub fn key(text: &str) -> SnapshotKey {
    text.parse().expect("key")
}

/// The keys of all snapshots and their kinds.
pub fn snapshots(kit: &Kit) -> BTreeMap<String, SnapshotKind> {
    let overlay = snapshotter(kit);
    let all = all_pages(
        |page| overlay.walk(&SnapshotFilter::default(), page),
        |info| info.key.to_string(),
    );
    let all = all.expect("walk");
    let row = |info: &containerkit::snapshot::SnapshotInfo| (info.key.to_string(), info.kind);
    all.iter().map(row).collect()
}

/// The digests of all blobs.
pub fn blobs(kit: &Kit) -> Vec<Digest> {
    let store = content(kit);
    let all = all_pages(
        |page| store.walk(&BlobFilter::default(), page),
        |info| info.digest.to_string(),
    );
    all.expect("walk")
        .into_iter()
        .map(|info| info.digest)
        .collect()
}

/// What every command after a kill must find: whole blobs, and snapshots whose
/// parents are there and committed.
#[track_caller]
pub fn assert_sound(kit: &Kit) {
    kit.run(["content", "verify"]).ok();
    let ran = kit.run(["snapshot", "ls", "--format", "json"]).ok();
    let snapshots = ran.json().as_array().expect("array").clone();
    let committed: BTreeSet<&str> = snapshots
        .iter()
        .filter(|row| row["kind"] == "committed")
        .map(|row| row["key"].as_str().expect("key"))
        .collect();
    for row in &snapshots {
        if let Some(parent) = row["parent"].as_str() {
            assert!(committed.contains(parent), "{row}");
        }
    }
}

/// Nothing lies in the folders of the default drivers, and beside them, that
/// is not told of, once a listing of ingests and a clean-up have tidied up.
#[track_caller]
pub fn assert_accounted(kit: &Kit) {
    content_accounted(&kit.root().join("content/local"), kit);
    overlay_accounted(&kit.root().join("snapshotter/overlay"), kit);
    let known = [
        "content",
        "snapshotter",
        "runtime",
        "containers",
        "records.db",
    ];
    let log = ["records.db-wal", "records.db-shm", "records.db.lock"];
    assert_only(&kit.root(), &known.into_iter().chain(log).collect());
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("entry").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect()
}

#[track_caller]
fn assert_only(dir: &Path, known: &BTreeSet<&str>) {
    let found = names(dir);
    let mut strange = found.iter().filter(|name| !known.contains(&***name));
    assert_eq!(strange.next(), None, "in {}", dir.display());
}

#[track_caller]
fn content_accounted(root: &Path, kit: &Kit) {
    let ingests = content(kit).list_statuses().expect("list");
    let held = ingests.iter().find(|status| status.holder.is_some());
    assert_eq!(held, None);
    let folder = |name: &str| Algorithm::Sha256.digest(name.as_bytes()).hex().to_owned();
    let known = ingests.iter().map(|status| folder(status.name.as_str()));
    assert_eq!(names(&root.join("ingest")), known.collect());
    let known = ["blobs", "labels", "ingest", "locks", "trash", "store.json"];
    assert_only(root, &known.into());
    assert_only(&root.join("trash"), &BTreeSet::new());
    let digests = blobs(kit);
    for algorithm in Algorithm::ALL {
        let known = digests
            .iter()
            .filter(|digest| digest.algorithm() == algorithm);
        let known: BTreeSet<&str> = known.map(Digest::hex).collect();
        assert_only(&root.join("blobs").join(algorithm.name()), &known);
        assert_only(&root.join("labels").join(algorithm.name()), &known);
    }
}

#[track_caller]
fn overlay_accounted(root: &Path, kit: &Kit) {
    snapshotter(kit).cleanup().expect("cleanup");
    let known = [
        "metadata.db",
        "metadata.db-wal",
        "metadata.db-shm",
        "metadata.lock",
    ];
    let folders = ["snapshots", "trash", "empty"];
    assert_only(root, &known.into_iter().chain(folders).collect());
    assert_only(&root.join("trash"), &BTreeSet::new());
    let kinds = snapshots(kit);
    let folders = names(&root.join("snapshots"));
    assert_eq!(folders.len(), kinds.len(), "{folders:?} for {kinds:?}");
    // What can still be mounted for itself has a work folder.
    let work = |name: &&String| root.join("snapshots").join(name).join("work").exists();
    let mountable = kinds
        .values()
        .filter(|kind| **kind != SnapshotKind::Committed);
    assert_eq!(
        folders.iter().filter(work).count(),
        mountable.count(),
        "{kinds:?}"
    );
}
