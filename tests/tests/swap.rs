//! One line of TOML swaps a driver; the binary stays the same file.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use containerkit::Algorithm;
use containerkit_tests::fixtures::native;
use containerkit_tests::kit::{Kit, built};

fn sha256(path: &std::path::Path) -> String {
    Algorithm::Sha256
        .digest(&std::fs::read(path).unwrap())
        .to_string()
}

#[test]
fn one_line_of_toml_swaps_the_snapshotter() {
    let native = native();
    let kit = Kit::new();
    let layout = kit.path("layout");
    containerkit_tests::image::busybox().write_layout(&layout);
    let toml = |snapshotter: &str| {
        format!(
            "version = 1\n[default]\nsnapshotter = \"{snapshotter}\"\n[snapshotter.native]\ndriver = \"{}\"\n",
            native.display()
        )
    };
    let binary = built().join("containerkit");
    let before = sha256(&binary);
    kit.configure(&toml("overlay"));
    kit.run([
        "image",
        "import",
        layout.to_str().unwrap(),
        "--name",
        "busybox",
    ])
    .ok();
    let mut kinds = Vec::new();
    for snapshotter in ["overlay", "native", "overlay"] {
        kit.configure(&toml(snapshotter));
        let ran = kit
            .run([
                "run",
                "--rm",
                "busybox",
                "sh",
                "-c",
                "echo ok > /new; cat /new",
            ])
            .ok();
        assert_eq!(ran.stdout, "ok\n");
        let mounts = kit
            .run([
                "run",
                "--rm",
                "busybox",
                "grep",
                " / ",
                "/proc/self/mountinfo",
            ])
            .ok();
        kinds.push(mounts.stdout.contains("overlay"));
        let info = kit
            .run(["driver", "inspect", snapshotter, "--format", "json"])
            .ok()
            .json();
        let path = PathBuf::from(info["path"].as_str().unwrap());
        assert_eq!(info["sha256"], sha256(&path), "{info}");
        kit.assert_clean();
    }
    assert_eq!(
        kinds,
        [true, false, true],
        "what serves the root file system changed"
    );
    assert_eq!(sha256(&binary), before);
    let all = kit.run(["driver", "ls", "--format", "json"]).ok().json();
    for row in all.as_array().unwrap() {
        assert_eq!(row["status"], "ok", "{row}");
    }
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
