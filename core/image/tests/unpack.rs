//! Layers into snapshots: shared, verified, one at a time, and repaired.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerkit::process::ProcessIdentity;
use containerkit::snapshot::Snapshotter;
use containerkit::{Algorithm, ErrorKind, Labels, SnapshotKey};
use containerkit_image::event::ignore;
use containerkit_image::unpack::{CHAIN_LABEL, PROCESS_LABEL, is_unpacked};
use containerkit_image::{
    Event, Image, ImportOptions, PlatformChoice, UnpackOptions, import, resolve, unpack,
};
use support::images::{Layout, PLAIN, host, layers, simple};
use support::store::{Copying, Memory};
use support::{file, symlink, tar};

struct Bed {
    tmp: tempfile::TempDir,
    store: Memory,
    snapshots: Arc<Copying>,
}

impl Bed {
    fn new() -> Bed {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("snapshots")).unwrap();
        let snapshots = Arc::new(Copying::new(tmp.path().join("snapshots")));
        Bed {
            tmp,
            store: Memory::default(),
            snapshots,
        }
    }

    fn image(&self, layout: &Layout) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = layout.write(dir.path());
        let options = ImportOptions::new(dir.path());
        let imported = import(&self.store, &path, &options, &ignore).unwrap();
        resolve(&self.store, &imported[0].target, &PlatformChoice::host()).unwrap()
    }

    fn options(&self) -> UnpackOptions<'static> {
        UnpackOptions::new(self.tmp.path().join("locks"))
    }

    fn unpack(&self, image: &Image) -> containerkit::Result<Option<SnapshotKey>> {
        unpack(&self.store, &*self.snapshots, image, &self.options())
    }

    fn locks(&self) -> usize {
        fs::read_dir(self.tmp.path().join("locks")).unwrap().count()
    }
}

#[test]
fn three_layers_become_a_chain() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    assert!(!is_unpacked(&*bed.snapshots, &image).unwrap());
    let top = bed.unpack(&image).unwrap().unwrap();
    assert_eq!(top.to_string(), image.layers[2].chain_id.to_string());
    assert!(is_unpacked(&*bed.snapshots, &image).unwrap());
    let root = bed.snapshots.path(&top);
    assert_eq!(fs::read_to_string(root.join("bin/sh")).unwrap(), "shell");
    assert_eq!(fs::read_to_string(root.join("etc/new")).unwrap(), "new");
    assert!(!root.join("etc/old").exists() && root.join("top").exists());
    let info = bed.snapshots.stat(&top).unwrap();
    assert_eq!(
        info.parent.unwrap().to_string(),
        image.layers[1].chain_id.to_string()
    );
    let base: SnapshotKey = image.layers[0].chain_id.to_string().parse().unwrap();
    assert!(bed.snapshots.path(&base).join("etc/old").exists());
    assert_eq!(bed.snapshots.keys().len(), 3, "no active one is left");
    assert_eq!(bed.locks(), 0);

    // Again: nothing is written.
    let written = AtomicU64::new(0);
    let progress = |event: Event| {
        if let Event::Unpacked { entries, .. } = event {
            written.fetch_add(entries, Ordering::Relaxed);
        }
    };
    let mut options = bed.options();
    options.progress = &progress;
    assert_eq!(
        unpack(&bed.store, &*bed.snapshots, &image, &options).unwrap(),
        Some(top)
    );
    assert_eq!(written.into_inner(), 0);
}

#[test]
fn an_image_without_layers_is_none() {
    let bed = Bed::new();
    let mut layout = Layout::new();
    let manifest = layout.image(host(), &[]);
    layout.index(&[manifest]);
    let image = bed.image(&layout);
    assert_eq!(bed.unpack(&image).unwrap(), None);
    assert!(bed.snapshots.keys().is_empty());
}

fn one_layer(plain: &[u8], media_type: &'static str, stored: &[u8]) -> Layout {
    let mut layout = Layout::new();
    let layer = (media_type, plain.to_vec(), stored.to_vec());
    let manifest = layout.image(host(), &[layer]);
    layout.index(&[manifest]);
    layout
}

#[test]
fn a_wrong_diff_id_is_never_committed() {
    let bed = Bed::new();
    let image = bed.image(&one_layer(
        b"something else",
        PLAIN,
        &tar(&[file("a", "x")]),
    ));
    let error = bed.unpack(&image).expect_err("diff id");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    support::assert_one_line(&error);
    assert!(bed.snapshots.keys().is_empty());
    assert_eq!(bed.locks(), 0);
}

