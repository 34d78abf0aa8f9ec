//! Images made and written out: pack, index, export, diff, and what the other
//! tools of the field make of the result.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use containerkit_tests::image::architecture;
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::steps::Steps;
use serde_json::{Value, json};

/// A container that ran this and has ended.
fn ran(kit: &Kit, name: &str, script: &str) {
    kit.run(["run", "--name", name, "busybox", "sh", "-c", script])
        .ok();
}

fn packed(kit: &Kit, epoch: Option<&str>, args: &[&str]) -> Ran {
    let mut command = kit.command(["image", "pack"].iter().chain(args));
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    Ran::new(&command.output().unwrap())
}

fn image(kit: &Kit, name: &str) -> Value {
    kit.run(["image", "inspect", name]).ok().json()[0].clone()
}

fn tool(program: &str, args: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}, which `make setup` installs: {e}"));
    Ran::new(&output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

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
fn exports_are_read_by_skopeo_and_umoci() {
    let kit = Kit::with_busybox();
    ran(&kit, "work", "echo new > /etc/new; rm /etc/noexec");
    packed(
        &kit,
        None,
        &[
            "--container",
            "work",
            "--compression",
            "gzip",
            "example.org/made:v1",
        ],
    )
    .ok();
    let digest = image(&kit, "example.org/made:v1")["digest"].clone();
    let layers = image(&kit, "example.org/made:v1")["layers"].clone();
    let layout = kit.path("layout");
    let tar = kit.path("oci.tar");
    let docker = kit.path("docker.tar");
    let names = ["busybox", "example.org/made:v1"];
    for (out, form) in [(&layout, "oci"), (&tar, "oci"), (&docker, "docker")] {
        kit.run([
            "image",
            "export",
            names[0],
            names[1],
            "-o",
            text(out),
            "--as",
            form,
        ])
        .ok();
    }
    let sources = [
        format!("oci:{}:v1", text(&layout)),
        format!("oci-archive:{}:v1", text(&tar)),
        format!("docker-archive:{}:example.org/made:v1", text(&docker)),
    ];
    for (n, source) in sources.iter().enumerate() {
        let seen = tool("skopeo", &["inspect", source]).ok().json();
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 2, "{source}");
        if n < 2 {
            assert_eq!(seen["Digest"], digest, "{source}");
        }
        let copy = kit.path(&format!("copy-{n}"));
        let policy = ["--insecure-policy", "copy", source];
        let target = format!("oci:{}:again", text(&copy));
        tool("skopeo", &[&policy[..], &[&target]].concat()).ok();
        // And back: the same layers.
        kit.run([
            "image",
            "import",
            text(&copy),
            "--name",
            &format!("back{n}"),
        ])
        .ok();
        let back = image(&kit, &format!("back{n}"));
        let ids = |layers: &Value| -> Vec<Value> {
            let layers = layers.as_array().unwrap();
            layers
                .iter()
                .map(|layer| layer["diff_id"].clone())
                .collect()
        };
        assert_eq!(ids(&back["layers"]), ids(&layers), "{source}");
        let ran = kit
            .run(["run", "--rm", &format!("back{n}"), "cat", "/etc/new"])
            .ok();
        assert_eq!(ran.stdout, "new\n");
    }
    // What skopeo calls the first of two images of one archive.
    let busybox = format!(
        "docker-archive:{}:docker.io/library/busybox:latest",
        text(&docker)
    );
    tool("skopeo", &["inspect", &busybox]).ok();
    let bundle = kit.path("bundle");
    let from = format!("{}:v1", text(&layout));
    tool("umoci", &["unpack", "--image", &from, text(&bundle)]).ok();
    assert_eq!(
        std::fs::read_to_string(bundle.join("rootfs/etc/new")).unwrap(),
        "new\n"
    );
    assert!(!bundle.join("rootfs/etc/noexec").exists());
}

