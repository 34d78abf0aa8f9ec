//! Pull, push, copy and login through the command line, against Debian's
//! registry; skopeo is the second opinion.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use containerkit::Algorithm;
use containerkit_tests::image::{Layer, TestImage, architecture, busybox};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::registry::{BreakingWire, CREDS, Guard, RegistryServer, Wire, encoded};
use containerkit_tests::steps::Steps;
use serde_json::{Value, json};

/// A layout of busybox, under the name `latest`.
fn layout(kit: &Kit) -> String {
    let path = kit.path("layout");
    if !path.exists() {
        busybox().write_layout(&path);
    }
    format!("oci:{}:latest", path.display())
}

/// Busybox at a registry in the clear.
fn copied(kit: &Kit, registry: &RegistryServer, name: &str) -> String {
    let name = registry.name(name);
    kit.run(["image", "copy", "--plain-http", &layout(kit), &name])
        .ok();
    name
}

fn skopeo(args: &[&str]) -> String {
    let ran = Command::new("skopeo")
        .args(args)
        .output()
        .expect("skopeo is installed by `make setup`");
    assert!(ran.status.success(), "{args:?}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// The digest of what a registry has under a name.
fn digest_at(name: &str) -> String {
    let raw = skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--raw",
        &format!("docker://{name}"),
    ]);
    Algorithm::Sha256.digest(raw.as_bytes()).to_string()
}

fn digest_of(kit: &Kit, name: &str) -> String {
    let images = kit.run(["image", "inspect", name]).ok().json();
    images[0]["digest"].as_str().unwrap().to_string()
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let name = copied(&kit, &registry, "team/app:v1");
    let pulled = kit.run(["image", "pull", "--plain-http", &name]).ok();
    assert_eq!(pulled.stdout, format!("{name} {}\n", digest_at(&name)));
    let ran = kit.run(["run", "--rm", &name, "echo", "ok"]).ok();
    assert_eq!(ran.stdout, "ok\n");

    // By digest, under its own name.
    let by_digest = format!("{}@{}", registry.name("team/app"), digest_at(&name));
    kit.run(["image", "pull", "--plain-http", "--no-unpack", &by_digest])
        .ok();
    let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
    let names: Vec<&str> = images
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&by_digest.as_str()), "{names:?}");

    // To another repository of the registry, which takes it from the first.
    let other = registry.name("other/app:v2");
    kit.run(["image", "tag", &name, &other]).ok();
    let pushed = kit.run(["image", "push", "--plain-http", &other]).ok();
    assert_eq!(digest_at(&other), digest_at(&name));
    assert!(pushed.stderr.contains("mounted"), "{pushed:?}");
    assert!(
        !pushed.stderr.contains("/s)"),
        "nothing was sent: {pushed:?}"
    );
    kit.assert_clean();
}

#[test]
fn what_skopeo_pushes_we_pull_and_the_other_way() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let source = layout(&kit);
    for (format, media_type) in [
        (
            "v2s2",
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
        ("oci", "application/vnd.oci.image.manifest.v1+json"),
    ] {
        let name = registry.name(&format!("theirs:{format}"));
        let target = format!("docker://{name}");
        skopeo(&[
            "copy",
            "--dest-tls-verify=false",
            "--format",
            format,
            &source,
            &target,
        ]);
        kit.run(["image", "pull", "--plain-http", &name]).ok();
        let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
        let found = images.as_array().unwrap().iter();
        let mut found = found.filter(|image| image["name"] == name);
        assert_eq!(found.next().unwrap()["media_type"], media_type);
        let ran = kit.run(["run", "--rm", &name, "echo", format]).ok();
        assert_eq!(ran.stdout, format!("{format}\n"));
        // Back under another name, digest for digest.
        let ours = registry.name(&format!("ours:{format}"));
        kit.run(["image", "push", "--plain-http", &name, &ours])
            .ok();
        assert_eq!(digest_at(&ours), digest_at(&name));
    }
    let out = kit.path("theirs");
    let ours = format!("docker://{}", registry.name("ours:oci"));
    let to = format!("oci:{}:x", out.display());
    skopeo(&["copy", "--src-tls-verify=false", &ours, &to]);
}

