//! Layouts and archives, good and hostile.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use containerkit::{Algorithm, ErrorKind};
use containerkit_image::event::ignore;
use containerkit_image::{
    ImportOptions, Limits, PlatformChoice, Role, import, is_complete, platforms, resolve,
};
use serde_json::json;
use support::images::{
    CONFIG, INDEX, Layout, MANIFEST, docker, gzip, host, layers, named, path_of, simple, zstd,
};
use support::imports::{refused, refused_layout, run};
use support::store::Memory;
use support::{Entry, assert_one_line, dir, file, link, symlink, tar};

#[test]
fn a_layout_in_every_wrapping() {
    let (layout, manifest) = simple();
    let tmp = tempfile::tempdir().unwrap();
    let folder = layout.write(&tmp.path().join("layout"));
    let tar = layout.tar();
    // Names say nothing: the first bytes do.
    for (name, data) in [
        ("a.zip", tar.clone()),
        ("b.tar", gzip(&tar)),
        ("c", zstd(&tar)),
    ] {
        fs::write(tmp.path().join(name), data).unwrap();
    }
    for path in [
        folder,
        tmp.path().join("a.zip"),
        tmp.path().join("b.tar"),
        tmp.path().join("c"),
    ] {
        let store = Memory::default();
        let imported = run(&store, &path).unwrap();
        assert_eq!(imported.len(), 1);
        assert_eq!(imported[0].name.as_deref(), Some("v1"));
        assert_eq!(imported[0].target.digest().to_string(), manifest["digest"]);
        assert_eq!(store.len(), 5, "manifest, config and three layers");
        let image = resolve(&store, &imported[0].target, &PlatformChoice::host()).unwrap();
        assert_eq!(image.layers.len(), 3);
        assert_eq!(image.layers[0].chain_id, image.layers[0].diff_id);
        assert_eq!(is_complete(&store, &imported[0].target).unwrap(), []);
        // Again, on top of itself.
        assert_eq!(run(&store, &path).unwrap(), imported);
    }
}

/// As a copy of a repository has them: by cosign's tag, and as referrers.
#[test]
fn what_belongs_to_an_image_is_told_from_it() {
    let mut layout = Layout::new();
    let image = layout.image(host(), &layers());
    let config = layout.blob(CONFIG, b"{}");
    let payload = layout.blob(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        b"payload",
    );
    let mut signature = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [payload],
    });
    let tagged = layout.json(MANIFEST, &signature);
    signature["subject"] = image.clone();
    let referrer = layout.json(MANIFEST, &signature);
    let digest = image["digest"].as_str().unwrap();
    let tag = format!("{}.sig", digest.replace(':', "-"));
    layout.index(&[named(tagged.clone(), &tag), referrer.clone(), image.clone()]);
    let tmp = tempfile::tempdir().unwrap();
    let store = Memory::default();
    let imported = run(&store, &layout.write(tmp.path())).unwrap();
    let found: Vec<_> = imported
        .iter()
        .map(|one| {
            (
                one.role,
                one.name.as_deref(),
                one.target.digest().to_string(),
            )
        })
        .collect();
    let text = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_string();
    assert_eq!(
        found,
        [
            (Role::Attached, Some(tag.as_str()), text(&tagged)),
            (Role::Attached, None, text(&referrer)),
            (Role::Image, None, text(&image)),
        ]
    );
    let stored = store.data(&Algorithm::Sha256.digest(b"payload"));
    assert_eq!(stored.as_slice(), b"payload");
    // Alone it is what there is to import.
    layout.index(&[referrer]);
    let tmp = tempfile::tempdir().unwrap();
    let mut options = ImportOptions::new(tmp.path());
    options.platform = None;
    let source = layout.write(&tmp.path().join("layout"));
    let imported = import(&store, &source, &options, &ignore).unwrap();
    assert_eq!((imported.len(), imported[0].role), (1, Role::Image));
}

