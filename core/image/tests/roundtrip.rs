//! Random trees: what diff makes of a changed snapshot, apply makes into the
//! same tree, on whatever snapshotter; and an overlay's upper folder read by
//! itself makes the very layer that both trees walked side by side make.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::AsFd;

use containerkit::snapshot::{CommitOptions, Snapshotter};
use containerkit::{ErrorKind, Labels, Mount, fs::open_dir};
use containerkit_image::diff::{Trees, of_snapshot};
use containerkit_image::{ApplyOptions, DiffOptions, WhiteoutForm, apply};
use support::snapshots::{applied, assert_same, disturbed, key, layer_of, mounted, overlay, shown};
use support::store::Copying;

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok());
    0..count.unwrap_or(12)
}

#[test]
fn through_overlay_diff_then_apply_is_the_same_tree() {
    for seed in seeds() {
        let dir = tempfile::tempdir().unwrap();
        let snapshotter = overlay(dir.path());
        let layers = disturbed(&snapshotter, seed);
        let mounts = snapshotter.mounts(&key("edit")).unwrap();
        let want = shown(&mounts);
        let again = applied(&snapshotter, &layers);
        let found = shown(&again);
        assert_same(&want, &found, &format!("seed {seed}"));

        // Both trees side by side make the same layer as the upper folder.
        let view = snapshotter
            .view(&key("look"), Some(&key("base")), &Labels::new())
            .unwrap();
        let (lower, _) = mounted(&view);
        let (upper, _) = mounted(&mounts);
        let whole = layer_of(Trees::of_folders(Some(lower), upper));
        assert!(whole == layers[1], "seed {seed}: two ways, two layers");

        // Written straight into an upper folder it is the same tree, too.
        let blind = snapshotter
            .prepare(&key("blind"), Some(&key("applied-0")), &Labels::new())
            .unwrap();
        let upper = snapshotter.upper(&key("blind")).unwrap();
        let options = ApplyOptions {
            whiteouts: WhiteoutForm::Overlay,
            ..ApplyOptions::default()
        };
        let root = open_dir(&upper).unwrap();
        // What it cannot see it cannot link to, or know the time of.
        if apply(&mut &layers[1][..], root.as_fd(), &options).is_ok() {
            let found = shown(&blind);
            assert_same(&want, &found, &format!("seed {seed}, blind"));
        }
    }
}

#[test]
fn through_copies_diff_then_apply_is_the_same_tree() {
    for seed in seeds() {
        let dir = tempfile::tempdir().unwrap();
        let snapshotter = Copying::new(dir.path().to_path_buf());
        let layers = disturbed(&snapshotter, seed);
        let want = shown(&snapshotter.mounts(&key("edit")).unwrap());
        let again = applied(&snapshotter, &layers);
        let found = shown(&again);
        assert_same(&want, &found, &format!("seed {seed}"));
        // And on the other snapshotter, from the same layers.
        let other = overlay(dir.path());
        let found = shown(&applied(&other, &layers));
        assert_same(&want, &found, &format!("seed {seed}, on overlay"));
    }
}

#[test]
fn committed_snapshots_and_any_two_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = overlay(dir.path());
    let layers = disturbed(&snapshotter, 7);
    snapshotter
        .commit(&key("top"), &key("edit"), &CommitOptions::default())
        .unwrap();
    let committed = layer_of(of_snapshot(&snapshotter, &key("top"), None).unwrap());
    assert!(committed == layers[1]);
    let bottom = layer_of(of_snapshot(&snapshotter, &key("base"), None).unwrap());
    assert!(bottom == layers[0]);
    let same = of_snapshot(&snapshotter, &key("top"), Some(&key("top")))
        .unwrap()
        .changes(&DiffOptions::default())
        .unwrap();
    assert_eq!(same, []);
    let back = layer_of(of_snapshot(&snapshotter, &key("base"), Some(&key("top"))).unwrap());
    let again = applied(&snapshotter, &[layers[0].clone(), committed, back]);
    let view = snapshotter
        .view(&key("look"), Some(&key("base")), &Labels::new())
        .unwrap();
    assert_same(&shown(&view), &shown(&again), "there and back");
    let error = of_snapshot(&snapshotter, &key("none"), None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn an_upper_folder_that_only_the_kernel_resolves_is_walked_as_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["lower/old/in", "upper", "work", "empty"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("lower/old/in/file"), "data").unwrap();
    std::fs::write(dir.path().join("lower/meta"), "data".repeat(9000)).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mount = |more: &[String]| {
        let mut options = vec![
            "index=off".into(),
            "redirect_dir=on".into(),
            "metacopy=on".into(),
        ];
        options.push(format!("lowerdir+={}", at("lower")));
        options.push(format!("lowerdir+={}", at("empty")));
        options.extend(more.iter().cloned());
        Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options,
        }
    };
    let upper = [mount(&[
        format!("upperdir={}", at("upper")),
        format!("workdir={}", at("work")),
    ])];
    {
        let (_fd, path) = mounted(&upper);
        std::fs::create_dir(path.join("sub")).unwrap();
        std::fs::rename(path.join("old"), path.join("sub/new")).unwrap();
        std::os::unix::fs::lchown(path.join("meta"), Some(7), None).unwrap();
    }
    assert_eq!(
        std::fs::metadata(dir.path().join("upper/meta"))
            .unwrap()
            .len(),
        36000
    );
    let lower = [Mount::bind(
        dir.path().join("lower"),
        containerkit::Access::ReadOnly,
    )];
    for lower in [lower, [mount(&["ro".into()])]] {
        let layer = layer_of(Trees::of_mounts(&lower, &upper).unwrap());
        let into = tempfile::tempdir().unwrap();
        support::apply_bytes(into.path(), &layer, WhiteoutForm::Remove).unwrap();
        let read = |name: &str| std::fs::read(into.path().join(name)).unwrap();
        assert_eq!(read("sub/new/in/file"), b"data");
        assert_eq!(read("meta").len(), 36000);
        assert!(String::from_utf8_lossy(&layer).contains(".wh.old"));
    }
}
