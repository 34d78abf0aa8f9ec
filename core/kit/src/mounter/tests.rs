use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::mount::Access;

const WAYS: [Way; 3] = [Way::Descriptors, Way::Strings, Way::Page];

/// A folder whose name holds all that has to be escaped somewhere.
fn hostile_dir() -> (tempfile::TempDir, std::path::PathBuf) {
    let temp = tempfile::tempdir().expect("tempdir");
    let dir = temp.path().join("a,b:c d\\e\\,f=g\"h");
    fs::create_dir(&dir).expect("mkdir");
    (temp, dir)
}

fn overlay(dir: &Path, layers: usize, writable: bool) -> Mount {
    let mut options = Vec::new();
    for n in (0..layers).rev() {
        let layer = dir.join(format!("layer-{n}"));
        fs::create_dir_all(&layer).expect("mkdir");
        fs::write(layer.join("top"), n.to_string()).expect("write");
        fs::write(layer.join(format!("file-{n}")), "x").expect("write");
        options.push(format!("lowerdir+={}", layer.display()));
    }
    if writable {
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            fs::create_dir_all(dir.join(name)).expect("mkdir");
            options.push(format!("{key}={}", dir.join(name).display()));
        }
    }
    Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options,
    }
}

fn tmpfs(target: &str) -> Mount {
    Mount {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        target: target.into(),
        options: vec!["size=64k".into(), "nosuid".into(), "noexec".into()],
    }
}

fn read(tree: &OwnedFd, path: &str) -> Result<String> {
    let root = crate::fs::Root::from_fd(tree.try_clone().expect("clone"));
    root.read(path, 1 << 16)
        .map(|data| String::from_utf8(data).expect("text"))
}

fn write(tree: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
    crate::fs::open_in_root(tree.as_fd(), Path::new(path), flags, 0o644).map(drop)
}

#[test]
fn every_way_mounts_every_path() {
    for way in WAYS {
        let (_temp, dir) = hostile_dir();
        let tree = mount_detached_by(Some(way), &[overlay(&dir, 3, true)]).expect("mount");
        assert_eq!(read(&tree, "top").expect("read"), "2", "{way:?}");
        assert_eq!(read(&tree, "file-0").expect("read"), "x");
        write(&tree, "new").expect("write");
        assert!(dir.join("upper/new").exists(), "{way:?}");
        drop(tree);
        let mut mount = overlay(&dir, 3, true).read_only();
        mount.options.push("metacopy=off".into());
        let tree = mount_detached_by(Some(way), &[mount]).expect("read-only");
        assert_eq!(write(&tree, "other"), Err(Errno::ROFS), "{way:?}");
        assert!(read(&tree, "new").is_ok(), "the upper is the topmost layer");
    }
}

#[test]
fn the_kernels_limit_is_reached_and_named() {
    let temp = tempfile::tempdir().expect("tempdir");
    let full = overlay(temp.path(), OVERLAY_LAYERS, true);
    for way in WAYS {
        let tree = mount_detached_by(Some(way), std::slice::from_ref(&full)).expect("500 layers");
        assert_eq!(read(&tree, "top").expect("read"), "499", "{way:?}");
        assert!(read(&tree, "file-0").is_ok());
    }
    let error =
        mount_detached(&[overlay(temp.path(), OVERLAY_LAYERS + 1, false)]).expect_err("501");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("501 layers"), "{error}");
    assert!(error.to_string().contains("500"), "{error}");
}

#[test]
fn classic_lowerdir_is_unescaped() {
    let temp = tempfile::tempdir().expect("tempdir");
    for name in ["a:b", "c\\d"] {
        fs::create_dir(temp.path().join(name)).expect("mkdir");
        fs::write(temp.path().join(name).join("f"), name).expect("write");
    }
    let at = temp.path().display();
    let mount = Mount {
        fstype: "overlay".into(),
        options: vec![format!("lowerdir={at}/a\\:b:{at}/c\\\\d"), "ro".into()],
        ..Mount::default()
    };
    let tree = mount_detached(std::slice::from_ref(&mount)).expect("mount");
    assert_eq!(read(&tree, "f").expect("read"), "a:b");
    let mount = Mount {
        options: vec![format!("lowerdir={at}/c::{at}/d")],
        ..mount
    };
    assert!(mount_detached(&[mount]).is_err());
}

