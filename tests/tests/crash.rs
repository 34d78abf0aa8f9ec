//! SIGKILL at every step of what changes a store, and at any moment: the next
//! command repairs, and nothing is left that is not told of.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerkit::fs::Root;
use containerkit::snapshot::{CommitOptions, SnapshotKind};
use containerkit::{
    Algorithm, ContentStore, ErrorKind, LabelChanges, Labels, Snapshotter, content, mounter,
};
use containerkit_tests::fixtures::checkout;
use containerkit_tests::image::{Layer, TestImage};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::steps::Steps;
use containerkit_tests::stores::{
    self, assert_accounted, assert_sound, blobs, key, snapshots, snapshotter,
};
use serde_json::json;

#[path = "crash/random.rs"]
mod random;

/// One operation, killed at each of its steps.
struct Operation<'a> {
    kit: &'a Kit,
    args: Vec<&'a str>,
    stdin: Option<&'a Path>,
    /// Before each kill.
    before: &'a dyn Fn(),
    /// After each kill.
    killed: &'a dyn Fn(),
    /// What the repeated command may say when the killed one had done it all.
    done: Option<&'a str>,
    /// After the repeated command: whether it happened, whole.
    after: &'a dyn Fn(),
}

impl<'a> Operation<'a> {
    fn new(kit: &'a Kit, args: &[&'a str], after: &'a dyn Fn()) -> Operation<'a> {
        Operation {
            kit,
            args: args.to_vec(),
            stdin: None,
            before: &|| {},
            killed: &|| {},
            done: None,
            after,
        }
    }

    fn command(&self) -> Command {
        let mut command = self.kit.command(&self.args);
        if let Some(path) = self.stdin {
            command.stdin(File::open(path).unwrap());
        }
        command
    }

    fn run(&self) -> Ran {
        Ran::new(&self.command().output().unwrap())
    }

    /// Kills it at step 1, 2, 3, … until it ends by itself, which must be
    /// after the steps `through`, in this order.
    #[track_caller]
    fn kill_everywhere(&self, through: &[&str]) {
        let mut number = 1;
        while self.kill_at(number, through) {
            number += 1;
        }
    }

    /// Kills it at one step, and says whether it has that many.
    #[track_caller]
    fn kill_at(&self, number: usize, through: &[&str]) -> bool {
        let steps = Steps::new(self.kit.path("steps"));
        (self.before)();
        let ran = steps.kill(&mut self.command(), number);
        let reached = steps.reached();
        if ran.status != 137 {
            ran.ok();
            assert!(reached.len() < number, "{reached:#?}");
            let mut names = reached.iter().map(|step| step.name.as_str());
            for step in through {
                assert!(names.any(|name| name == *step), "{step} in {reached:#?}");
            }
            (self.after)();
            assert_accounted(self.kit);
            return false;
        }
        // Told when the test fails.
        println!("{:?} killed at {:?}", self.args, reached.last());
        (self.killed)();
        let again = self.run();
        match self.done {
            Some(word) if again.status != 0 => again.refused(1, &[word]),
            _ => again.ok(),
        };
        (self.after)();
        assert_accounted(self.kit);
        true
    }
}

/// An operation that begins with no root at all, each time.
fn kill_everywhere_on_new_roots(
    args: &[&str],
    input: &[u8],
    through: &[&str],
    after: &dyn Fn(&Kit),
) {
    let mut number = 1;
    loop {
        let kit = Kit::new();
        let (input, _) = write(&kit, "input", input);
        let after = || after(&kit);
        let operation = Operation {
            stdin: Some(&input),
            killed: &|| assert_sound(&kit),
            done: Some("exists"),
            ..Operation::new(&kit, args, &after)
        };
        if !operation.kill_at(number, through) {
            return;
        }
        number += 1;
    }
}

fn write(kit: &Kit, name: &str, data: &[u8]) -> (PathBuf, String) {
    let path = kit.path(name);
    std::fs::write(&path, data).unwrap();
    (path, Algorithm::Sha256.digest(data).to_string())
}