/// What follows the archive counts for the digest.
#[test]
fn the_diff_id_covers_the_padding() {
    let bed = Bed::new();
    let mut plain = tar(&[file("a", "x")]);
    plain.extend([0; 9216]);
    plain.extend(b"and more");
    let image = bed.image(&one_layer(&plain, PLAIN, &support::images::gzip(&plain)));
    assert!(bed.unpack(&image).unwrap().is_some());
}

#[test]
fn hostile_layers_leave_nothing() {
    for (name, layer) in [
        ("outside", tar(&[file("../escape", "x")])),
        ("root", tar(&[symlink("/", ".")])),
        ("garbage", vec![b'x'; 2048]),
        ("cut", tar(&[file("a", "xxxx")])[..700].to_vec()),
    ] {
        let bed = Bed::new();
        let image = bed.image(&one_layer(&layer, PLAIN, &layer));
        let error = bed.unpack(&image).expect_err(name);
        support::assert_one_line(&error);
        assert!(bed.snapshots.keys().is_empty(), "{name}");
        assert_eq!(
            fs::read_dir(bed.tmp.path().join("snapshots"))
                .unwrap()
                .count(),
            0,
            "{name}"
        );
    }
    let bed = Bed::new();
    let plain = tar(&[file("a", &"x".repeat(100_000))]);
    let stored = support::images::gzip(&plain);
    let cut = &stored[..stored.len() - 20];
    let image = bed.image(&one_layer(&plain, support::images::GZIP, cut));
    let error = bed.unpack(&image).expect_err("cut gzip");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
}

#[test]
fn a_missing_or_changed_blob_is_named() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    let digest = &image.layers[1].digest;
    bed.store.blobs.lock().unwrap().remove(digest);
    let error = bed.unpack(&image).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(digest.hex()), "{error}");
    // The layer below is done and stays.
    assert_eq!(bed.snapshots.keys().len(), 1);
    bed.store
        .blobs
        .lock()
        .unwrap()
        .insert(digest.clone(), Arc::new(vec![1; 3]));
    let error = bed.unpack(&image).expect_err("changed");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("is damaged"), "{error}");
    bed.store
        .blobs
        .lock()
        .unwrap()
        .insert(digest.clone(), Arc::new(layers()[1].2.clone()));
    assert!(bed.unpack(&image).unwrap().is_some());
}

#[test]
fn what_a_killed_process_left_is_removed_and_a_living_ones_is_not() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    let chain = image.layers[0].chain_id.to_string();
    let label = |identity: &ProcessIdentity| {
        Labels::from([
            (CHAIN_LABEL.to_string(), chain.clone()),
            (
                PROCESS_LABEL.to_string(),
                serde_json::to_string(identity).unwrap(),
            ),
        ])
    };
    let me = ProcessIdentity::of(std::process::id()).unwrap();
    let dead = ProcessIdentity {
        start_time: me.start_time + 1,
        ..me.clone()
    };
    let rebooted = ProcessIdentity {
        boot_id: "another".into(),
        ..me.clone()
    };
    for (key, identity) in [
        ("extract-1", &dead),
        ("extract-2", &rebooted),
        ("extract-3", &me),
    ] {
        bed.snapshots
            .prepare(&key.parse().unwrap(), None, &label(identity))
            .unwrap();
    }
    bed.snapshots
        .prepare(&"container".parse().unwrap(), None, &Labels::new())
        .unwrap();
    bed.unpack(&image).unwrap();
    let keys = bed.snapshots.keys();
    assert!(!keys.contains(&"extract-1".to_string()) && !keys.contains(&"extract-2".to_string()));
    assert!(keys.contains(&"extract-3".to_string()) && keys.contains(&"container".to_string()));
}

/// Damage shows as whatever it does to the stream; the error names the blob
/// and the mend all the same, and does not do so where the image is at fault.
#[test]
fn a_damaged_blob_is_told_from_a_wrong_image() {
    let plain = tar(&[file("a", &"x".repeat(3000))]);
    for (media_type, stored) in [
        (PLAIN, plain.clone()),
        (support::images::GZIP, support::images::gzip(&plain)),
        (support::images::ZSTD, support::images::zstd(&plain)),
    ] {
        for place in [1, 600, stored.len() - 1] {
            let bed = Bed::new();
            let image = bed.image(&one_layer(&plain, media_type, &stored));
            let digest = &image.layers[0].digest;
            let mut rotten = stored.clone();
            rotten[place.min(stored.len() - 1)] ^= 0x11;
            bed.store.damage(digest, &rotten);
            // Some bytes of a compressed stream say nothing.
            let Err(error) = bed.unpack(&image) else {
                assert_ne!(media_type, PLAIN);
                continue;
            };
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
            assert!(error.to_string().contains("blob is damaged"), "{error}");
            let hint = format!("containerkit content delete {digest}");
            assert!(error.hint().unwrap().contains(&hint), "{error}");
            support::assert_one_line(&error);
            assert!(bed.snapshots.keys().is_empty());
        }
    }
    let bed = Bed::new();
    let image = bed.image(&one_layer(b"something else", PLAIN, &plain));
    let error = bed.unpack(&image).expect_err("the config is wrong");
    assert!(!error.to_string().contains("blob is damaged"), "{error}");
}

