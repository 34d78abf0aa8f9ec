//! Databases of every older version, as they were made then.

mod common;

use common::{container, image, lease};
use containerkit::process::ProcessIdentity;
use containerkit::record::{Object, Records};
use containerkit::{Algorithm, Page};
use containerkit_records::SqliteRecords;
use rusqlite::Connection;
use serde_json::json;

/// What version 1 made a database with, word for word.
const FIRST: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA application_id = 1131106915;
    CREATE TABLE image (
        name   TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX image_digest ON image (digest);
    CREATE TABLE container (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL UNIQUE,
        image_digest TEXT,
        record       TEXT NOT NULL
    ) STRICT;
    CREATE INDEX container_image ON container (image_digest)
        WHERE image_digest IS NOT NULL;
    CREATE TABLE lease (
        id     TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;";

fn first(path: &std::path::Path) {
    let db = Connection::open(path).expect("open");
    db.execute_batch(FIRST).expect("tables");
    let picture = image("busybox", "one");
    let one = container("c1", "web");
    db.execute(
        "INSERT INTO image VALUES (?, ?, ?)",
        (
            picture.name.to_string(),
            picture.digest.to_string(),
            json!(picture).to_string(),
        ),
    )
    .expect("image");
    db.execute(
        "INSERT INTO container VALUES ('c1', 'web', ?, ?)",
        (
            one.image_digest.as_ref().map(ToString::to_string),
            json!(one).to_string(),
        ),
    )
    .expect("container");
    let old = json!({
        "id": "l1",
        "expires": null,
        "created": "2026-01-02T03:04:05.000000006Z",
        "blobs": [Algorithm::Sha256.digest(b"l1")],
        "snapshots": [["overlay", "a/b"], ["native", "sha256:cc"]],
    });
    db.execute("INSERT INTO lease VALUES ('l1', ?)", [old.to_string()])
        .expect("lease");
    db.execute("INSERT INTO lease VALUES ('l2', 'spoilt')", [])
        .expect("lease");
}

#[test]
fn version_one_is_climbed_from_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("records.db");
    first(&path);
    // Several come at once.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| SqliteRecords::open(&path).expect("open"));
        }
    });
    let store = SqliteRecords::open(&path).expect("open");
    let name = image("busybox", "one").name;
    assert_eq!(
        store.image(&name).expect("image").digest,
        Algorithm::Sha256.digest(b"one")
    );
    assert_eq!(store.find_container("web").expect("name").id.as_str(), "c1");
    let mut found = store.lease(&"l1".parse().expect("id")).expect("lease");
    assert_eq!(found.created.to_string(), "2026-01-02T03:04:05.000000006Z");
    assert_eq!(found.holder, None);
    assert_eq!(found.blobs, [Algorithm::Sha256.digest(b"l1")]);
    found.snapshots.sort();
    let shown: Vec<String> = found
        .snapshots
        .iter()
        .map(|(i, k)| format!("{i} {k}"))
        .collect();
    assert_eq!(shown, ["native sha256:cc", "overlay a/b"]);
    // A spoilt one is told by its id, and can be ended.
    let error = store.leases(&Page::default()).expect_err("spoilt");
    assert!(error.to_string().contains("lease l2"), "{error}");
    store
        .delete_lease(&"l2".parse().expect("id"))
        .expect("delete");
    assert_eq!(store.leases(&Page::default()).expect("list"), [found]);
    assert_eq!(store.verify().expect("verify"), Vec::<String>::new());
    let version: i32 = Connection::open(&path)
        .expect("open")
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("version");
    assert_eq!(version, 2);

    // And it works as a new one does.
    store.put_lease(&lease("l3")).expect("put");
    let more = [Object::Blob(Algorithm::Sha256.digest(b"more"))];
    store
        .extend_lease(&"l3".parse().expect("id"), &more)
        .expect("extend");
    let me = ProcessIdentity::of(std::process::id()).expect("self");
    assert_eq!(store.condemned(&more).expect("condemned"), []);
    store.pardon(&me).expect("pardon");
}
