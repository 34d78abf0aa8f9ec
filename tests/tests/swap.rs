//! TOML alone swaps a driver; the binary stays the same file.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use containerkit::Algorithm;
use containerkit_conformance::apart::for_crun;
use containerkit_tests::fixtures::third_party;
use containerkit_tests::kit::{Kit, Ran, built};
use serde_json::Value;

fn sha256(path: &Path) -> String {
    Algorithm::Sha256
        .digest(&std::fs::read(path).unwrap())
        .to_string()
}

const RUNTIMES: [&str; 3] = ["runc", "crun", "outsider"];
const SNAPSHOTTERS: [&str; 2] = ["overlay", "native"];
const CONTENTS: [&str; 2] = ["local", "sqlite"];

/// What serves: a line of TOML each.
#[derive(Clone, Copy, Debug)]
struct Choice {
    runtime: &'static str,
    snapshotter: &'static str,
    content: &'static str,
}

impl Choice {
    /// Kind and instance of each.
    fn instances(self) -> [(&'static str, &'static str); 3] {
        [
            ("runtime", self.runtime),
            ("snapshotter", self.snapshotter),
            ("content", self.content),
        ]
    }

    fn toml(self, drivers: &Path) -> String {
        let [runtime, snapshotter, content] = self
            .instances()
            .map(|(kind, instance)| format!("{kind} = {instance:?}"));
        format!(
            "version = 1\ndriver_path = [{drivers:?}]\n\
             [default]\n{runtime}\n{snapshotter}\n{content}\n\
             [runtime.outsider]\ndriver = \"libcontainerkit_crun.so\"\n\
             [snapshotter.native]\ndriver = \"libcontainerkit_native.so\"\n\
             [content.sqlite]\ndriver = \"libcontainerkit_sqlite.so\"\n"
        )
    }
}

/// The file that an instance of each name is of.
fn library(instance: &str) -> String {
    let file = match instance {
        "outsider" => "crun",
        "crun" => "runc",
        same => same,
    };
    format!("libcontainerkit_{file}.so")
}

/// A command where every runtime works: crun refuses some machines.
fn run(kit: &Kit, args: &[&str]) -> Ran {
    let command = kit.command(args);
    let mut words = for_crun().iter().map(std::ffi::OsStr::new);
    let output = match words.next() {
        None => kit.command(args).output(),
        Some(first) => Command::new(first)
            .args(words)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(std::process::Stdio::null())
            .output(),
    };
    Ran::new(&output.unwrap())
}

fn row<'a>(rows: &'a Value, kind: &str, instance: &str) -> &'a Value {
    let mut all = rows.as_array().unwrap().iter();
    let found = all.find(|row| row["kind"] == kind && row["instance"] == instance);
    found.unwrap_or_else(|| panic!("{kind} {instance} in {rows}"))
}

/// `ls`, `inspect` and `trace` tell the same of what serves.
fn assert_told(kit: &Kit, choice: Choice) {
    let all = kit.run(["driver", "ls", "--format", "json"]).ok().json();
    let trace = kit.run(["driver", "trace", "--format", "json"]).ok().json();
    for row in all.as_array().unwrap() {
        assert_eq!(row["status"], "ok", "{row}");
    }
    for (kind, instance) in choice.instances() {
        let told = row(&all, kind, instance);
        assert_eq!(told["default"], true, "{told}");
        let path = PathBuf::from(told["path"].as_str().unwrap());
        assert_eq!(path.file_name().unwrap(), library(instance).as_str());
        let mut defaults = all.as_array().unwrap().iter();
        assert!(
            defaults.all(|row| row["default"] != true
                || row["kind"] != kind
                || row["instance"] == instance),
            "{all}"
        );
        let info = kit
            .run(["driver", "inspect", instance, "--format", "json"])
            .ok()
            .json();
        assert_eq!(info["path"], told["path"], "{info}");
        assert_eq!(info["sha256"], sha256(&path), "{info}");
        assert_eq!(info["drivers"][0]["name"], told["driver"], "{info}");
        assert_eq!(info["abi"], told["abi"], "{info}");
        let traced = row(&trace, kind, instance);
        let last = traced["tried"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&traced["status"], &last["path"]),
            (&"ok".into(), &told["path"])
        );
    }
}

