//! What a root needs, what it looks like, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use containerkit::mounter::{OVERLAY_LAYERS, mount_all, mount_detached, unmount};
use containerkit::snapshot::{CommitOptions, SnapshotFilter};
use containerkit::{
    Driver, DriverContext, ErrorKind, Labels, Mount, Page, Result, SnapshotKey, Snapshotter,
};
use containerkit_overlay::Overlay;

fn open(root: &Path) -> Result<Overlay> {
    let name = "overlay".parse().expect("name");
    Overlay::open(DriverContext::new(name, root, root.join("state")))
}

fn key(text: &str) -> SnapshotKey {
    text.parse().expect("key")
}

fn layer(overlay: &Overlay, name: &str, parent: Option<&str>) {
    let active = key(&format!("{name}-active"));
    overlay
        .prepare(&active, parent.map(key).as_ref(), &Labels::new())
        .expect("prepare");
    let upper = overlay.upper(&active).expect("upper");
    fs::write(upper.join(name), name).expect("write");
    overlay
        .commit(&key(name), &active, &CommitOptions::default())
        .expect("commit");
}

/// Unmounts however the test ends.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(mounts: &[Mount], target: &Path) -> Mounted {
        fs::create_dir_all(target).expect("mkdir");
        mount_all(mounts, target).expect("mount");
        Mounted(target.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0);
    }
}

#[test]
fn any_root_path_works() {
    for name in [
        "a,b",
        "c:d",
        "e f",
        "g\\h",
        "\\,i\\:j\\\\",
        "k\"'=l",
        "ünï\nm",
    ] {
        let temp = tempfile::tempdir().expect("tempdir");
        let root = temp.path().join(name);
        fs::create_dir(&root).expect("mkdir");
        let overlay = open(&root).expect(name);
        layer(&overlay, "one", None);
        layer(&overlay, "two", Some("one"));
        let mounts = overlay.prepare(&key("x"), Some(&key("two")), &Labels::new());
        let mounts = mounts.expect("prepare");
        let target = temp.path().join("target");
        let mounted = Mounted::at(&mounts, &target);
        for file in ["one", "two"] {
            assert_eq!(fs::read_to_string(target.join(file)).expect("read"), file);
        }
        fs::write(target.join("three"), "3").expect("write");
        let error = overlay.remove(&key("x")).expect_err("mounted");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        drop(mounted);
        assert!(
            overlay
                .upper(&key("x"))
                .expect("upper")
                .join("three")
                .exists()
        );
        overlay.remove(&key("x")).expect("remove");
    }
}

