//! `check`: damage of every kind is told and mended as far as it can be, and a
//! healthy host, however busy, has none.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use containerkit_tests::image::{Layer, TestImage, busybox};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::steps::Steps;
use containerkit_tests::stores::{assert_sound, blobs, snapshots};
use serde_json::Value;

fn image() -> TestImage {
    let mut image = busybox();
    let mut layer = Layer::new();
    layer.dir("data", 0o755);
    layer.file("data/file", 0o640, b"of the second layer");
    layer.symlink("data/link", "file");
    // Its folders have no entry: what unpacking makes of them is the same
    // each time.
    layer.file("untold/folder/file", 0o644, b"");
    image.layers.push(layer.finish());
    image
}

fn layout(kit: &Kit) -> String {
    let path = kit.path("layout");
    if !path.exists() {
        image().write_layout(&path);
    }
    path.to_str().unwrap().to_owned()
}

fn import(kit: &Kit) {
    kit.run(["image", "import", &layout(kit), "--name", "one"])
        .ok();
}

fn kit() -> Kit {
    let kit = Kit::new();
    import(&kit);
    kit
}

/// What `check` tells; it fails exactly when there is damage.
#[track_caller]
fn check(kit: &Kit, more: &[&str]) -> Vec<Value> {
    let ran = kit.run([&["check", "--format", "json"], more].concat());
    let found = ran.json().as_array().unwrap().clone();
    let damage = found
        .iter()
        .filter(|row| row["state"] != "leftover" && row["repaired"].is_null())
        .count();
    if damage == 0 {
        ran.ok();
    } else {
        // Between events of progress.
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains("error: ") && ran.stderr.contains("damaged or incomplete"));
    }
    found
}

#[track_caller]
fn healthy(kit: &Kit) {
    let found = check(kit, &[]);
    assert!(found.is_empty(), "{found:#?}");
    kit.run(["image", "check", "one"]).ok();
    let ran = kit.run(["run", "--rm", "one", "cat", "/data/file"]);
    assert_eq!(ran.ok().stdout, "of the second layer");
    assert_sound(kit);
}

fn blob(kit: &Kit, digest: &str) -> PathBuf {
    kit.root()
        .join("content/local/blobs/sha256")
        .join(&digest[7..])
}

fn inspect(kit: &Kit) -> Value {
    kit.run(["image", "inspect", "one"]).ok().json()[0].clone()
}

fn digests(kit: &Kit) -> Vec<String> {
    let image = inspect(kit);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vec![
        text(&image["digest"]),
        text(&image["config_digest"]),
        text(&image["layers"][0]["digest"]),
        text(&image["layers"][1]["digest"]),
    ]
}

