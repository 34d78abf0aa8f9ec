//! Many threads and processes on one file, and the death of some.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{container, image, lease};
use containerkit::record::{Lifetime, Object, Records};
use containerkit::{Algorithm, ErrorKind, Page};
use containerkit_records::SqliteRecords;

const DIR: &str = "CONTAINERKIT_TEST_RECORDS";
const WORKER: &str = "CONTAINERKIT_TEST_WORKER";

fn spawn(dir: &Path, worker: &str) -> Child {
    Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "worker_process", "--nocapture"])
        .env(DIR, dir)
        .env(WORKER, worker)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn")
}

/// What each worker does: writes of both kinds, look-ups, a contended name.
fn work(dir: &Path, worker: &str, rounds: usize) {
    for round in 0..rounds {
        // Opening is part of it: each command of a user opens once.
        let store = SqliteRecords::open(dir).expect("open");
        let id = format!("c-{worker}-{round}");
        let mut own = container(&id, &id);
        if round % 2 == 0 {
            own.lifetime = Lifetime::Ephemeral;
        }
        store.create_container(&own).expect("create");
        let name = format!("i-{worker}-{}", round % 3);
        store.put_image(&image(&name, &id)).expect("put");
        // As every run does, from its beginning to its container.
        let held = lease(&format!("l-{worker}-{round}"));
        store.put_lease(&held).expect("lease");
        let more = Object::Blob(Algorithm::Sha256.digest(id.as_bytes()));
        store.extend_lease(&held.id, &[more]).expect("extend");
        match store.create_container(&container(&format!("w-{worker}-{round}"), "web")) {
            Ok(()) => store
                .delete_container(&format!("w-{worker}-{round}").parse().expect("id"))
                .expect("delete"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        assert_eq!(store.find_container(&id).expect("find"), own);
        store.delete_lease(&held.id).expect("end");
        if round % 2 == 0 {
            store.delete_container(&own.id).expect("delete");
        }
    }
}

/// Not a test by itself: the body of the processes that the others start.
#[test]
fn worker_process() {
    if let (Ok(dir), Ok(worker)) = (std::env::var(DIR), std::env::var(WORKER)) {
        let rounds = if worker.starts_with('k') {
            usize::MAX
        } else {
            6
        };
        work(dir.as_ref(), &worker, rounds);
    }
}

#[test]
fn sixteen_threads_and_eight_processes_never_see_a_lock() {
    let dir = tempfile::tempdir().expect("tempdir");
    let records = dir.path().join("records");
    // Nobody made it first: they race for that too.
    let children: Vec<Child> = (0..8).map(|n| spawn(&records, &format!("p{n}"))).collect();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let records = &records;
            scope.spawn(move || work(records, &format!("t{n}"), 6));
        }
    });
    for child in children {
        let output = child.wait_with_output().expect("wait");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    let store = SqliteRecords::open(&records).expect("open");
    // Of six rounds the three odd ones keep their container.
    assert_eq!(
        store.containers(&Page::default()).expect("list").len(),
        24 * 3
    );
    assert_eq!(store.leases(&Page::default()).expect("list"), []);
    assert_eq!(store.images(&Page::default()).expect("list").len(), 24 * 3);
    assert_eq!(store.verify().expect("verify"), Vec::<String>::new());
}

#[test]
fn one_store_serves_many_threads() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = SqliteRecords::open(dir.path()).expect("open");
    std::thread::scope(|scope| {
        for n in 0..16 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..4 {
                    let id = format!("c-{n}-{round}");
                    store
                        .create_container(&container(&id, &id))
                        .expect("create");
                    store.find_container(&id).expect("find");
                }
            });
        }
    });
    assert_eq!(store.containers(&Page::default()).expect("list").len(), 64);
}

#[test]
fn killed_writers_leave_whole_records() {
    let dir = tempfile::tempdir().expect("tempdir");
    for round in 0..12u64 {
        let mut children: Vec<Child> = (0..3)
            .map(|n| spawn(dir.path(), &format!("k{round}-{n}")))
            .collect();
        std::thread::sleep(Duration::from_millis(5 + round * 7));
        for child in &mut children {
            child.kill().expect("kill");
            let _ = child.wait();
        }
        let store = SqliteRecords::open(dir.path()).expect("open");
        assert_eq!(store.verify().expect("verify"), Vec::<String>::new());
        let containers =
            containerkit::value::all_pages(|p| store.containers(p), |c| c.id.to_string())
                .expect("list");
        for found in containers {
            // Names and ids were written together.
            assert_eq!(
                store.find_container(found.name.as_str()).expect("name").id,
                found.id
            );
        }
        // One that died with "web" in its hands conflicts until it is deleted.
        if let Ok(holder) = store.find_container("web") {
            store.delete_container(&holder.id).expect("delete");
        }
        store
            .create_container(&container("probe", "web"))
            .expect("create");
        store
            .delete_container(&"probe".parse().expect("id"))
            .expect("delete");
    }
}
