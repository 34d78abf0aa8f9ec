//! Collecting: what stays, what goes, and that nothing goes that is used, be
//! it by a process that is just about to.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use containerkit::record::{LeaseRecord, Records};
use containerkit::{Algorithm, Timestamp};
use containerkit_records::SqliteRecords;
use containerkit_tests::image::{Layer, busybox};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::steps::Steps;
use containerkit_tests::stores::{assert_accounted, assert_sound, blobs, snapshots};
use serde_json::Value;

/// An image of busybox and a layer of its own, as a layout.
fn layout(kit: &Kit, name: &str) -> PathBuf {
    let path = kit.path(&format!("{name}-layout"));
    if !path.exists() {
        let mut image = busybox();
        let mut layer = Layer::new();
        layer.file(&format!("etc/{name}"), 0o644, name.as_bytes());
        image.layers.push(layer.finish());
        image.write_layout(&path);
    }
    path
}

fn import(kit: &Kit, name: &str) -> Command {
    let path = layout(kit, name);
    kit.command(["image", "import", path.to_str().unwrap(), "--name", name])
}

fn verdicts(ran: &Ran) -> BTreeMap<(String, String), Value> {
    let rows = ran.json();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        assert!(["keep", "remove"].contains(&&*text("action")), "{row}");
        assert!(!text("reason").is_empty(), "{row}");
        assert!(row["size"].is_u64(), "{row}");
        ((text("kind"), text("id")), row.clone())
    })
    .collect()
}

fn gc(kit: &Kit, more: &[&str]) -> BTreeMap<(String, String), Value> {
    let args = [&["gc", "--format", "json"], more].concat();
    verdicts(&kit.run(&args).ok())
}

fn count(found: &BTreeMap<(String, String), Value>, action: &str) -> usize {
    found.values().filter(|row| row["action"] == action).count()
}

#[track_caller]
fn assert_whole(kit: &Kit, names: &[&str]) {
    let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
    for name in names {
        let row = images.as_array().unwrap().iter().find(|row| {
            row["name"]
                .as_str()
                .is_some_and(|found| found.contains(&format!("/{name}:")))
        });
        let row = row.unwrap_or_else(|| panic!("no {name} in {images}"));
        assert_eq!(row["complete"], true, "{row}");
        let file = format!("/etc/{name}");
        let ran = kit.run(["run", "--rm", name, "cat", &file]);
        assert_eq!(ran.ok().stdout, *name);
    }
    assert_sound(kit);
}

#[test]
fn what_no_image_needs_goes_and_everything_else_stays() {
    let kit = Kit::new();
    for name in ["one", "two"] {
        Ran::new(&import(&kit, name).output().unwrap()).ok();
    }
    let before = (blobs(&kit), snapshots(&kit));
    let all = gc(&kit, &[]);
    assert_eq!(count(&all, "remove"), 0, "{all:#?}");
    assert_eq!((blobs(&kit), snapshots(&kit)), before);

    kit.run(["image", "rm", "one"]).ok();
    let told = gc(&kit, &["--dry-run"]);
    // Manifest, config, its own layer, its own snapshot, and the layout's index
    // where that is the image.
    assert_eq!(count(&told, "remove"), 4, "{told:#?}");
    assert_eq!((blobs(&kit), snapshots(&kit)), before);
    let done = gc(&kit, &[]);
    assert_eq!(told, done);
    assert_eq!(blobs(&kit).len(), before.0.len() - 3);
    assert_eq!(snapshots(&kit).len(), 2);
    assert_whole(&kit, &["two"]);
    for ((kind, _), row) in &gc(&kit, &[]) {
        assert_eq!(row["action"], "keep", "{kind} {row}");
        assert!(
            row["reason"]
                .as_str()
                .unwrap()
                .contains("library/two:latest"),
            "{row}"
        );
    }

    kit.run(["image", "rm", "two"]).ok();
    let ran = kit.run(["gc"]).ok();
    assert!(ran.stdout.contains("objects removed"), "{ran:?}");
    assert!(blobs(&kit).is_empty() && snapshots(&kit).is_empty());
    assert_accounted(&kit);
}