fn blob(kit: &Kit, digest: &str) -> Option<Vec<u8>> {
    content::read_blob(&stores::content(kit), &digest.parse().unwrap(), 1 << 30).ok()
}

/// What a snapshot holds under this name, seen through a mount.
fn file(kit: &Kit, snapshot: &str, name: &str) -> Option<String> {
    let mounts = snapshotter(kit).mounts(&key(snapshot)).unwrap();
    let tree = mounter::mount_detached(&mounts).unwrap();
    let data = Root::from_fd(tree).read(name, 1 << 20).ok()?;
    Some(String::from_utf8(data).unwrap())
}

/// Writes into an active snapshot's own folder.
fn write_into(kit: &Kit, snapshot: &str, name: &str, data: &str) {
    let upper = snapshotter(kit).upper(&key(snapshot)).unwrap();
    std::fs::write(upper.join(name), data).unwrap();
}

fn view(kit: &Kit, snapshot: &str, parent: &str) {
    let none = Labels::new();
    snapshotter(kit)
        .view(&key(snapshot), Some(&key(parent)), &none)
        .unwrap();
}

/// Removes a snapshot if it is there.
fn remove(kit: &Kit, snapshot: &str) {
    match snapshotter(kit).remove(&key(snapshot)) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}

fn kind(kit: &Kit, snapshot: &str) -> Option<SnapshotKind> {
    snapshotter(kit)
        .stat(&key(snapshot))
        .ok()
        .map(|info| info.kind)
}

// ---- content -----------------------------------------------------------------

const COMMIT: &[&str] = &[
    "ingest.held",
    "ingest.write",
    "ingest.written",
    "blob.sealed",
    "blob.rename",
    "blob.renamed",
    "blob.durable",
    "aside.rename",
    "aside.removed",
];

#[test]
fn ingest_into_a_new_store() {
    let mut through = vec!["store.folders", "small.rename", "small.renamed"];
    through.extend(COMMIT);
    let digest = Algorithm::Sha256.digest(b"first of all").to_string();
    let args = ["content", "ingest", "--ref", "first"];
    kill_everywhere_on_new_roots(&args, b"first of all", &through, &|kit| {
        assert_eq!(blob(kit, &digest).unwrap(), b"first of all");
    });
}

