//! What a layer means, entry by entry, in both whiteout forms.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use containerkit_image::WhiteoutForm::{Overlay, Remove};
use support::{Entry, apply_bytes, apply_to, dir, entry, file, link, symlink, tar};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
}

#[test]
fn owners_modes_and_times() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let layer = [
        Entry {
            uid: 5,
            gid: 6,
            mode: 0o1750,
            mtime: 77,
            ..dir("d", 0)
        },
        Entry {
            uid: 1000,
            gid: 1001,
            mode: 0o6755,
            ..file("d/su", "x")
        }
        .pax("mtime", "1234567890.123456789"),
        Entry {
            uid: 4_294_967_294,
            mtime: 88,
            ..symlink("nowhere", "d/s")
        },
        link("d/su", "d/hard"),
        Entry {
            mode: 0o620,
            device: (5, 2),
            gid: 5,
            ..entry(b'3', "d/tty")
        },
        Entry {
            mode: 0o666,
            ..entry(b'6', "d/fifo")
        },
    ];
    apply_to(root, &layer).unwrap();
    let d = fs::metadata(root.join("d")).unwrap();
    assert_eq!(
        (d.uid(), d.gid(), d.mode() & 0o7777, d.mtime()),
        (5, 6, 0o1750, 77)
    );
    let su = fs::metadata(root.join("d/su")).unwrap();
    assert_eq!(
        (su.uid(), su.gid(), su.mode() & 0o7777),
        (1000, 1001, 0o6755)
    );
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(su.nlink(), 2);
    assert_eq!(su.ino(), fs::metadata(root.join("d/hard")).unwrap().ino());
    let s = root.join("d/s").symlink_metadata().unwrap();
    assert_eq!((s.uid(), s.mtime()), (4_294_967_294, 88));
    let tty = fs::metadata(root.join("d/tty")).unwrap();
    assert!(tty.file_type().is_char_device());
    assert_eq!(
        (tty.rdev(), tty.mode() & 0o7777),
        (rustix::fs::makedev(5, 2), 0o620)
    );
    let fifo = fs::metadata(root.join("d/fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o666);
}

#[test]
fn missing_parents_are_made() {
    let tmp = tempfile::tempdir().unwrap();
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o2700)).unwrap();
    apply_to(tmp.path(), &[file("a/b/c/file", "x")]).unwrap();
    for path in ["a", "a/b", "a/b/c"] {
        let meta = fs::metadata(tmp.path().join(path)).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (0, 0, 0o755),
            "{path}"
        );
    }
}

#[test]
fn the_root_entry_changes_the_root_and_never_replaces_it() {
    let tmp = tempfile::tempdir().unwrap();
    let before = fs::metadata(tmp.path()).unwrap().ino();
    for name in ["./", "/", "."] {
        let root = Entry {
            uid: 7,
            mtime: 99,
            ..dir(name, 0o751)
        };
        apply_to(tmp.path(), &[root, file("x", "1")]).unwrap();
        let meta = fs::metadata(tmp.path()).unwrap();
        assert_eq!(
            (meta.uid(), meta.mode() & 0o7777, meta.mtime()),
            (7, 0o751, 99)
        );
        assert_eq!(meta.ino(), before);
    }
}

#[test]
fn later_layers_replace_and_merge() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    apply_to(
        root,
        &[
            Entry {
                mtime: 1000,
                ..dir("keep", 0o700)
            },
            file("keep/lower", "lower"),
            file("file", "long content"),
            dir("was-dir", 0o755),
            file("was-dir/x", "x"),
            file("was-file", "x"),
            symlink("keep", "was-link"),
            file("linked", "one"),
            link("linked", "other"),
        ],
    )
    .unwrap();
    apply_to(
        root,
        &[
            dir("keep", 0o711),
            file("file", "new"),
            file("was-dir", "now a file"),
            dir("was-file", 0o755),
            file("was-file/x", "y"),
            dir("was-link", 0o755),
            file("was-link/inside", "z"),
            file("linked", "two"),
        ],
    )
    .unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("keep/lower"), "lower");
    assert_eq!(
        fs::metadata(root.join("keep")).unwrap().mode() & 0o7777,
        0o711
    );
    assert_eq!(read("file"), "new");
    assert_eq!(read("was-dir"), "now a file");
    assert_eq!(read("was-file/x"), "y");
    assert_eq!(read("was-link/inside"), "z");
    assert!(
        !root.join("keep/inside").exists(),
        "the symlink is replaced, not followed"
    );
    // Replacing one name leaves the other with its content.
    assert_eq!(
        (read("linked").as_str(), read("other").as_str()),
        ("two", "one")
    );
}

