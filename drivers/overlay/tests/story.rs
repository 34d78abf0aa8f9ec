//! The contract's story on the real thing.

use std::fs;

use containerkit::mounter::mount_detached;
use containerkit::snapshot::CommitOptions;
use containerkit::{Driver, DriverContext, ErrorKind, Labels, SnapshotKey, Snapshotter};
use containerkit_overlay::Overlay;

fn key(text: &str) -> SnapshotKey {
    text.parse().expect("key")
}

#[test]
fn layers_and_a_container() {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path().join("a,b:c d\\e");
    fs::create_dir(&root).expect("mkdir");
    let context = DriverContext::new("overlay".parse().expect("name"), &root, temp.path());
    let overlay = Overlay::open(context.clone()).expect("open");
    let none = Labels::new();
    overlay.prepare(&key("x1"), None, &none).expect("prepare");
    fs::write(overlay.upper(&key("x1")).expect("upper").join("one"), "1").expect("write");
    overlay
        .commit(&key("l1"), &key("x1"), &CommitOptions::default())
        .expect("commit");
    let mounts = overlay
        .prepare(&key("x2"), Some(&key("l1")), &none)
        .expect("prepare");
    let tree = mount_detached(&mounts).expect("mount");
    let file = rustix::fs::openat(
        &tree,
        "one",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    file.expect("the layer below shows");
    let error = overlay
        .commit(&key("l2"), &key("x2"), &CommitOptions::default())
        .expect_err("mounted");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    drop(tree);
    let again = Overlay::open(context).expect("open twice");
    again
        .commit(&key("l2"), &key("x2"), &CommitOptions::default())
        .expect("commit");
    again.remove(&key("l2")).expect("remove");
    overlay.remove(&key("l1")).expect("remove");
    assert_eq!(overlay.cleanup().expect("cleanup").inodes, 0);
}