/// The folder of the snapshot of a layer, by its number from 0.
fn folder(kit: &Kit, name: &str) -> PathBuf {
    let all = kit.root().join("snapshotter/overlay/snapshots");
    let found = std::fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fs"));
    let mut found: Vec<PathBuf> = found.filter(|fs| fs.join(name).exists()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_healthy_host_has_no_damage_however_busy_it_is() {
    let kit = kit();
    kit.run(["run", "-d", "--name", "runs", "one", "sleep", "1000"])
        .ok();
    kit.run(["create", "--name", "made", "one", "true"]).ok();
    kit.run(["run", "--name", "ended", "one", "touch", "/data/more"])
        .ok();
    let dir = kit.path("mnt");
    std::fs::create_dir(&dir).unwrap();
    kit.run(["image", "mount", "one", dir.to_str().unwrap()])
        .ok();
    healthy(&kit);

    // An ingest that can be gone on with, and one under way.
    let data = kit.path("data");
    std::fs::write(&data, [7; 300_000]).unwrap();
    let steps = Steps::new(kit.path("steps"));
    let ingest = |name: &str| {
        let mut command = kit.command(["content", "ingest", "--ref", name]);
        command.stdin(std::fs::File::open(&data).unwrap());
        command
    };
    assert_eq!(
        steps.kill(&mut ingest("rests"), "ingest.written").status,
        137
    );
    let held = steps.pause(&mut ingest("held"), "ingest.written");
    let found = check(&kit, &[]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (&found[0]["kind"], &found[0]["state"]),
        (&"ingest".into(), &"leftover".into())
    );
    held.resume().ok();
    kit.run(["content", "abort", "rests"]).ok();

    // Imports, runs and collections go on at the same time.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let other = kit.path("other");
            let mut image = image();
            let mut layer = Layer::new();
            layer.file("other", 0o644, b"other");
            image.layers.push(layer.finish());
            image.write_layout(&other);
            while !done.load(Ordering::Relaxed) {
                kit.run([
                    "image",
                    "import",
                    other.to_str().unwrap(),
                    "--name",
                    "other",
                ])
                .ok();
                kit.run(["run", "--rm", "other", "true"]).ok();
                kit.run(["image", "rm", "other"]).ok();
                kit.run(["gc"]).ok();
            }
        });
        let checks = scope.spawn(|| {
            for _ in 0..8 {
                let found = check(&kit, &[]);
                let damage = found.iter().find(|row| row["state"] != "leftover");
                assert_eq!(damage, None);
            }
        });
        let ended = checks.join();
        done.store(true, Ordering::Relaxed);
        others.join().unwrap();
        ended.unwrap();
    });
    kit.run(["image", "unmount", dir.to_str().unwrap()]).ok();
    kit.run(["delete", "--force", "runs", "made", "ended"]).ok();
}

#[test]
fn what_a_killed_command_left_is_told_and_no_damage() {
    let kit = kit();
    let steps = Steps::new(kit.path("steps"));
    kit.run(["image", "rm", "one"]).ok();
    kit.run(["gc"]).ok();
    let import = ["image", "import", &layout(&kit), "--name", "one"];
    let ran = steps.kill(&mut kit.command(import), "unpack.written");
    assert_eq!(ran.status, 137);
    let found = check(&kit, &[]);
    let kinds: Vec<&str> = found
        .iter()
        .map(|row| row["kind"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"lease") && kinds.contains(&"snapshot"),
        "{found:#?}"
    );
    kit.run(["gc"]).ok();
    assert_eq!(check(&kit, &[]), Vec::<Value>::new());
}

#[test]
fn blobs_on_disk_that_are_flipped_cut_symlinked_or_gone() {
    let kit = kit();
    type Spoil<'a> = (&'static str, &'a dyn Fn(&PathBuf, &[u8]));
    let spoil: [Spoil<'_>; 5] = [
        ("flip", &|path, data| {
            let mut data = data.to_vec();
            let middle = data.len() / 2;
            data[middle] ^= 1;
            std::fs::write(path, data).unwrap();
        }),
        ("cut", &|path, data| {
            std::fs::write(path, &data[..data.len() / 2]).unwrap()
        }),
        ("empty", &|path, _| std::fs::write(path, "").unwrap()),
        ("symlink", &|path, _| {
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap()
        }),
        ("gone", &|_, _| {}),
    ];
    for digest in digests(&kit) {
        for (name, spoil) in &spoil {
            let path = blob(&kit, &digest);
            let data = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            spoil(&path, &data);
            let found = check(&kit, &[]);
            let what = |row: &Value| row.to_string().contains(&digest);
            assert!(found.iter().any(what), "{name} {digest}: {found:#?}");
            let of_image = ["image", "check", "one"];
            kit.run(of_image).refused(1, &["damaged or incomplete"]);

            let found = check(&kit, &["--repair"]);
            let image = found.iter().find(|row| row["kind"] == "image");
            let image = image.unwrap_or_else(|| panic!("{name} {digest}: {found:#?}"));
            assert_eq!(image["state"], "incomplete", "{name} {digest}: {found:#?}");
            let mend = image["mend"].as_str().unwrap();
            assert!(
                mend.contains("image pull docker.io/library/one:latest"),
                "{mend}"
            );
            assert!(!path.exists() && path.symlink_metadata().is_err());
            let rows = kit.run(["image", "ls", "--format", "json"]).ok().json();
            assert_eq!(rows[0]["complete"], false, "{rows}");
            assert_eq!(std::fs::read_link("/etc/passwd").ok(), None);

            import(&kit);
            healthy(&kit);
        }
    }
}

