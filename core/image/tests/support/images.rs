//! Images, layouts and docker archives made from layers.

use std::io::Write;
use std::path::{Path, PathBuf};

use containerkit::{Algorithm, Digest};
use serde_json::{Value, json};

use super::{Entry, dir, file, tar};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("gzip");
    encoder.finish().expect("gzip")
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 1).expect("zstd")
}

/// Files of a layout by path.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    pub fn new() -> Layout {
        let mut layout = Layout::default();
        layout.set("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        layout
    }

    pub fn set(&mut self, path: &str, data: &[u8]) {
        self.files.retain(|(known, _)| known != path);
        self.files.push((path.into(), data.into()));
    }

    pub fn blob(&mut self, media_type: &str, data: &[u8]) -> Value {
        let digest = Algorithm::Sha256.digest(data);
        self.set(&path_of(&digest), data);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": data.len()})
    }

    pub fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// A manifest over these blobs, whose uncompressed forms are given too.
    pub fn image(&mut self, architecture: &str, layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Value {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|(_, plain, _)| Algorithm::Sha256.digest(plain).to_string())
            .collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.json(CONFIG, &config);
        let blobs: Vec<Value> = layers
            .iter()
            .map(|(media_type, _, stored)| self.blob(media_type, stored))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs,
        });
        self.json(MANIFEST, &manifest)
    }

    pub fn index(&mut self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.set("index.json", index.to_string().as_bytes());
    }

    pub fn write(&self, root: &Path) -> PathBuf {
        for (path, data) in &self.files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, data).expect("write");
        }
        root.to_path_buf()
    }

    pub fn tar(&self) -> Vec<u8> {
        let entries: Vec<Entry> = self
            .files
            .iter()
            .map(|(path, data)| Entry {
                data: data.clone(),
                ..file(path, "")
            })
            .collect();
        tar(&entries)
    }
}

pub fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Three layers, each in another form.
pub fn layers() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let first = tar(&[
        dir("bin", 0o755),
        file("bin/sh", "shell"),
        dir("etc", 0o755),
        file("etc/old", "old"),
    ]);
    let second = tar(&[
        dir("etc", 0o755),
        file("etc/.wh.old", ""),
        file("etc/new", "new"),
    ]);
    let third = tar(&[file("top", "top")]);
    vec![
        (GZIP, first.clone(), gzip(&first)),
        (ZSTD, second.clone(), zstd(&second)),
        (PLAIN, third.clone(), third),
    ]
}

pub fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

/// A layout of one image for the host, and its manifest's descriptor.
pub fn simple() -> (Layout, Value) {
    let mut layout = Layout::new();
    let manifest = layout.image(host(), &layers());
    layout.index(&[named(manifest.clone(), "v1")]);
    (layout, manifest)
}

pub fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What `docker save` writes, `layers` being the plain tars.
pub fn docker(layers: &[Vec<u8>], tags: &[&str]) -> Vec<Entry> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| Algorithm::Sha256.digest(layer).to_string())
        .collect();
    let config = json!({
        "architecture": host(), "os": "linux", "config": {"Cmd": ["sh"], "Volumes": null},
        "history": [{"created_by": "x"}],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let id = Algorithm::Sha256.digest(config.as_bytes());
    let mut entries = vec![file(&format!("{}.json", id.hex()), &config)];
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number:064}/layer.tar");
        entries.push(dir(&format!("{number:064}/"), 0o755));
        entries.push(Entry {
            data: layer.clone(),
            ..file(&name, "")
        });
        names.push(name);
    }
    let manifest = json!([{
        "Config": format!("{}.json", id.hex()), "RepoTags": tags, "Layers": names,
    }]);
    entries.push(file("manifest.json", &manifest.to_string()));
    entries
}
