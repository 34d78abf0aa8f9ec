//! Images written out, and what the other tools of the field make of them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use containerkit_tests::kit::Kit;
use containerkit_tests::made::{image, packed, ran, text, tool};
use containerkit_tests::steps::Steps;
use serde_json::Value;

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