#[test]
fn files_of_a_snapshot_that_are_changed() {
    let kit = kit();
    type Spoil<'a> = (&'static str, &'a dyn Fn(&PathBuf));
    let spoil: [Spoil<'_>; 6] = [
        ("data/file", &|fs| {
            std::fs::write(fs.join("data/file"), "OF the second layer").unwrap()
        }),
        ("data/file", &|fs| {
            std::fs::write(fs.join("data/file"), "").unwrap()
        }),
        ("data/file", &|fs| {
            std::fs::remove_file(fs.join("data/file")).unwrap()
        }),
        ("data/file", &|fs| {
            std::fs::remove_file(fs.join("data/file")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", fs.join("data/file")).unwrap();
        }),
        ("bin/busybox", &|fs| {
            std::fs::File::options()
                .write(true)
                .open(fs.join("bin/busybox"))
                .unwrap()
                .set_len(1000)
                .unwrap();
        }),
        ("data/file", &|fs| {
            std::fs::remove_dir_all(fs.parent().unwrap()).unwrap()
        }),
    ];
    for (number, (name, spoil)) in spoil.iter().enumerate() {
        spoil(&folder(&kit, name));
        let found = check(&kit, &[]);
        assert_eq!(found.len(), 1, "{number}: {found:#?}");
        assert_eq!(found[0]["kind"], "snapshot");
        let found = check(&kit, &["--repair"]);
        assert_eq!(
            found[0]["repaired"], "unpacked again",
            "{number}: {found:#?}"
        );
        healthy(&kit);
    }
}

#[test]
fn a_container_on_damaged_layers_is_not_touched() {
    let kit = kit();
    kit.run(["create", "--name", "made", "one", "true"]).ok();
    std::fs::write(folder(&kit, "data/file").join("data/file"), "else").unwrap();
    let before = snapshots(&kit);
    let found = check(&kit, &["--repair"]);
    let mend = found[0]["mend"].as_str().unwrap();
    assert!(mend.contains("containerkit delete --force"), "{found:#?}");
    assert_eq!(snapshots(&kit), before);
    kit.run(["delete", "made"]).ok();
    assert_eq!(check(&kit, &["--repair"])[0]["repaired"], "unpacked again");
    healthy(&kit);
}

#[test]
fn a_record_database_that_is_cut_or_noise() {
    for noise in [false, true] {
        let kit = kit();
        kit.run(["create", "--name", "made", "one", "true"]).ok();
        let path = kit.root().join("records.db");
        let data = std::fs::read(&path).unwrap();
        let bytes: Vec<u8> = match noise {
            true => (0..data.len()).map(|n| (n * 7919 % 251) as u8).collect(),
            false => data[..data.len() / 2].to_vec(),
        };
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(kit.root().join(format!("records.db{end}")));
        }
        std::fs::write(&path, &bytes).unwrap();
        kit.run(["image", "ls"]).refused(1, &["records.db"]);
        kit.run(["run", "--rm", "one", "true"])
            .refused(125, &["records.db"]);
        let found = check(&kit, &[]);
        assert_eq!(found[0]["kind"], "records", "{found:#?}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);

        let found = check(&kit, &["--repair"]);
        let done = found[0]["repaired"].as_str().unwrap();
        assert!(done.contains("put aside"), "{found:#?}");
        // Of the container that is forgotten.
        kit.run(["gc"]).ok();
        import(&kit);
        healthy(&kit);
    }
}

#[test]
fn a_snapshotters_database_that_is_cut_or_noise() {
    for noise in [false, true] {
        let kit = kit();
        kit.run(["run", "-d", "--name", "runs", "one", "sleep", "1000"])
            .ok();
        let folder = kit.root().join("snapshotter/overlay");
        let path = folder.join("metadata.db");
        let data = std::fs::read(&path).unwrap();
        let bytes: Vec<u8> = match noise {
            true => (0..data.len().max(8192))
                .map(|n| (n * 7919 % 251) as u8)
                .collect(),
            false => data[..data.len() / 2 + 100].to_vec(),
        };
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.join(format!("metadata.db{end}")));
        }
        std::fs::write(&path, &bytes).unwrap();
        kit.run(["snapshot", "ls"]).refused(1, &["metadata.db"]);
        kit.run(["run", "--rm", "one", "true"])
            .refused(125, &["metadata.db"]);
        let found = check(&kit, &[]);
        assert_eq!(found[0]["kind"], "store", "{found:#?}");

        // Not under a running container.
        let found = check(&kit, &["--repair"]);
        let mend = found[0]["mend"].as_str().unwrap();
        assert!(mend.contains("containerkit stop runs"), "{found:#?}");
        kit.run(["stop", "-t", "0", "runs"]).ok();
        let found = check(&kit, &["--repair"]);
        let done = found[0]["repaired"].as_str().unwrap();
        assert!(done.contains("put aside"), "{found:#?}");
        let lost = found.iter().find(|row| row["kind"] == "container").unwrap();
        assert_eq!(lost["state"], "damaged", "{lost}");
        kit.run(["delete", "--force", "runs"]).ok();
        healthy(&kit);
        assert_eq!(snapshots(&kit).len(), 2);
    }
}

