//! Blobs and labels that a disk, a power cut or a kill spoiled.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::*;
use containerkit::content::{BlobFilter, Expected, ingest, read_blob};
use containerkit::{Algorithm, ContentStore, ErrorKind, LabelChanges, Labels, Page};

fn any() -> Expected {
    Expected::default()
}

#[test]
fn bit_rot_that_keeps_the_size_is_replaced_by_the_good_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let data = noise(50_000, 3);
    let expected = sized(&data);
    let digest = expected.digest.clone().unwrap();
    let kept = labels(&[("kept", "1")]);
    ingest(&store, &name("first"), &expected, &kept, &mut &data[..]).unwrap();
    let path = blob(tmp.path(), &digest);
    let rot = |byte: usize| {
        let mut rotten = data.clone();
        rotten[byte] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, rotten).unwrap();
    };
    // By a caller who knows the digest, and by one who does not.
    for (byte, expected) in [(0, expected.clone()), (49_999, any()), (25_000, expected)] {
        rot(byte);
        let reader = store.reader(&digest).unwrap();
        assert!(read_blob(&store, &digest, 1 << 20).is_err());
        let info = ingest(
            &store,
            &name("again"),
            &expected,
            &Labels::new(),
            &mut &data[..],
        );
        assert_eq!(info.unwrap().labels, kept);
        assert_eq!(read_blob(&store, &digest, 1 << 20).unwrap(), data);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o400
        );
        // Who reads goes on in the file that it opened.
        let mut one = [0];
        reader.read_at(&mut one, byte as u64).unwrap();
        assert_eq!(one[0], data[byte] ^ 1);
        assert_eq!(store.list_statuses().unwrap(), []);
    }
}

#[test]
fn labels_without_a_blob_go_when_they_are_met() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let digest = put(&store, b"a blob");
    let changes = LabelChanges {
        replace_all: true,
        set: [("a".to_owned(), Some("1".to_owned()))].into(),
    };
    let dir = tmp.path().join("labels/sha256");
    let by_label = BlobFilter {
        labels: vec![("a".into(), None)],
    };
    for walks in [true, false] {
        store.update(&digest, &changes).unwrap();
        // What a deletion leaves that is killed in the middle.
        fs::remove_file(blob(tmp.path(), &digest)).unwrap();
        fs::write(dir.join(format!(".{}.new", digest.hex())), "{").unwrap();
        if walks {
            assert_eq!(store.walk(&by_label, &Page::default()).unwrap(), []);
        } else {
            let error = store.delete(&digest).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        assert_eq!(entries(&dir), [""; 0]);
        put(&store, b"a blob");
    }
    assert_eq!(store.info(&digest).unwrap().labels, Labels::new());
}

#[test]
fn a_label_changed_after_the_clock_went_back_is_newer_all_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let digest = put(&store, b"from tomorrow");
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    let file = fs::File::open(blob(tmp.path(), &digest)).unwrap();
    file.set_modified(tomorrow).unwrap();
    let mut before = store.info(&digest).unwrap();
    assert_eq!(before.created.age(), std::time::Duration::ZERO);
    for n in 0..3 {
        let changes = LabelChanges {
            replace_all: n == 1,
            set: [(n.to_string(), Some(String::new()))].into(),
        };
        let after = store.update(&digest, &changes).unwrap();
        assert!(after.updated > before.updated, "{after:?} {before:?}");
        before = after;
    }
}

#[test]
fn an_empty_short_or_replaced_blob_after_power_loss_is_replaced_by_good_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let data = noise(10_000, 1);
    let digest = put(&store, &data);
    let path = blob(root, &digest);
    let outside = root.join("outside");
    std::fs::write(&outside, &data).unwrap();
    let damage: [(&str, &dyn Fn()); 6] = [
        ("empty", &|| std::fs::write(&path, b"").unwrap()),
        ("short", &|| std::fs::write(&path, &data[..5000]).unwrap()),
        ("long", &|| {
            std::fs::write(&path, [&data[..], b"x"].concat()).unwrap();
        }),
        ("a link", &|| symlink(&outside, &path).unwrap()),
        ("a folder", &|| {
            std::fs::create_dir_all(path.join("x")).unwrap();
        }),
        ("a fifo", &|| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
        }),
    ];
    let labelled = LabelChanges {
        replace_all: false,
        set: [("keep".to_owned(), Some("me".to_owned()))].into(),
    };
    store.update(&digest, &labelled).unwrap();
    for (what, damage) in damage {
        for expected in [any(), sized(&data)] {
            std::fs::remove_file(&path).unwrap();
            damage();
            if !matches!(what, "short" | "long") {
                let error = store.reader(&digest).err().expect(what);
                assert_eq!(error.kind(), ErrorKind::DataLoss, "{what}: {error}");
                assert!(error.to_string().contains(digest.hex()), "{what}: {error}");
                let error = store.info(&digest).expect_err(what);
                assert_eq!(error.kind(), ErrorKind::DataLoss, "{what}: {error}");
            }
            let listed = store.walk(&BlobFilter::default(), &Page::default());
            assert_eq!(listed.expect(what)[0].digest, digest, "{what}");
            let mut writer = store.writer(&name("again"), &expected).expect(what);
            writer.write(&data).unwrap();
            writer.commit(&expected, &Labels::new()).expect(what);
            assert_eq!(read_blob(&store, &digest, 1 << 20).expect(what), data);
            let info = store.info(&digest).expect(what);
            assert_eq!(info.labels, labels(&[("keep", "me")]), "{what}");
        }
    }
    assert_eq!(std::fs::read(&outside).unwrap(), data);
}

#[test]
fn deleting_what_stands_for_a_damaged_blob_works() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let digest = Algorithm::Sha256.digest(b"x");
    let path = blob(tmp.path(), &digest);
    std::fs::create_dir_all(path.join("deep")).unwrap();
    store.delete(&digest).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    store.delete(&digest).unwrap();
    assert!(Path::new("/etc/passwd").exists());
    let error = store.delete(&digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_damaged_label_file_is_named_and_can_be_replaced() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let store = open(root).unwrap();
    let digest = put(&store, b"data");
    let sidecar = root.join("labels/sha256").join(digest.hex());
    for garbage in [&b""[..], b"\0\0", b"{\"version\":1}", b"[]"] {
        std::fs::write(&sidecar, garbage).unwrap();
        let error = store.info(&digest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
        assert!(
            error.to_string().contains(sidecar.to_str().unwrap()),
            "{error}"
        );
        let all = store.walk(&BlobFilter::default(), &Page::default());
        assert_eq!(all.unwrap().len(), 1, "one bad file does not hide the rest");
        assert_eq!(read_blob(&store, &digest, 10).unwrap(), b"data");
        let changes = LabelChanges {
            replace_all: true,
            set: [("a".to_owned(), Some("b".to_owned()))].into(),
        };
        let info = store.update(&digest, &changes).unwrap();
        assert_eq!(info.labels, labels(&[("a", "b")]));
    }
}