#[test]
fn a_bind_can_be_read_only_and_leaves_with_its_descriptor() {
    let (_temp, dir) = hostile_dir();
    fs::write(dir.join("f"), "1").expect("write");
    let tree = mount_detached(&[Mount::bind(&dir, Access::ReadOnly)]).expect("bind");
    assert_eq!(read(&tree, "f").expect("read"), "1");
    assert_eq!(write(&tree, "g"), Err(Errno::ROFS));
    let tree = mount_detached(&[Mount::bind(&dir, Access::ReadWrite)]).expect("bind");
    write(&tree, "g").expect("write");
    assert!(!tree::mountpoints().expect("table").contains(&dir));
}

#[test]
fn nested_targets_stay_in_the_root() {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path().join("root");
    let outside = temp.path().join("outside");
    fs::create_dir_all(root.join("inside/deep")).expect("mkdir");
    fs::create_dir_all(&outside).expect("mkdir");
    symlink(&outside, root.join("out")).expect("symlink");
    symlink("/inside", root.join("in")).expect("symlink");
    let base = Mount::bind(&root, Access::ReadWrite);

    for target in ["in/deep", "/inside/deep/", "../inside/deep"] {
        let tree = mount_detached(&[base.clone(), tmpfs(target)]).expect(target);
        write(&tree, "inside/deep/x").expect("write");
        assert!(!root.join("inside/deep/x").exists(), "it went to the tmpfs");
    }
    for target in ["out", "missing", "../outside"] {
        let error = mount_detached(&[base.clone(), tmpfs(target)]).expect_err(target);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains(target), "{error}");
    }
    for target in ["", "/", "//"] {
        assert!(mount_detached(&[base.clone(), tmpfs(target)]).is_err());
    }
    assert!(mount_detached(&[tmpfs("inside")]).is_err());
    assert!(mount_detached(&[]).is_err());
}

#[test]
fn trees_are_put_together_without_mounting_on_detached_ones() {
    let temp = tempfile::tempdir().expect("tempdir");
    fs::create_dir_all(temp.path().join("a/b")).expect("mkdir");
    let piece = |target: &str| Piece {
        name: target.into(),
        target: target.into(),
        tree: mount_one(None, &tmpfs(target)).expect("tmpfs"),
    };
    let root = || mount_one(None, &Mount::bind(temp.path(), Access::ReadWrite)).expect("bind");
    let tree = tree::assemble_attached(root(), &[piece("a/b")]).expect("assemble");
    write(&tree, "a/b/x").expect("write");
    assert!(!temp.path().join("a/b/x").exists());
    assert!(tree::assemble_attached(root(), &[piece("no")]).is_err());
}

#[test]
fn a_failure_leaves_nothing_mounted() {
    let temp = tempfile::tempdir().expect("tempdir");
    let target = temp.path().join("at");
    fs::create_dir_all(temp.path().join("root/a")).expect("mkdir");
    fs::create_dir(&target).expect("mkdir");
    let good = Mount::bind(temp.path().join("root"), Access::ReadWrite);
    mount_all(&[good.clone(), tmpfs("a"), tmpfs("missing")], &target).expect_err("third");
    assert!(!is_mountpoint(&target).expect("stat"));

    mount_all(&[good.clone(), tmpfs("a")], &target).expect("mount");
    mount_all(&[good], &target).expect("again, on top");
    assert!(is_mountpoint(&target).expect("stat"));
    assert!(
        !is_mountpoint(&temp.path().join("root/a")).expect("stat"),
        "private"
    );
    unmount(&target).expect("unmount");
    assert!(!is_mountpoint(&target).expect("stat"));
    unmount(&target).expect("what is not mounted is success");
    unmount(&temp.path().join("none")).expect("what is not there too");
    assert!(!is_mountpoint(&temp.path().join("none/x")).expect("stat"));
}

#[test]
fn unmount_reaches_what_is_beneath() {
    let temp = tempfile::tempdir().expect("tempdir");
    let deep = temp.path().join("x y/z");
    fs::create_dir_all(&deep).expect("mkdir");
    mount_all(&[tmpfs("")], &deep).expect("mount");
    assert!(is_mountpoint(&deep).expect("stat"));
    unmount(temp.path()).expect("unmount");
    assert!(!is_mountpoint(&deep).expect("stat"));
}