#[test]
fn a_folder_that_the_layer_does_not_list_keeps_its_time() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let old = Entry {
        mtime: 12345,
        ..dir("d", 0o755)
    };
    apply_to(root, &[old, file("d/a", "1"), file("d/b", "1")]).unwrap();
    assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 12345);
    apply_to(root, &[file("d/c", "1"), file("d/.wh.a", "")]).unwrap();
    assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 12345);
    assert!(!root.join("d/a").exists() && root.join("d/b").exists() && root.join("d/c").exists());
}

#[test]
fn whiteouts_hide_what_is_below_and_never_their_own_layer() {
    let lower = [
        dir("d", 0o755),
        file("d/old", "old"),
        dir("d/sub", 0o755),
        file("d/sub/old", "old"),
        file("f", "old"),
    ];
    let after = [
        dir("d", 0o755),
        file("d/new", "new"),
        file("d/sub/new", "new"),
        file("f", "new"),
    ];
    let marks = [file("d/.wh..wh..opq", ""), file(".wh.f", "")];
    let orders = [
        [&after[..], &marks[..]].concat(),
        [&marks[..], &after[..]].concat(),
    ];
    for layer in orders {
        let tmp = tempfile::tempdir().unwrap();
        apply_to(tmp.path(), &lower).unwrap();
        apply_to(tmp.path(), &layer).unwrap();
        let exists = |path: &str| tmp.path().join(path).exists();
        assert!(exists("d/new") && exists("d/sub/new"));
        assert!(!exists("d/old") && !exists("d/sub/old"));
        assert_eq!(fs::read_to_string(tmp.path().join("f")).unwrap(), "new");
    }
    // A folder hidden and made anew, in either order, shows the new only.
    for layer in [
        [file(".wh.d", ""), dir("d", 0o755), file("d/new", "")],
        [dir("d", 0o755), file("d/new", ""), file(".wh.d", "")],
    ] {
        let tmp = tempfile::tempdir().unwrap();
        apply_to(tmp.path(), &lower).unwrap();
        apply_to(tmp.path(), &layer).unwrap();
        let names: Vec<_> = fs::read_dir(tmp.path().join("d"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["new"]);
    }
}

#[test]
fn aufs_leftovers_and_absent_targets_are_passed_over() {
    let tmp = tempfile::tempdir().unwrap();
    let layer = [
        file(".wh..wh.aufs", ""),
        dir(".wh..wh.plnk", 0o755),
        file("nowhere/.wh.x", ""),
        file("nowhere/.wh..wh..opq", ""),
        file(".wh.nothing", ""),
    ];
    apply_to(tmp.path(), &layer).unwrap();
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
}

#[test]
fn overlay_form() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let layer = tar(&[
        file(".wh.gone", ""),
        dir("opaque", 0o755),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/new", ""),
        // Hidden, then made anew: as a folder it must hide the lower one.
        file(".wh.again", ""),
        dir("again", 0o755),
        file("again/x", ""),
        file(".wh.implied", ""),
        file("implied/x", ""),
        dir("before", 0o755),
        file(".wh.before", ""),
        // As a file it does by itself.
        file(".wh.file", ""),
        file("file", "new"),
        file("file2", "new"),
        file(".wh.file2", ""),
        dir("plain", 0o755),
        file("turned", ""),
        dir("turned", 0o755),
    ]);
    apply_bytes(root, &layer, Overlay).unwrap();
    assert!(is_whiteout(&root.join("gone")));
    let opaque = |path: &str| xattr(&root.join(path), "trusted.overlay.opaque");
    for path in ["opaque", "again", "implied", "before", "turned"] {
        assert_eq!(opaque(path).as_deref(), Some(&b"y"[..]), "{path}");
    }
    assert_eq!(opaque("plain"), None);
    assert!(root.join("opaque/new").exists() && root.join("again/x").exists());
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(root.join("file2")).unwrap(), "new");
}

