//! Every file operation of the stores and their databases fails once, with
//! ENOSPC, EIO, EMFILE or EROFS: one line says so, nothing is damaged, and the
//! same command succeeds afterwards.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use containerkit_tests::faults::{self, Fault, Place};
use containerkit_tests::image::{Layer, TestImage};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::stores::{assert_sound, blobs, snapshots};
use serde_json::json;

/// One command, made to fail at each of its file operations.
struct Operation<'a> {
    kit: &'a Kit,
    args: Vec<&'a str>,
    stdin: Option<&'a Path>,
    /// Before each fault.
    before: &'a dyn Fn(),
    /// What the repeated command may say when the failed one had done it all.
    done: Option<&'a str>,
    /// After the repeated command: whether it happened, whole.
    after: &'a dyn Fn(),
    /// Of so many operations in a row one fails.
    stride: usize,
}

impl<'a> Operation<'a> {
    fn new(kit: &'a Kit, args: &[&'a str], after: &'a dyn Fn()) -> Operation<'a> {
        Operation {
            kit,
            args: args.to_vec(),
            stdin: None,
            before: &|| {},
            done: None,
            after,
            stride: 1,
        }
    }

    fn run(&self, place: Place) -> Fault {
        let command = self.kit.command(&self.args);
        let stdin = self.stdin.unwrap_or(Path::new("/dev/null"));
        faults::run(&command, place, &self.kit.root(), stdin)
    }

    /// Fails it at operation 1, 2, 3, … with every error that each can give,
    /// until it has no more of them.
    #[track_caller]
    fn fail_everywhere(&self) {
        let (mut number, mut errors, mut refusals) = (1, BTreeSet::new(), 0);
        while self.fail_at(number, &mut errors, &mut refusals) {
            number += self.stride;
        }
        self.kit.run(["check"]).ok();
        assert_eq!(
            errors.iter().map(String::as_str).collect::<Vec<_>>(),
            ["EIO", "EMFILE", "ENOSPC", "EROFS"],
            "{:?}",
            self.args
        );
        assert!(refusals * self.stride > 10, "{refusals}");
    }

    /// Whether it has so many.
    #[track_caller]
    fn fail_at(&self, number: usize, errors: &mut BTreeSet<String>, refusals: &mut usize) -> bool {
        let mut given = BTreeSet::new();
        for turn in 0.. {
            (self.before)();
            let fault = self.run(Place { number, turn });
            let Some((call, error)) = fault.failed else {
                fault.ran.ok();
                (self.after)();
                return false;
            };
            // Told when the test fails.
            println!("{:?}: {call} number {number} gave {error}", self.args);
            // What only tidies up may fail in silence.
            if fault.ran.status != 0 {
                fault.ran.refused(1, &[]);
                *refusals += 1;
                assert_sound(self.kit);
            }
            let again = Ran::new(&{
                let mut command = self.kit.command(&self.args);
                if let Some(path) = self.stdin {
                    command.stdin(std::fs::File::open(path).unwrap());
                }
                command.output().unwrap()
            });
            match self.done {
                Some(word) if again.status != 0 => again.refused(1, &[word]),
                _ => again.ok(),
            };
            (self.after)();
            if number % 16 < self.stride {
                self.kit.run(["check"]).ok();
            }
            errors.insert(error.clone());
            // The next turn is the first again; and reading gives one error.
            if ["read", "pread64", "getdents64"].contains(&call.as_str()) || !given.insert(error) {
                break;
            }
        }
        true
    }
}

fn write(kit: &Kit, name: &str, data: &[u8]) -> PathBuf {
    let path = kit.path(name);
    std::fs::write(&path, data).unwrap();
    path
}

