//! Many processes on one file: none is told that it is locked, and those
//! killed at any instruction leave nothing broken. This program starts itself
//! as the workers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerkit_plugin::content::{BlobFilter, ContentStore, Expected, ingest, read_blob};
use containerkit_plugin::{
    Algorithm, Driver, DriverContext, ErrorKind, IngestRef, LabelChanges, Labels, Page, Result,
};
use containerkit_sqlite::Sqlite;

/// Blobs that all workers want.
const BLOBS: u64 = 6;

type Test = fn(&Path);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, root, seed] = &arguments[..] {
        let mut rounds = 0..;
        let (root, seed) = (Path::new(root), seed.parse().expect("seed"));
        match word.as_str() {
            "worker" => return (0..40).for_each(|n| work(&open(root), seed, n)),
            "endless" => loop {
                work(&open(root), seed, rounds.next().expect("without end"));
            },
            _ => {}
        }
    }
    let tests: [(&str, Test); 3] = [
        ("nobody_is_told_that_it_is_locked", together),
        ("killed_processes_leave_nothing_broken", killed),
        ("a_newer_file_is_refused_by_name", newer),
    ];
    for (name, test) in tests {
        let root = Folder::new();
        test(&root.0);
        println!("{name} ... ok");
    }
}

/// A folder of its own, removed whatever comes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(containerkit_plugin::fs::unique_name("sqlite"));
        std::fs::create_dir(&path).expect("mkdir");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(root: &Path) -> Sqlite {
    try_open(root).unwrap_or_else(|error| panic!("open: {error}"))
}

fn try_open(root: &Path) -> Result<Sqlite> {
    // What a power cut would take is not under test here.
    let options = [("fsync".to_owned(), false.into())].into_iter().collect();
    let context = DriverContext::new("sqlite".parse()?, root, root.join("state"));
    Sqlite::open(context.with_options(options))
}

/// From some bytes to several chunks.
fn data(number: u64) -> Vec<u8> {
    let size = 1_000 + number as usize * 150_000;
    let mut state = number + 1;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    })
    .take(size)
    .collect()
}

/// Wants one of the blobs, and does away with another now and then. Whatever
/// others do meanwhile is one of these kinds.
fn work(store: &Sqlite, seed: u64, n: u64) {
    let number = (seed + n) % BLOBS;
    let bytes = data(number);
    let expected = Expected {
        size: Some(bytes.len() as u64),
        digest: Some(Algorithm::Sha256.digest(&bytes)),
    };
    let digest = expected.digest.clone().expect("it was set");
    let name: IngestRef = format!("blob-{number}").parse().expect("ref");
    let results = [
        ingest(store, &name, &expected, &Labels::new(), &mut &bytes[..]).map(drop),
        read_blob(store, &digest, u64::MAX).map(|found| assert!(found == bytes, "other bytes")),
        store.update(&digest, &LabelChanges::default()).map(drop),
        match (seed + n) % 3 {
            0 => store.delete(&digest),
            1 => store.abort(&name),
            _ => store.list_statuses().map(drop),
        },
    ];
    for error in results.into_iter().filter_map(Result::err) {
        let expected = [ErrorKind::NotFound, ErrorKind::Conflict];
        let lock = error.to_string().contains("locked") || error.to_string().contains("kept it");
        assert!(expected.contains(&error.kind()) && !lock, "{error:?}");
    }
}

fn start(root: &Path, word: &str, seed: u64) -> Child {
    Command::new(std::env::current_exe().expect("exe"))
        .arg(word)
        .arg(root)
        .arg(seed.to_string())
        .stdin(Stdio::null())
        .spawn()
        .expect("spawn")
}

/// Also the first opening, which makes the file, is sixteen at once.
fn together(root: &Path) {
    let workers: Vec<Child> = (0..16).map(|seed| start(root, "worker", seed)).collect();
    for mut worker in workers {
        assert!(worker.wait().expect("wait").success(), "a worker failed");
    }
    check(root);
}

fn killed(root: &Path) {
    for round in 0..40u64 {
        let workers: Vec<Child> = (0..3).map(|n| start(root, "endless", round + n)).collect();
        for (n, mut worker) in workers.into_iter().enumerate() {
            let pause = (round * 7919 + n as u64 * 104_729) % 40;
            std::thread::sleep(Duration::from_millis(pause));
            worker.kill().expect("kill");
            assert_eq!(worker.wait().expect("wait").code(), None, "it panicked");
        }
        check(root);
    }
}

/// Every blob is whole, every ingest goes on, and nobody's bytes are left.
fn check(root: &Path) {
    let store = open(root);
    let all = BlobFilter::default();
    for info in store.walk(&all, &Page::default()).expect("walk") {
        let found = read_blob(&store, &info.digest, u64::MAX).expect("a whole blob");
        assert_eq!(found.len() as u64, info.size);
    }
    for status in store.list_statuses().expect("list") {
        assert_eq!(status.holder, None);
        let expected = Expected {
            size: status.total,
            digest: status.expected,
        };
        match store.writer(&status.name, &expected) {
            Ok(writer) => assert_eq!(writer.status().expect("status").offset, status.offset),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
    }
    let db = rusqlite::Connection::open(root.join("content.db")).expect("open");
    let ask = |sql: &str| -> String {
        db.query_row(sql, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    assert_eq!(ask("PRAGMA integrity_check"), "ok");
    let nobodys = "SELECT count(*) || ' bodies' FROM body WHERE dead OR id NOT IN
                   (SELECT body FROM blob UNION SELECT body FROM ingest)";
    assert_eq!(ask(nobodys), "0 bodies");
    let strays = "SELECT count(*) || ' chunks' FROM chunk WHERE body NOT IN (SELECT id FROM body)";
    assert_eq!(ask(strays), "0 chunks");
}

fn newer(root: &Path) {
    drop(open(root));
    let file = root.join("content.db");
    let db = rusqlite::Connection::open(&file).expect("open");
    db.pragma_update(None, "user_version", 7).expect("pragma");
    let error = try_open(root).expect_err("a newer file");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    for word in [file.to_str().expect("path"), "version 7", "up to 1"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    db.pragma_update(None, "application_id", 1).expect("pragma");
    let error = try_open(root).expect_err("another program's file");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
}
