//! Symptoms that stores of this kind had in the field, each as a test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::*;
use containerkit::content::{BlobFilter, Expected, IngestWriter, ingest, read_blob};
use containerkit::{
    Algorithm, ContentStore, Digest, Driver, DriverContext, ErrorKind, IngestRef, LabelChanges,
    Labels, Page,
};
use containerkit_local::Local;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

type Files = &'static [(&'static str, &'static [u8])];

fn any() -> Expected {
    Expected::default()
}

#[test]
fn a_kill_between_folder_and_data_does_not_brick_the_ref() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let dir = ingest_dir(root, "put");
    let digest = Algorithm::Sha256.digest(b"data");
    // The states that a kill can leave, and some that only damage can.
    let states: [(&str, Files); 7] = [
        ("folder only", &[]),
        ("lock only", &[("lock", b"")]),
        ("lock of a dead process", &[("lock", b"1 1\n")]),
        (
            "garbage meta",
            &[("meta.json", b"\0\0\0\0"), ("data", b"da")],
        ),
        ("half a meta", &[("meta.json", b"{\"version\":1,")]),
        ("data only", &[("data", b"da")]),
        ("temporary meta", &[(".meta.json.new", b"{"), ("lock", b"")]),
    ];
    for (what, files) in states {
        let lay = || {
            std::fs::create_dir(&dir).unwrap();
            for (file, bytes) in files {
                std::fs::write(dir.join(file), bytes).unwrap();
            }
        };
        lay();
        assert_eq!(put(&store, b"data"), digest, "{what}");
        assert_eq!(read_blob(&store, &digest, 100).unwrap(), b"data", "{what}");
        assert!(!dir.exists(), "{what}");
        store.delete(&digest).unwrap();

        lay();
        assert_eq!(store.list_statuses().expect(what), [], "{what}");
        assert!(!dir.exists(), "{what}: a listing repairs");
        lay();
        store.abort(&name("put")).expect(what);
        assert!(!dir.exists(), "{what}");
    }
    assert_eq!(entries(&root.join("trash")), [""; 0]);
}

#[test]
fn things_of_the_wrong_type_do_not_brick_the_ref() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let dir = ingest_dir(root, "put");
    let outside = root.join("outside");
    std::fs::write(&outside, b"keep").unwrap();
    let lay: [(&str, &dyn Fn()); 5] = [
        ("a file for the folder", &|| {
            std::fs::write(&dir, b"x").unwrap();
        }),
        ("a link for the folder", &|| {
            symlink(root, &dir).unwrap();
        }),
        ("a folder for the lock", &|| {
            std::fs::create_dir_all(dir.join("lock")).unwrap();
        }),
        ("a link for the data", &|| {
            std::fs::create_dir(&dir).unwrap();
            symlink(&outside, dir.join("data")).unwrap();
        }),
        ("a folder for the data", &|| {
            std::fs::create_dir_all(dir.join("data/x")).unwrap();
        }),
    ];
    for (what, lay) in lay {
        lay();
        store.list_statuses().expect(what);
        if !dir.exists() {
            lay();
        }
        let digest = put(&store, b"data");
        store.delete(&digest).expect(what);
        lay();
        store.abort(&name("put")).expect(what);
        assert!(std::fs::symlink_metadata(&dir).is_err(), "{what}");
    }
    assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
}

#[test]
fn resuming_after_a_kill_between_link_and_unlink_does_not_write_into_the_blob() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let mut writer = store.writer(&name("put"), &any()).unwrap();
    writer.write(b"first").unwrap();
    drop(writer);
    let digest = Algorithm::Sha256.digest(b"first");
    let data = ingest_dir(root, "put").join("data");
    std::fs::hard_link(&data, blob(root, &digest)).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o400)).unwrap();

    let mut writer = store.writer(&name("put"), &any()).unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write(b"second").unwrap();
    writer.commit(&any(), &Labels::new()).unwrap();
    assert_eq!(read_blob(&store, &digest, 100).unwrap(), b"first");
}