/// The same layer by both ways gives the same tree.
#[test]
fn overlay_form_seen_through_overlay_equals_removal() {
    let tmp = tempfile::tempdir().unwrap();
    let base = tmp.path();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(base.join(name)).unwrap();
    }
    let lower = tar(&[
        dir("a", 0o755),
        file("a/1", "1"),
        dir("a/sub", 0o700),
        file("a/sub/2", "2"),
        dir("b", 0o755),
        file("b/3", "3"),
        file("c", "c"),
        symlink("a", "d"),
    ]);
    let upper = tar(&[
        dir("a", 0o755),
        file("a/.wh..wh..opq", ""),
        dir("a/sub", 0o755),
        file("a/sub/new", "n"),
        dir("b", 0o755),
        file("b/.wh.3", ""),
        file(".wh.c", ""),
        dir("c", 0o755),
        file("c/x", "x"),
        file(".wh.d", ""),
    ]);
    let flat = tempfile::tempdir().unwrap();
    apply_bytes(&base.join("lower"), &lower, Remove).unwrap();
    apply_bytes(&base.join("upper"), &upper, Overlay).unwrap();
    apply_bytes(flat.path(), &lower, Remove).unwrap();
    apply_bytes(flat.path(), &upper, Remove).unwrap();

    let text = |name: &str| base.join(name).to_str().unwrap().to_string();
    let tree = containerkit::mounter::mount_detached(&[containerkit::Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir+={}", text("lower")),
            format!("upperdir={}", text("upper")),
            format!("workdir={}", text("work")),
        ],
    }])
    .unwrap();
    let seen = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&tree));
    assert_eq!(list(Path::new(&seen)), list(flat.path()));
}

fn list(root: &Path) -> Vec<(String, u32, i64, u64)> {
    let mut found = Vec::new();
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(root.join(&path)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let child = format!("{path}{name}");
            let meta = root.join(&child).symlink_metadata().unwrap();
            let size = if meta.is_dir() { 0 } else { meta.len() };
            found.push((child.clone(), meta.mode(), meta.mtime(), size));
            if meta.is_dir() {
                pending.push(child + "/");
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_layer_through_a_mounted_overlay() {
    let tmp = tempfile::tempdir().unwrap();
    let base = tmp.path();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(base.join(name)).unwrap();
    }
    let lower = [
        Entry {
            mtime: 4242,
            ..dir("etc", 0o755)
        },
        file("etc/a", "a"),
        file("etc/b", "b"),
        symlink("etc", "link"),
    ];
    apply_to(&base.join("lower"), &lower).unwrap();
    let text = |name: &str| base.join(name).to_str().unwrap().to_string();
    let mounts = [containerkit::Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir+={}", text("lower")),
            format!("upperdir={}", text("upper")),
            format!("workdir={}", text("work")),
        ],
    }];
    let tree = containerkit::mounter::mount_detached(&mounts).unwrap();
    let layer = tar(&[
        file("link/.wh.a", ""),
        link("link/b", "hard"),
        file("link/new", "new"),
    ]);
    containerkit_image::apply(
        &mut &layer[..],
        std::os::fd::AsFd::as_fd(&tree),
        &containerkit_image::ApplyOptions::default(),
    )
    .unwrap();
    drop(tree);
    assert!(is_whiteout(&base.join("upper/etc/a")));
    assert!(base.join("upper/etc/new").exists());
    assert!(base.join("upper/hard").exists());
    assert_eq!(fs::metadata(base.join("upper/etc")).unwrap().mtime(), 4242);
}

#[test]
fn extended_attributes() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    // cap_net_raw+ep, version 2.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = [
        Entry {
            mode: 0o755,
            uid: 3,
            ..file("ping", "data")
        }
        .xattr("security.capability", capability)
        .xattr("user.lines", b"a\nb\0=c"),
        dir("d", 0o755)
            .xattr("user.first", "1")
            .xattr("trusted.mine", "t")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.opaque", "y"),
        symlink("x", "s")
            .xattr("trusted.on-symlink", "v")
            .xattr("user.refused", "v"),
        file("odd", "")
            .xattr("nonsense", "v")
            .xattr("system.nothing", "v"),
    ];
    apply_to(root, &layer).unwrap();
    assert_eq!(
        xattr(&root.join("ping"), "security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(
        xattr(&root.join("ping"), "user.lines").as_deref(),
        Some(&b"a\nb\0=c"[..])
    );
    let of = |path: &str, name: &str| xattr(&root.join(path), name);
    assert_eq!(of("d", "user.first").as_deref(), Some(&b"1"[..]));
    assert_eq!(of("d", "trusted.overlay.opaque"), None);
    assert_eq!(of("d", "user.overlay.opaque"), None);
    assert_eq!(of("s", "trusted.on-symlink").as_deref(), Some(&b"v"[..]));
    // The next layer's entry is the whole truth of a folder's attributes.
    apply_to(root, &[dir("d", 0o755).xattr("user.second", "2")]).unwrap();
    assert_eq!(of("d", "user.first"), None);
    assert_eq!(of("d", "trusted.mine"), None);
    assert_eq!(of("d", "user.second").as_deref(), Some(&b"2"[..]));
}