/// A layout of two platforms, `v1`, with a referrer and a cosign tag.
fn two_platforms(dir: &Path) -> String {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |data: &[u8], media_type: &str| {
        let digest = Algorithm::Sha256.digest(data);
        std::fs::write(blobs.join(digest.hex()), data).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
    };
    let json = |value: &Value, media_type: &str| put(value.to_string().as_bytes(), media_type);
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let mut children = Vec::new();
    for arch in [architecture(), "s390x"] {
        let mut layer = Layer::new();
        layer.file("arch", 0o644, arch.as_bytes());
        let layer = layer.finish();
        let config = json(
            &json!({ "architecture": arch, "os": "linux", "rootfs": { "type": "layers",
                "diff_ids": [Algorithm::Sha256.digest(&layer)] } }),
            "application/vnd.oci.image.config.v1+json",
        );
        let layer = put(&layer, "application/vnd.oci.image.layer.v1.tar");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [layer] });
        let mut child = json(&manifest, MANIFEST);
        child["platform"] = json!({ "os": "linux", "architecture": arch });
        children.push(child);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let mut index = json(&index, INDEX);
    let subject = index.clone();
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let artifact = |word: &str, subject: Option<&Value>| {
        let blob = put(word.as_bytes(), "text/plain");
        let empty = put(b"{}", "application/vnd.oci.empty.v1+json");
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "artifactType": "text/test", "config": empty, "layers": [blob] });
        if let Some(subject) = subject {
            manifest["subject"] = subject.clone();
        }
        json(&manifest, MANIFEST)
    };
    let referrer = artifact("refers", Some(&subject));
    let mut signature = artifact("signs", None);
    let hex = subject["digest"].as_str().unwrap().replace(':', "-");
    signature["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("{hex}.sig") });
    let index = json!({ "schemaVersion": 2, "manifests": [index, referrer, signature] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    subject["digest"].as_str().unwrap().to_string()
}

#[test]
fn copies_keep_digests_platforms_and_what_belongs_to_them() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let dir = kit.path("two");
    let digest = two_platforms(&dir);
    let from = format!("oci:{}:v1", dir.display());
    let (one, two) = (registry.name("one:v1"), registry.name("two:v1"));
    kit.run(["image", "copy", "--plain-http", &from, &one]).ok();
    kit.run(["image", "copy", "--plain-http", &one, &two]).ok();
    let back = kit.path("back");
    let to = format!("oci:{}", back.display());
    kit.run(["image", "copy", "--plain-http", &two, &to]).ok();
    assert_eq!(digest_at(&one), digest);
    assert_eq!(digest_at(&two), digest);
    // Whatever was in the first layout is in the last, and at both registries.
    let blobs = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir.join("blobs/sha256")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(blobs(&back), blobs(&dir));
    let index = std::fs::read_to_string(back.join("index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let mut tags: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str())
        .collect();
    tags.sort_unstable();
    let signature = format!("{}.sig", digest.replace(':', "-"));
    assert_eq!(tags, [signature.as_str(), "v1"]);
    digest_at(&registry.name(&format!("two:{signature}")));
    let listed = digest.replace(':', "-");
    digest_at(&registry.name(&format!("two:{listed}")));

    // One platform is an image of its own.
    let three = registry.name("three:v1");
    let platform = format!("linux/{}", architecture());
    let words = ["image", "copy", "--plain-http", "--platform", &platform];
    kit.run(words.into_iter().chain([one.as_str(), three.as_str()]))
        .ok();
    assert_ne!(digest_at(&three), digest);

    // A pull takes one platform, or all.
    let complete =
        |kit: &Kit| kit.run(["image", "ls", "--format", "json"]).ok().json()[0]["complete"].clone();
    kit.run(["image", "pull", "--plain-http", &two]).ok();
    assert_eq!(complete(&kit), false);
    let pushed = registry.name("four:v1");
    kit.run(["image", "push", "--plain-http", &two, &pushed])
        .ok();
    assert_eq!(digest_at(&pushed), digest_at(&three));
    kit.run(["image", "pull", "--plain-http", "--all-platforms", &two])
        .ok();
    assert_eq!(complete(&kit), true);
    kit.run(["image", "push", "--plain-http", &two, &pushed])
        .ok();
    assert_eq!(digest_at(&pushed), digest);
    kit.run([
        "image",
        "pull",
        "--plain-http",
        "--platform",
        "linux/arm",
        &two,
    ])
    .refused(1, &["no manifest for linux/arm", "linux/s390x"]);
}

#[test]
fn passwords_open_a_registry_and_are_kept_by_login() {
    let registry = RegistryServer::start(Guard::Htpasswd, Wire::Plain);
    let kit = Kit::new();
    let name = registry.name("a:v1");
    let home = kit.path("home");
    std::fs::create_dir(&home).unwrap();
    let run = |args: &[&str]| -> Ran {
        let mut command = kit.command(args);
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home);
        for name in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        Ran::new(&command.output().unwrap())
    };
    let source = layout(&kit);
    run(&["image", "copy", "--plain-http", &source, &name]).refused(1, &["401"]);
    let copy = ["image", "copy", "--plain-http", "--dest-creds", CREDS];
    run(&[&copy[..], &[&source, &name]].concat()).ok();
    let wrong = [
        "image",
        "pull",
        "--plain-http",
        "--creds",
        "user:wrong",
        &name,
    ];
    let refused = run(&wrong).refused(1, &["401"]);
    assert!(!refused.stderr.contains("wrong"), "{refused:?}");

    let login = ["login", "--plain-http", "-u", "user", "--password-stdin"];
    let login = [&login[..], &[&registry.address]].concat();
    let with_input = |input: &[u8]| {
        let mut command = kit.command(&login);
        command.env("HOME", &home).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ran::new(&child.wait_with_output().unwrap())
    };
    with_input(b"wrong\n").refused(1, &["401"]);
    assert!(!kit.root().join("auth.json").exists());
    let kept = with_input(b"secret\n").ok();
    assert!(!kept.stdout.contains("secret"), "{kept:?}");
    let file = kit.root().join("auth.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // With --root and --state nothing is written elsewhere.
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
    run(&["image", "pull", "--plain-http", "--no-unpack", &name]).ok();
    let explained = run(&["registry", "explain", "--plain-http", &name]).ok();
    assert!(explained.stdout.contains("auth.json"), "{explained:?}");
    assert!(!explained.stdout.contains("secret"), "{explained:?}");
    run(&["logout", &registry.address]).ok();
    run(&["logout", &registry.address]).refused(1, &["no credentials"]);
    run(&["image", "pull", "--plain-http", &name]).refused(1, &["401"]);

    // docker's file, podman's, and a helper.
    let auths = json!({ "auths": { &registry.address: { "auth": encoded() } } });
    for place in [".docker/config.json", ".config/containers/auth.json"] {
        let path = home.join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, auths.to_string()).unwrap();
        run(&["image", "pull", "--plain-http", "--no-unpack", &name]).ok();
        std::fs::remove_file(&path).unwrap();
    }
    let helper = home.join("docker-credential-test");
    let script = "#!/bin/sh\nread server\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    kit.configure(&format!(
        "[registry.\"{}\"]\nhelper = \"test\"\nplain_http = true\n",
        registry.address
    ));
    let path = format!("{}:{}", home.display(), std::env::var("PATH").unwrap());
    let mut command = kit.command(["image", "pull", "--no-unpack", &name]);
    command.env("HOME", &home).env("PATH", path);
    Ran::new(&command.output().unwrap()).ok();
}

