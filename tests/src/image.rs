//! Small images made byte by byte.

use std::path::Path;

use containerkit::Algorithm;
use serde_json::{Value, json};

/// An image to write: uncompressed layers and a config.
pub struct TestImage {
    /// Layer tars, base first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` object of the image config.
    pub config: Value,
}

/// A layer of busybox-static with `/etc/passwd`, folders and one user, `app`.
pub fn busybox() -> TestImage {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox-static is installed by `make setup`");
    let program = std::fs::read(busybox).expect("read busybox");
    let mut tar = Layer::new();
    for dir in [
        "bin", "etc", "proc", "sys", "dev", "tmp", "root", "home", "home/app",
    ] {
        tar.dir(dir, if dir == "tmp" { 0o1777 } else { 0o755 });
    }
    tar.file("bin/busybox", 0o755, &program);
    for applet in [
        "sh", "true", "false", "echo", "cat", "sleep", "id", "ls", "env", "pwd", "hostname",
        "kill", "dd", "head", "wc", "stty", "grep", "touch", "mount", "ps", "test", "printf", "rm",
        "stat", "trap", "mkdir", "df", "seq", "yes", "sync", "readlink",
    ] {
        tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    );
    tar.file(
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
    );
    tar.file("etc/noexec", 0o644, b"not a program\n");
    TestImage {
        layers: vec![tar.finish()],
        config: json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh", "-c", "echo default"] }),
    }
}

/// A layer under construction.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Layer {
        Layer::new()
    }
}

impl Layer {
    /// Empty.
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        let mut header = Layer::header(tar::EntryType::Regular, mode, data.len() as u64);
        self.0.append_data(&mut header, path, data).expect("append");
    }

    /// Adds a folder.
    pub fn dir(&mut self, path: &str, mode: u32) {
        let mut header = Layer::header(tar::EntryType::Directory, mode, 0);
        self.0
            .append_data(&mut header, path, &[][..])
            .expect("append");
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, path: &str, target: &str) {
        let mut header = Layer::header(tar::EntryType::Symlink, 0o777, 0);
        self.0
            .append_link(&mut header, path, target)
            .expect("append");
    }

    /// The tar.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish")
    }
}

impl TestImage {
    /// Writes an OCI layout with gzip layers and the ref name `latest`.
    pub fn write_layout(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("mkdir");
        let put = |data: &[u8], media_type: &str| {
            let digest = Algorithm::Sha256.digest(data);
            std::fs::write(blobs.join(digest.hex()), data).expect("write blob");
            json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
        };
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|l| Algorithm::Sha256.digest(l).to_string())
            .collect();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| put(&gzip(l), "application/vnd.oci.image.layer.v1.tar+gzip"))
            .collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut target = put(
            manifest.to_string().as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        target["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [target] });
        std::fs::write(dir.join("index.json"), index.to_string()).expect("write index");
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    }
}

/// Go's name of this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Compressed by gzip.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("gzip");
    encoder.finish().expect("gzip")
}
