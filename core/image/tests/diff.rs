//! Layers made of two trees: what is in them, and that they make the one tree
//! of the other, whatever the snapshotter.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use containerkit::{ErrorKind, fs::open_dir};
use containerkit_image::diff::Trees;
use containerkit_image::{DiffOptions, Diffed, WhiteoutForm};
use support::trees::{Links, tree};
use support::{apply_bytes, assert_one_line};

/// A lower and an upper folder: the upper begins as a copy of the lower.
struct Pair(tempfile::TempDir);

impl Pair {
    fn new(make: impl Fn(&Path)) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lower")).unwrap();
        make(&dir.path().join("lower"));
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(dir.path().join("lower"))
            .arg(dir.path().join("upper"))
            .status()
            .unwrap();
        assert!(copied.success());
        Pair(dir)
    }

    fn lower(&self) -> std::path::PathBuf {
        self.0.path().join("lower")
    }

    fn upper(&self) -> std::path::PathBuf {
        self.0.path().join("upper")
    }

    fn layer(&self, options: &DiffOptions) -> containerkit::Result<(Vec<u8>, Diffed)> {
        let lower = open_dir(&self.lower()).unwrap();
        let upper = open_dir(&self.upper()).unwrap();
        let mut trees = Trees::of_folders(Some(lower), upper);
        let changes = trees.changes(options)?;
        let mut layer = Vec::new();
        let diffed = trees.write(&changes, &mut layer, options)?;
        Ok((layer, diffed))
    }

    /// The names in the layer, hard links with their targets.
    fn entries(&self) -> Vec<String> {
        let (layer, diffed) = self.layer(&DiffOptions::default()).unwrap();
        let names = names(&layer);
        assert_eq!(diffed.entries, names.len() as u64);
        assert_eq!(diffed.bytes, layer.len() as u64);
        names
    }
}

fn names(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match entry.header().entry_type() {
                tar::EntryType::Link => {
                    let link = entry.link_name_bytes().unwrap().into_owned();
                    format!("{path} = {}", String::from_utf8_lossy(&link))
                }
                _ => path,
            }
        })
        .collect()
}

fn write(path: impl AsRef<Path>, data: &str) {
    fs::write(path, data).unwrap();
}

#[test]
fn equal_trees_make_an_empty_layer() {
    let pair = Pair::new(|root| {
        fs::create_dir(root.join("d")).unwrap();
        write(root.join("d/f"), "data");
        symlink("f", root.join("d/l")).unwrap();
    });
    assert_eq!(pair.entries(), Vec::<String>::new());
}

#[test]
fn parents_of_what_changed_are_included() {
    let pair = Pair::new(|root| {
        fs::create_dir_all(root.join("d1/d")).unwrap();
        fs::create_dir_all(root.join("d2")).unwrap();
        write(root.join("d1/d/f"), "one");
        write(root.join("d2/f"), "untouched");
    });
    write(pair.upper().join("d1/d/f"), "two");
    assert_eq!(pair.entries(), ["d1/", "d1/d/", "d1/d/f"]);
}