#[test]
fn tokens_are_asked_for_with_credentials_once() {
    let registry = RegistryServer::start(Guard::Token, Wire::Plain);
    let kit = Kit::new();
    let name = registry.name("team/app:v1");
    let source = layout(&kit);
    kit.run(["image", "copy", "--plain-http", &source, &name])
        .refused(1, &["401"]);
    let words = ["image", "copy", "--plain-http", "--creds", CREDS, &source];
    kit.run(words.into_iter().chain([name.as_str()])).ok();
    let before = registry.tokens();
    kit.run(["image", "pull", "--plain-http", "--creds", CREDS, &name])
        .ok();
    let (asked, known) = registry.tokens();
    assert_eq!((asked - before.0, known - before.1), (1, 1));
    let ran = kit.run(["run", "--rm", &name, "echo", "ok"]).ok();
    assert_eq!(ran.stdout, "ok\n");

    // Rules of its own that do not cover the token server.
    kit.configure(&format!(
        "[registry.\"{}\"]\ntoken_realms = [\"https://auth.example\"]\n",
        registry.address
    ));
    let before = registry.tokens();
    kit.run(["image", "pull", "--plain-http", "--creds", CREDS, &name])
        .refused(1, &["401"]);
    let (asked, known) = registry.tokens();
    assert!(asked > before.0);
    assert_eq!(known, before.1);
}

