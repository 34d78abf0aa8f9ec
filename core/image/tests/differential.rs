//! Layers of random trees, applied here and by umoci: tree by tree the same.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use containerkit::{Access, Mount};
use serde_json::json;
use support::images::{Layout, gzip};
use support::snapshots::{applied, assert_same, disturbed, overlay, shown};
use support::store::Copying;

/// What umoci unpacks of an image of these layers.
fn unpacked(dir: &Path, layers: &[Vec<u8>]) -> Vec<Mount> {
    let mut layout = Layout::new();
    let blobs: Vec<(&str, Vec<u8>, Vec<u8>)> = layers
        .iter()
        .map(|layer| {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            (media_type, layer.clone(), gzip(layer))
        })
        .collect();
    let mut target = layout.image("amd64", &blobs);
    target["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
    layout.index(&[target]);
    let root = layout.write(&dir.join("layout"));
    let bundle = dir.join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:image", root.display()))
        .arg(&bundle)
        .output()
        .expect("umoci, which `make setup` installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    vec![Mount::bind(bundle.join("rootfs"), Access::ReadOnly)]
}

#[test]
fn umoci_makes_the_same_trees() {
    for seed in 100..110 {
        let dir = tempfile::tempdir().unwrap();
        let made = Copying::new(dir.path().to_path_buf());
        let layers = disturbed(&made, seed);
        let want = shown(&unpacked(dir.path(), &layers));
        let found = shown(&applied(&overlay(dir.path()), &layers));
        assert_same(&want, &found, &format!("seed {seed}"));
    }
}