#[test]
fn what_died_over_another_image_is_removed_too() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    let me = ProcessIdentity::of(std::process::id()).unwrap();
    let dead = ProcessIdentity {
        start_time: me.start_time + 1,
        ..me.clone()
    };
    let put = |key: &str, identity: &ProcessIdentity| {
        let labels = Labels::from([
            (CHAIN_LABEL.to_string(), "sha256:of-another".to_string()),
            (
                PROCESS_LABEL.to_string(),
                serde_json::to_string(identity).unwrap(),
            ),
        ]);
        bed.snapshots
            .prepare(&key.parse().unwrap(), None, &labels)
            .unwrap();
    };
    put("extract-dead", &dead);
    put("extract-living", &me);
    bed.unpack(&image).unwrap();
    let keys = bed.snapshots.keys();
    assert!(!keys.contains(&"extract-dead".to_string()), "{keys:?}");
    assert!(keys.contains(&"extract-living".to_string()), "{keys:?}");
    // Where there is nothing to do, nothing is looked for.
    put("extract-dead", &dead);
    bed.unpack(&image).unwrap();
    assert!(bed.snapshots.keys().contains(&"extract-dead".to_string()));
}

#[test]
fn one_flight_for_one_chain() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let progress = |event: Event| {
                    if let Event::Unpacked { entries, .. } = event {
                        written.fetch_add(entries, Ordering::Relaxed);
                    }
                };
                let mut options = bed.options();
                options.progress = &progress;
                let top = unpack(&bed.store, &*bed.snapshots, &image, &options).unwrap();
                assert!(top.is_some());
            });
        }
    });
    assert_eq!(written.into_inner(), 8, "each layer was written once");
    assert_eq!(bed.snapshots.keys().len(), 3);
}

#[test]
fn who_waits_too_long_is_told_of_the_holder() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    fs::create_dir(bed.tmp.path().join("locks")).unwrap();
    let chain = &image.layers[0].chain_id;
    let path = bed
        .tmp
        .path()
        .join(format!("locks/unpack-sha256-{}", chain.hex()));
    let _held =
        containerkit::lock::FileLock::acquire(&path, "test", containerkit::lock::Wait::No).unwrap();
    let mut options = bed.options();
    options.wait = Duration::from_millis(50);
    let error = unpack(&bed.store, &*bed.snapshots, &image, &options).expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
}

#[test]
fn an_active_snapshot_under_a_chain_id_is_refused() {
    let bed = Bed::new();
    let image = bed.image(&simple().0);
    let key: SnapshotKey = image.layers[2].chain_id.to_string().parse().unwrap();
    bed.snapshots.prepare(&key, None, &Labels::new()).unwrap();
    let error = bed.unpack(&image).expect_err("active");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.hint().is_some());
}

/// A media type that lies about the compression does no harm.
#[test]
fn the_magic_counts_and_not_the_media_type() {
    let plain = tar(&[file("a", "x")]);
    for stored in [
        plain.clone(),
        support::images::gzip(&plain),
        support::images::zstd(&plain),
    ] {
        for media_type in [PLAIN, support::images::GZIP] {
            let bed = Bed::new();
            let image = bed.image(&one_layer(&plain, media_type, &stored));
            assert_eq!(image.layers[0].diff_id, Algorithm::Sha256.digest(&plain));
            assert!(bed.unpack(&image).unwrap().is_some());
        }
    }
}

/// An artifact whose blobs happen to be tar archives is no root file system.
#[test]
fn what_is_no_layer_is_not_unpacked() {
    let plain = tar(&[file("a", "x")]);
    for media_type in [
        "",
        "application/octet-stream",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "a\n\u{1b}[31m",
    ] {
        let bed = Bed::new();
        let image = bed.image(&one_layer(&plain, media_type, &plain));
        let error = bed.unpack(&image).expect_err(media_type);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        support::assert_one_line(&error);
        assert!(bed.snapshots.keys().is_empty());
    }
}
