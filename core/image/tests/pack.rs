//! Packing on bases of all sorts, and writing them out again.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use containerkit::content::ContentStore;
use containerkit::{ErrorKind, Result, fs::open_dir};
use containerkit_image::diff::Trees;
use containerkit_image::export::Source;
use containerkit_image::pack::{LayerCompression, Packed};
use containerkit_image::{
    ExportOptions, Image, PackOptions, PlatformChoice, describe, export, pack, resolve,
};
use serde_json::{Value, json};
use support::images::{CONFIG, Layout, MANIFEST, PLAIN, host, layers, simple};
use support::store::Memory;
use support::{assert_one_line, imports};

/// A store with an image, and the image.
fn imported(layout: &Layout) -> (Memory, Image) {
    let dir = tempfile::tempdir().unwrap();
    let store = Memory::default();
    let found = imports::run(&store, &layout.write(dir.path())).unwrap();
    let image = resolve(&store, &found[0].target, &PlatformChoice::host()).unwrap();
    (store, image)
}

/// Packs a folder of one file on a base, beside an empty tree.
fn packed(store: &Memory, base: Option<&Image>, options: &PackOptions) -> Result<Packed> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["lower", "upper"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("upper/file"), "data").unwrap();
    let open = |name: &str| open_dir(&dir.path().join(name)).unwrap();
    let lower = base.map(|_| open("lower"));
    pack(
        store,
        base,
        &mut Trees::of_folders(lower, open("upper")),
        options,
    )
}

fn document(store: &Memory, image: &Image) -> Value {
    let digest = image.config_descriptor.digest().as_ref().parse().unwrap();
    serde_json::from_slice(&store.data(&digest)).unwrap()
}

#[test]
fn a_base_without_history_gets_an_entry_a_layer() {
    let (layout, _) = simple();
    let (store, base) = imported(&layout);
    let made = packed(&store, Some(&base), &PackOptions::default()).unwrap();
    let image = resolve(&store, &made.target, &PlatformChoice::host()).unwrap();
    let config = document(&store, &image);
    assert_eq!(image.layers.len(), 4);
    assert_eq!(config["history"].as_array().unwrap().len(), 4);
    assert_eq!(config["config"], json!({ "Cmd": ["sh"] }));
    let annotations = image.manifest.annotations().as_ref().unwrap();
    assert_eq!(
        annotations["org.opencontainers.image.base.digest"],
        base.manifest_descriptor.digest().to_string()
    );
    // What is known of it by its digest alone is the same.
    let digest = made.target.digest().as_ref().parse().unwrap();
    assert_eq!(describe(&store, &digest).unwrap(), made.target);
}

#[test]
fn dockers_types_become_oci_and_stale_members_go() {
    let mut layout = Layout::new();
    let (_, plain, _) = layers().remove(0);
    let diff_id = containerkit::Algorithm::Sha256.digest(&plain);
    let config = layout.json(
        "application/vnd.docker.container.image.v1+json",
        &json!({
            "architecture": host(), "os": "linux", "container": "x", "unknown": 1,
            "config": null, "history": null,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        }),
    );
    let blob = layout.blob("application/vnd.docker.image.rootfs.diff.tar", &plain);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": docker, "config": config, "layers": [blob],
    });
    let manifest = layout.json(docker, &manifest);
    layout.index(&[manifest]);
    let (store, base) = imported(&layout);
    let made = packed(&store, Some(&base), &PackOptions::default()).unwrap();
    let image = resolve(&store, &made.target, &PlatformChoice::host()).unwrap();
    assert_eq!(made.target.media_type().to_string(), MANIFEST);
    assert_eq!(image.config_descriptor.media_type().to_string(), CONFIG);
    assert_eq!(image.layers[0].descriptor.media_type().to_string(), PLAIN);
    let config = document(&store, &image);
    assert_eq!(config["unknown"], 1);
    assert!(config.get("container").is_none());
}

