//! `snapshot migrate`: from one snapshotter to another and back, whatever is
//! killed on the way.
#![allow(clippy::unwrap_used)]

use containerkit_tests::fixtures::native;
use containerkit_tests::image::{Layer, busybox};
use containerkit_tests::kit::Kit;
use containerkit_tests::steps::Steps;
use serde_json::Value;

/// A kit with a second snapshotter, and an image of three layers, the last of
/// which takes something of the others away.
fn kit() -> Kit {
    let native = native();
    let kit = Kit::new();
    kit.configure(&format!(
        "version = 1\n[snapshotter.native]\ndriver = \"{}\"\n",
        native.display()
    ));
    let mut image = busybox();
    let mut layer = Layer::new();
    layer.dir("data", 0o2775);
    layer.file("data/setuid", 0o6711, b"rights");
    layer.file("data/goes", 0o644, b"goes");
    layer.symlink("data/link", "/nowhere");
    image.layers.push(layer.finish());
    let mut layer = Layer::new();
    layer.file("data/.wh.goes", 0o644, b"");
    layer.file("data/comes", 0o600, b"comes");
    image.layers.push(layer.finish());
    let layout = kit.path("layout");
    image.write_layout(&layout);
    kit.run(["image", "import", layout.to_str().unwrap(), "--name", "one"])
        .ok();
    kit
}

fn list(kit: &Kit, snapshotter: &str) -> Vec<(String, String)> {
    let args = [
        "snapshot",
        "--snapshotter",
        snapshotter,
        "ls",
        "--format",
        "json",
    ];
    let rows = kit.run(args).ok().json();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "key"), text(row, "kind")))
        .collect()
}

fn migrate(kit: &Kit, more: &[&str]) -> Vec<(String, String)> {
    let args = [&["snapshot", "migrate", "--format", "json"], more].concat();
    let rows = kit.run(args).ok().json();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "id"), text(row, "action")))
        .collect()
}

#[track_caller]
fn all(found: &[(String, String)], action: &str, number: usize) {
    assert_eq!(found.len(), number, "{found:#?}");
    assert!(found.iter().all(|row| row.1 == action), "{found:#?}");
}

fn snapshotter_of(kit: &Kit, name: &str) -> String {
    let rows = kit.run(["inspect", name]).ok().json();
    rows[0]["snapshotter"].as_str().unwrap().to_owned()
}

const LOOK: &str =
    "stat -c '%a %u %g %s' /data /data/setuid /data/comes; readlink /data/link; ls /data";

#[test]
fn an_image_and_its_containers_move_and_go_on() {
    let kit = kit();
    kit.run([
        "run",
        "--name",
        "ended",
        "one",
        "sh",
        "-c",
        "echo kept > /kept; rm /data/comes",
    ])
    .ok();
    kit.run(["create", "--name", "made", "one", "cat", "/data/comes"])
        .ok();
    kit.run(["run", "-d", "--name", "runs", "one", "sleep", "1000"])
        .ok();
    let seen = kit
        .run(["run", "--rm", "one", "sh", "-c", LOOK])
        .ok()
        .stdout;

    let ran = kit.run(["snapshot", "migrate", "--to", "native"]);
    let ran = ran.refused(1, &["container runs is running"]);
    assert!(ran.stdout.contains("moved"), "{ran:?}");
    assert_eq!(snapshotter_of(&kit, "runs"), "overlay");
    for name in ["ended", "made"] {
        assert_eq!(snapshotter_of(&kit, name), "native");
    }
    assert_eq!(list(&kit, "overlay").len(), 4);
    assert_eq!(list(&kit, "native").len(), 5);
    let there = kit.run([
        "run",
        "--rm",
        "--snapshotter",
        "native",
        "one",
        "sh",
        "-c",
        LOOK,
    ]);
    assert_eq!(there.ok().stdout, seen);
    let ran = kit.run(["start", "--attach", "made"]);
    assert_eq!(ran.ok().stdout, "comes");

    kit.run(["stop", "-t", "0", "runs"]).ok();
    let done = migrate(&kit, &["--to", "native", "one"]);
    assert!(
        done.iter().filter(|row| row.1 == "there").count() == 3,
        "{done:#?}"
    );
    assert!(done.iter().any(|row| row.1 == "moved"), "{done:#?}");
    all(&list(&kit, "overlay"), "committed", 3);

    // And back, with what they wrote.
    let back = migrate(&kit, &["--snapshotter", "native", "--to", "overlay"]);
    assert_eq!(
        back.iter().filter(|row| row.1 == "moved").count(),
        3,
        "{back:#?}"
    );
    all(&list(&kit, "native"), "committed", 3);
    let mount = kit.run(["snapshot", "ls"]);
    mount.ok();
    for name in ["ended", "made", "runs"] {
        assert_eq!(snapshotter_of(&kit, name), "overlay");
    }
    let ran = kit.run(["start", "--attach", "ended"]);
    assert_eq!(ran.status, 1, "rm of what is removed already: {ran:?}");
    kit.run(["delete", "ended", "made", "runs"]).ok();
    kit.run(["check"]).ok();
    kit.run(["snapshot", "migrate", "--to", "overlay"])
        .refused(1, &["migrated from"]);
    kit.run(["snapshot", "migrate", "--to", "native", "none"])
        .refused(1, &["none"]);
    kit.assert_clean();
}

