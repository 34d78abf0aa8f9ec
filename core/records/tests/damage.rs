//! Files that are no record database, or no more.

mod common;

use std::path::{Path, PathBuf};

use common::{container, image};
use containerkit::record::Records;
use containerkit::{Error, ErrorKind, Page};
use containerkit_records::SqliteRecords;

/// A whole database of some pages, its log copied in.
fn sample(dir: &Path) -> PathBuf {
    let path = dir.join("records.db");
    let store = SqliteRecords::open(&path).expect("open");
    for n in 0..60 {
        let name = format!("i{n}");
        store.put_image(&image(&name, &name)).expect("put");
        store
            .create_container(&container(&format!("c{n}"), &name))
            .expect("create");
    }
    drop(store);
    let db = rusqlite::Connection::open(&path).expect("open");
    db.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
        .expect("checkpoint");
    drop(db);
    path
}

/// Everything a command might ask; the first error.
fn use_all(path: &Path) -> Result<(), Error> {
    let store = SqliteRecords::open(path)?;
    store.images(&Page::default())?;
    store.containers(&Page::default())?;
    store.leases(&Page::default())?;
    store.find_container("c59")?;
    match store.verify()?.first() {
        Some(first) => Err(Error::data_loss(first.clone())),
        None => Ok(()),
    }
}

fn check(error: &Error, path: &Path) {
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{text}");
    assert!(text.contains(&*path.to_string_lossy()), "{text}");
    assert!(!text.contains('\n') && text.len() < 600, "{text}");
    assert!(error.hint().is_some(), "{text}");
}

#[test]
fn a_truncated_file_is_told_and_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = sample(dir.path());
    use_all(&path).expect("whole");
    let whole = std::fs::read(&path).expect("read");
    assert!(whole.len() > 16 * 4096, "{}", whole.len());
    for size in (0..whole.len()).step_by(4096).chain([1, 99, 100, 5000]) {
        std::fs::write(&path, &whole[..size]).expect("write");
        check(&use_all(&path).expect_err("truncated"), &path);
        assert_eq!(std::fs::read(&path).expect("read"), &whole[..size]);
    }
    std::fs::write(&path, &whole).expect("write");
    use_all(&path).expect("whole again");
}

#[test]
fn garbage_is_told_and_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    for garbage in [vec![b'x'; 10], vec![0; 4096], b"hello\n".repeat(5000)] {
        std::fs::write(&path, &garbage).expect("write");
        check(&use_all(&path).expect_err("garbage"), &path);
        assert_eq!(std::fs::read(&path).expect("read"), garbage);
    }
}

#[test]
fn bits_that_rot_never_panic() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = sample(dir.path());
    let whole = std::fs::read(&path).expect("read");
    let mut seed = 7u64;
    let mut told = 0;
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..64 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = (seed >> 20) as usize % bytes.len();
            bytes[at] ^= (seed >> 50) as u8 | 1;
        }
        std::fs::write(&path, &bytes).expect("write");
        if let Err(error) = use_all(&path) {
            told += 1;
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() < 1000, "{text}");
        }
        let _ = std::fs::remove_file(dir.path().join("records.db-wal"));
        let _ = std::fs::remove_file(dir.path().join("records.db-shm"));
    }
    assert!(told > 150, "{told}");
}

#[test]
fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    let db = rusqlite::Connection::open(&path).expect("open");
    db.execute_batch("CREATE TABLE t (a); PRAGMA user_version = 1;")
        .expect("make");
    drop(db);
    let error = SqliteRecords::open(&path).expect_err("foreign");
    check(&error, &path);
    assert!(error.to_string().contains("no record database"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = sample(dir.path());
    let db = rusqlite::Connection::open(&path).expect("open");
    db.pragma_update(None, "user_version", 99).expect("version");
    drop(db);
    let error = SqliteRecords::open(&path).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let text = error.to_string();
    assert!(
        text.contains("version 99; this containerkit supports up to 2"),
        "{text}"
    );
    assert!(text.contains("records.db"), "{text}");
}

#[test]
fn a_log_without_its_database_is_not_taken() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    let store = SqliteRecords::open(&path).expect("open");
    store.put_image(&image("a", "a")).expect("put");
    drop(store);
    assert!(dir.path().join("records.db-wal").exists());
    std::fs::remove_file(&path).expect("lose");
    let error = SqliteRecords::open(&path).expect_err("log alone");
    check(&error, &path);
    assert!(!path.exists());
    assert!(error.to_string().contains("records.db-wal"), "{error}");
}

#[test]
fn a_folder_fifo_or_symlink_in_its_place_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.db");
    std::fs::create_dir(&path).expect("mkdir");
    let link = dir.path().join("b.db");
    std::os::unix::fs::symlink("/dev/null", &link).expect("symlink");
    for path in [path, link] {
        let error = SqliteRecords::open(&path).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }
}

#[test]
fn what_a_killed_maker_left_is_made_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    for end in ["", "-wal", "-shm", "-journal"] {
        std::fs::write(dir.path().join(format!("records.db.new{end}")), "half").expect("write");
    }
    SqliteRecords::open(&path).expect("open");
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("list")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.contains(".new"))
        .collect();
    names.sort();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_record_that_was_spoilt_is_told_and_can_be_deleted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    let store = SqliteRecords::open(&path).expect("open");
    store
        .create_container(&container("bad", "web"))
        .expect("create");
    let db = rusqlite::Connection::open(&path).expect("open");
    db.execute("UPDATE container SET record = '{\n'", [])
        .expect("spoil");
    let error = store.find_container("web").expect_err("spoilt");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let text = error.to_string();
    assert!(
        text.contains("container bad") && !text.contains('\n'),
        "{text}"
    );
    store
        .delete_container(&"bad".parse().expect("id"))
        .expect("delete");
    store
        .create_container(&container("new", "web"))
        .expect("free");
}