#[test]
fn five_hundred_layers_and_not_one_more() {
    let temp = tempfile::tempdir().expect("tempdir");
    let overlay = open(temp.path()).expect("open");
    let mut parent = None;
    for n in 1..=OVERLAY_LAYERS + 1 {
        let name = format!("l{n}");
        layer(&overlay, &name, parent.as_deref());
        parent = Some(name);
    }
    let mounts = overlay
        .prepare(&key("x"), Some(&key("l500")), &Labels::new())
        .expect("prepare on 500");
    let tree = mount_detached(&mounts).expect("mount 500");
    for name in ["l1", "l250", "l500"] {
        let flags = rustix::fs::OFlags::RDONLY;
        rustix::fs::openat(&tree, name, flags, rustix::fs::Mode::empty()).expect(name);
    }
    let none = Labels::new();
    for result in [
        overlay.prepare(&key("y"), Some(&key("l501")), &none),
        overlay.view(&key("y"), Some(&key("l501")), &none),
    ] {
        let error = result.expect_err("501");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        let text = error.to_string();
        assert!(
            text.contains("501 layers") && text.contains("500"),
            "{text}"
        );
    }
    assert_eq!(
        overlay.stat(&key("y")).expect_err("y").kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn modes_keep_others_out_and_let_mapped_users_in() {
    let temp = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    let root = temp.path().join("root");
    fs::create_dir(&root).expect("mkdir");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).expect("chmod");
    let overlay = open(&root).expect("open");
    layer(&overlay, "one", None);
    let mounts = overlay
        .prepare(&key("x"), Some(&key("one")), &Labels::new())
        .expect("prepare");
    let mode = |path: &Path| fs::metadata(path).expect("stat").mode() & 0o7777;
    let fs_of_x = overlay.upper(&key("x")).expect("upper");
    let folder = fs_of_x.parent().expect("folder");
    for (path, want) in [
        (root.join("snapshots"), 0o711),
        (root.join("trash"), 0o700),
        (root.join("metadata.db"), 0o600),
        (folder.to_path_buf(), 0o700),
        (folder.join("work"), 0o700),
        (fs_of_x.clone(), 0o755),
    ] {
        assert_eq!(mode(&path), want, "{}", path.display());
    }
    let target = temp.path().join("target");
    let _mounted = Mounted::at(&mounts, &target);
    let reads = |path: &Path| {
        let status = Command::new("cat")
            .arg(path)
            .uid(100_000)
            .gid(100_000)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        status.expect("cat").success()
    };
    assert!(reads(&target.join("one")), "its own rootfs");
    fs::write(fs_of_x.join("two"), "2").expect("write");
    assert!(!reads(&fs_of_x.join("two")), "by the path on the host");
}

#[test]
fn file_systems_that_cannot_serve_are_refused_with_the_reason() {
    let temp = tempfile::tempdir().expect("tempdir");
    for name in ["lower", "upper", "work", "overlay/root", "ramfs/root", "ro"] {
        fs::create_dir_all(temp.path().join(name)).expect("mkdir");
    }
    let at = |name: &str| temp.path().join(name);
    let overlay = Mount {
        fstype: "overlay".into(),
        options: vec![
            format!("lowerdir+={}", at("lower").display()),
            format!("upperdir={}", at("upper").display()),
            format!("workdir={}", at("work").display()),
        ],
        ..Mount::default()
    };
    let ramfs = Mount {
        fstype: "ramfs".into(),
        source: "ramfs".into(),
        ..Mount::default()
    };
    for (mount, name, reason) in [
        (overlay, "overlay", "overlays do not stack on overlays"),
        (ramfs, "ramfs", "no extended attributes"),
    ] {
        let _mounted = Mounted::at(&[mount], &at(name));
        let root = at(name).join("root");
        fs::create_dir_all(&root).expect("mkdir");
        let error = open(&root).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        let hint = error.hint().expect("a mend");
        assert!(hint.contains("copying snapshotter"), "{hint}");
        let trash = fs::read_dir(root.join("trash")).expect("list").count();
        assert_eq!(trash, 0, "the probe left something");
    }
    let tmpfs = Mount {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        ..Mount::default()
    };
    let _mounted = Mounted::at(&[tmpfs], &at("tmpfs"));
    layer(&open(&at("tmpfs")).expect("tmpfs serves"), "one", None);
}

#[test]
fn metadata_that_is_not_ours_is_refused_and_kept() {
    let temp = tempfile::tempdir().expect("tempdir");
    drop(open(temp.path()).expect("open"));
    let path = temp.path().join("metadata.db");
    let sql = |text: &str| {
        let db = rusqlite::Connection::open(&path).expect("open");
        db.execute_batch(text).expect("sql");
    };
    sql("PRAGMA user_version = 7");
    let error = open(temp.path()).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("version 7"), "{error}");
    sql("PRAGMA user_version = 0");
    let error = open(temp.path()).expect_err("tables without version");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    for name in ["metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(temp.path().join(name));
    }
    fs::write(&path, "this is no database, and never was one\n".repeat(99)).expect("write");
    let before = fs::read(&path).expect("read");
    let error = open(temp.path()).expect_err("garbage");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    assert!(error.to_string().contains("metadata.db"), "{error}");
    assert_eq!(fs::read(&path).expect("read"), before);
    // Begun by a process that was killed.
    fs::write(&path, "").expect("write");
    open(temp.path()).expect("an empty file is filled");
}