#[test]
fn containers_and_mounts_keep_their_image() {
    let kit = Kit::new();
    Ran::new(&import(&kit, "one").output().unwrap()).ok();
    kit.run(["create", "--name", "made", "one", "true"]).ok();
    kit.run(["run", "-d", "--name", "runs", "one", "sleep", "1000"])
        .ok();
    let there = blobs(&kit);
    kit.run(["image", "rm", "--force", "one"]).ok();
    assert_eq!(count(&gc(&kit, &[]), "remove"), 0);
    assert_eq!(blobs(&kit), there);
    let ran = kit.run(["start", "--attach", "made"]);
    ran.ok();
    kit.run(["delete", "--force", "made", "runs"]).ok();
    let dir = kit.path("mnt");
    std::fs::create_dir(&dir).unwrap();
    Ran::new(&import(&kit, "one").output().unwrap()).ok();
    kit.run(["image", "mount", "one", dir.to_str().unwrap()])
        .ok();
    kit.run(["image", "rm", "one"]).ok();
    let left = gc(&kit, &[]);
    let mounted = dir.join("etc/one");
    assert_eq!(std::fs::read_to_string(&mounted).unwrap(), "one");
    kit.run(["image", "unmount", dir.to_str().unwrap()]).ok();
    assert_eq!(snapshots(&kit).len(), 2, "{left:#?}");
    gc(&kit, &[]);
    assert!(snapshots(&kit).is_empty());
}