#[test]
fn ingest_abort_label_and_delete() {
    let kit = Kit::new();
    let (data, digest) = write(&kit, "data", &[7; 300_000]);
    let ingest = ["content", "ingest", "--ref", "r"];
    let whole = || assert_eq!(blob(&kit, &digest).unwrap(), [7; 300_000]);
    let put = Operation {
        stdin: Some(&data),
        ..Operation::new(&kit, &ingest, &whole)
    };
    let gone = || {
        let _ = stores::content(&kit).delete(&digest.parse().unwrap());
        assert_eq!(blob(&kit, &digest), None);
    };
    let sound = || assert_sound(&kit);
    let mut expecting = ingest.to_vec();
    expecting.extend(["--size", "300000", "--digest", &digest]);
    for args in [&ingest[..], &expecting] {
        Operation {
            stdin: Some(&data),
            before: &gone,
            killed: &sound,
            ..Operation::new(&kit, args, &whole)
        }
        .kill_everywhere(COMMIT);
    }
    // Over bytes that rotted.
    let stored = kit
        .root()
        .join("content/local/blobs/sha256")
        .join(&digest[7..]);
    let spoil = || {
        let _ = std::fs::remove_file(&stored);
        std::fs::write(&stored, [8; 300_000]).unwrap();
    };
    Operation {
        stdin: Some(&data),
        before: &spoil,
        ..Operation::new(&kit, &expecting, &whole)
    }
    .kill_everywhere(COMMIT);

    let store = || {
        let expected = content::Expected::default();
        let name = "again".parse().unwrap();
        let bytes = vec![7; 300_000];
        let info = content::ingest(
            &stores::content(&kit),
            &name,
            &expected,
            &Labels::new(),
            &mut &bytes[..],
        );
        info.unwrap()
    };
    let labelled = || {
        let changes = LabelChanges {
            replace_all: true,
            set: [("a".to_owned(), Some("1".to_owned()))].into(),
        };
        stores::content(&kit)
            .update(&store().digest, &changes)
            .unwrap();
    };
    let label = ["content", "label", &digest, "a=2", "c=3"];
    let labels = |want: serde_json::Value| {
        let info = stores::content(&kit)
            .info(&digest.parse().unwrap())
            .unwrap();
        assert_eq!(json!(info.labels), want);
        gone();
    };
    let relabelled = || labels(json!({ "a": "2", "c": "3" }));
    Operation {
        before: &labelled,
        killed: &sound,
        ..Operation::new(&kit, &label, &relabelled)
    }
    .kill_everywhere(&["small.created", "small.rename", "small.renamed"]);

    let unlabelled = || {
        store();
        labels(json!({}));
    };
    Operation {
        before: &labelled,
        killed: &sound,
        done: Some("there is none"),
        ..Operation::new(&kit, &["content", "delete", &digest], &unlabelled)
    }
    .kill_everywhere(&["blob.unlink", "blob.unlinked", "labels.removed"]);

    let steps = Steps::new(kit.path("half-steps"));
    let half = || {
        let ran = steps.kill(&mut put.command(), "ingest.written");
        assert_eq!(ran.status, 137);
        let status = stores::content(&kit).status(&"r".parse().unwrap()).unwrap();
        assert_eq!((status.offset, status.holder), (300_000, None));
    };
    let none = || assert_eq!(stores::content(&kit).list_statuses().unwrap(), []);
    Operation {
        before: &half,
        killed: &sound,
        done: Some("there is none"),
        ..Operation::new(&kit, &["content", "abort", "r"], &none)
    }
    .kill_everywhere(&[
        "lock.held",
        "aside.rename",
        "aside.renamed",
        "aside.removed",
    ]);
}

#[test]
fn a_killed_ingest_goes_on_where_it_was() {
    let kit = Kit::new();
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let (path, digest) = write(&kit, "data", &data);
    let steps = Steps::new(kit.path("steps"));
    let ingest = || {
        let mut command = kit.command(["content", "ingest", "--ref", "r", "--digest", &digest]);
        command.stdin(File::open(&path).unwrap());
        command
    };
    for (part, held) in [(1u64, 1 << 20), (2, 3 << 20)] {
        let ran = steps.kill(&mut ingest(), format!("ingest.written:{part}"));
        assert_eq!(ran.status, 137);
        let status = kit
            .run(["content", "status", "--format", "json"])
            .ok()
            .json();
        assert_eq!(status[0]["offset"], held, "{status}");
        assert_eq!(status[0]["holder"], json!(null));
    }
    let (ran, reached) = steps.count(&mut ingest());
    ran.ok();
    let written = reached.iter().filter(|step| step.name == "ingest.written");
    assert_eq!(written.count(), 2, "only what was missing is written");
    assert_eq!(blob(&kit, &digest).unwrap(), data);
    assert_accounted(&kit);
}

// ---- snapshots ----------------------------------------------------------------

const MAKE: &[&str] = &[
    "snapshot.folder",
    "snapshot.fs",
    "snapshot.work",
    "db.commit",
    "db.committed",
];

#[test]
fn prepare_in_a_new_root() {
    let mut through = vec!["db.file", "db.wal"];
    through.extend(MAKE);
    let args = ["snapshot", "prepare", "a"];
    kill_everywhere_on_new_roots(&args, b"", &through, &|kit| {
        write_into(kit, "a", "file", "text");
        assert_eq!(file(kit, "a", "file").unwrap(), "text");
    });
}