#[test]
fn a_link_to_an_untouched_file_brings_the_file_and_its_parents() {
    let pair = Pair::new(|root| {
        for dir in ["d1", "d2", "d3", "d4"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        write(root.join("d1/f1"), "link me");
        write(root.join("d4/f1"), "link me too");
    });
    let upper = pair.upper();
    fs::hard_link(upper.join("d1/f1"), upper.join("d2/l1")).unwrap();
    fs::hard_link(upper.join("d4/f1"), upper.join("d3/l1")).unwrap();
    assert_eq!(
        pair.entries(),
        [
            "d1/",
            "d1/f1",
            "d2/",
            "d2/l1 = d1/f1",
            "d3/",
            "d3/l1",
            "d4/",
            "d4/f1 = d3/l1"
        ]
    );
}

#[test]
fn a_folder_whose_mode_changed_is_told_without_what_is_in_it() {
    let pair = Pair::new(|root| {
        fs::create_dir_all(root.join("d1/d")).unwrap();
        write(root.join("d1/d/f"), "data");
    });
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(pair.upper().join("d1/d"), mode).unwrap();
    assert_eq!(pair.entries(), ["d1/", "d1/d/"]);
}

#[test]
fn every_name_of_a_changed_file_is_told() {
    let pair = Pair::new(|root| {
        fs::create_dir(root.join("d1")).unwrap();
        fs::create_dir(root.join("d2")).unwrap();
        write(root.join("d1/f"), "one");
        fs::hard_link(root.join("d1/f"), root.join("d2/f")).unwrap();
    });
    write(pair.upper().join("d2/f"), "two");
    assert_eq!(pair.entries(), ["d1/", "d1/f", "d2/", "d2/f = d1/f"]);
}

#[test]
fn deletions_are_whiteouts_with_their_parents() {
    let pair = Pair::new(|root| {
        fs::create_dir_all(root.join("d1/d/deep")).unwrap();
        fs::create_dir(root.join("d2")).unwrap();
        write(root.join("d1/f"), "data");
        write(root.join("d1/d/deep/f"), "data");
        write(root.join("d2/f"), "data");
    });
    fs::remove_file(pair.upper().join("d1/f")).unwrap();
    fs::remove_dir_all(pair.upper().join("d1/d")).unwrap();
    fs::remove_dir_all(pair.upper().join("d2")).unwrap();
    assert_eq!(pair.entries(), ["d1/", "d1/.wh.d", "d1/.wh.f", ".wh.d2"]);
}

#[test]
fn what_replaces_a_folder_and_what_a_folder_replaces() {
    let pair = Pair::new(|root| {
        fs::create_dir(root.join("d")).unwrap();
        write(root.join("d/gone"), "data");
        write(root.join("f"), "data");
    });
    let upper = pair.upper();
    fs::remove_dir_all(upper.join("d")).unwrap();
    write(upper.join("d"), "now a file");
    fs::remove_file(upper.join("f")).unwrap();
    fs::create_dir(upper.join("f")).unwrap();
    write(upper.join("f/new"), "data");
    assert_eq!(pair.entries(), ["d", "f/", "f/new"]);
}

#[test]
fn sockets_are_left_out_and_what_one_replaced_is_gone() {
    let pair = Pair::new(|root| write(root.join("was"), "data"));
    let upper = pair.upper();
    let _one = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    fs::remove_file(upper.join("was")).unwrap();
    let _two = std::os::unix::net::UnixListener::bind(upper.join("was")).unwrap();
    assert_eq!(pair.entries(), [".wh.was"]);
}

#[test]
fn an_edit_of_the_same_size_is_seen_even_with_the_time_set_back() {
    let pair = Pair::new(|root| {
        write(root.join("fast"), "aaaa");
        write(root.join("sly"), "aaaa");
        write(root.join("still"), "aaaa");
    });
    let upper = pair.upper();
    let time = fs::metadata(upper.join("sly")).unwrap().modified().unwrap();
    write(upper.join("sly"), "bbbb");
    let file = fs::File::options()
        .write(true)
        .open(upper.join("sly"))
        .unwrap();
    file.set_modified(time).unwrap();
    // Within the same second, by a nanosecond.
    write(upper.join("fast"), "bbbb");
    let file = fs::File::options()
        .write(true)
        .open(upper.join("fast"))
        .unwrap();
    file.set_modified(time + std::time::Duration::from_nanos(1))
        .unwrap();
    assert_eq!(pair.entries(), ["fast", "sly"]);
}

#[test]
fn names_that_would_be_deletions_are_refused() {
    let pair = Pair::new(|_| {});
    write(pair.upper().join(".wh.x"), "data");
    let error = pair.layer(&DiffOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains(".wh.x"), "{error}");
    assert_one_line(&error);
}

#[test]
fn a_path_that_is_too_long_is_refused_and_any_depth_below_it_is_not() {
    let pair = Pair::new(|_| {});
    let mut dir = open_dir(&pair.upper()).unwrap();
    let make = |dir: &std::os::fd::OwnedFd, name: &str| {
        rustix::fs::mkdirat(dir, name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).unwrap()
    };
    for _ in 0..2000 {
        dir = make(&dir, "d");
    }
    assert_eq!(pair.entries().len(), 2000);
    for _ in 0..100 {
        dir = make(&dir, "d");
    }
    let error = pair.layer(&DiffOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_one_line(&error);
    drop(dir);
    // `tempfile` cannot remove what is so deep.
    containerkit::fs::remove_tree_path(&pair.upper()).unwrap();
}

#[test]
fn a_layer_is_the_same_bytes_and_no_later_than_the_epoch() {
    let pair = Pair::new(|root| write(root.join("gone"), "data"));
    fs::remove_file(pair.upper().join("gone")).unwrap();
    write(pair.upper().join("new"), "data");
    write(pair.upper().join("old"), "data");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(5, 7);
    let file = fs::File::options()
        .write(true)
        .open(pair.upper().join("old"));
    file.unwrap().set_modified(old).unwrap();
    let options = DiffOptions {
        epoch: Some(1_000_000_000),
        ..DiffOptions::default()
    };
    let (one, _) = pair.layer(&options).unwrap();
    // Times of access and of looking do not count.
    fs::read(pair.upper().join("new")).unwrap();
    write(pair.upper().join("new"), "data");
    let (two, _) = pair.layer(&options).unwrap();
    assert!(one == two);
    let into = tempfile::tempdir().unwrap();
    apply_bytes(into.path(), &one, WhiteoutForm::Remove).unwrap();
    let time = |name: &str| {
        let meta = fs::metadata(into.path().join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    // Beside a tree that was made of it nothing has changed.
    for name in ["new", "old"] {
        std::fs::copy(into.path().join(name), pair.lower().join(name)).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(pair.lower().join(name));
        let (seconds, nanos) = time(name);
        let at = std::time::Duration::new(seconds as u64, nanos as u32);
        file.unwrap()
            .set_modified(std::time::UNIX_EPOCH + at)
            .unwrap();
    }
    let (three, _) = pair.layer(&options).unwrap();
    assert_eq!(names(&three), [".wh.gone"]);
    assert_eq!(time("new"), (1_000_000_000, 0));
    assert_eq!(time("old"), (5, 7));
}

#[test]
fn holes_stay_holes() {
    let pair = Pair::new(|_| {});
    let path = pair.upper().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 32).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 1 << 31).unwrap();
    write(pair.upper().join("small"), "");
    let small = fs::File::create(pair.upper().join("small")).unwrap();
    small.set_len(100_000).unwrap();
    let (layer, _) = pair.layer(&DiffOptions::default()).unwrap();
    assert!(layer.len() < 300_000, "{}", layer.len());
    let into = tempfile::tempdir().unwrap();
    apply_bytes(into.path(), &layer, WhiteoutForm::Remove).unwrap();
    let meta = fs::metadata(into.path().join("sparse")).unwrap();
    assert_eq!(meta.len(), 1 << 32);
    assert!(meta.blocks() < 2048);
    let mut data = [0; 8];
    let file = fs::File::open(into.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, (1 << 31) - 1).unwrap();
    assert_eq!(&data, b"\0middle\0");
    assert_eq!(
        fs::read(into.path().join("small")).unwrap(),
        vec![0; 100_000]
    );
}

#[test]
fn the_root_is_told_when_it_differs() {
    let pair = Pair::new(|root| write(root.join("f"), "data"));
    let mode = fs::Permissions::from_mode(0o711);
    fs::set_permissions(pair.upper(), mode).unwrap();
    assert_eq!(pair.entries(), ["./"]);
    let whole = Trees::of_folders(None, open_dir(&pair.upper()).unwrap())
        .changes(&DiffOptions::default())
        .unwrap();
    let paths: Vec<&[u8]> = whole.iter().map(|change| &change.path[..]).collect();
    assert_eq!(paths, [&b""[..], b"f"]);
    let _ = pair.upper().as_path();
}

#[test]
fn attributes_are_kept_whatever_they_hold_but_not_overlays() {
    let pair = Pair::new(|root| {
        write(root.join("f"), "data");
        write(root.join("same"), "data");
    });
    let upper = pair.upper();
    let long = vec![7u8; 1000];
    let many: Vec<String> = (0..20).map(|n| format!("user.number-{n:030}")).collect();
    let set = |name: &str, key: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(upper.join(name), key, value, flags).unwrap();
    };
    set("f", "user.empty", b"");
    set("f", "trusted.long", &long);
    set("f", "trusted.overlay.origin", b"x");
    set("same", "trusted.overlay.opaque", b"y");
    for key in &many {
        set("f", key, b"value");
    }
    assert_eq!(pair.entries(), ["f"]);
    let (layer, _) = pair.layer(&DiffOptions::default()).unwrap();
    let into = tempfile::tempdir().unwrap();
    apply_bytes(into.path(), &layer, WhiteoutForm::Remove).unwrap();
    let get = |key: &str| {
        let mut value = vec![0; 4000];
        let length = rustix::fs::lgetxattr(into.path().join("f"), key, &mut value[..]);
        length.map(|length| value[..length].to_vec())
    };
    assert_eq!(get("user.empty"), Ok(Vec::new()));
    assert_eq!(get("trusted.long"), Ok(long));
    assert_eq!(get(&many[19]), Ok(b"value".to_vec()));
    assert!(get("trusted.overlay.origin").is_err());
}

#[test]
fn ids_of_mapped_users_are_those_in_the_container() {
    let pair = Pair::new(|root| write(root.join("f"), "data"));
    let upper = pair.upper();
    std::os::unix::fs::lchown(upper.join("f"), Some(100_000), Some(100_007)).unwrap();
    write(upper.join("new"), "data");
    std::os::unix::fs::lchown(upper.join("new"), Some(101_000), Some(5)).unwrap();
    let map = |text: &str| vec![text.parse().unwrap()];
    let options = DiffOptions {
        mapping: Some(
            containerkit::idmap::IdMapping::new(map("0:100000:65536"), map("0:100007:65536"))
                .unwrap(),
        ),
        ..DiffOptions::default()
    };
    let (layer, _) = pair.layer(&options).unwrap();
    // The first is the same file, but for the mapping.
    assert_eq!(names(&layer), ["new"]);
    let into = tempfile::tempdir().unwrap();
    apply_bytes(into.path(), &layer, WhiteoutForm::Remove).unwrap();
    let meta = fs::metadata(into.path().join("new")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1000, 5));
}

#[test]
fn a_stream_that_cannot_be_written_says_so() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(rustix::io::Errno::NOSPC.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let pair = Pair::new(|_| {});
    write(pair.upper().join("f"), "data");
    let upper = open_dir(&pair.upper()).unwrap();
    let mut trees = Trees::of_folders(None, upper.as_fd().try_clone_to_owned().unwrap());
    let options = DiffOptions::default();
    let changes = trees.changes(&options).unwrap();
    let error = trees.write(&changes, &mut Full, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(tree(&pair.upper(), Links::Told).contains('f'));
}