#[test]
fn a_base_that_is_not_whole_or_not_sane_is_refused_in_one_line() {
    let (layout, _) = simple();
    let (store, base) = imported(&layout);
    store.delete(&base.layers[1].digest).unwrap();
    let error = packed(&store, Some(&base), &PackOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_one_line(&error);

    // Whatever stands in a config: an error or an image, and never a panic.
    let (store, base) = imported(&layout);
    let good = document(&store, &base);
    let odd = [
        json!(null),
        json!(1),
        json!("x\n"),
        json!([1]),
        json!({ "a": [] }),
    ];
    for key in ["config", "history", "rootfs", "created", "author", "os"] {
        for value in &odd {
            let mut bad = good.clone();
            bad[key] = value.clone();
            let data = bad.to_string();
            let digest = store.put(data.as_bytes());
            let mut base = base.clone();
            let descriptor = json!({ "mediaType": CONFIG, "digest": digest, "size": data.len() });
            base.config_descriptor = serde_json::from_value(descriptor).unwrap();
            let mut options = PackOptions::default();
            options.changes.env = vec![("A".into(), "1".into())];
            options.changes.labels.insert("k".into(), "v".into());
            if let Err(error) = packed(&store, Some(&base), &options) {
                assert_one_line(&error);
            }
        }
    }
    assert_eq!(store.ingests.lock().unwrap().len(), 0);
}

#[test]
fn nothing_and_everything_are_images() {
    let store = Memory::default();
    for compression in [
        LayerCompression::None,
        LayerCompression::Gzip,
        LayerCompression::Zstd,
    ] {
        let options = PackOptions {
            compression,
            ..PackOptions::default()
        };
        let made = packed(&store, None, &options).unwrap();
        let image = resolve(&store, &made.target, &PlatformChoice::host()).unwrap();
        let media_type = image.layers[0].descriptor.media_type().to_string();
        assert_eq!(media_type, compression.media_type());
        assert_eq!(made.entries, 2);
    }
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (dir.path().join("l"), dir.path().join("u"));
    std::fs::create_dir(&lower).unwrap();
    std::fs::create_dir(&upper).unwrap();
    let mut trees = Trees::of_folders(Some(open_dir(&lower).unwrap()), open_dir(&upper).unwrap());
    let made = pack(&store, None, &mut trees, &PackOptions::default()).unwrap();
    assert_eq!(made.entries, 0);
    let image = resolve(&store, &made.target, &PlatformChoice::host()).unwrap();
    assert!(image.layers.is_empty());
    assert_eq!(document(&store, &image)["history"][0]["empty_layer"], true);
}

#[test]
fn a_packing_that_is_called_off_leaves_no_ingest() {
    let store = Memory::default();
    let options = PackOptions::default();
    options.diff.cancel.cancel();
    let error = packed(&store, None, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(store.ingests.lock().unwrap().len(), 0);
    assert_eq!(store.len(), 0);
}

#[test]
fn names_of_one_tag_are_told_apart() {
    let (layout, _) = simple();
    let (store, image) = imported(&layout);
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str| Source {
        name: name.parse().unwrap(),
        target: image.manifest_descriptor.clone(),
        store: &store,
    };
    let write = |names: &[&str], to: &Path| -> Value {
        let sources: Vec<Source<'_>> = names.iter().map(|name| source(name)).collect();
        export(&sources, to, &ExportOptions::default()).unwrap();
        let index = std::fs::read(to.join("index.json")).unwrap();
        serde_json::from_slice(&index).unwrap()
    };
    let refs = |index: &Value| -> Vec<Value> {
        let manifests = index["manifests"].as_array().unwrap().iter();
        let of = |m: &Value| m["annotations"]["org.opencontainers.image.ref.name"].clone();
        manifests.map(of).collect()
    };
    let index = write(&["a/b:v1", "a/c:v2"], &dir.path().join("one"));
    assert_eq!(refs(&index), ["v1", "v2"]);
    let index = write(&["a/b:v1", "a/c:v1"], &dir.path().join("two"));
    assert_eq!(refs(&index), ["docker.io/a/b:v1", "docker.io/a/c:v1"]);
    let again = Memory::default();
    let found = imports::run(&again, &dir.path().join("two")).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|image| image.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["docker.io/a/b:v1", "docker.io/a/c:v1"]);
    assert_eq!(again.len(), store.len());
}