#[test]
fn prepare_view_commit_label_and_remove() {
    let kit = Kit::new();
    kit.run(["snapshot", "prepare", "base-active"]).ok();
    write_into(&kit, "base-active", "below", "base");
    kit.run(["snapshot", "commit", "base", "base-active"]).ok();
    let sound = || assert_sound(&kit);
    let nothing = || ["c", "x"].into_iter().for_each(|key| remove(&kit, key));

    for (method, want) in [
        ("prepare", SnapshotKind::Active),
        ("view", SnapshotKind::View),
    ] {
        let made = || {
            assert_eq!(kind(&kit, "x"), Some(want));
            assert_eq!(file(&kit, "x", "below").unwrap(), "base");
        };
        Operation {
            before: &nothing,
            killed: &sound,
            done: Some("exists"),
            ..Operation::new(&kit, &["snapshot", method, "x", "base"], &made)
        }
        .kill_everywhere(MAKE);

        let there = || {
            if kind(&kit, "x").is_none() {
                kit.run(["snapshot", method, "x", "base"]).ok();
            }
        };
        Operation {
            before: &there,
            killed: &sound,
            done: Some("does not exist"),
            ..Operation::new(&kit, &["snapshot", "rm", "x"], &|| {
                assert_eq!(kind(&kit, "x"), None)
            })
        }
        .kill_everywhere(REMOVE);
    }

    let filled = || {
        nothing();
        let overlay = snapshotter(&kit);
        overlay
            .prepare(&key("x"), Some(&key("base")), &Labels::new())
            .unwrap();
        write_into(&kit, "x", "above", "new");
    };
    let committed = || {
        assert_eq!(kind(&kit, "x"), None);
        assert_eq!(kind(&kit, "c"), Some(SnapshotKind::Committed));
        view(&kit, "look", "c");
        assert_eq!(file(&kit, "look", "below").unwrap(), "base");
        assert_eq!(file(&kit, "look", "above").unwrap(), "new");
        remove(&kit, "look");
    };
    Operation {
        before: &filled,
        killed: &sound,
        done: Some("does not exist"),
        ..Operation::new(&kit, &["snapshot", "commit", "c", "x"], &committed)
    }
    .kill_everywhere(&[
        "snapshot.sync",
        "db.commit",
        "db.committed",
        "aside.renamed",
    ]);

    let labelled = || {
        let clear = LabelChanges {
            replace_all: true,
            set: [].into(),
        };
        let overlay = snapshotter(&kit);
        assert_eq!(
            json!(overlay.stat(&key("base")).unwrap().labels),
            json!({ "a": "1" })
        );
        overlay.update(&key("base"), &clear).unwrap();
    };
    Operation {
        before: &nothing,
        killed: &sound,
        ..Operation::new(&kit, &["snapshot", "label", "base", "a=1"], &labelled)
    }
    .kill_everywhere(&["db.commit", "db.committed"]);

    let there = || {
        filled();
        let options = CommitOptions::default();
        snapshotter(&kit)
            .commit(&key("c"), &key("x"), &options)
            .unwrap();
    };
    Operation {
        before: &there,
        killed: &sound,
        done: Some("does not exist"),
        ..Operation::new(&kit, &["snapshot", "rm", "c"], &|| {
            assert_eq!(kind(&kit, "c"), None)
        })
    }
    .kill_everywhere(REMOVE);
}

const REMOVE: &[&str] = &[
    "db.commit",
    "db.committed",
    "aside.rename",
    "aside.renamed",
    "db.committed",
    "tree.emptied",
    "aside.deleted",
];

// ---- images and records ---------------------------------------------------------

/// Two layers of a few bytes.
fn small_image() -> TestImage {
    let layer = |name: &str| {
        let mut layer = Layer::new();
        layer.dir("folder", 0o755);
        layer.file(&format!("folder/{name}"), 0o644, name.as_bytes());
        layer.finish()
    };
    TestImage {
        layers: vec![layer("one"), layer("two")],
        config: json!({}),
    }
}