#[test]
fn a_private_authority_is_trusted_where_it_is_configured() {
    let registry = RegistryServer::start(Guard::Htpasswd, Wire::Tls);
    let kit = Kit::new();
    let name = registry.name("a:v1");
    let source = layout(&kit);
    let copy = ["image", "copy", "--creds", CREDS, &source, &name];
    let refused = kit.run(copy).refused(1, &["ertificate"]);
    assert!(refused.stderr.contains("hint: "), "{refused:?}");
    kit.configure(&format!(
        "[registry.\"{}\"]\nca = {:?}\n",
        registry.address,
        registry.ca()
    ));
    kit.run(copy).ok();
    kit.run(["image", "pull", "--creds", CREDS, &name]).ok();
    let explained = kit
        .run(["registry", "explain", "--format", "json", &name])
        .ok()
        .json();
    let endpoint = &explained["endpoints"][0];
    assert_eq!(endpoint["plain_http"], false);
    assert!(endpoint["ca"].as_str().unwrap().contains("ca.crt"));
    // A certificate is for the host that it names.
    let other = name.replace("127.0.0.1", "localhost");
    kit.configure(&format!(
        "[registry.\"{}\"]\nca = {:?}\n",
        registry.address.replace("127.0.0.1", "localhost"),
        registry.ca()
    ));
    kit.run(["image", "pull", "--creds", CREDS, &other])
        .refused(1, &["ertificate"]);
}

#[test]
fn mirrors_serve_names_without_a_registry() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    copied(&kit, &registry, "library/busybox:latest");
    kit.configure(&format!(
        "[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:1\", \"http://{}\"]\n",
        registry.address
    ));
    let explained = kit.run(["registry", "explain", "busybox"]).ok();
    let lines: Vec<&str> = explained.stdout.lines().collect();
    assert_eq!(lines[1], "mirror http://127.0.0.1:1/v2/library/busybox");
    assert!(
        lines.contains(&"registry https://registry-1.docker.io/v2/library/busybox"),
        "{explained:?}"
    );
    let ran = kit.run(["run", "--rm", "busybox", "echo", "mirrored"]).ok();
    assert_eq!(ran.stdout, "mirrored\n");
    kit.assert_clean();
}

#[test]
fn run_pulls_when_it_is_told_to() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let name = copied(&kit, &registry, "a:v1");
    let run = |pull: &str| {
        let words = ["run", "--rm", "--plain-http", "--pull", pull, &name];
        kit.run(words.into_iter().chain(["cat", "/version"]))
    };
    run("never").refused(125, &["image"]);
    assert_ne!(run("missing").status, 125);
    let manifests = |kit: &Kit| digest_of(kit, &name);
    let before = manifests(&kit);
    // The tag moves: `missing` stays, `always` follows.
    let mut image = busybox();
    let mut layer = Layer::new();
    layer.file("version", 0o644, b"two\n");
    image.layers.push(layer.finish());
    let newer = kit.path("newer");
    image.write_layout(&newer);
    let from = format!("oci:{}:latest", newer.display());
    kit.run(["image", "copy", "--plain-http", &from, &name])
        .ok();
    assert_ne!(run("missing").status, 0);
    assert_eq!(manifests(&kit), before);
    assert_eq!(run("always").ok().stdout, "two\n");
    assert_ne!(manifests(&kit), before);
    drop(registry);
    assert_eq!(run("missing").ok().stdout, "two\n");
    run("always").refused(125, &["pull"]);
}

/// An image of a few megabytes that do not compress.
fn large(kit: &Kit, layers: u32, size: usize) -> String {
    let mut made = TestImage {
        layers: Vec::new(),
        config: json!({}),
    };
    for n in 0..layers {
        let mut state = n * 2 + 1;
        let data: Vec<u8> = (0..size)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let mut layer = Layer::new();
        layer.file(&format!("file{n}"), 0o644, &data);
        made.layers.push(layer.finish());
    }
    let dir = kit.path("large");
    made.write_layout(&dir);
    format!("oci:{}:latest", dir.display())
}

#[test]
fn a_killed_pull_moves_only_what_is_missing() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let size = 20 << 20;
    let source = large(&kit, 1, size);
    let name = registry.name("a:v1");
    kit.run(["image", "copy", "--plain-http", &source, &name])
        .ok();
    let wire = BreakingWire::to(&registry.address, size as u64 * 9 / 10);
    let name = format!("{}/a:v1", wire.address);
    let mut child = kit
        .command(["image", "pull", "--plain-http", &name])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    wire.wait_until_full();
    // What came is with the process, and soon in the store.
    let held = || -> u64 {
        let rows = kit
            .run(["content", "status", "--format", "json"])
            .ok()
            .json();
        let rows = rows.as_array().unwrap().clone();
        rows.iter().map(|row| row["offset"].as_u64().unwrap()).sum()
    };
    let mut before = held();
    while before < size as u64 * 8 / 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        before = held();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    wire.open();
    kit.run(["image", "pull", "--plain-http", &name]).ok();
    let moved = wire.passed();
    assert!(moved < size as u64 * 2 / 10 + 65_536, "{moved} of {size}");
    let status = kit.run(["content", "status", "--format", "json"]).ok();
    assert_eq!(status.json(), json!([]));
    kit.run(["content", "verify"]).ok();
}