#[test]
fn exports_are_the_same_bytes_whole_or_not_there() {
    let kit = Kit::with_busybox();
    kit.run(["image", "tag", "busybox", "example.org/other:latest"])
        .ok();
    let out = kit.path("out");
    std::fs::create_dir(&out).unwrap();
    for form in ["oci", "docker"] {
        for end in ["tar", "tar.gz", "tar.zst"] {
            let mut bytes = Vec::new();
            for n in 0..2 {
                let file = out.join(format!("{form}-{n}.{end}"));
                kit.run([
                    "image",
                    "export",
                    "busybox",
                    "example.org/other",
                    "-o",
                    text(&file),
                    "--as",
                    form,
                ])
                .ok();
                bytes.push(std::fs::read(&file).unwrap());
                let fresh = Kit::new();
                fresh.run(["image", "import", text(&file)]).ok();
                for name in ["busybox", "example.org/other"] {
                    fresh.run(["image", "inspect", name]).ok();
                }
            }
            assert!(bytes[0] == bytes[1], "{form} {end}");
        }
    }
    let before = names(&out);
    let export = |to: &Path| kit.run(["image", "export", "busybox", "-o", text(to)]);
    // A layout goes into an empty folder, and into no other.
    std::fs::create_dir(out.join("empty")).unwrap();
    export(&out.join("empty")).ok();
    export(&out.join("empty")).refused(1, &["empty"]);
    export(&out.join("no/such.tar")).refused(1, &["no"]);
    export(&out.join("no/such")).refused(1, &["no"]);
    std::fs::create_dir(out.join("folder.tar")).unwrap();
    export(&out.join("folder.tar")).refused(1, &["folder.tar"]);
    kit.run(["image", "export", "nosuch", "-o", text(&out.join("x.tar"))])
        .refused(1, &["nosuch"]);
    kit.run([
        "image",
        "export",
        "busybox",
        "-o",
        text(&out.join("x.tar")),
        "--as",
        "zip",
    ])
    .refused(1, &["zip"]);
    std::fs::remove_dir(out.join("folder.tar")).unwrap();
    std::fs::remove_dir_all(out.join("empty")).unwrap();
    assert_eq!(names(&out), before);

    // A blob that is damaged is noticed on its way out; what was there stays.
    let layer = image(&kit, "busybox")["layers"][0]["digest"].clone();
    let hex = layer
        .as_str()
        .unwrap()
        .split(':')
        .nth(1)
        .unwrap()
        .to_string();
    let blob = find(&kit.root(), &hex);
    let mut data = std::fs::read(&blob).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    std::fs::write(&blob, data).unwrap();
    let old = std::fs::read(out.join("oci-0.tar")).unwrap();
    export(&out.join("oci-0.tar")).refused(1, &[&hex]);
    export(&out.join("new")).refused(1, &[&hex]);
    assert!(std::fs::read(out.join("oci-0.tar")).unwrap() == old);
    assert_eq!(names(&out), before);
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
    let mut want = Value::Null;
    for number in 1.. {
        let killed = steps.kill(&mut command(), number);
        if killed.status == 0 {
            assert!(number > 10, "{:?}", steps.reached());
            break;
        }
        assert_eq!(killed.status, 137, "{killed:?}");
        Ran::new(&command().output().unwrap()).ok();
        let found = image(&kit, "packed")["digest"].clone();
        if number == 1 {
            want = found.clone();
        }
        assert_eq!(found, want);
        assert_eq!(
            kit.run(["content", "status", "--format", "json"])
                .ok()
                .json(),
            json!([])
        );
        let kinds = kit.run(["snapshot", "ls", "--format", "json"]).ok().json();
        let views = kinds.as_array().unwrap().iter();
        assert_eq!(views.filter(|row| row["kind"] == "view").count(), 0);
        // What is there already would be taken, and its steps not reached.
        let made = image(&kit, "packed");
        kit.run(["image", "rm", "packed"]).ok();
        for digest in [
            &made["digest"],
            &made["config_digest"],
            &made["layers"][1]["digest"],
        ] {
            kit.run(["content", "delete", digest.as_str().unwrap()])
                .ok();
        }
    }
}

#[test]
fn an_export_killed_at_any_step_leaves_nothing_by_that_name_or_all_of_it() {
    let kit = Kit::with_busybox();
    let out = kit.path("out");
    std::fs::create_dir(&out).unwrap();
    let steps = Steps::new(kit.path("steps"));
    for name in ["image.tar", "layout"] {
        let to = out.join(name);
        for number in 1.. {
            let args = ["image", "export", "busybox", "-o", text(&to)];
            let killed = steps.kill(&mut kit.command(args), number);
            let fresh = Kit::new();
            if to.exists() {
                fresh
                    .run(["image", "import", text(&to), "--name", "x"])
                    .ok();
            }
            match to.is_dir() {
                true => std::fs::remove_dir_all(&to).unwrap(),
                false => drop(std::fs::remove_file(&to)),
            }
            if killed.status == 0 {
                assert!(number > 2, "{:?}", steps.reached());
                break;
            }
            assert_eq!(killed.status, 137, "{killed:?}");
        }
    }
    // What they left is hidden, and goes with the next export when it is old.
    let left = names(&out);
    assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    for name in &left {
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        let file = std::fs::File::open(out.join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    let to = out.join("layout");
    kit.run(["image", "export", "busybox", "-o", text(&to)])
        .ok();
    let to = out.join("image.tar");
    kit.run(["image", "export", "busybox", "-o", text(&to)])
        .ok();
    assert_eq!(names(&out), ["image.tar", "layout"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The file that has this name, somewhere below.
fn find(dir: &Path, name: &str) -> std::path::PathBuf {
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.file_name().unwrap() == name {
                return path;
            }
        }
    }
    panic!("no file {name}");
}