/// Runs `work` without root's privileges, where the test has them.
fn unprivileged<T: Send>(root: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                std::os::unix::fs::chown(root, Some(65534), None).unwrap();
                // Of this thread alone; so that the ingests' files are nobody's.
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_failed_or_killed_commit_leaves_no_read_only_ingest_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    unprivileged(root, || {
        let store = open(root).unwrap();
        let mut writer = store.writer(&name("put"), &any()).unwrap();
        writer.write(b"da").unwrap();
        let wrong = sized(b"data");
        let error = writer.commit(&wrong, &Labels::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        drop(writer);
        let data = ingest_dir(root, "put").join("data");
        assert_eq!(mode(&data), 0o600);
        // Killed after the chmod, before the rename.
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o400)).unwrap();
        let mut writer = store.writer(&name("put"), &wrong).unwrap();
        assert_eq!(writer.status().unwrap().offset, 2);
        writer.write(b"ta").unwrap();
        writer.commit(&any(), &Labels::new()).unwrap();
    });
}

#[test]
fn a_wrong_digest_or_size_does_not_stick_the_ref_for_ever() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let wrong = Expected {
        size: None,
        digest: Some(Algorithm::Sha256.digest(b"other")),
    };
    for _ in 0..3 {
        let error = ingest(
            &store,
            &name("put"),
            &wrong,
            &Labels::new(),
            &mut &b"data"[..],
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }
    put(&store, b"data");
}

#[test]
fn folders_are_private_and_blobs_read_only_under_any_umask() {
    if let Some(root) = child_root() {
        let store = open(&root).unwrap();
        let mut writer = store.writer(&name("held/back"), &any()).unwrap();
        writer.write(b"half").unwrap();
        drop(writer);
        let some = labels(&[("a", "b")]);
        ingest(&store, &name("put"), &any(), &some, &mut &b"data"[..]).unwrap();
        return;
    }
    for umask in ["0000", "0022", "0077", "0277"] {
        let tmp = tempfile::tempdir().unwrap();
        let status = child(
            "folders_are_private_and_blobs_read_only_under_any_umask",
            tmp.path(),
            &format!("umask {umask};"),
        )
        .status()
        .unwrap();
        assert!(status.success(), "umask {umask}");
        let mut pending: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().collect();
        let mut files = 0;
        while let Some(entry) = pending.pop() {
            let path = entry.unwrap().path();
            let found = mode(&path);
            if path.is_dir() {
                assert_eq!(found, 0o700, "{} under {umask}", path.display());
                pending.extend(std::fs::read_dir(&path).unwrap());
            } else if path.starts_with(tmp.path().join("blobs")) {
                assert_eq!(found, 0o400, "{} under {umask}", path.display());
                files += 1;
            } else {
                assert_eq!(found & 0o177, 0, "{} under {umask}", path.display());
                files += 1;
            }
        }
        assert!(files >= 6, "{files} files under {umask}");
    }
}

#[test]
fn newer_formats_are_refused_by_name() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let digest = put(&store, b"data");
    let refused = |error: containerkit::Error, file: &str| {
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.to_string().contains(file), "{error}");
        assert!(error.to_string().contains("version 2"), "{error}");
    };
    let sidecar = root.join("labels/sha256").join(digest.hex());
    std::fs::write(&sidecar, b"{\"version\":2,\"tags\":[]}").unwrap();
    refused(store.info(&digest).unwrap_err(), digest.hex());
    std::fs::remove_file(&sidecar).unwrap();

    drop(store.writer(&name("put"), &any()).unwrap());
    let meta = ingest_dir(root, "put").join("meta.json");
    std::fs::write(&meta, b"{\"version\":2}").unwrap();
    refused(
        store.writer(&name("put"), &any()).err().unwrap(),
        "meta.json",
    );
    assert_eq!(store.list_statuses().unwrap(), []);
    assert!(meta.exists(), "what a newer version made is not removed");

    std::fs::write(
        root.join("store.json"),
        b"{\"version\":2,\"format\":\"containerkit-local\"}",
    )
    .unwrap();
    refused(open(root).unwrap_err(), "store.json");
    std::fs::write(root.join("store.json"), b"{\"version\":1,\"format\":\"x\"}").unwrap();
    assert_eq!(open(root).unwrap_err().kind(), ErrorKind::Incompatible);
    std::fs::write(root.join("store.json"), b"").unwrap();
    let error = open(root).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("store.json"), "{error}");
}

