//! `cp`: files between containers and the host, both ways.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use containerkit_tests::kit::Kit;

/// What is below a folder: kind, mode, owner, time, and content or target.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_file() {
                String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
            } else {
                String::new()
            };
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let line = format!(
                "{:o} {}:{} {}.{} {what}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            found.insert(name, line);
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

/// A folder of all sorts: modes, owners, symlinks, hard links, odd names.
fn sorts(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    fs::write(dir.join("sub/.wh.not"), "no whiteout").unwrap();
    fs::write(dir.join("sub/with: colon"), "x").unwrap();
    fs::write(dir.join("tool"), "#!/bin/sh\n").unwrap();
    fs::hard_link(dir.join("file"), dir.join("sub/deep/second")).unwrap();
    symlink("../file", dir.join("sub/up")).unwrap();
    symlink("/etc/shadow", dir.join("absolute")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    std::os::unix::fs::lchown(dir.join("absolute"), Some(5), Some(6)).unwrap();
    std::os::unix::fs::chown(dir.join("file"), Some(1000), Some(2000)).unwrap();
    for (name, mode) in [("tool", 0o4755), ("sub", 0o2750), ("sub/deep", 0o1777)] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn path(kit: &Kit, name: &str) -> String {
    kit.path(name).display().to_string()
}

fn cat(kit: &Kit, id: &str, path: &str) -> String {
    let mut command = kit.command(["cp", &format!("{id}:{path}"), "-"]);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let mut archive = tar::Archive::new(&out.stdout[..]);
    let mut text = String::new();
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    entry.read_to_string(&mut text).unwrap();
    text
}

fn start(kit: &Kit, name: &str, flags: &[&str]) {
    let args = [
        &["run", "-d", "--name", name],
        flags,
        &["busybox", "sleep", "1000"],
    ]
    .concat();
    kit.run(args).ok();
}

/// The same in a running container and in a stopped one.
fn in_both(test: impl Fn(&Kit, &str)) {
    let kit = Kit::with_busybox();
    start(&kit, "running", &[]);
    kit.run(["create", "--name", "resting", "busybox", "true"])
        .ok();
    for id in ["running", "resting"] {
        test(&kit, id);
    }
    kit.run(["delete", "-f", "running", "resting"]).ok();
    kit.assert_clean();
}

#[test]
fn a_folder_comes_back_as_it_was() {
    in_both(|kit, id| {
        let source = kit.path("source");
        if !source.exists() {
            sorts(&source);
        }
        let back = kit.path(&format!("back-{id}"));
        kit.run(["cp", &path(kit, "source"), &format!("{id}:/tmp/new")])
            .ok();
        let args = ["cp", &format!("{id}:/tmp/new"), back.to_str().unwrap()];
        kit.run(args).ok();
        assert_eq!(tree(&back), tree(&source), "{id}");
        let inode = |name: &str| fs::metadata(back.join(name)).unwrap().ino();
        assert_eq!(inode("file"), inode("sub/deep/second"), "a hard link");
        // Into a folder that is there, under its own name; and its contents.
        kit.run(["cp", &path(kit, "source"), &format!("{id}:/tmp/new/")])
            .ok();
        kit.run([
            "cp",
            &format!("{}/.", path(kit, "source")),
            &format!("{id}:/home"),
        ])
        .ok();
        let there = kit.path(&format!("there-{id}"));
        fs::create_dir(&there).unwrap();
        for (from, name) in [("/tmp/new/source", "source"), ("/home", "home")] {
            kit.run(["cp", &format!("{id}:{from}"), there.to_str().unwrap()])
                .ok();
            let mut found = tree(&there.join(name));
            found.retain(|name, _| name != "app");
            assert_eq!(found, tree(&source), "{id} {from}");
        }
    });
}

#[test]
fn files_go_where_cp_would_put_them() {
    in_both(|kit, id| {
        let file = kit.path("file");
        fs::write(&file, "one\n").unwrap();
        let file = file.to_str().unwrap();
        let copy = |from: &str, to: &str| kit.run(["cp", from, to]);
        let at = |path: &str| format!("{id}:{path}");
        copy(file, &at("/etc/new-name")).ok();
        copy(file, &at("/etc")).ok();
        copy(file, &at("etc/")).ok();
        assert_eq!(cat(kit, id, "/etc/new-name"), "one\n");
        assert_eq!(cat(kit, id, "/etc/file"), "one\n");
        fs::write(file, "two\n").unwrap();
        copy(file, &at("/etc/new-name")).ok();
        assert_eq!(cat(kit, id, "/etc/new-name"), "two\n");
        // A symlink as the target is followed, and one on the way.
        for (link, target) in [
            ("l-file", "new-name"),
            ("l-none", "from-link"),
            ("l-dir", "/tmp"),
        ] {
            let link = kit.path(link);
            let _ = symlink(target, &link);
            copy(link.to_str().unwrap(), &at("/etc/")).ok();
        }
        fs::write(file, "three\n").unwrap();
        copy(file, &at("/etc/l-file")).ok();
        copy(file, &at("/etc/l-none")).ok();
        copy(file, &at("/etc/l-dir")).ok();
        copy(file, &at("/etc/l-dir/../tmp/text")).refused(1, &["/etc/l-dir/../tmp/text"]);
        for found in [
            "/etc/new-name",
            "/etc/from-link",
            "/tmp/file",
            "/etc/l-dir/file",
        ] {
            assert_eq!(cat(kit, id, found), "three\n", "{found}");
        }
        // Out: the symlink itself, or what it leads to.
        let out = path(kit, &format!("out-{id}"));
        copy(&at("/etc/l-file"), &out).ok();
        assert_eq!(fs::read_link(&out).unwrap(), Path::new("new-name"));
        fs::remove_file(&out).unwrap();
        kit.run(["cp", "-L", &at("/etc/l-file"), &out]).ok();
        assert_eq!(fs::read_to_string(&out).unwrap(), "three\n");
        assert!(!Path::new(&out).is_symlink());

        for (from, to, words) in [
            (file, at("/no/such/name"), &["/no/such/name"][..]),
            (file, at("/etc/none/"), &["/etc/none/"]),
            (file, at("/etc/passwd/"), &["/etc/passwd/"]),
            (&path(kit, "missing"), at("/etc"), &["missing"]),
            (&at("/missing"), out.clone(), &["/missing", "container"]),
            (&at("/etc/passwd/"), out.clone(), &["/etc/passwd/"]),
            (&at("/etc"), out.clone(), &["out-", "folder"]),
            (&at("/etc"), at("/etc/passwd"), &["/etc/passwd", "folder"]),
            (file, "nobody:/etc".into(), &["nobody"]),
            (file, out.clone(), &["neither", "container"]),
            ("-", "-".into(), &["neither"]),
        ] {
            copy(from, &to).refused(1, words);
        }
        // What is there is never replaced by another kind.
        fs::create_dir_all(kit.path("mixed/hosts-folder")).unwrap();
        fs::create_dir_all(kit.path("other")).unwrap();
        fs::write(kit.path("other/hosts-folder"), "x").unwrap();
        let (mixed, other) = (path(kit, "mixed/."), path(kit, "other/."));
        copy(&mixed, &at("/home")).ok();
        copy(&other, &at("/home")).refused(1, &["hosts-folder", "folder"]);
        copy(&other, &at("/root")).ok();
        copy(&mixed, &at("/root")).refused(1, &["hosts-folder", "folder"]);
    });
}

#[test]
fn tar_streams_go_in_and_out() {
    in_both(|kit, id| {
        let source = kit.path("source");
        if !source.exists() {
            sorts(&source);
        }
        let tar = std::process::Command::new("tar")
            .args([
                OsStr::new("-C"),
                source.as_os_str(),
                OsStr::new("-c"),
                OsStr::new("."),
            ])
            .output()
            .unwrap();
        assert!(tar.status.success());
        kit.run(["cp", &path(kit, "source"), &format!("{id}:/tmp/empty")])
            .ok();
        let ran = kit.run_with_input(["cp", "-", &format!("{id}:/tmp/empty")], &tar.stdout);
        ran.ok();
        let mut command = kit.command(["cp", &format!("{id}:/tmp/empty"), "-"]);
        let out = command.output().unwrap();
        assert!(out.status.success());
        let back = kit.path(&format!("back-{id}"));
        fs::create_dir(&back).unwrap();
        let archive = kit.path("archive");
        fs::write(&archive, out.stdout).unwrap();
        let status = std::process::Command::new("tar")
            .args([
                OsStr::new("-C"),
                back.as_os_str(),
                OsStr::new("-xpf"),
                archive.as_os_str(),
            ])
            .status()
            .unwrap();
        assert!(status.success());
        let (mut found, mut want) = (tree(&back.join("empty")), tree(&source));
        // GNU tar keeps no fractions of a second.
        for tree in [&mut found, &mut want] {
            for line in tree.values_mut() {
                let (head, rest) = line.split_once('.').unwrap();
                *line = format!("{head} {}", rest.split_once(' ').unwrap().1);
            }
        }
        assert_eq!(found, want);
        kit.run_with_input(["cp", "-", &format!("{id}:/etc/passwd")], &tar.stdout)
            .refused(1, &["/etc/passwd"]);
        kit.run_with_input(["cp", "-", &format!("{id}:/tmp")], b"no archive at all")
            .refused(1, &[]);
        // A hostile stream stays in its folder.
        let mut evil = containerkit_tests::image::Layer::new();
        evil.symlink("out", "/etc");
        evil.file("out/evil", 0o644, b"evil");
        kit.run_with_input(["cp", "-", &format!("{id}:/tmp")], &evil.finish())
            .ok();
        assert_eq!(
            cat(kit, id, "/etc/evil"),
            "evil",
            "in the container's own root"
        );
        assert!(!Path::new("/etc/evil").exists());
    });
}

#[test]
fn volumes_users_and_other_containers() {
    let kit = Kit::with_busybox();
    let volume = kit.path("volume");
    fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/data", volume.display());
    let file = path(&kit, "file");
    fs::write(&file, "x\n").unwrap();
    // Before the first start nothing is mounted there, and what was copied
    // would be hidden afterwards.
    kit.run(["create", "--name", "v", "-v", &bind, "busybox", "true"])
        .ok();
    kit.run(["cp", &file, "v:/data/"]).refused(1, &["/data"]);
    kit.run(["cp", &file, "v:/dev/x"]).refused(1, &["/dev"]);
    kit.run(["start", "-a", "v"]).ok();
    kit.run(["cp", &file, "v:/data/stopped"]).ok();
    assert_eq!(fs::read_to_string(volume.join("stopped")).unwrap(), "x\n");
    assert_eq!(cat(&kit, "v", "/data/stopped"), "x\n");

    let read_only = format!("{bind}:ro");
    start(&kit, "r", &["-v", &read_only, "--read-only"]);
    kit.run(["cp", &file, "r:/data/y"]).refused(1, &[]);
    kit.run(["cp", &file, "r:/etc/y"]).refused(1, &[]);
    kit.run(["pause", "r"]).ok();
    assert_eq!(cat(&kit, "r", "/data/stopped"), "x\n");
    kit.run(["stop", "-t", "0", "r"]).ok();
    kit.run(["cp", &file, "r:/data/y"]).refused(1, &[]);
    kit.run(["cp", &file, "r:/etc/y"]).refused(1, &[]);

    // From one container into the other.
    kit.run(["cp", "r:/etc/passwd", "v:/tmp/theirs"]).ok();
    assert!(cat(&kit, "v", "/tmp/theirs").contains("app:x:1000"));

    // Mapped users: their ids are those of the container.
    start(&kit, "m", &["--userns", "0:700000:65536"]);
    std::os::unix::fs::chown(&file, Some(1000), Some(2000)).unwrap();
    for round in ["running", "stopped"] {
        let name = format!("m:/tmp/{round}");
        kit.run(["cp", &file, &name]).ok();
        let back = kit.path(round);
        kit.run(["cp", &name, back.to_str().unwrap()]).ok();
        let meta = fs::metadata(&back).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1000, 2000), "{round}");
        let out = path(&kit, &format!("{round}-etc"));
        kit.run(["cp", "m:/etc", &out]).ok();
        assert_eq!(
            fs::metadata(Path::new(&out).join("passwd")).unwrap().uid(),
            0
        );
        if round == "running" {
            let pid = kit.run(["inspect", "m"]).ok().json()[0]["pid"].to_string();
            let seen = fs::metadata(format!("/proc/{pid}/root/tmp/running")).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (701_000, 702_000));
            kit.run(["stop", "-t", "0", "m"]).ok();
        }
    }
    std::os::unix::fs::chown(&file, Some(70_000), Some(0)).unwrap();
    kit.run(["cp", &file, "m:/tmp/x"])
        .refused(1, &["70000", "mapped"]);
    kit.run(["delete", "-f", "v", "r", "m"]).ok();
    kit.assert_clean();
}

