//! Layouts whose index lists several platforms, and stores that an import heals.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use containerkit::{Algorithm, ErrorKind};
use containerkit_image::event::ignore;
use containerkit_image::{
    ImportOptions, Imported, PlatformChoice, import, offers, platforms, resolve,
};
use serde_json::json;
use support::images::{CONFIG, INDEX, Layout, MANIFEST, host, layers, named, path_of, simple};
use support::imports::{refused_layout, run};
use support::store::Memory;

fn on_platform(mut descriptor: serde_json::Value, architecture: &str) -> serde_json::Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
    descriptor
}

fn other() -> &'static str {
    if host() == "s390x" {
        "riscv64"
    } else {
        "s390x"
    }
}

/// Imports a layout as a folder and as a tar, which must be the same.
fn both(layout: &Layout, store: &Memory) -> Vec<Imported> {
    let tmp = tempfile::tempdir().unwrap();
    let imported = run(store, &layout.write(&tmp.path().join("layout"))).unwrap();
    let path = tmp.path().join("archive");
    fs::write(&path, layout.tar()).unwrap();
    assert_eq!(run(&Memory::default(), &path).unwrap(), imported);
    imported
}

#[test]
fn platforms_listed_in_index_json_are_one_image() {
    let mut layout = Layout::new();
    let mine = on_platform(layout.image(host(), &layers()), host());
    let theirs = on_platform(layout.image(other(), &layers()), other());
    for name in [None, Some("v1")] {
        let named = |descriptor: &serde_json::Value| match name {
            Some(name) => named(descriptor.clone(), name),
            None => descriptor.clone(),
        };
        // The other one first: that is the one that used to be demanded.
        layout.index(&[named(&theirs), named(&mine)]);
        let store = Memory::default();
        let imported = both(&layout, &store);
        assert_eq!(imported.len(), 1);
        assert_eq!(imported[0].name.as_deref(), name);
        let target = &imported[0].target;
        assert_eq!(target.media_type().to_string(), INDEX);
        let (_, whole) = &layout.files[layout.files.len() - 1];
        let digest = Algorithm::Sha256.digest(whole);
        assert_eq!(target.digest().to_string(), digest.to_string());
        assert_eq!(*store.data(&digest), *whole);
        assert_eq!(platforms(&store, target).unwrap().len(), 2);
        for architecture in [host(), other()] {
            let choice = format!("linux/{architecture}").parse().unwrap();
            assert!(offers(&store, target, &choice).unwrap());
            assert!(resolve(&store, target, &choice).is_ok());
        }
    }
    // A sparse layout lacks what the host does not need, and nothing else.
    let mut sparse = layout.clone();
    let digest = theirs["digest"].as_str().unwrap().parse().unwrap();
    sparse.files.retain(|(path, _)| *path != path_of(&digest));
    assert_eq!(both(&sparse, &Memory::default()).len(), 1);
    let digest = mine["digest"].as_str().unwrap().parse().unwrap();
    layout.files.retain(|(path, _)| *path != path_of(&digest));
    refused_layout("the host's manifest is missing", &layout);
}

#[test]
fn names_in_index_json_are_images_of_their_own() {
    let mut layout = Layout::new();
    let mine = on_platform(layout.image(host(), &layers()), host());
    let theirs = on_platform(layout.image(other(), &layers()), other());
    let attestation = on_platform(layout.image("unknown", &layers()[..1]), "unknown");
    layout.index(&[
        named(mine.clone(), "a"),
        named(theirs.clone(), "other"),
        named(theirs.clone(), "b"),
        named(mine.clone(), "b"),
        named(attestation, "b"),
    ]);
    let store = Memory::default();
    let imported = both(&layout, &store);
    let names: Vec<_> = imported.iter().map(|i| i.name.as_deref()).collect();
    assert_eq!(names, [Some("a"), Some("other"), Some("b")]);
    assert_eq!(imported[0].target.digest().to_string(), mine["digest"]);
    assert_eq!(imported[1].target.digest().to_string(), theirs["digest"]);
    let group = &imported[2].target;
    assert!(resolve(&store, group, &PlatformChoice::host()).is_ok());
    let digest: containerkit::Digest = group.digest().to_string().parse().unwrap();
    let index: serde_json::Value = serde_json::from_slice(&store.data(&digest)).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(index["manifests"][1], named(mine.clone(), "b"));
    // The order and spelling around it are not the image's.
    let text = json!({"manifests": [
        named(theirs.clone(), "b"),
        named(mine.clone(), "b"),
        index["manifests"][2],
        named(mine.clone(), "c"),
    ], "schemaVersion": 2});
    layout.set(
        "index.json",
        serde_json::to_string_pretty(&text).unwrap().as_bytes(),
    );
    let again = both(&layout, &Memory::default());
    assert_eq!(again[0].target, *group);

    // Two of one platform are no choice: each is an image.
    let second = on_platform(layout.image(host(), &layers()[..1]), host());
    layout.index(&[mine, second]);
    assert_eq!(both(&layout, &Memory::default()).len(), 2);
}

