//! Images made of containers and folders: pack, index, diff.

#![allow(clippy::unwrap_used)]

use containerkit::ContentStore;
use containerkit::snapshot::SnapshotKind;
use containerkit_tests::image::architecture;
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::made::{image, packed, ran, text, tool};
use containerkit_tests::steps::Steps;
use containerkit_tests::stores::{blobs, content, snapshots};
use serde_json::{Value, json};

#[test]
fn a_changed_container_is_told_packed_and_run_again() {
    let kit = Kit::with_busybox();
    ran(
        &kit,
        "work",
        "echo new > /etc/new; rm /etc/noexec; chmod 700 /home; mkdir -p /srv/data; ln /etc/new /srv/link",
    );
    let changes = kit.run(["diff", "work"]).ok().stdout;
    assert_eq!(
        changes,
        "C /etc\nA /etc/new\nD /etc/noexec\nC /home\nA /srv\nA /srv/data\nA /srv/link\n"
    );
    let listed = kit.run(["diff", "work", "--format", "json"]).ok().json();
    assert_eq!(listed[1], json!({ "path": "/etc/new", "kind": "added" }));
    packed(
        &kit,
        None,
        &[
            "--container",
            "work",
            "--entrypoint",
            "[\"cat\"]",
            "--cmd",
            "/etc/new /srv/link",
            "--env",
            "FROM_PACK=yes",
            "-l",
            "role=test",
            "--workdir",
            "/srv",
            "--user",
            "app",
            "--expose",
            "80",
            "--volume",
            "/srv/data",
            "--stop-signal",
            "SIGINT",
            "--author",
            "somebody",
            "--message",
            "a note",
            "example.org/packed:v1",
        ],
    )
    .ok();
    let ran = kit.run(["run", "--rm", "example.org/packed:v1"]).ok();
    assert_eq!(ran.stdout, "new\nnew\n");
    let ran = kit
        .run([
            "run",
            "--rm",
            "--entrypoint",
            "env",
            "example.org/packed:v1",
        ])
        .ok();
    assert!(ran.stdout.contains("FROM_PACK=yes\n"), "{ran:?}");
    assert!(ran.stdout.contains("FROM_IMAGE=yes\n"), "{ran:?}");
    let ran = kit
        .run([
            "run",
            "--rm",
            "--entrypoint",
            "ls",
            "example.org/packed:v1",
            "/etc",
        ])
        .ok();
    assert!(!ran.stdout.contains("noexec"), "{ran:?}");

    let made = image(&kit, "example.org/packed:v1");
    let base = image(&kit, "busybox");
    assert_eq!(made["layers"][0], base["layers"][0]);
    assert_eq!(made["layers"].as_array().unwrap().len(), 2);
    let run = &made["config"]["config"];
    assert_eq!(run["WorkingDir"], "/srv");
    assert_eq!(run["User"], "app");
    assert_eq!(run["StopSignal"], "SIGINT");
    assert_eq!(run["Labels"], json!({ "role": "test" }));
    assert_eq!(run["Volumes"], json!({ "/srv/data": {} }));
    assert_eq!(run["ExposedPorts"], json!({ "80/tcp": {} }));
    let history = kit
        .run([
            "image",
            "history",
            "example.org/packed:v1",
            "--format",
            "json",
        ])
        .ok()
        .json();
    assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
    assert_eq!(history[1]["author"], "somebody");
    assert_eq!(history[1]["comment"], "a note");
    assert!(
        history[1]["created_by"]
            .as_str()
            .unwrap()
            .starts_with("sh -c")
    );
    // Packed again from a container of the packed one.
    kit.run([
        "run",
        "--name",
        "more",
        "--user",
        "0",
        "--entrypoint",
        "rm",
        "example.org/packed:v1",
        "/srv/link",
    ])
    .ok();
    packed(
        &kit,
        None,
        &["--container", "more", "--compression", "zstd", "second"],
    )
    .ok();
    let third = image(&kit, "second");
    assert_eq!(third["layers"].as_array().unwrap().len(), 3);
    let ran = kit
        .run(["run", "--rm", "--entrypoint", "ls", "second", "/srv"])
        .ok();
    assert_eq!(ran.stdout, "data\n");
    kit.run(["delete", "work", "more"]).ok();
    kit.assert_clean();
}