#[test]
fn rows_whose_folders_a_power_cut_took_are_dropped_at_the_next_boot() {
    let temp = tempfile::tempdir().expect("tempdir");
    let overlay = open(temp.path()).expect("open");
    for (name, parent) in [("a", None), ("b", Some("a")), ("c", Some("b"))] {
        layer(&overlay, name, parent);
    }
    overlay
        .prepare(&key("x"), Some(&key("c")), &Labels::new())
        .expect("prepare");
    let upper = overlay.upper(&key("x")).expect("upper");
    let folder = |path: &Path| path.parent().expect("folder").to_path_buf();
    let numbers: Vec<u64> = fs::read_dir(temp.path().join("snapshots"))
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .map(|name| name.to_str().expect("text").parse().expect("number"))
        .collect();
    let c = numbers.iter().filter(|n| **n < 4).max().expect("c");
    fs::remove_dir_all(folder(&upper)).expect("rm");
    fs::remove_dir_all(temp.path().join(format!("snapshots/{c}"))).expect("rm");
    let names = |overlay: &Overlay| -> BTreeSet<String> {
        let all = overlay.walk(&SnapshotFilter::default(), &Page::default());
        let all = all.expect("walk");
        all.iter().map(|info| info.key.to_string()).collect()
    };
    drop(overlay);
    let overlay = open(temp.path()).expect("the same boot");
    assert_eq!(names(&overlay).len(), 4);
    let error = overlay
        .prepare(&key("y"), Some(&key("c")), &Labels::new())
        .expect_err("no files");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    drop(overlay);
    rusqlite::Connection::open(temp.path().join("metadata.db"))
        .and_then(|db| db.execute_batch("UPDATE meta SET value = 'x' WHERE name = 'boot'"))
        .expect("another boot");
    let overlay = open(temp.path()).expect("the next boot");
    let left: Vec<String> = names(&overlay).into_iter().collect();
    assert_eq!(left, ["a", "b"]);
    layer(&overlay, "c", Some("b"));
}

fn count(root: &Path, folder: &str) -> usize {
    fs::read_dir(root.join(folder)).expect("list").count()
}

fn stale(root: &Path, number: i64) {
    let fs = root.join(format!("snapshots/{number}/fs"));
    fs::create_dir_all(&fs).expect("mkdir");
    fs::write(fs.join("stale"), "x").expect("write");
}

#[test]
fn an_orphaned_folder_is_cleaned_up_and_its_number_reused() {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path();
    let overlay = open(root).expect("open");
    layer(&overlay, "one", None);
    // Of a process that was killed before its row was there.
    stale(root, 2);
    fs::write(root.join("trash/file"), "x").expect("write");
    let mounts = overlay
        .prepare(&key("x"), Some(&key("one")), &Labels::new())
        .expect("prepare over an orphan");
    let upper = overlay.upper(&key("x")).expect("upper");
    assert!(!upper.join("stale").exists());
    // What was in the way is gone with it, and nothing else of the trash.
    assert_eq!((count(root, "snapshots"), count(root, "trash")), (2, 1));
    let tree = mount_detached(&mounts).expect("mount");
    stale(root, 3);
    let usage = overlay.cleanup().expect("cleanup");
    assert_eq!(usage.inodes, 4, "{usage:?}");
    assert_eq!((count(root, "snapshots"), count(root, "trash")), (2, 0));
    drop(tree);
}

#[test]
fn after_a_boot_folders_without_a_row_are_set_aside_and_old_databases_climb() {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path();
    let overlay = open(root).expect("open");
    layer(&overlay, "one", None);
    drop(overlay);
    for (sql, number) in [
        ("UPDATE meta SET value = 'x' WHERE name = 'boot'", 40),
        // As version 1 was, which left such folders to every cleanup.
        ("DROP TABLE garbage; PRAGMA user_version = 1", 41),
    ] {
        for number in [number, number + 50] {
            stale(root, number);
        }
        rusqlite::Connection::open(root.join("metadata.db"))
            .and_then(|db| db.execute_batch(sql))
            .expect(sql);
        let overlay = open(root).expect(sql);
        assert_eq!(count(root, "snapshots"), 1, "{sql}");
        assert!(overlay.cleanup().expect("cleanup").inodes >= 6, "{sql}");
        assert_eq!(count(root, "trash"), 0, "{sql}");
        overlay.stat(&key("one")).expect("one is still there");
    }
    layer(&open(root).expect("open"), "two", Some("one"));
}

#[test]
fn opening_again_is_quick() {
    let temp = tempfile::tempdir().expect("tempdir");
    layer(&open(temp.path()).expect("open"), "one", None);
    // The best of many: others use the machine too.
    let best = (0..50)
        .map(|_| {
            let start = Instant::now();
            open(temp.path()).expect("open");
            start.elapsed()
        })
        .min()
        .expect("some");
    assert!(best.as_micros() < 5_000, "{best:?}");
    println!("open: {best:?}");
}

#[test]
fn unknown_options_are_refused() {
    let temp = tempfile::tempdir().expect("tempdir");
    let name = "overlay".parse().expect("name");
    let options = [("volatile".to_string(), true.into())]
        .into_iter()
        .collect();
    let context = DriverContext::new(name, temp.path(), temp.path()).with_options(options);
    let error = Overlay::open(context).expect_err("option");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("volatile"), "{error}");
}