#[test]
fn a_root_that_cannot_hold_a_store_is_refused_when_it_is_opened() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for (root, kind) in [
        (file.as_path(), ErrorKind::FailedPrecondition),
        (&tmp.path().join("missing"), ErrorKind::NotFound),
        // Root itself may not make folders there.
        (Path::new("/proc/self"), ErrorKind::NotFound),
    ] {
        let error = open(root).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(root.to_str().unwrap()), "{text}");
    }
    let options = [("fsyn".to_owned(), true.into())].into_iter().collect();
    let context =
        DriverContext::new("local".parse().unwrap(), tmp.path(), tmp.path()).with_options(options);
    let error = Local::open(context).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(entries(tmp.path()), ["file"], "nothing was written");
}

#[test]
fn refs_with_slashes_colons_and_255_bytes_stay_inside_and_apart() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let long = "r".repeat(255);
    let names: [&str; 4] = ["a/b/c", "a:b:c", "sha256:0/x@y", &long];
    let mut writers: Vec<Box<dyn IngestWriter>> = Vec::new();
    for text in names {
        writers.push(store.writer(&name(text), &any()).expect(text));
    }
    let mut listed: Vec<IngestRef> = store
        .list_statuses()
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    let mut want = names.map(name).to_vec();
    want.sort();
    assert_eq!(listed, want, "in ref order");
    listed.clear();
    assert_eq!(entries(&root.join("ingest")).len(), 4);
    assert_eq!(
        entries(root),
        ["blobs", "ingest", "labels", "locks", "store.json", "trash"]
    );
}

#[test]
fn labels_of_a_deleted_or_never_committed_blob_do_not_come_back() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let some = labels(&[("gc", "keep")]);
    let info = ingest(&store, &name("put"), &any(), &some, &mut &b"data"[..]).unwrap();
    let digest = info.digest;
    let sidecar = root.join("labels/sha256").join(digest.hex());
    let saved = std::fs::read(&sidecar).unwrap();
    store.delete(&digest).unwrap();
    assert!(!sidecar.exists());
    // A commit killed between its labels and its blob.
    std::fs::write(&sidecar, &saved).unwrap();
    let filter = BlobFilter {
        labels: vec![("gc".into(), None)],
    };
    assert_eq!(store.walk(&filter, &Page::default()).unwrap(), []);
    let error = store.info(&digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let digest = put(&store, b"data");
    assert_eq!(store.info(&digest).unwrap().labels, Labels::new());
}

#[test]
fn an_ingest_whose_blob_came_from_elsewhere_is_not_left_for_ever() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let expected = sized(b"data");
    let mut writer = store.writer(&name("slow"), &expected).unwrap();
    writer.write(b"da").unwrap();
    put(&store, b"data");
    // Held: it is let alone.
    let error = store.writer(&name("slow"), &expected).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    writer.write(b"t").unwrap();
    drop(writer);
    let error = store.writer(&name("slow"), &expected).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(store.list_statuses().unwrap(), []);
    // Meant for another blob: kept.
    let mut writer = store.writer(&name("slow"), &sized(b"other")).unwrap();
    writer.write(b"ot").unwrap();
    drop(writer);
    assert!(store.writer(&name("slow"), &expected).is_err());
    assert_eq!(store.status(&name("slow")).unwrap().offset, 2);
}