/// What an import must have left, and the root as it was before it.
fn assert_imported(kit: &Kit, name: &str) {
    let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
    assert_eq!(images.as_array().unwrap().len(), 1, "{images}");
    let kinds = snapshots(kit);
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(
        kinds.values().all(|kind| *kind == SnapshotKind::Committed),
        "{kinds:?}"
    );
    assert_eq!(blobs(kit).len(), 4);
    let inspected = kit
        .run(["image", "inspect", name, "--format", "json"])
        .ok()
        .json();
    let top = inspected[0]["layers"][1]["chain_id"]
        .as_str()
        .unwrap()
        .to_owned();
    view(kit, "look", &top);
    for layer in ["one", "two"] {
        assert_eq!(
            file(kit, "look", &format!("folder/{layer}")).unwrap(),
            layer
        );
    }
    remove(kit, "look");
}

#[test]
fn image_import() {
    let kit = Kit::new();
    let layout = kit.path("layout");
    small_image().write_layout(&layout);
    let begin = || {
        for folder in [kit.root(), kit.state()] {
            let _ = std::fs::remove_dir_all(folder);
        }
        // Their making is tested elsewhere.
        stores::content(&kit);
        snapshotter(&kit);
    };
    let args = [
        "image",
        "import",
        layout.to_str().unwrap(),
        "--name",
        "small",
    ];
    Operation {
        before: &begin,
        killed: &|| assert_sound(&kit),
        ..Operation::new(&kit, &args, &|| assert_imported(&kit, "small"))
    }
    .kill_everywhere(&[
        "records.file",
        "records.rename",
        "lease.taken",
        "blob.renamed",
        "unpack.prepared",
        "unpack.written",
        "unpack.synced",
        "db.committed",
        "records.commit",
        "records.committed",
    ]);
}

#[test]
fn image_tag_and_rm() {
    let kit = Kit::new();
    let layout = kit.path("layout");
    small_image().write_layout(&layout);
    kit.run([
        "image",
        "import",
        layout.to_str().unwrap(),
        "--name",
        "small",
    ])
    .ok();
    let count = || {
        kit.run(["image", "ls", "--format", "json"])
            .ok()
            .json()
            .as_array()
            .unwrap()
            .len()
    };
    let one = || {
        kit.run(["image", "rm", "other"]);
        assert_eq!(count(), 1);
    };
    let through = ["records.commit", "records.committed"];
    Operation {
        before: &one,
        killed: &|| assert_sound(&kit),
        ..Operation::new(&kit, &["image", "tag", "small", "other"], &|| {
            assert_eq!(count(), 2)
        })
    }
    .kill_everywhere(&through);
    let two = || {
        kit.run(["image", "tag", "small", "other"]).ok();
    };
    Operation {
        before: &two,
        killed: &|| assert_sound(&kit),
        done: Some("no image is named"),
        ..Operation::new(&kit, &["image", "rm", "other"], &|| assert_eq!(count(), 1))
    }
    .kill_everywhere(&through);
    assert_imported(&kit, "small");
}

// ---- releases -------------------------------------------------------------------

/// What a release build makes of a step: nothing.
#[test]
fn a_release_has_no_steps() {
    let workspace = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    assert!(
        !workspace.contains("debug-assertions"),
        "a profile turns steps on"
    );
    let dir = tempfile::tempdir().unwrap();
    let source = checkout().join("core/kit/src/step.rs");
    let object = |assertions: &str| {
        let object = dir.path().join(format!("step-{assertions}.o"));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "obj"])
            .args(["-C", &format!("debug-assertions={assertions}"), "-o"])
            .args([&object, &source])
            .output()
            .expect("run rustc");
        (output.status.success(), std::fs::read(&object))
    };
    // With the hook it needs a crate that this bare call does not have.
    assert!(!object("on").0, "the hook is not behind debug assertions");
    let (made, object) = object("off");
    assert!(made);
    let object = object.unwrap();
    let word = b"CONTAINERKIT_STEP";
    assert!(!object.windows(word.len()).any(|part| part == word));
}