#[test]
fn leases_labels_and_work_by_hand() {
    let kit = Kit::new();
    Ran::new(&import(&kit, "one").output().unwrap()).ok();
    let image = kit.run(["image", "inspect", "one"]).ok().json();
    let digest = image[0]["digest"].as_str().unwrap().to_owned();
    let top = image[0]["layers"][1]["chain_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let stray = kit.run_with_input(["content", "ingest", "--ref", "s"], b"stray");
    let stray = stray.ok().stdout.trim().to_owned();
    let labelled = kit.run_with_input(["content", "ingest", "--ref", "l"], b"labelled");
    let labelled = labelled.ok().stdout.trim().to_owned();
    kit.run(["content", "label", &labelled, "containerkit.gc.root=yes"])
        .ok();
    kit.run(["snapshot", "prepare", "by-hand", &top]).ok();
    kit.run(["image", "rm", "one"]).ok();

    let create = ["lease", "create", "--blob", &digest];
    let lease = kit.run(create).ok().stdout.trim().to_owned();
    let found = gc(&kit, &[]);
    assert_eq!(count(&found, "remove"), 1, "{found:#?}");
    assert_eq!(found[&("blob".into(), stray)]["action"], "remove");
    assert!(found.contains_key(&("lease".into(), lease.clone())));
    kit.run(["image", "ls"]).ok();

    kit.run(["lease", "rm", &lease]).ok();
    kit.run(["lease", "rm", &lease]).refused(1, &["no lease"]);
    let found = gc(&kit, &[]);
    assert_eq!(found[&("blob".into(), digest)]["action"], "remove");
    // What somebody works on stays, with what is below it.
    assert_eq!(snapshots(&kit).len(), 3, "{found:#?}");
    let below = &found[&("snapshot".into(), top.clone())]["reason"];
    assert!(below.as_str().unwrap().contains("by-hand"), "{below}");
    kit.run(["snapshot", "rm", "by-hand"]).ok();
    let lease = ["lease", "create", "--snapshot", &top, "--expires", "1h"];
    kit.run(lease).ok();
    gc(&kit, &[]);
    assert_eq!(snapshots(&kit).len(), 2);
    assert_eq!(blobs(&kit), [labelled.parse().unwrap()]);
}

fn child() -> Child {
    Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_lease_ends_by_its_time_or_with_its_process() {
    let kit = Kit::new();
    kit.run(["image", "ls"]).ok();
    let blob = kit.run_with_input(["content", "ingest", "--ref", "s"], b"kept");
    let digest = blob.ok().stdout.trim().to_owned();
    let records = SqliteRecords::open(&kit.root().join("records.db")).unwrap();
    let mut process = child();
    let mut lease = LeaseRecord {
        id: "of-a-process".parse().unwrap(),
        // Long past: a living process's work may take any time.
        expires: Some(Timestamp::from_unix_nanos(1)),
        created: Timestamp::now(),
        holder: Some(containerkit::process::ProcessIdentity::of(process.id()).unwrap()),
        blobs: vec![digest.parse().unwrap()],
        snapshots: Vec::new(),
    };
    records.put_lease(&lease).unwrap();
    assert_eq!(count(&gc(&kit, &[]), "remove"), 0);
    process.kill().unwrap();
    process.wait().unwrap();
    let told = gc(&kit, &["--dry-run"]);
    assert_eq!(count(&told, "remove"), 2, "{told:#?}");

    lease.id = "of-a-time".parse().unwrap();
    lease.holder = None;
    lease.expires = Some(Timestamp::from_unix_nanos(i64::MAX));
    records.put_lease(&lease).unwrap();
    assert_eq!(count(&gc(&kit, &[]), "remove"), 1);
    lease.expires = Some(Timestamp::now());
    records.put_lease(&lease).unwrap();
    assert_eq!(count(&gc(&kit, &[]), "remove"), 2);
    assert!(blobs(&kit).is_empty());
}

#[test]
fn ingests_that_rest_go_and_held_ones_stay() {
    let kit = Kit::new();
    let steps = Steps::new(kit.path("steps"));
    let data = kit.path("data");
    std::fs::write(&data, [7; 300_000]).unwrap();
    let ingest = |name: &str| {
        let mut command = kit.command(["content", "ingest", "--ref", name]);
        command.stdin(std::fs::File::open(&data).unwrap());
        command
    };
    let ran = steps.kill(&mut ingest("rests"), "ingest.written");
    assert_eq!(ran.status, 137);
    let held = steps.pause(&mut ingest("held"), "ingest.written");
    let resting = ("ingest".to_owned(), "rests".to_owned());
    assert_eq!(gc(&kit, &[])[&resting]["action"], "keep");
    let all = gc(&kit, &["--ingest-age", "0s"]);
    assert_eq!(all[&resting]["action"], "remove");
    assert_eq!(
        all[&("ingest".to_owned(), "held".to_owned())]["action"],
        "keep"
    );
    held.resume().ok();
    assert_eq!(blobs(&kit), [Algorithm::Sha256.digest(&[7; 300_000])]);
}

/// The collection has looked, or is about to remove, and only then an import
/// or a run comes that needs what it found to be garbage.
#[test]
fn who_comes_in_the_middle_of_a_collection_is_served() {
    for place in ["gc.listed", "gc.roots", "gc.condemned", "gc.removed"] {
        let kit = Kit::new();
        let steps = Steps::new(kit.path("steps"));
        for name in ["one", "two"] {
            Ran::new(&import(&kit, name).output().unwrap()).ok();
            kit.run(["image", "rm", name]).ok();
        }
        let paused = steps.pause(&mut kit.command(["gc"]), place);
        let one = import(&kit, "one")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if ["gc.condemned", "gc.removed"].contains(&place) {
            // It waits for the removals: nothing of it is there before.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            let records = SqliteRecords::open(&kit.root().join("records.db")).unwrap();
            while records.roots().unwrap().leases.is_empty() {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
            paused.resume().ok();
            Ran::new(&one.wait_with_output().unwrap()).ok();
        } else {
            Ran::new(&one.wait_with_output().unwrap()).ok();
            kit.run(["run", "--rm", "one", "true"]).ok();
            paused.resume().ok();
        }
        assert_whole(&kit, &["one"]);
        gc(&kit, &[]);
        assert_whole(&kit, &["one"]);
        Ran::new(&import(&kit, "two").output().unwrap()).ok();
        assert_whole(&kit, &["one", "two"]);
    }
}

/// A packed layer's digest is known when it is written and not before.
#[test]
fn a_collection_takes_nothing_from_under_a_packing() {
    let kit = Kit::new();
    let steps = Steps::new(kit.path("steps"));
    let folder = kit.path("packed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "packed").unwrap();
    // Layer, config and manifest.
    for place in ["blob.durable:1", "blob.durable:2", "blob.durable:3"] {
        std::fs::write(folder.join("file"), place).unwrap();
        let folder = folder.to_str().unwrap();
        let mut pack = kit.command(["image", "pack", "--rootfs", folder, "packed"]);
        let paused = steps.pause(&mut pack, place);
        gc(&kit, &[]);
        paused.resume().ok();
        let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
        assert_eq!(images[0]["complete"], true, "{place}: {images}");
        assert_sound(&kit);
    }
}

#[test]
fn a_collection_that_is_killed_anywhere_is_finished_by_the_next() {
    let kit = Kit::new();
    let steps = Steps::new(kit.path("steps"));
    Ran::new(&import(&kit, "stays").output().unwrap()).ok();
    let mut number = 1;
    loop {
        for name in ["one", "two"] {
            Ran::new(&import(&kit, name).output().unwrap()).ok();
            kit.run(["image", "rm", name]).ok();
        }
        let ran = steps.kill(&mut kit.command(["gc"]), number);
        if ran.status != 137 {
            ran.ok();
            break;
        }
        // Whoever comes now is not held up by the dead.
        Ran::new(&import(&kit, "one").output().unwrap()).ok();
        kit.run(["image", "rm", "one"]).ok();
        kit.run(["gc"]).ok();
        assert_eq!((blobs(&kit).len(), snapshots(&kit).len()), (4, 2));
        assert_accounted(&kit);
        // The steps in between are of one kind; each costs four imports.
        number += if number < 12 { 1 } else { 9 };
    }
    assert!(number > 30, "{number}");
    assert_whole(&kit, &["stays"]);
}

#[test]
fn an_import_or_a_run_that_is_killed_leaves_what_is_collected() {
    let kit = Kit::new();
    let steps = Steps::new(kit.path("steps"));
    Ran::new(&import(&kit, "stays").output().unwrap()).ok();
    for place in [
        "lease.taken",
        "lease.extended:5",
        "unpack.prepared",
        "unpack.written",
    ] {
        let ran = steps.kill(&mut import(&kit, "one"), place);
        assert_eq!(ran.status, 137, "{place}");
        let found = gc(&kit, &["--ingest-age", "0s"]);
        assert!(
            found
                .iter()
                .any(|((kind, _), row)| kind == "lease" && row["action"] == "remove"),
            "{place}: {found:#?}"
        );
        assert_eq!(
            (blobs(&kit).len(), snapshots(&kit).len()),
            (4, 2),
            "{place}"
        );
        assert_accounted(&kit);
    }
    let ran = steps.kill(
        &mut kit.command(["run", "--rm", "stays", "true"]),
        "container.recorded",
    );
    assert_eq!(ran.status, 137);
    gc(&kit, &[]);
    assert_whole(&kit, &["stays"]);
    assert_eq!(
        kit.run(["lease", "ls", "--format", "json"]).ok().json(),
        serde_json::json!([])
    );
}

#[test]
fn imports_and_runs_go_on_while_collections_run_in_a_loop() {
    let kit = Kit::new();
    Ran::new(&import(&kit, "stays").output().unwrap()).ok();
    for name in ["come-a", "come-b"] {
        layout(&kit, name);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds < 3 {
                kit.run(["gc"]).ok();
                rounds += 1;
            }
        });
        let comers: Vec<_> = ["come-a", "come-b"]
            .into_iter()
            .map(|name| {
                let kit = &kit;
                scope.spawn(move || {
                    for _ in 0..12 {
                        Ran::new(&import(kit, name).output().unwrap()).ok();
                        kit.run(["run", "--rm", name, "cat", &format!("/etc/{name}")])
                            .ok();
                        kit.run(["image", "rm", name]).ok();
                    }
                })
            })
            .collect();
        let runner = scope.spawn(|| {
            for _ in 0..24 {
                let ran = kit.run(["run", "--rm", "stays", "cat", "/etc/stays"]);
                assert_eq!(ran.ok().stdout, "stays");
            }
        });
        let ended: Vec<_> = comers.into_iter().map(|comer| comer.join()).collect();
        let ran = runner.join();
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        ran.unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert_whole(&kit, &["stays"]);
    kit.run(["gc"]).ok();
    assert_eq!((blobs(&kit).len(), snapshots(&kit).len()), (4, 2));
    kit.assert_clean();
    assert_accounted(&kit);
}

#[test]
fn what_a_damaged_manifest_refers_to_is_kept() {
    let kit = Kit::new();
    for name in ["one", "two"] {
        Ran::new(&import(&kit, name).output().unwrap()).ok();
    }
    let image = kit.run(["image", "inspect", "one"]).ok().json();
    let digest = image[0]["digest"].as_str().unwrap().to_owned();
    kit.run(["image", "rm", "two"]).ok();
    let blob = kit
        .root()
        .join("content/local/blobs/sha256")
        .join(&digest[7..]);
    let bytes = std::fs::read(&blob).unwrap();
    std::fs::remove_file(&blob).unwrap();
    for spoilt in [Some(vec![b'x'; bytes.len()]), None] {
        if let Some(data) = &spoilt {
            std::fs::write(&blob, data).unwrap();
        }
        let before = (blobs(&kit), snapshots(&kit));
        let found = gc(&kit, &[]);
        assert_eq!(count(&found, "remove"), 0, "{found:#?}");
        assert_eq!((blobs(&kit), snapshots(&kit)), before);
        let _ = std::fs::remove_file(&blob);
    }
    std::fs::write(&blob, bytes).unwrap();
    assert_eq!(count(&gc(&kit, &[]), "remove"), 4);
    assert_whole(&kit, &["one"]);
}

#[test]
fn prune_and_df() {
    let kit = Kit::new();
    for name in ["one", "two"] {
        Ran::new(&import(&kit, name).output().unwrap()).ok();
    }
    let touch = ["run", "--name", "ended", "--label", "a=b", "one"];
    kit.run(
        [
            &touch[..],
            &["dd", "if=/dev/zero", "of=/f", "bs=1k", "count=64"],
        ]
        .concat(),
    )
    .ok();
    kit.run(["run", "-d", "--name", "runs", "one", "sleep", "1000"])
        .ok();
    let df = || {
        let rows = kit.run(["system", "df", "--format", "json"]).ok().json();
        let rows = rows.as_array().unwrap().clone();
        let named = rows
            .into_iter()
            .map(|row| (row["type"].as_str().unwrap().to_owned(), row));
        named.collect::<BTreeMap<String, Value>>()
    };
    let before = df();
    assert_eq!(before["images"]["total"], 2);
    assert_eq!(before["images"]["active"], 1);
    assert_eq!(before["containers"]["total"], 2);
    assert_eq!(before["containers"]["active"], 1);
    assert!(
        before["containers"]["reclaimable"].as_u64().unwrap() >= 64 << 10,
        "{before:#?}"
    );
    assert!(before["images"]["reclaimable"].as_u64().unwrap() > 0);
    assert_eq!(before["blobs"]["reclaimable"], 0);
    kit.run(["system", "df"]).ok();

    kit.run(["prune", "--filter", "bad"])
        .refused(1, &["want until="]);
    kit.run(["prune", "-f", "--filter", "label=a=c"]).ok();
    kit.run(["prune", "-f", "--filter", "until=1h"]).ok();
    assert_eq!(df()["containers"]["total"], 2);
    let ran = kit.run(["prune", "--format", "json"]).ok().json();
    assert_eq!(ran["containers"].as_array().unwrap().len(), 1, "{ran}");
    assert_eq!(ran["images"], serde_json::json!([]));
    assert_eq!(df()["images"]["total"], 2);
    let ran = kit
        .run(["system", "prune", "--all", "--force", "--format", "json"])
        .ok()
        .json();
    assert_eq!(ran["images"].as_array().unwrap().len(), 1, "{ran}");
    assert!(ran["reclaimed"].as_u64().unwrap() > 0, "{ran}");
    assert_whole(&kit, &["one"]);
    kit.run(["delete", "--force", "runs"]).ok();
    kit.run(["prune", "-a"]).ok();
    assert!(blobs(&kit).is_empty() && snapshots(&kit).is_empty());
}