#[test]
fn foreign_names_in_the_folders_are_no_blobs_and_no_trouble() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let digest = put(&store, b"data");
    for path in [
        "blobs/sha256/.x.new",
        "blobs/sha256/README",
        "blobs/sha512/00",
        "labels/sha256/.x.new",
        "ingest/README",
        "trash/aside.1.2.3",
    ] {
        std::fs::write(root.join(path), b"x").unwrap();
    }
    let upper = digest.hex().to_uppercase();
    std::fs::write(root.join("blobs/sha256").join(upper), b"data").unwrap();
    let all = store.walk(&BlobFilter::default(), &Page::default());
    assert_eq!(all.unwrap().len(), 1);
    assert_eq!(store.list_statuses().unwrap(), []);
    open(root).unwrap();
    assert_eq!(entries(&root.join("trash")), [""; 0], "swept when opened");
}

#[test]
fn pages_stay_full_when_blobs_vanish_between_listing_and_stat() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let mut want: Vec<Digest> = (0..40u8).map(|n| put(&store, &[n])).collect();
    want.sort();
    // Labels without blobs are names that a walk by label lists in vain.
    let changes = LabelChanges {
        replace_all: false,
        set: [("a".to_owned(), Some("b".to_owned()))].into(),
    };
    for digest in &want {
        store.update(digest, &changes).unwrap();
    }
    for digest in &want[5..35] {
        std::fs::remove_file(blob(root, digest)).unwrap();
    }
    for labels in [vec![], vec![("a".to_owned(), None)]] {
        let filter = BlobFilter { labels };
        let page = Page {
            after: Some(want[2].to_string()),
            limit: 4,
        };
        let found: Vec<Digest> = store
            .walk(&filter, &page)
            .unwrap()
            .into_iter()
            .map(|info| info.digest)
            .collect();
        assert_eq!(
            found,
            [&want[3], &want[4], &want[35], &want[36]].map(Clone::clone)
        );
    }
}

#[test]
fn descriptors_of_a_deleted_blob_go_on_and_share_no_offset() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let digest = put(&store, b"0123456789");
    let reader = store.reader(&digest).unwrap();
    store.delete(&digest).unwrap();
    let open = || std::fs::File::from(reader.as_fd().unwrap().unwrap());
    let (mut a, mut b) = (open(), open());
    a.seek(SeekFrom::Start(8)).unwrap();
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    text.clear();
    a.read_to_string(&mut text).unwrap();
    assert_eq!(text, "89");
    use std::io::Write;
    assert!(a.write(b"x").is_err(), "read-only");
}

/// Writes until it cannot, then says how that went. No size is told: one that
/// cannot fit would be refused before.
fn write_until_full(root: &Path) {
    let store = open(root).unwrap();
    let data = noise(8 << 20, 7);
    let mut writer = store.writer(&name("big/layer"), &any()).unwrap();
    // Uneven parts, so that the last one is cut short; small and large ones.
    let mut error = None;
    for part in data.chunks(777_777) {
        if let Err(failed) = writer.write(part) {
            error = Some(failed);
            break;
        }
    }
    let error = error.expect("it is too big");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("big/layer"), "{error}");
    let held = writer.status().unwrap().offset;
    assert!(held > 0 && held < data.len() as u64, "{held}");
    // The running hash is of what is held, not of what was offered.
    let wrong = Expected {
        size: Some(held),
        digest: Some(Algorithm::Sha256.digest(b"other")),
    };
    let error = writer.commit(&wrong, &Labels::new()).unwrap_err();
    let found = Algorithm::Sha256.digest(&data[..held as usize]);
    assert!(error.to_string().contains(found.hex()), "{error}");
    drop(writer);
    let mut writer = store.writer(&name("big/layer"), &any()).unwrap();
    assert_eq!(writer.status().unwrap().offset, held);
    // What is held is a prefix of the data: a smaller blob of it can be made.
    writer.truncate(1 << 20).unwrap();
    let prefix = Algorithm::Sha256.digest(&data[..1 << 20]);
    let info = writer.commit(&any(), &Labels::new()).unwrap();
    assert_eq!(info.digest, prefix);
    let mut writer = store.writer(&name("big/layer"), &any()).unwrap();
    while writer
        .write(&data[writer.status().unwrap().offset as usize..])
        .is_ok()
    {}
}