/// An image of two layers of a few files.
fn layout(kit: &Kit) -> String {
    let mut layers = Vec::new();
    for name in ["one", "two"] {
        let mut layer = Layer::new();
        layer.dir(name, 0o755);
        layer.file(&format!("{name}/file"), 0o644, name.as_bytes());
        layer.symlink(&format!("{name}/link"), "file");
        layers.push(layer.finish());
    }
    let path = kit.path("layout");
    TestImage {
        layers,
        config: json!({}),
    }
    .write_layout(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_ingest_into_a_new_and_a_used_store() {
    let kit = Kit::new();
    let data = write(&kit, "data", &[7; 300_000]);
    let whole = || assert_eq!(blobs(&kit).len(), 1);
    let empty = || {
        let _ = std::fs::remove_dir_all(kit.root());
    };
    let ingest = ["content", "ingest", "--ref", "r"];
    Operation {
        stdin: Some(&data),
        before: &empty,
        stride: 5,
        ..Operation::new(&kit, &ingest, &whole)
    }
    .fail_everywhere();
    let none = || {
        for digest in blobs(&kit) {
            kit.run(["content", "delete", &digest.to_string()]).ok();
        }
    };
    Operation {
        stdin: Some(&data),
        before: &none,
        ..Operation::new(&kit, &ingest, &whole)
    }
    .fail_everywhere();
}

#[test]
fn snapshots_made_committed_and_removed() {
    let kit = Kit::new();
    kit.run(["snapshot", "prepare", "base"]).ok();
    kit.run(["snapshot", "commit", "parent", "base"]).ok();
    let kinds = |want: &[&str]| {
        let found: Vec<String> = snapshots(&kit).into_keys().collect();
        assert_eq!(found, want);
    };
    let remove = |name: &str| {
        let _ = kit.run(["snapshot", "rm", name]);
    };
    let fresh = || remove("active");
    let made = || kinds(&["active", "parent"]);
    Operation {
        before: &fresh,
        stride: 3,
        done: Some("exists"),
        ..Operation::new(&kit, &["snapshot", "prepare", "active", "parent"], &made)
    }
    .fail_everywhere();
    let again = || {
        remove("top");
        remove("active");
        kit.run(["snapshot", "prepare", "active", "parent"]).ok();
    };
    let committed = || kinds(&["parent", "top"]);
    Operation {
        before: &again,
        done: Some("does not exist"),
        ..Operation::new(&kit, &["snapshot", "commit", "top", "active"], &committed)
    }
    .fail_everywhere();
    let there = || {
        remove("active");
        if !snapshots(&kit).contains_key("top") {
            kit.run(["snapshot", "prepare", "active", "parent"]).ok();
            kit.run(["snapshot", "commit", "top", "active"]).ok();
        }
    };
    let gone = || kinds(&["parent"]);
    Operation {
        before: &there,
        stride: 2,
        done: Some("does not exist"),
        ..Operation::new(&kit, &["snapshot", "rm", "top"], &gone)
    }
    .fail_everywhere();
}

#[test]
fn an_import_with_its_unpacking() {
    let kit = Kit::new();
    let layout = layout(&kit);
    let nothing = || {
        let _ = kit.run(["image", "rm", "one"]);
        kit.run(["gc", "--ingest-age", "0s"]).ok();
        assert!(blobs(&kit).is_empty() && snapshots(&kit).is_empty());
    };
    let whole = || {
        let rows = kit.run(["image", "ls", "--format", "json"]).ok().json();
        assert_eq!(rows[0]["complete"], true, "{rows}");
        assert_eq!((blobs(&kit).len(), snapshots(&kit).len()), (4, 2));
    };
    Operation {
        before: &nothing,
        stride: 11,
        ..Operation::new(&kit, &["image", "import", &layout, "--name", "one"], &whole)
    }
    .fail_everywhere();
}

#[test]
fn a_collection() {
    let kit = Kit::new();
    let layout = layout(&kit);
    let garbage = || {
        kit.run(["image", "import", &layout, "--name", "one"]).ok();
        kit.run(["image", "rm", "one"]).ok();
    };
    let clean = || assert!(blobs(&kit).is_empty() && snapshots(&kit).is_empty());
    Operation {
        before: &garbage,
        stride: 7,
        ..Operation::new(&kit, &["gc"], &clean)
    }
    .fail_everywhere();
}

/// What a full disk keeps from being looked at is no damage.
#[test]
fn a_check() {
    let kit = Kit::new();
    let layout = layout(&kit);
    kit.run(["image", "import", &layout, "--name", "one"]).ok();
    let operation = Operation::new(&kit, &["check"], &|| {});
    let mut full = 0;
    for number in (1..).step_by(9) {
        for turn in 0..4 {
            let fault = operation.run(Place { number, turn });
            let Some((call, error)) = fault.failed else {
                assert!(full > 0);
                fault.ran.ok();
                return;
            };
            if error == "ENOSPC" {
                let told = &fault.ran.stdout;
                assert!(
                    !told.contains("damaged"),
                    "{call} {number}: {:?}",
                    fault.ran
                );
                full += 1;
            }
        }
    }
}

#[test]
fn the_records() {
    let kit = Kit::new();
    let layout = layout(&kit);
    kit.run(["image", "import", &layout, "--name", "one"]).ok();
    let tagged = || {
        let rows = kit.run(["image", "ls", "--format", "json"]).ok().json();
        assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    };
    let untagged = || {
        let _ = kit.run(["image", "rm", "two"]);
    };
    Operation {
        before: &untagged,
        stride: 3,
        ..Operation::new(&kit, &["image", "tag", "one", "two"], &tagged)
    }
    .fail_everywhere();
}