#[test]
fn packing_twice_is_the_same_image_with_an_epoch() {
    let kit = Kit::with_busybox();
    ran(&kit, "work", "echo new > /etc/new; rm /etc/noexec");
    let digest = |name: &str| image(&kit, name)["digest"].clone();
    for name in ["one", "two"] {
        packed(&kit, Some("1000000000"), &["--container", "work", name]).ok();
    }
    assert_eq!(digest("one"), digest("two"));
    packed(&kit, Some("1000000001"), &["--container", "work", "three"]).ok();
    assert_ne!(digest("one"), digest("three"));
    let one = image(&kit, "one");
    assert_eq!(one["config"]["created"], "2001-09-09T01:46:40.000000000Z");
    for compression in ["gzip", "zstd", "none"] {
        for name in ["a", "b"] {
            let args = ["--container", "work", "--compression", compression, name];
            packed(&kit, Some("1000000000"), &args).ok();
        }
        assert_eq!(digest("a"), digest("b"), "{compression}");
        assert_eq!(
            kit.run(["run", "--rm", "a", "cat", "/etc/new"]).ok().stdout,
            "new\n"
        );
    }
    packed(&kit, Some("yesterday"), &["--container", "work", "x"])
        .refused(1, &["SOURCE_DATE_EPOCH"]);
}

#[test]
fn a_container_that_changed_nothing_is_its_image_with_another_config() {
    let kit = Kit::with_busybox();
    kit.run(["create", "--name", "still", "busybox"]).ok();
    assert_eq!(kit.run(["diff", "still"]).ok().stdout, "");
    ran(&kit, "ran", "true");
    // Mount points that a runtime makes are nothing that it did.
    assert_eq!(kit.run(["diff", "ran"]).ok().stdout, "");
    packed(
        &kit,
        None,
        &["--container", "still", "--cmd", "echo packed", "same"],
    )
    .ok();
    assert_eq!(
        image(&kit, "same")["layers"],
        image(&kit, "busybox")["layers"]
    );
    assert_eq!(kit.run(["run", "--rm", "same"]).ok().stdout, "packed\n");
}

