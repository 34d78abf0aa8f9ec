//! Images and the primitives over the drivers, through the command line.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use containerkit_tests::image::{Layer, TestImage, busybox};
use containerkit_tests::kit::Kit;
use serde_json::json;

#[test]
fn images_are_imported_tagged_listed_and_forgotten() {
    let kit = Kit::with_busybox();
    let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
    assert_eq!(images[0]["name"], "docker.io/library/busybox:latest");
    assert_eq!(images[0]["complete"], true);
    assert_eq!(images.as_array().unwrap().len(), 1);
    kit.run(["image", "tag", "busybox", "example.org/mine:v1"])
        .ok();
    let full = kit
        .run(["image", "inspect", "example.org/mine:v1"])
        .ok()
        .json();
    assert_eq!(full[0]["digest"], images[0]["digest"]);
    let layer = &full[0]["layers"][0];
    assert_eq!(layer["diff_id"], layer["chain_id"], "{full}");
    let chain = layer["chain_id"].as_str().unwrap();
    let snapshots = kit.run(["snapshot", "ls", "--format", "json"]).ok().json();
    assert_eq!(snapshots[0]["key"], chain);
    kit.run(["image", "rm", "busybox"]).ok();
    kit.run(["image", "rm", "busybox"]).refused(1, &["busybox"]);
    assert_eq!(
        kit.run(["run", "--rm", "example.org/mine:v1", "echo", "ok"])
            .ok()
            .stdout,
        "ok\n"
    );
}

#[test]
fn an_archive_of_any_compression_is_the_same_image() {
    let kit = Kit::with_busybox();
    let digest = kit.run(["image", "inspect", "busybox"]).ok().json()[0]["digest"].clone();
    let layout = kit.path("busybox-layout");
    let plain = kit.path("image.tar");
    let status = std::process::Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&plain)
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success());
    let data = std::fs::read(&plain).unwrap();
    let compressed = [
        ("tar.gz", containerkit_tests::image::gzip(&data)),
        ("tar.zst", zstd::encode_all(&data[..], 1).unwrap()),
    ];
    for (suffix, data) in &compressed {
        std::fs::write(kit.path(&format!("image.{suffix}")), data).unwrap();
    }
    for suffix in ["tar", "tar.gz", "tar.zst"] {
        let file = kit.path(&format!("image.{suffix}"));
        kit.run(["image", "import", file.to_str().unwrap(), "--name", "again"])
            .ok();
        let again = kit.run(["image", "inspect", "again"]).ok().json();
        assert_eq!(again[0]["digest"], digest, "{suffix}");
    }
    // Without a name: the ref name is a tag, the file's name the repository.
    kit.run(["image", "import", kit.path("image.tar").to_str().unwrap()])
        .ok();
    kit.run(["image", "inspect", "image:latest"]).ok();
}

#[test]
fn what_is_no_image_is_refused_and_nothing_is_recorded() {
    let kit = Kit::new();
    let path = |name: &str| kit.path(name).to_str().unwrap().to_string();
    std::fs::write(kit.path("empty"), "").unwrap();
    std::fs::write(kit.path("garbage"), "garbage").unwrap();
    std::fs::create_dir(kit.path("folder")).unwrap();
    for name in ["missing", "empty", "garbage", "folder"] {
        kit.run(["image", "import", &path(name), "--name", "x"])
            .refused(1, &[name]);
    }
    kit.run(["image", "import", &path("folder"), "--name", "Bad Name"])
        .refused(1, &["Bad Name"]);
    assert_eq!(
        kit.run(["image", "ls", "--format", "json"]).ok().json(),
        json!([])
    );
    kit.run(["image", "nosuch"]).refused(2, &["nosuch"]);
    kit.run(Vec::<&str>::new()).refused(2, &["no command"]);
}