#[test]
fn a_file_size_limit_in_the_middle_of_a_write_keeps_what_was_written() {
    if let Some(root) = child_root() {
        return write_until_full(&root);
    }
    let tmp = tempfile::tempdir().unwrap();
    let status = child(
        "a_file_size_limit_in_the_middle_of_a_write_keeps_what_was_written",
        tmp.path(),
        "trap '' XFSZ; ulimit -f 5001;",
    )
    .status()
    .unwrap();
    assert!(status.success());
    // With room, the same ingest goes on where it stopped and succeeds.
    let store = open(tmp.path()).unwrap();
    assert!(store.status(&name("big/layer")).unwrap().offset > 1 << 20);
    let data = noise(8 << 20, 7);
    let expected = sized(&data);
    ingest(
        &store,
        &name("big/layer"),
        &expected,
        &Labels::new(),
        &mut &*data,
    )
    .unwrap();
}

#[test]
fn a_full_file_system_keeps_what_was_written() {
    if let Some(root) = child_root() {
        return write_until_full(&root);
    }
    // A tmpfs in a mount namespace that ends with the child.
    let tmp = tempfile::tempdir().unwrap();
    let status = child(
        "a_full_file_system_keeps_what_was_written",
        tmp.path(),
        "[ \"$LOCAL_TEST_NS\" ] || LOCAL_TEST_NS=1 exec unshare -Urm --propagation private \
         sh -c 'mount -t tmpfs -o size=5m none \"$LOCAL_TEST_CHILD\" && exec \"$0\" \"$@\"' \"$0\" \"$@\";",
    )
    .status()
    .unwrap();
    assert!(status.success());
}

#[test]
fn a_walk_sees_what_changes_between_its_pages() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let other = open(tmp.path()).unwrap();
    let mut all: Vec<Digest> = (0..30u8).map(|n| put(&store, &[n])).collect();
    all.sort();
    let last = all.pop().unwrap();
    store.delete(&last).unwrap();
    let page = |after: Option<&Digest>| -> Vec<Digest> {
        let page = Page {
            after: after.map(ToString::to_string),
            limit: 10,
        };
        let found = store.walk(&BlobFilter::default(), &page).unwrap();
        found.into_iter().map(|info| info.digest).collect()
    };
    // Long enough for the names to be kept from page to page.
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert_eq!(page(None), &all[..10]);
    assert_eq!(page(Some(&all[9])), &all[10..20]);
    let data = (0..30u8)
        .find(|n| Algorithm::Sha256.digest(&[*n]) == last)
        .unwrap();
    assert_eq!(put(&other, &[data]), last);
    other.delete(&all[20]).unwrap();
    let want = [&all[21..], &[last]].concat();
    assert_eq!(page(Some(&all[19])), want);
    assert_eq!(page(None), &all[..10]);
}

#[test]
fn a_data_file_that_shrank_under_its_writer_does_not_become_a_blob() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let mut writer = store.writer(&name("put"), &any()).unwrap();
    writer.write(b"data").unwrap();
    let data = ingest_dir(tmp.path(), "put").join("data");
    // What the writer thinks it wrote is no longer all there.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&data)
        .unwrap()
        .set_len(2)
        .unwrap();
    let error = writer.commit(&any(), &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    writer.truncate(0).unwrap();
    writer.write(b"data").unwrap();
    writer.commit(&any(), &Labels::new()).unwrap();
}

#[test]
fn a_size_that_cannot_fit_is_refused_before_a_byte() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let name: IngestRef = "put".parse().unwrap();
    let size = |size| Expected {
        size: Some(size),
        ..any()
    };
    let refused = store.writer(&name, &size(u64::MAX / 2)).map(drop);
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("there is room for"), "{error}");
    store
        .writer(&name, &size(4))
        .unwrap()
        .write(b"data")
        .unwrap();
}