#[test]
fn a_killed_repair_is_finished_by_the_next() {
    let kit = kit();
    let steps = Steps::new(kit.path("steps"));
    let mut number = 1;
    loop {
        std::fs::write(folder(&kit, "data/file").join("data/file"), "else").unwrap();
        let path = blob(&kit, &digests(&kit)[3]);
        let data = std::fs::read(&path).unwrap();
        let mut repair = kit.command(["check", "--repair"]);
        repair.stdout(Stdio::null());
        let ran = steps.kill(&mut repair, number);
        let ended = ran.status != 137;
        if !ended {
            check(&kit, &["--repair"]);
        }
        assert_eq!(std::fs::read(&path).unwrap(), data);
        kit.run(["image", "unpack", "one"]).ok();
        kit.run(["gc"]).ok();
        healthy(&kit);
        if ended {
            ran.ok();
            break;
        }
        number += 1 + number / 4;
    }
    assert!(number > 10, "{number}");
}

#[test]
fn a_stray_blob_and_layers_of_another_image_are_checked_too() {
    let kit = kit();
    let stray = kit.run_with_input(["content", "ingest", "--ref", "s"], b"stray");
    let stray = stray.ok().stdout.trim().to_owned();
    std::fs::remove_file(blob(&kit, &stray)).unwrap();
    std::fs::write(blob(&kit, &stray), "STRAY").unwrap();
    let found = check(&kit, &[]);
    assert_eq!(found.len(), 1, "{found:#?}");
    // An image that has nothing to do with it is whole.
    kit.run(["image", "check", "one"]).ok();
    kit.run(["image", "check", "--repair"]).ok();
    kit.run(["image", "check", "none"]).refused(1, &["none"]);
    assert_eq!(check(&kit, &["--repair"])[0]["repaired"], "dropped");
    assert_eq!(blobs(&kit).len(), 4);
    healthy(&kit);
    let _ = Ran::new(&kit.command(["check"]).output().unwrap()).ok();
}