#[test]
fn a_running_container_is_packed_only_when_told_to() {
    let kit = Kit::with_busybox();
    kit.run([
        "run",
        "-d",
        "--name",
        "busy",
        "busybox",
        "sh",
        "-c",
        "echo x > /etc/x; sleep 1000",
    ])
    .ok();
    let mut told = String::new();
    for _ in 0..200 {
        told = kit.run(["diff", "busy"]).ok().stdout;
        if told.contains("/etc/x") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(told, "C /etc\nA /etc/x\n");
    let refused = packed(&kit, None, &["--container", "busy", "x"]).refused(1, &["running"]);
    assert!(refused.stderr.contains("--live"), "{refused:?}");
    packed(&kit, None, &["--container", "busy", "--live", "x"]).ok();
    kit.run(["delete", "--force", "busy"]).ok();
    assert_eq!(
        kit.run(["run", "--rm", "x", "cat", "/etc/x"]).ok().stdout,
        "x\n"
    );
    kit.assert_clean();
}

#[test]
fn folders_are_packed_whole_or_on_a_base() {
    let kit = Kit::with_busybox();
    let dir = kit.path("mounted");
    std::fs::create_dir(&dir).unwrap();
    kit.run(["image", "mount", "busybox", text(&dir)]).ok();
    let root = kit.path("rootfs");
    assert_eq!(tool("cp", &["-a", text(&dir), text(&root)]).status, 0);
    kit.run(["image", "unmount", text(&dir)]).ok();
    std::fs::write(root.join("etc/issue"), "ours\n").unwrap();
    std::fs::remove_file(root.join("etc/noexec")).unwrap();

    packed(
        &kit,
        None,
        &[
            "--rootfs",
            text(&root),
            "--cmd",
            "/bin/cat /etc/issue",
            "whole",
        ],
    )
    .ok();
    assert_eq!(image(&kit, "whole")["layers"].as_array().unwrap().len(), 1);
    assert_eq!(kit.run(["run", "--rm", "whole"]).ok().stdout, "ours\n");
    packed(
        &kit,
        None,
        &["--rootfs", text(&root), "--base", "busybox", "based"],
    )
    .ok();
    let based = image(&kit, "based");
    assert_eq!(based["layers"].as_array().unwrap().len(), 2);
    assert!(based["layers"][1]["size"].as_u64().unwrap() < 4096);
    let ran = kit.run(["run", "--rm", "based", "ls", "/etc"]).ok();
    assert!(ran.stdout.contains("issue") && !ran.stdout.contains("noexec"));
    // The layer of a committed snapshot, as a stream and as a list.
    let top = based["layers"][1]["chain_id"].as_str().unwrap();
    assert_eq!(
        kit.run(["snapshot", "diff", top]).ok().stdout,
        "C /etc\nA /etc/issue\nD /etc/noexec\n"
    );
    let stream = kit.run(["snapshot", "diff", "--tar", top]).ok().stdout;
    assert!(stream.contains("etc/.wh.noexec"));
    let base = based["layers"][0]["chain_id"].as_str().unwrap();
    assert_eq!(
        kit.run(["snapshot", "diff", base, top]).ok().stdout,
        "C /etc\nD /etc/issue\nA /etc/noexec\n"
    );
    kit.assert_clean();
}

#[test]
fn what_cannot_be_packed_is_refused_and_leaves_nothing() {
    let kit = Kit::with_busybox();
    ran(&kit, "hostile", "touch /etc/.wh.passwd");
    packed(&kit, None, &["--container", "hostile", "x"]).refused(1, &[".wh.passwd"]);
    packed(&kit, None, &["--container", "nosuch", "x"]).refused(1, &["nosuch"]);
    packed(&kit, None, &["--container", "hostile", "Bad Name"]).refused(1, &["Bad Name"]);
    packed(&kit, None, &["--rootfs", text(&kit.path("nosuch")), "x"]).refused(1, &["nosuch"]);
    packed(&kit, None, &["x"]).refused(2, &[]);
    packed(
        &kit,
        None,
        &["--container", "hostile", "--rootfs", "/", "x"],
    )
    .refused(2, &[]);
    for (flag, value) in [
        ("--workdir", "relative"),
        ("--expose", "http"),
        ("--volume", "v"),
        ("--stop-signal", "SIGX"),
        ("--env", "X"),
        ("--compression", "xz"),
        ("--platform", "linux"),
        ("--cmd", "[1]"),
    ] {
        packed(&kit, None, &["--container", "hostile", flag, value, "x"]).refused(1, &[value]);
    }
    kit.run(["image", "inspect", "x"]).refused(1, &["x"]);
    assert_eq!(
        kit.run(["content", "status", "--format", "json"])
            .ok()
            .json(),
        json!([])
    );
    // Of mapped users the layer has the ids that they have inside.
    kit.run([
        "run",
        "--name",
        "mapped",
        "--userns",
        "auto",
        "busybox",
        "touch",
        "/tmp/mine",
    ])
    .ok();
    assert_eq!(
        kit.run(["diff", "mapped"]).ok().stdout,
        "C /tmp\nA /tmp/mine\n"
    );
    packed(&kit, None, &["--container", "mapped", "unmapped"]).ok();
    let ran = kit
        .run([
            "run",
            "--rm",
            "unmapped",
            "stat",
            "-c",
            "%u:%g",
            "/tmp/mine",
        ])
        .ok();
    assert_eq!(ran.stdout, "0:0\n");
}

#[test]
fn an_index_joins_platforms_and_survives_an_export() {
    let kit = Kit::with_busybox();
    kit.run(["create", "--name", "c", "busybox"]).ok();
    let other = ["linux/s390x", "linux/arm/v6"];
    for (platform, name) in other.iter().zip(["s390x", "armv6"]) {
        packed(
            &kit,
            None,
            &["--container", "c", "--platform", platform, name],
        )
        .ok();
    }
    kit.run(["image", "index", "many", "busybox", "s390x", "armv6"])
        .ok();
    let listed = kit.run(["image", "ls", "--format", "json"]).ok().json();
    let many = |rows: &Value| {
        let rows = rows.as_array().unwrap();
        rows.iter()
            .find(|row| row["name"] == "docker.io/library/many:latest")
            .unwrap()
            .clone()
    };
    let host = format!("linux/{}", architecture());
    assert_eq!(
        many(&listed)["platforms"],
        json!([host, "linux/s390x", "linux/arm/v6"])
    );
    assert_eq!(
        kit.run(["run", "--rm", "many", "echo", "ok"]).ok().stdout,
        "ok\n"
    );
    kit.run(["image", "index", "twice", "many", "s390x"])
        .refused(1, &["linux/s390x"]);
    kit.run(["image", "index", "nested", "many"]).ok();

    let out = kit.path("many.tar.gz");
    kit.run(["image", "export", "many", "-o", text(&out)]).ok();
    let fresh = Kit::new();
    fresh.run(["image", "import", text(&out)]).ok();
    let again = fresh.run(["image", "ls", "--format", "json"]).ok().json();
    assert_eq!(many(&again)["digest"], many(&listed)["digest"]);
    assert_eq!(many(&again)["platforms"], many(&listed)["platforms"]);
    assert_eq!(many(&again)["complete"], true);

    // A platform that is not here is left out, and the index stays what it is.
    let other = ["image", "inspect", "s390x", "--platform", "linux/s390x"];
    let config = kit.run(other).ok().json()[0]["config_digest"].clone();
    kit.run(["content", "delete", config.as_str().unwrap()])
        .ok();
    let sparse = kit.path("sparse");
    kit.run(["image", "export", "many", "-o", text(&sparse)])
        .ok();
    let fresh = Kit::new();
    fresh.run(["image", "import", text(&sparse)]).ok();
    let again = fresh.run(["image", "ls", "--format", "json"]).ok().json();
    assert_eq!(many(&again)["digest"], many(&listed)["digest"]);
    assert_eq!(many(&again)["platforms"], json!([host, "linux/arm/v6"]));
    kit.run([
        "image",
        "export",
        "s390x",
        "-o",
        text(&kit.path("none.tar")),
    ])
    .refused(1, &["missing"]);
    assert!(!kit.path("none.tar").exists());
}

#[test]
fn a_pack_killed_at_any_step_is_done_by_the_next() {
    let kit = Kit::with_busybox();
    ran(&kit, "work", "echo new > /etc/new; rm /etc/noexec");
    let steps = Steps::new(kit.path("steps"));
    let args = ["image", "pack", "--container", "work", "packed"];
    let command = || {
        let mut command = kit.command(args);
        command.env("SOURCE_DATE_EPOCH", "1");
        command
    };
    let before = blobs(&kit);
    let mut want = String::new();
    for number in 1.. {
        let killed = steps.kill(&mut command(), number);
        if killed.status == 0 {
            assert!(number > 10, "{:?}", steps.reached());
            assert_eq!(killed.stdout, want);
            break;
        }
        assert_eq!(killed.status, 137, "{killed:?}");
        let made = Ran::new(&command().output().unwrap()).ok().stdout;
        if number == 1 {
            want = made.clone();
        }
        assert_eq!(made, want);
        let store = content(&kit);
        assert_eq!(store.list_statuses().unwrap(), []);
        let kinds = snapshots(&kit);
        assert!(!kinds.values().any(|kind| *kind == SnapshotKind::View));
        // What is there already would be taken, and its steps not reached.
        for digest in blobs(&kit) {
            if !before.contains(&digest) {
                store.delete(&digest).unwrap();
            }
        }
    }
}