#[test]
fn an_index_of_platforms_may_be_sparse() {
    let mut layout = Layout::new();
    let mut mine = layout.image(host(), &layers());
    mine["platform"] = json!({"os": "linux", "architecture": host()});
    let other = json!({"mediaType": MANIFEST, "size": 7, "digest": Algorithm::Sha256.digest(b"other").to_string(),
        "platform": {"os": "linux", "architecture": "s390x"}});
    let attestation = json!({"mediaType": MANIFEST, "size": 7, "digest": Algorithm::Sha256.digest(b"att").to_string(),
        "platform": {"os": "unknown", "architecture": "unknown"}});
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, other, mine]});
    let index = layout.json(INDEX, &index);
    let mut full = index.clone();
    full["annotations"] = json!({"io.containerd.image.name": "docker.io/library/a:b", "org.opencontainers.image.ref.name": "b"});
    layout.index(&[full]);
    let tmp = tempfile::tempdir().unwrap();
    let store = Memory::default();
    let imported = run(&store, &layout.write(tmp.path())).unwrap();
    assert_eq!(imported[0].name.as_deref(), Some("docker.io/library/a:b"));
    let target = &imported[0].target;
    assert_eq!(
        platforms(&store, target).unwrap(),
        [format!("linux/{}", host())]
    );
    assert_eq!(is_complete(&store, target).unwrap().len(), 2);
    let error = resolve(&store, target, &"linux/riscv64".parse().unwrap()).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("s390x"), "{error}");

    // What the host needs must be there.
    let mut broken = layout.clone();
    let layer = Algorithm::Sha256.digest(&layers()[1].2);
    broken.files.retain(|(path, _)| *path != path_of(&layer));
    let error = refused_layout("missing layer", &broken);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(layer.hex()), "{error}");
}