#[test]
fn what_has_no_blob_is_copied_and_what_is_damaged_is_not() {
    let kit = kit();
    kit.run(["snapshot", "prepare", "work", ""])
        .refused(1, &["snapshot key"]);
    kit.run(["snapshot", "prepare", "work"]).ok();
    let own = kit.root().join("snapshotter/overlay/snapshots");
    let newest = std::fs::read_dir(own)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let newest = newest.max_by_key(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    });
    let fs = newest.unwrap().join("fs");
    std::fs::write(fs.join("a"), "by hand").unwrap();
    std::fs::hard_link(fs.join("a"), fs.join("b")).unwrap();
    kit.run(["snapshot", "commit", "by-hand", "work"]).ok();
    all(&migrate(&kit, &["--to", "native", "by-hand"]), "copied", 1);

    let image = kit.run(["image", "inspect", "one"]).ok().json();
    let top = image[0]["layers"][2]["chain_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let blob = image[0]["layers"][1]["digest"].as_str().unwrap().to_owned();
    kit.run(["content", "delete", &blob]).ok();
    let done = migrate(&kit, &["--to", "native", &top]);
    let how: Vec<&str> = done.iter().map(|row| row.1.as_str()).collect();
    assert_eq!(
        how.iter().filter(|how| **how == "copied").count(),
        1,
        "{done:#?}"
    );
    assert_eq!(
        how.iter().filter(|how| **how == "applied").count(),
        2,
        "{done:#?}"
    );
    let look = [
        "run",
        "--rm",
        "--snapshotter",
        "native",
        "one",
        "sh",
        "-c",
        LOOK,
    ];
    let there = kit.run(look).ok().stdout;
    assert_eq!(
        kit.run(["run", "--rm", "one", "sh", "-c", LOOK])
            .ok()
            .stdout,
        there
    );

    // A snapshot that is not what its layer gives.
    kit.run(["snapshot", "--snapshotter", "native", "rm", &top])
        .ok();
    let damaged = own_folder(&kit, "data/comes");
    std::fs::write(damaged.join("data/comes"), "COMES").unwrap();
    let ran = kit.run(["snapshot", "migrate", "--to", "native", &top]);
    ran.refused(1, &["not equal", "data/comes"]);
    assert!(!list(&kit, "native").iter().any(|row| row.0 == top));
    assert!(list(&kit, "native").iter().all(|row| row.1 == "committed"));
}

fn own_folder(kit: &Kit, name: &str) -> std::path::PathBuf {
    let all = kit.root().join("snapshotter/overlay/snapshots");
    let folders = std::fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fs"));
    folders
        .into_iter()
        .find(|fs| fs.join(name).is_file())
        .unwrap()
}

#[test]
fn what_is_killed_anywhere_goes_on() {
    let kit = kit();
    let steps = Steps::new(kit.path("steps"));
    kit.run([
        "run",
        "--name",
        "ended",
        "one",
        "sh",
        "-c",
        "echo kept > /kept",
    ])
    .ok();
    let there_and_back = [("overlay", "native"), ("native", "overlay")];
    for (from, to) in there_and_back {
        let mut number = 1;
        loop {
            let mut command =
                kit.command(["snapshot", "--snapshotter", from, "migrate", "--to", to]);
            let ran = steps.kill(&mut command, number);
            if ran.status != 137 {
                ran.ok();
                break;
            }
            // Whoever comes now finds whole snapshots, and the container whole.
            let ran = kit.run(["run", "--rm", "one", "cat", "/data/comes"]);
            assert_eq!(ran.ok().stdout, "comes");
            kit.run(["gc"]).ok();
            let there = list(&kit, snapshotter_of(&kit, "ended").as_str());
            assert!(there.iter().any(|row| row.1 == "active"), "{there:#?}");
            kit.run(["check"]).ok();
            number += 1 + number / 2;
        }
        assert!(number > 10, "{number}");
        assert_eq!(snapshotter_of(&kit, "ended"), to);
        kit.run(["gc"]).ok();
        all(&list(&kit, from), "committed", 3);
        assert_eq!(list(&kit, to).len(), 4);
    }
    let dir = kit.path("out");
    std::fs::create_dir(&dir).unwrap();
    kit.run(["delete", "ended"]).ok();
    kit.assert_clean();
}