#[test]
fn a_pull_killed_at_any_step_is_made_good_by_the_next() {
    let registry = RegistryServer::default();
    let first = Kit::new();
    let source = large(&first, 3, 300_000);
    let name = registry.name("a:v1");
    first
        .run(["image", "copy", "--plain-http", &source, &name])
        .ok();
    let words = ["image", "pull", "--plain-http", &name];
    for step in [
        "pull.documents-stored",
        "pull.fetched:1",
        "pull.fetched:3",
        "ingest.held:4",
        "unpack.prepared",
        "unpack.written",
    ] {
        let kit = Kit::new();
        let steps = Steps::new(kit.path("steps"));
        let killed = steps.kill(&mut kit.command(words), step);
        assert_eq!(killed.status, 137, "{step}: {killed:?}");
        let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
        assert_eq!(images, json!([]), "{step}");
        kit.run(words).ok();
        kit.run(["content", "verify"]).ok();
        let ingests = kit.run(["content", "status", "--format", "json"]).ok();
        assert_eq!(ingests.json(), json!([]), "{step}");
        let dir = kit.path("mnt");
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        kit.run(["image", "mount", &name, dir]).ok();
        for n in 0..3 {
            let file = kit.path("mnt").join(format!("file{n}"));
            assert_eq!(std::fs::metadata(file).unwrap().len(), 300_000);
        }
        kit.run(["image", "unmount", dir]).ok();
        assert_eq!(kit.leftovers(), Vec::<String>::new(), "{step}");
    }
}

#[test]
fn two_processes_fetch_each_blob_once() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let size = 3 << 20;
    let source = large(&kit, 4, size);
    let name = registry.name("a:v1");
    kit.run(["image", "copy", "--plain-http", &source, &name])
        .ok();
    let wire = BreakingWire::to(&registry.address, u64::MAX);
    let name = format!("{}/a:v1", wire.address);
    let pulls: Vec<_> = (0..3)
        .map(|_| {
            kit.command(["image", "pull", "--plain-http", &name])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for pull in pulls {
        Ran::new(&pull.wait_with_output().unwrap()).ok();
    }
    // Four blobs, which gzip makes a little larger, and not five.
    let moved = wire.passed();
    assert!(moved < (size as u64) * 9 / 2, "{moved}");
    kit.run(["content", "verify"]).ok();
}

/// A proxy that tells how often it was used.
fn proxy() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let used = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&used);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next();
                count.fetch_add(1, Ordering::Relaxed);
                let mut server = TcpStream::connect(target.unwrap()).unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let _ = std::io::copy(&mut server, &mut client);
            });
        }
    });
    (address, used)
}

#[test]
fn proxies_of_the_environment_are_used() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let name = copied(&kit, &registry, "a:v1");
    let (address, used) = proxy();
    let pull = |no_proxy: &str| {
        let mut command = kit.command(["image", "pull", "--plain-http", "--no-unpack", &name]);
        command
            .env("HTTP_PROXY", &address)
            .env("NO_PROXY", no_proxy);
        command.env_remove("http_proxy").env_remove("no_proxy");
        Ran::new(&command.output().unwrap()).ok();
        used.load(Ordering::Relaxed)
    };
    assert_eq!(pull("127.0.0.1"), 0);
    assert!(pull("") > 0);
    let mut command = kit.command(["registry", "explain", "--plain-http", &name]);
    command.env("HTTP_PROXY", "http://u:s3cret@proxy.example:3128");
    let explained = Ran::new(&command.output().unwrap()).ok();
    assert!(
        explained.stdout.contains("proxy.example:3128"),
        "{explained:?}"
    );
    assert!(!explained.stdout.contains("s3cret"), "{explained:?}");
}

#[test]
fn progress_is_lines_for_people_and_objects_for_programs() {
    let (registry, kit) = (RegistryServer::default(), Kit::new());
    let name = copied(&kit, &registry, "a:v1");
    let words = ["image", "pull", "--plain-http", "--format", "json", &name];
    let pulled = kit.run(words).ok();
    assert_eq!(pulled.json()[0]["name"], name);
    let events: Vec<Value> = pulled
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(count("downloading"), 2);
    assert_eq!(count("downloaded"), 2);
    assert_eq!(count("unpacked"), 1);
    assert!(events.iter().all(|event| event["time"].is_string()));
    let again = kit.run(["image", "pull", "--plain-http", &name]).ok();
    assert_eq!(again.stderr.matches("is there already").count(), 2);
}