#[test]
fn refusals_are_one_line_and_name_mount_and_reason() {
    let temp = tempfile::tempdir().expect("tempdir");
    let with = |mount: Mount, option: &str| {
        let mut mount = mount;
        mount.options.push(option.into());
        mount
    };
    let base = overlay(temp.path(), 1, true);
    let cases = [
        (with(base.clone(), "nonsense=1"), "nonsense"),
        (with(base.clone(), "remount"), "remount"),
        (with(base.clone(), "lowerdir+=relative"), "relative"),
        (
            with(base.clone(), "lowerdir+=/does/not\nexist"),
            "not\\nexist",
        ),
        (with(base, "a\0b"), "NUL"),
        (with(tmpfs(""), "size=many"), "size"),
        (with(tmpfs(""), "bogus"), "bogus"),
        (
            with(Mount::bind(temp.path(), Access::ReadOnly), "size=1"),
            "size",
        ),
        (
            Mount::bind("/does/not/exist", Access::ReadOnly),
            "/does/not",
        ),
        (Mount::bind("relative", Access::ReadOnly), "absolute"),
        (
            Mount {
                fstype: "no-such-fs".into(),
                ..Mount::default()
            },
            "no-such-fs",
        ),
    ];
    for (mount, word) in cases {
        for way in WAYS {
            let error = mount_detached_by(Some(way), std::slice::from_ref(&mount)).expect_err(word);
            let text = error.to_string();
            // The page way hears of a bad overlay option from mount(2), which names none.
            let named = text.contains(word) || (way == Way::Page && word == "nonsense");
            assert!(named, "{way:?}: {text}");
            assert!(text.contains("mount "), "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_ne!(error.kind(), ErrorKind::NotFound, "{text}");
        }
    }
}

#[test]
fn an_upper_in_use_is_seen_from_anywhere_and_left_untouched() {
    for way in WAYS {
        let (_temp, dir) = hostile_dir();
        let mount = overlay(&dir, 1, true);
        let upper = dir.join("upper");
        let in_use = || overlay::is_upper_in_use(Some(way), &upper).expect("ask");
        assert!(!in_use(), "{way:?}");
        // Detached: no mount table shows it.
        let tree = mount_detached(std::slice::from_ref(&mount)).expect("mount");
        assert!(in_use(), "{way:?}");
        let file = crate::fs::open_in_root(
            tree.as_fd(),
            Path::new("top"),
            rustix::fs::OFlags::RDONLY,
            0,
        )
        .expect("open");
        drop(tree);
        assert!(in_use(), "an open file keeps it");
        drop(file);
        assert!(!in_use(), "{way:?}");
        let read_only = mount_detached(&[Mount {
            options: [mount.options.clone(), vec!["ro".into()]].concat(),
            ..mount
        }])
        .expect("mount");
        assert!(in_use(), "read-only counts");
        assert_eq!(write(&read_only, "x"), Err(Errno::ROFS));
        drop(read_only);
        assert!(!in_use());
        let names: Vec<_> = fs::read_dir(&upper).expect("list").collect();
        assert!(names.is_empty(), "{names:?}");
        mount_detached(&[overlay(&dir, 1, true)]).expect("still mounts");
    }
}

#[test]
fn who_holds_mounts_keeps_others_from_the_exclusive_lock() {
    let temp = tempfile::tempdir().expect("tempdir");
    let mount = overlay(temp.path(), 2, true);
    let bind = Mount::bind(temp.path().join("layer-0"), Access::ReadOnly);
    for (mount, owner) in [
        (mount.clone(), "upper"),
        (mount.read_only(), "upper"),
        (bind, "layer-0"),
    ] {
        let fd = rustix::fs::open(
            temp.path().join(owner),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .expect("open");
        let exclusive = || rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
        let held = hold(std::slice::from_ref(&mount)).expect("hold");
        let second = hold(std::slice::from_ref(&mount)).expect("shared");
        assert_eq!(exclusive(), Err(Errno::WOULDBLOCK));
        drop((held, second));
        exclusive().expect("free");
        let error = hold(&[mount]).expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
}