/// What mounts the root of a container.
fn root_mount(kit: &Kit) -> String {
    let grep = [
        "run",
        "--rm",
        "busybox",
        "grep",
        " / ",
        "/proc/self/mountinfo",
    ];
    run(kit, &grep).ok().stdout
}

#[test]
fn every_combination_of_drivers_runs_the_same_image() {
    let drivers = third_party();
    let kit = Kit::new();
    let layout = kit.path("layout");
    containerkit_tests::image::busybox().write_layout(&layout);
    let binary = built().join("containerkit");
    let before = sha256(&binary);
    let mut digests = std::collections::BTreeSet::new();
    for content in CONTENTS {
        for snapshotter in SNAPSHOTTERS {
            for runtime in RUNTIMES {
                let choice = Choice {
                    runtime,
                    snapshotter,
                    content,
                };
                println!("{choice:?}");
                kit.configure(&choice.toml(&drivers));
                let layout = layout.to_str().unwrap();
                kit.run(["image", "import", layout, "--name", "busybox"])
                    .ok();
                let images = kit.run(["image", "ls", "--format", "json"]).ok().json();
                digests.insert(images[0]["digest"].to_string());
                let script = "echo ok > /new; cat /new; exit 7";
                let ran = run(&kit, &["run", "--rm", "busybox", "sh", "-c", script]);
                assert_eq!((ran.stdout.as_str(), ran.status), ("ok\n", 7), "{ran:?}");
                let overlay = root_mount(&kit).contains(" - overlay ");
                assert_eq!(overlay, snapshotter == "overlay");
                // A container remembers what made it.
                run(&kit, &["create", "--name", "kept", "busybox", "true"]).ok();
                let kept = kit.run(["inspect", "kept"]).ok().json();
                assert_eq!(kept[0]["runtime"], runtime);
                assert_eq!(kept[0]["snapshotter"], snapshotter);
                run(&kit, &["delete", "--force", "kept"]).ok();
                kit.assert_clean();
                assert_told(&kit, choice);
            }
        }
    }
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert_eq!(sha256(&binary), before);
}

#[test]
fn a_driver_that_does_not_load_says_why_and_where_it_looked() {
    let kit = Kit::new();
    kit.configure("version = 1\n[snapshotter.overlay]\ndriver = \"libnosuch.so\"\n");
    kit.run(["snapshot", "ls"]).refused(1, &["libnosuch.so"]);
    let all = kit.run(["driver", "ls", "--format", "json"]).ok().json();
    let row = all
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["kind"] == "snapshotter")
        .unwrap();
    assert_eq!(
        (&row["status"], &row["path"]),
        (&"failed".into(), &serde_json::Value::Null)
    );
    let trace = kit.run(["driver", "trace"]).ok().stdout;
    assert!(
        trace.contains("/usr/lib/containerkit/drivers/libnosuch.so"),
        "{trace}"
    );
    kit.configure("version = 1\n[default]\nsnapshoter = \"x\"\n");
    kit.run(["image", "ls"])
        .refused(1, &["snapshoter", "containerkit.toml:3:1"]);
    kit.configure(&format!(
        "version = 1\n[runtime.runc]\nsha256 = \"{}\"\n",
        "0".repeat(64)
    ));
    let ran = kit.run(["driver", "ls", "--format", "json"]).ok().json();
    let row = ran
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["instance"] == "runc")
        .unwrap();
    assert_eq!(row["status"], "failed", "{row}");
    kit.configure("version = 1\n[runtime.runc]\noptions = { binray = \"x\" }\n");
    kit.run(["config", "check"])
        .refused(1, &["binray", "binary"]);
}