#[test]
fn bad_attribute_names_are_errors_and_not_crashes() {
    for name in ["", "user.a\0b", &format!("user.{}", "n".repeat(300))] {
        let tmp = tempfile::tempdir().unwrap();
        let error = apply_to(tmp.path(), &[file("x", "").xattr(name, "v")]).expect_err(name);
        support::assert_one_line(&error);
    }
    let tmp = tempfile::tempdir().unwrap();
    let big = vec![b'x'; 70_000];
    let error = apply_to(tmp.path(), &[file("x", "").xattr("user.big", big)]).expect_err("big");
    support::assert_one_line(&error);
}

#[test]
fn odd_names_are_kept_as_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let mut odd = file("", "x");
    odd.path = b"\xff\xfe\n\x1b[31m".to_vec();
    let mut long = file("", "y");
    long.path = ["d"; 60].join("/").into_bytes();
    long.path.extend_from_slice(b"/\xc3\xa9\xff");
    apply_to(tmp.path(), &[odd.clone(), long]).unwrap();
    let names: Vec<_> = fs::read_dir(tmp.path())
        .unwrap()
        .map(|e| std::os::unix::ffi::OsStringExt::into_vec(e.unwrap().file_name()))
        .collect();
    assert!(names.contains(&odd.path), "{names:?}");
}

#[test]
fn gnu_long_names() {
    let tmp = tempfile::tempdir().unwrap();
    let name = format!("dir/{}", "n".repeat(200));
    let target = format!("dir/{}", "t".repeat(150));
    let mut layer = Vec::new();
    for (flag, text) in [(b'L', &name), (b'K', &target)] {
        let body = format!("{text}\0");
        layer.extend(support::header(
            flag,
            b"././@LongLink",
            b"",
            body.len() as u64,
            &entry(flag, ""),
        ));
        layer.extend(support::padded(body.as_bytes()));
    }
    layer.extend(symlink("cut", "cut").bytes());
    layer.extend([0; 1024]);
    apply_bytes(tmp.path(), &layer, Remove).unwrap();
    assert_eq!(
        fs::read_link(tmp.path().join(name))
            .unwrap()
            .to_str()
            .unwrap(),
        target
    );
}

#[test]
fn sparse_files_of_every_form() {
    let content = |path: &Path| {
        let data = fs::read(path).unwrap();
        assert_eq!(data.len(), 20_000);
        assert_eq!(&data[..5], b"begin");
        assert_eq!(&data[10_000..10_006], b"middle");
        assert!(
            data[5..10_000]
                .iter()
                .chain(&data[10_006..])
                .all(|b| *b == 0)
        );
    };
    let forms = [
        // 0.0
        file("f", "beginmiddle")
            .pax("GNU.sparse.size", "20000")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.offset", "0")
            .pax("GNU.sparse.numbytes", "5")
            .pax("GNU.sparse.offset", "10000")
            .pax("GNU.sparse.numbytes", "6"),
        // 0.1
        file("GNUSparseFile.0/f", "beginmiddle")
            .pax("GNU.sparse.size", "20000")
            .pax("GNU.sparse.name", "f")
            .pax("GNU.sparse.map", "0,5,10000,6"),
        // 1.0
        Entry {
            data: [&support::padded(b"2\n0\n5\n10000\n6\n")[..], b"beginmiddle"].concat(),
            ..file("GNUSparseFile.0/f", "")
        }
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "f")
        .pax("GNU.sparse.realsize", "20000"),
    ];
    for entry in forms {
        let tmp = tempfile::tempdir().unwrap();
        apply_to(tmp.path(), &[entry, file("after", "x")]).unwrap();
        content(&tmp.path().join("f"));
        assert!(tmp.path().join("after").exists());
    }

    // The old form, its map going on in a second block.
    let mut header = support::header(b'S', b"f", b"", 11, &entry(b'S', "f"));
    header[257..265].copy_from_slice(b"ustar  \0");
    header[345..500].fill(0);
    let put = |block: &mut [u8], at: usize, value: u64| {
        block[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    };
    put(&mut header, 386, 0);
    put(&mut header, 398, 5);
    header[482] = 1;
    put(&mut header, 483, 20_000);
    support::checksum(&mut header);
    let mut more = vec![0u8; 512];
    put(&mut more, 0, 10_000);
    put(&mut more, 12, 6);
    let mut layer = [header, more, support::padded(b"beginmiddle")].concat();
    layer.extend(tar(&[file("after", "x")]));
    let tmp = tempfile::tempdir().unwrap();
    apply_bytes(tmp.path(), &layer, Remove).unwrap();
    content(&tmp.path().join("f"));
    assert!(tmp.path().join("after").exists());
}