#[test]
fn a_layer_that_lies_about_its_diff_id_is_refused() {
    let kit = Kit::new();
    let mut layer = Layer::new();
    layer.file("a", 0o644, b"a");
    let image = TestImage {
        layers: vec![layer.finish()],
        config: json!({}),
    };
    let layout = kit.path("layout");
    image.write_layout(&layout);
    let real = containerkit::Algorithm::Sha256
        .digest(&image.layers[0])
        .hex()
        .to_string();
    // The config's blob with another DiffID, and all that points to it.
    let blobs = layout.join("blobs/sha256");
    let mut renamed: Vec<(String, String)> = Vec::new();
    for _ in 0..3 {
        for entry in std::fs::read_dir(&blobs).unwrap().flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path()) else {
                continue;
            };
            let mut new = text.replace(
                &format!("[\"sha256:{real}\"]"),
                &format!("[\"sha256:{}\"]", "0".repeat(64)),
            );
            for (from, to) in &renamed {
                new = new.replace(from, to);
            }
            if new != text {
                let digest = containerkit::Algorithm::Sha256
                    .digest(new.as_bytes())
                    .hex()
                    .to_string();
                std::fs::write(blobs.join(&digest), &new).unwrap();
                renamed.push((entry.file_name().to_string_lossy().into_owned(), digest));
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    let index = layout.join("index.json");
    let mut text = std::fs::read_to_string(&index).unwrap();
    for (from, to) in &renamed {
        text = text.replace(from, to);
    }
    std::fs::write(&index, text).unwrap();
    kit.run([
        "image",
        "import",
        layout.to_str().unwrap(),
        "--name",
        "liar",
    ])
    .refused(1, &["sha256:0000"]);
    let snapshots = kit.run(["snapshot", "ls", "--format", "json"]).ok().json();
    assert_eq!(snapshots, json!([]), "nothing is committed");
}

#[test]
fn content_is_ingested_resumed_verified_and_deleted() {
    let kit = Kit::new();
    let data = vec![7u8; 3_000_000];
    let digest = containerkit::Algorithm::Sha256.digest(&data).to_string();
    let ran = kit
        .run_with_input(
            ["content", "ingest", "--ref", "a", "--digest", &digest],
            &data,
        )
        .ok();
    assert_eq!(ran.stdout.trim(), digest);
    kit.run_with_input(
        ["content", "ingest", "--ref", "a", "--digest", &digest],
        &data,
    )
    .ok();
    let info = kit
        .run(["content", "info", &digest, "--format", "json"])
        .ok()
        .json();
    assert_eq!(info["size"], 3_000_000);
    let wrong = format!("sha256:{}", "1".repeat(64));
    kit.run_with_input(
        ["content", "ingest", "--ref", "b", "--digest", &wrong],
        b"x",
    )
    .refused(1, &["sha256:1111"]);
    kit.run_with_input(["content", "ingest", "--ref", "c", "--size", "2"], b"xyz")
        .refused(1, &["c"]);
    kit.run(["content", "ingest", "--ref", "../x"])
        .refused(1, &["../x"]);
    kit.run(["content", "get", "sha256:../../etc/passwd"])
        .refused(1, &["digest"]);
    kit.run(["content", "verify"]).ok();
    let blob = kit
        .root()
        .join("content/local/blobs/sha256")
        .join(&digest["sha256:".len()..]);
    std::process::Command::new("chmod")
        .arg("u+w")
        .arg(&blob)
        .status()
        .unwrap();
    let mut bytes = data.clone();
    bytes[1_000_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let ran = kit.run(["content", "verify"]).refused(1, &["1 of 1 blobs"]);
    assert!(ran.stdout.contains(&format!("damaged {digest}")), "{ran:?}");
    kit.run(["content", "delete", &digest]).ok();
    kit.run(["content", "verify"]).ok();
    assert_eq!(
        kit.run(["content", "status", "--format", "json"])
            .ok()
            .json(),
        json!([])
    );
}

#[test]
fn a_resumed_ingest_never_mixes_two_data() {
    let kit = Kit::new();
    let old = vec![b'o'; 40_000_000];
    let mut held = 0;
    for _ in 0..50 {
        let mut child = kit
            .command(["content", "ingest", "--ref", "r", "--size", "40000000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, &old[..30_000_000]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let status = kit
            .run(["content", "status", "--format", "json"])
            .ok()
            .json();
        held = status[0]["offset"].as_u64().unwrap_or(0);
        if held > 0 {
            break;
        }
    }
    assert!(held > 0, "a killed ingest holds something");
    let digest = containerkit::Algorithm::Sha256
        .digest(b"hello\n")
        .to_string();
    let ran = kit
        .run_with_input(["content", "ingest", "--ref", "r"], b"hello\n")
        .ok();
    assert_eq!(ran.stdout.trim(), digest);
    assert_eq!(kit.run(["content", "get", &digest]).ok().stdout, "hello\n");
}

#[test]
fn snapshots_are_prepared_committed_and_removed() {
    let kit = Kit::new();
    let mounts = kit
        .run(["snapshot", "prepare", "one", "--format", "json"])
        .ok()
        .json();
    assert!(mounts[0]["type"].is_string(), "{mounts}");
    kit.run(["snapshot", "prepare", "one"]).refused(1, &["one"]);
    kit.run(["snapshot", "commit", "base", "one"]).ok();
    kit.run(["snapshot", "view", "look", "base"]).ok();
    kit.run(["snapshot", "rm", "base"]).refused(1, &["base"]);
    kit.run(["snapshot", "mounts", "base"])
        .refused(1, &["base"]);
    kit.run(["snapshot", "prepare", "two", "nosuch"])
        .refused(1, &["nosuch"]);
    let tree = kit.run(["snapshot", "tree"]).ok().stdout;
    assert_eq!(tree, "base (committed)\n  look (view)\n");
    kit.run(["snapshot", "usage", "base"]).ok();
    kit.run(["snapshot", "rm", "look", "base"]).ok();
    assert_eq!(
        kit.run(["snapshot", "ls", "--format", "json"]).ok().json(),
        json!([])
    );
}

#[test]
fn random_kills_of_import_leave_a_store_that_works() {
    let kit = Kit::new();
    let layout = kit.path("layout");
    let mut image = busybox();
    let mut many = Layer::new();
    for n in 0..400 {
        many.file(
            &format!("srv/{n}"),
            0o644,
            format!("{n}").repeat(100).as_bytes(),
        );
    }
    image.layers.push(many.finish());
    image.write_layout(&layout);
    let layout = layout.to_str().unwrap();
    let mut seed = 99u64;
    for round in 0..12 {
        let kit = Kit::new();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut child = kit
                .command(["image", "import", layout, "--name", "victim"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros((seed >> 33) % (20_000 * (round + 1))));
            let _ = child.kill();
            child.wait().unwrap();
        }
        kit.run(["image", "import", layout, "--name", "victim"])
            .ok();
        assert_eq!(
            kit.run(["run", "--rm", "victim", "cat", "/srv/7"])
                .ok()
                .stdout,
            "7".repeat(100)
        );
        kit.run(["content", "verify"]).ok();
        assert_eq!(
            kit.run(["content", "status", "--format", "json"])
                .ok()
                .json(),
            json!([])
        );
        kit.assert_clean();
    }
}

#[test]
fn two_imports_of_one_image_at_once_both_succeed() {
    let kit = Kit::new();
    let layout = kit.path("layout");
    busybox().write_layout(&layout);
    let children: Vec<_> = (0..4)
        .map(|n| {
            kit.command([
                "image",
                "import",
                layout.to_str().unwrap(),
                "--name",
                &format!("n{n}"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(
        kit.run(["run", "--rm", "n3", "echo", "ok"]).ok().stdout,
        "ok\n"
    );
    kit.assert_clean();
}