#[test]
fn a_platform_that_nothing_has_is_demanded_of_nobody_else() {
    let mut layout = Layout::new();
    let image = layout.image(other(), &layers());
    layout.index(&[named(image.clone(), "a"), named(image, "b")]);
    let error = refused_layout("none fits", &layout);
    assert!(error.to_string().contains(other()), "{error}");
    let tmp = tempfile::tempdir().unwrap();
    let mut options = ImportOptions::new(tmp.path());
    options.platform = None;
    let path = layout.write(&tmp.path().join("layout"));
    let imported = import(&Memory::default(), &path, &options, &ignore).unwrap();
    assert_eq!(imported.len(), 2);
}

#[test]
fn importing_again_heals_what_was_damaged() {
    let (layout, _) = simple();
    let tmp = tempfile::tempdir().unwrap();
    let folder = layout.write(tmp.path());
    let store = Memory::default();
    let imported = run(&store, &folder).unwrap();
    let good = store.blobs.lock().unwrap().clone();
    let blobs: Vec<_> = good.keys().cloned().collect();
    let is_layer = |digest: &containerkit::Digest| {
        layers()
            .iter()
            .any(|l| Algorithm::Sha256.digest(&l.2) == *digest)
    };
    for digest in &blobs {
        let data = good[digest].to_vec();
        let mut rotten = data.clone();
        rotten[0] ^= 1;
        for (how, bad) in [
            ("empty", Vec::new()),
            ("short", data[..data.len() - 1].to_vec()),
            ("long", [&data[..], b" "].concat()),
            ("rotten", rotten),
        ] {
            store.damage(digest, &bad);
            assert_eq!(run(&store, &folder).unwrap(), imported, "{how} {digest}");
            // Layers of the right size are left to unpacking to verify.
            if is_layer(digest) && how == "rotten" {
                assert_eq!(*store.data(digest), bad);
                store.damage(digest, &data);
            }
            assert_eq!(*store.blobs.lock().unwrap(), good, "{how} {digest}");
            assert!(store.ingests.lock().unwrap().is_empty(), "{how} {digest}");
        }
    }
}

/// A layout that lies about a blob which the store has whole changes nothing.
#[test]
fn a_lying_source_damages_no_stored_blob() {
    let (good, _) = simple();
    let store = Memory::default();
    let tmp = tempfile::tempdir().unwrap();
    run(&store, &good.write(&tmp.path().join("good"))).unwrap();
    let before = store.blobs.lock().unwrap().clone();
    let layer = layers()[0].clone();
    let digest = Algorithm::Sha256.digest(&layer.2);
    let mut lying = Layout::new();
    let config = json!({"architecture": host(), "os": "linux", "rootfs": {
        "type": "layers", "diff_ids": [Algorithm::Sha256.digest(&layer.1).to_string()]}});
    let config = lying.json(CONFIG, &config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [
        {"mediaType": layer.0, "digest": digest.to_string(), "size": 4}]});
    lying.set(&path_of(&digest), b"evil");
    let manifest = lying.json(MANIFEST, &manifest);
    lying.index(&[manifest]);
    let error = run(&store, &lying.write(&tmp.path().join("lying"))).expect_err("it lies");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    let after = store.blobs.lock().unwrap();
    for (digest, data) in &before {
        assert_eq!(after[digest], *data, "{digest}");
    }
    assert!(store.ingests.lock().unwrap().is_empty());
}