/// What GNU tar and we make of an archive of GNU tar's.
#[test]
fn gnu_tar_writes_what_we_read() {
    let tmp = tempfile::tempdir().unwrap();
    let source = tmp.path().join("source");
    fs::create_dir_all(source.join("deep").join("d".repeat(120))).unwrap();
    fs::write(
        source
            .join("deep")
            .join("d".repeat(120))
            .join("f".repeat(150)),
        "x",
    )
    .unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 5 << 20).unwrap();
    fs::hard_link(source.join("sparse"), source.join("hard")).unwrap();
    for format in ["gnu", "pax", "posix"] {
        let archive = tmp.path().join("archive.tar");
        let status = std::process::Command::new("tar")
            .args(["--sparse", "--format", format, "-C"])
            .arg(&source)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success());
        let out = tempfile::tempdir().unwrap();
        apply_bytes(out.path(), &fs::read(&archive).unwrap(), Remove).unwrap();
        assert_eq!(list(&source), list(out.path()), "{format}");
        assert!(
            fs::read(source.join("sparse")).unwrap()
                == fs::read(out.path().join("sparse")).unwrap()
        );
        assert!(fs::metadata(out.path().join("sparse")).unwrap().blocks() < 1000);
    }
}

#[test]
fn everything_is_read_to_the_end() {
    let tmp = tempfile::tempdir().unwrap();
    let mut layer = tar(&[file("x", "1")]);
    let archive = layer.len();
    layer.extend([7; 5000]);
    let applied = apply_bytes(tmp.path(), &layer, Remove).unwrap();
    assert_eq!(applied.bytes, layer.len() as u64);
    assert_eq!(applied.entries, 1);
    // Without the blocks of zeros it is whole too.
    let applied = apply_bytes(tmp.path(), &layer[..archive - 1024], Remove).unwrap();
    assert_eq!(applied.entries, 1);
    assert_eq!(apply_bytes(tmp.path(), &[], Remove).unwrap().entries, 0);
}

#[test]
fn a_dangling_symlink_as_parent_leads_to_a_folder_in_the_root() {
    let tmp = tempfile::tempdir().unwrap();
    let layer = [symlink("/run/inner", "var"), file("var/pid", "1")];
    apply_to(tmp.path(), &layer).unwrap();
    assert_eq!(
        fs::read_to_string(tmp.path().join("run/inner/pid")).unwrap(),
        "1"
    );
}

/// The cached folder of a path must not outlive the path.
#[test]
fn a_replaced_parent_is_resolved_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let layer = [
        dir("one", 0o755),
        dir("two", 0o755),
        symlink("one", "at"),
        file("at/a", ""),
        symlink("two", "at"),
        file("at/b", ""),
        file(".wh.at", ""),
        dir("gone", 0o755),
        file("gone/x", "old"),
        file("gone", "a file"),
        file("gone/y", "a folder again"),
    ];
    apply_to(tmp.path(), &layer).unwrap();
    let exists = |path: &str| tmp.path().join(path).exists();
    assert!(exists("one/a") && exists("two/b"));
    assert!(!exists("one/b") && !exists("two/a"));
    assert!(exists("gone/y") && !exists("gone/x"));
}

#[test]
fn deep_trees_cost_no_descriptors() {
    let tmp = tempfile::tempdir().unwrap();
    let path = ["d"; 1500].join("/");
    apply_to(tmp.path(), &[file(&format!("{path}/f"), "x")]).unwrap();
    apply_to(tmp.path(), &[file(".wh..wh..opq", "")]).unwrap();
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
}