#[test]
fn the_best_variant_is_chosen() {
    let mut layout = Layout::new();
    let mut manifests = Vec::new();
    for (number, variant) in ["v1", "v3", "v2"].iter().enumerate() {
        let layer = tar(&[file("variant", variant)]);
        let mut manifest = layout.image("amd64", &[(support::images::PLAIN, layer.clone(), layer)]);
        manifest["platform"] = json!({"os": "linux", "architecture": "amd64", "variant": variant});
        manifest["annotations"] = json!({"n": number.to_string()});
        manifests.push(manifest);
    }
    let store = Memory::default();
    for (_, data) in &layout.files {
        store.put(data);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    store.put(index.as_bytes());
    let target = json!({"mediaType": INDEX, "size": index.len(), "digest": Algorithm::Sha256.digest(index.as_bytes()).to_string()});
    let target = serde_json::from_value(target).unwrap();
    for (choice, want) in [
        ("linux/amd64/v4", "v3"),
        ("linux/amd64/v2", "v2"),
        ("linux/amd64", "v1"),
    ] {
        let image = resolve(&store, &target, &choice.parse().unwrap()).unwrap();
        let platform = image.manifest_descriptor.platform().clone().unwrap();
        assert_eq!(platform.variant().as_deref(), Some(want));
    }
}

#[test]
fn hostile_layouts() {
    let (good, manifest) = simple();
    let mut cases: Vec<(&str, Layout)> = Vec::new();
    let mut case = |name: &'static str, change: &dyn Fn(&mut Layout)| {
        let mut layout = good.clone();
        change(&mut layout);
        cases.push((name, layout));
    };
    case("version 2", &|l| {
        l.set("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#)
    });
    case("no version", &|l| l.set("oci-layout", b"{}"));
    case("index is garbage", &|l| l.set("index.json", b"\x1b[31m\n"));
    case("index is deep", &|l| {
        l.set("index.json", "[".repeat(200_000).as_bytes())
    });
    case("no index", &|l| {
        l.files.retain(|(path, _)| path != "index.json")
    });
    case("empty index", &|l| l.index(&[]));
    case("index is huge", &|l| {
        l.set("index.json", &vec![b' '; 5 << 20])
    });
    case("no manifests", &|l| {
        l.set("index.json", br#"{"schemaVersion":2}"#)
    });
    case("ambiguous index", &|l| {
        l.set(
            "index.json",
            br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#,
        );
    });
    for (name, digest) in [
        ("traversal", "sha256:../../../../etc/passwd"),
        (
            "upper case",
            "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        ("unknown algorithm", "md5:00000000000000000000000000000000"),
        ("no digest", ""),
        ("sha512 of the wrong length", "sha512:00"),
    ] {
        case(name, &|l| {
            let mut manifest = manifest.clone();
            manifest["digest"] = json!(digest);
            l.index(&[manifest]);
        });
    }
    for (name, size) in [
        ("short", json!(3)),
        ("long", json!(1_000_000)),
        ("negative", json!(-1)),
        ("huge", json!(1u64 << 62)),
    ] {
        case(name, &|l| {
            let mut manifest = manifest.clone();
            manifest["size"] = size.clone();
            l.index(&[manifest]);
        });
    }
    case("type of an index on a manifest", &|l| {
        let mut manifest = manifest.clone();
        manifest["mediaType"] = json!(INDEX);
        l.index(&[manifest]);
    });
    case("a manifest that is both", &|l| {
        let both = json!({"schemaVersion": 2, "config": {}, "layers": [], "manifests": []});
        let both = l.json(MANIFEST, &both);
        l.index(&[both]);
    });
    case("changed blob", &|l| {
        let path = path_of(&Algorithm::Sha256.digest(&layers()[0].2));
        let mut data = layers()[0].2.clone();
        data[20] ^= 1;
        l.set(&path, &data);
    });
    case("longer blob", &|l| {
        let path = path_of(&Algorithm::Sha256.digest(&layers()[0].2));
        let data = [&layers()[0].2[..], b"more"].concat();
        l.set(&path, &data);
    });
    case("changed manifest", &|l| {
        let digest: containerkit::Digest = manifest["digest"].as_str().unwrap().parse().unwrap();
        let size = manifest["size"].as_u64().unwrap() as usize;
        l.set(&path_of(&digest), &vec![b' '; size]);
    });
    case("another platform only", &|l| {
        let image = l.image("s390x", &layers());
        l.index(&[image]);
    });
    case("no container image", &|l| {
        let config = l.blob("application/vnd.example+json", b"{}");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
        let manifest = l.json(MANIFEST, &manifest);
        l.index(&[manifest]);
    });
    case("fewer DiffIDs than layers", &|l| {
        let config = json!({"architecture": host(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let config = l.json(CONFIG, &config);
        let layer = l.blob(support::images::PLAIN, b"x");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let manifest = l.json(MANIFEST, &manifest);
        l.index(&[manifest]);
    });
    case("nested for ever", &|l| {
        let mut inner = manifest.clone();
        for _ in 0..10 {
            let index = json!({"schemaVersion": 2, "manifests": [inner]});
            inner = l.json(INDEX, &index);
        }
        l.index(&[inner]);
    });
    case("more manifests than anyone has", &|l| {
        let many: Vec<_> = (0..2000).map(|_| manifest.clone()).collect();
        l.index(&many);
    });
    case("schema 1", &|l| {
        let old = json!({"schemaVersion": 1, "fsLayers": [], "config": {}, "layers": []});
        let old = l.json(MANIFEST, &old);
        l.index(&[old]);
    });
    for (name, layout) in &cases {
        refused_layout(name, layout);
    }
}

/// Of all places a layout's files may point at, none is outside it.
#[test]
fn symlinks_in_a_layout_read_no_file_of_the_host() {
    let tmp = tempfile::tempdir().unwrap();
    let secret = b"secret of the host";
    fs::write(tmp.path().join("secret"), secret).unwrap();
    let digest = Algorithm::Sha256.digest(secret);
    let build = |root: &Path| {
        let mut layout = Layout::new();
        let config = json!({"architecture": host(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]}});
        let config = layout.json(CONFIG, &config);
        let layer = json!({"mediaType": support::images::PLAIN, "digest": digest.to_string(), "size": secret.len()});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let manifest = layout.json(MANIFEST, &manifest);
        layout.index(&[manifest]);
        layout.write(root)
    };
    let root = build(&tmp.path().join("one"));
    std::os::unix::fs::symlink(tmp.path().join("secret"), root.join(path_of(&digest))).unwrap();
    let error = refused("blob", &root);
    assert!(error.to_string().contains("symlink"), "{error}");

    let root = build(&tmp.path().join("two"));
    fs::rename(root.join("blobs"), tmp.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(tmp.path().join("elsewhere"), root.join("blobs")).unwrap();
    refused("folder of blobs", &root);

    let root = build(&tmp.path().join("three"));
    fs::rename(root.join("index.json"), tmp.path().join("index")).unwrap();
    std::os::unix::fs::symlink(tmp.path().join("index"), root.join("index.json")).unwrap();
    refused("index", &root);

    // Nor does a fifo or a device hold us.
    let root = build(&tmp.path().join("four"));
    let status = Command::new("mkfifo")
        .arg(root.join(path_of(&digest)))
        .status()
        .unwrap();
    assert!(status.success());
    refused("fifo", &root);
    let fifo = tmp.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    refused("fifo as archive", &fifo);
    refused("device as archive", Path::new("/dev/zero"));
    refused("nothing", &tmp.path().join("nothing"));
}

#[test]
fn docker_archives() {
    let plain: Vec<Vec<u8>> = layers().into_iter().map(|(_, plain, _)| plain).collect();
    let entries = docker(&plain, &["busybox:latest", "example.com/x:1"]);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("saved");
    for data in [tar(&entries), gzip(&tar(&entries)), zstd(&tar(&entries))] {
        fs::write(&path, data).unwrap();
        let store = Memory::default();
        let imported = run(&store, &path).unwrap();
        let names: Vec<_> = imported
            .iter()
            .map(|image| image.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["busybox:latest", "example.com/x:1"]);
        let image = resolve(&store, &imported[0].target, &PlatformChoice::host()).unwrap();
        assert_eq!(image.layers.len(), 3);
        // The config's bytes, and so the image's ID, stay.
        assert_eq!(
            format!("{}.json", image.config_descriptor.digest().digest()).into_bytes(),
            entries[0].path
        );
        assert_eq!(is_complete(&store, &imported[0].target).unwrap(), []);
    }
}

/// Old archives hold a layer once, and symlink to it where it comes again.
#[test]
fn docker_archives_with_shared_layers() {
    let layer = tar(&[file("a", "x")]);
    let mut entries = docker(&[layer.clone(), layer], &["a:1"]);
    let second = format!("{:064}/layer.tar", 1);
    let first = format!("../{:064}/layer.tar", 0);
    let index = entries
        .iter()
        .position(|e| e.path == second.as_bytes())
        .unwrap();
    entries[index] = symlink(&first, &second);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("saved");
    fs::write(&path, tar(&entries)).unwrap();
    let store = Memory::default();
    assert_eq!(run(&store, &path).unwrap().len(), 1);

    let root = format!("{:064}/layer.tar", 0);
    entries[index] = link(&root, &second);
    fs::write(&path, tar(&entries)).unwrap();
    assert_eq!(run(&store, &path).unwrap().len(), 1);

    for target in [
        "/etc/passwd",
        "../../etc/passwd",
        "../nothing",
        &format!("../{second}"),
    ] {
        entries[index] = symlink(target, &second);
        fs::write(&path, tar(&entries)).unwrap();
        refused(target, &path);
    }
    entries[index] = dir(&second, 0o755);
    fs::write(&path, tar(&entries)).unwrap();
    refused("folder", &path);
    entries[index] = Entry {
        device: (1, 3),
        ..support::entry(b'3', &second)
    };
    fs::write(&path, tar(&entries)).unwrap();
    refused("device", &path);
}

#[test]
fn docker_archives_with_compressed_layers() {
    let plain = tar(&[file("a", "x")]);
    let mut entries = docker(std::slice::from_ref(&plain), &["a:1"]);
    let stored = gzip(&plain);
    entries[2].data.clone_from(&stored);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("saved");
    fs::write(&path, tar(&entries)).unwrap();
    let store = Memory::default();
    let imported = run(&store, &path).unwrap();
    let image = resolve(&store, &imported[0].target, &PlatformChoice::host()).unwrap();
    assert_eq!(image.layers[0].digest, Algorithm::Sha256.digest(&stored));
    assert_eq!(image.layers[0].diff_id, Algorithm::Sha256.digest(&plain));
}

#[test]
fn hostile_docker_archives() {
    let layer = tar(&[file("a", "x")]);
    let good = docker(&[layer], &["a:1"]);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("saved");
    let mut manifests: Vec<String> = vec![
        "[]".into(),
        "{}".into(),
        "[".repeat(100_000),
        r#"[{"Config":"../../../etc/passwd","Layers":[]}]"#.into(),
        r#"[{"Config":"/etc/passwd","Layers":[]}]"#.into(),
        r#"[{"Config":"nothing.json","Layers":[]}]"#.into(),
        r#"[{"Config":"manifest.json","Layers":[]}]"#.into(),
        r#"[{"Config":"a\nb\u001b","Layers":[]}]"#.into(),
        r#"[{"RepoTags":["x"]}]"#.into(),
        format!("[{}]", vec![r#"{"Config":"x"}"#; 1000].join(",")),
        " ".repeat(5 << 20),
    ];
    let real = String::from_utf8(good.last().unwrap().data.clone()).unwrap();
    manifests.push(real.replace("layer.tar", "other.tar"));
    manifests.push(real.replace(r#""Layers":["#, r#""Layers":["extra","#));
    for manifest in manifests {
        let mut entries = good.clone();
        *entries.last_mut().unwrap() = file("manifest.json", &manifest);
        fs::write(&path, tar(&entries)).unwrap();
        refused(&manifest[..manifest.len().min(60)], &path);
    }
    let mut entries = good.clone();
    entries[2].data = tar(&[file("a", "another")]);
    fs::write(&path, tar(&entries)).unwrap();
    refused("a layer that is not its DiffID", &path);
}

#[test]
fn damaged_archives() {
    let (layout, _) = simple();
    let tar = layout.tar();
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("archive");
    for (name, data) in [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("zstd", zstd(&tar)),
    ] {
        for cut in [
            0,
            1,
            3,
            100,
            600,
            data.len() / 3,
            data.len() / 2,
            data.len() * 2 / 3,
        ] {
            fs::write(&path, &data[..cut]).unwrap();
            refused(&format!("{name} cut at {cut}"), &path);
        }
    }
    for data in [
        &b"not an archive"[..],
        b"PK\x03\x04",
        &[0x1f, 0x8b],
        b"\xfd7zXZ\0",
        &[0; 4096],
    ] {
        fs::write(&path, data).unwrap();
        refused("garbage", &path);
    }
    let outside = support::tar(&[file("../index.json", "{}"), file("oci-layout", "{}")]);
    fs::write(&path, outside).unwrap();
    refused("a name that leads out", &path);
}

#[test]
fn archives_expand_within_bounds() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("bomb");
    fs::write(&path, gzip(&vec![0; 32 << 20])).unwrap();
    let mut options = ImportOptions::new(tmp.path());
    options.limits = Limits {
        bytes: 4 << 20,
        ..Limits::default()
    };
    let error = import(&Memory::default(), &path, &options, &ignore).expect_err("bomb");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_one_line(&error);
}

#[test]
fn two_imports_of_one_blob() {
    let (layout, _) = simple();
    let tmp = tempfile::tempdir().unwrap();
    let path = layout.write(tmp.path());
    let store = Memory::default();
    let digest = Algorithm::Sha256.digest(&layers()[0].2);
    let name = format!("import-sha256-{}", digest.hex());
    store.held.lock().unwrap().insert(name.clone());
    // Held for good: an error that names the holder, in time.
    let mut options = ImportOptions::new(tmp.path());
    options.wait = std::time::Duration::from_millis(300);
    let error = import(&store, &path, &options, &ignore).expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("process 1"), "{error}");
    // Freed while it waits: a success.
    options.wait = std::time::Duration::from_secs(30);
    let held = store.held.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        held.lock().unwrap().remove(&name);
    });
    import(&store, &path, &options, &ignore).expect("after waiting");
    other.join().unwrap();
}

/// Two names for one manifest, and an image without a name.
#[test]
fn names_are_as_they_stand() {
    let (mut layout, manifest) = simple();
    layout.index(&[
        named(manifest.clone(), "v1"),
        named(manifest.clone(), "../x\n"),
        manifest,
    ]);
    let tmp = tempfile::tempdir().unwrap();
    let imported = run(&Memory::default(), &layout.write(tmp.path())).unwrap();
    let names: Vec<_> = imported.iter().map(|image| image.name.as_deref()).collect();
    assert_eq!(names, [Some("v1"), Some("../x\n"), None]);
}

#[test]
fn a_docker_folder_that_climbs_is_told_so() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("canary")).unwrap();
    fs::write(tmp.path().join("canary/f"), "{}").unwrap();
    let folder = tmp.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    for name in ["../../canary/f", "/etc/hostname"] {
        let manifest = json!([{"Config": name, "RepoTags": ["a:b"], "Layers": []}]);
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        let error = refused(name, &folder);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        let text = error.to_string();
        assert!(text.contains("leads out of the archive"), "{text}");
        assert!(text.contains(name) && !text.contains("os error"), "{text}");
    }
}

#[test]
fn too_many_layers_are_refused_before_any_is_stored() {
    let stored = |path: &Path| {
        let store = Memory::default();
        let error = run(&store, path).expect_err("501 layers");
        assert!(
            error.to_string().contains("501 layers, more than the 500"),
            "{error}"
        );
        store.blobs.lock().unwrap().len()
    };
    let tmp = tempfile::tempdir().unwrap();
    let layer = tar(&[file("f", "x")]);
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let mut layout = Layout::new();
    let layers = vec![(media_type, layer.clone(), layer.clone()); 501];
    let image = layout.image(host(), &layers);
    layout.index(&[named(image, "many")]);
    assert_eq!(stored(&layout.write(tmp.path())), 0);
    let archive = tmp.path().join("docker.tar");
    fs::write(&archive, tar(&docker(&vec![layer; 501], &["many:1"]))).unwrap();
    assert_eq!(stored(&archive), 0);
}