/// CVE-2018-15664: a container exchanges a folder for a symlink to the root
/// while it is copied from and to.
#[test]
fn a_container_that_exchanges_symlinks_leads_nowhere() {
    let kit = Kit::with_busybox();
    let outside = kit.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let script = format!(
        "mkdir -p /a/x /b; echo own >/a/x/secret; ln -s {} /b/x; \
         while :; do mv /a/x /a/y; mv /b/x /a/x; mv /a/x /b/x; mv /a/y /a/x; done",
        outside.display()
    );
    let args = ["run", "-d", "--name", "e", "busybox", "sh", "-c", &script];
    kit.run(args).ok();
    let pid = kit.run(["inspect", "e"]).ok().json()[0]["pid"].to_string();
    let ready = format!("/proc/{pid}/root/b/x");
    while Path::new(&ready).symlink_metadata().is_err() {
        std::thread::yield_now();
    }
    let file = path(&kit, "secret-file");
    fs::write(&file, "from the host").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                let into = kit.path(&format!("into-{round}"));
                fs::create_dir(&into).unwrap();
                kit.run(["cp", "e:/a", into.to_str().unwrap()]);
                kit.run(["cp", "e:/a/x/secret", into.to_str().unwrap()]);
                for (name, line) in tree(&into) {
                    assert!(!line.ends_with(" secret"), "{name}: {line}");
                }
                kit.run(["cp", &file, "e:/a/x/evil"]);
                kit.run(["cp", &file, "e:/a/x/"]);
            }
            done.store(true, Ordering::Relaxed);
        });
    });
    assert!(done.load(Ordering::Relaxed));
    let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    kit.run(["delete", "-f", "e"]).ok();
    kit.assert_clean();
}

#[test]
fn a_container_at_rest_is_not_started_under_the_copy() {
    let kit = Kit::with_busybox();
    kit.run(["create", "--name", "c", "busybox", "true"]).ok();
    let mut reader = kit
        .command(["cp", "c:/", "-"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The first bytes are there: it holds the container, and its pipe is full.
    let mut out = reader.stdout.take().unwrap();
    out.read_exact(&mut [0; 512]).unwrap();
    kit.run(["delete", "c"]).refused(1, &["c"]);
    assert_eq!(
        kit.run(["inspect", "c"]).ok().json()[0]["status"],
        "created"
    );
    let mut starter = kit.command(["start", "c"]);
    let starter = starter
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(out);
    let _ = reader.wait();
    assert!(starter.wait_with_output().unwrap().status.success());
    kit.run(["wait", "c"]).ok();
    kit.run(["delete", "-f", "c"]).ok();
    kit.assert_clean();
}
