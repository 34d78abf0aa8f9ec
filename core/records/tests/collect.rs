//! Leases, and condemning what no root names.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{container, image, lease};
use containerkit::lease::Lease;
use containerkit::process::ProcessIdentity;
use containerkit::record::{Condemned, Object, Records, Root};
use containerkit::{Algorithm, ContainerId, ErrorKind, Timestamp};
use containerkit_records::SqliteRecords;

fn store() -> (tempfile::TempDir, std::sync::Arc<SqliteRecords>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = SqliteRecords::open(dir.path()).expect("open");
    (dir, std::sync::Arc::new(store))
}

fn blob(text: &str) -> Object {
    Object::Blob(Algorithm::Sha256.digest(text.as_bytes()))
}

fn layer(key: &str) -> Object {
    Object::Snapshot("overlay".parse().expect("i"), key.parse().expect("k"))
}

fn id(text: &str) -> ContainerId {
    text.parse().expect("id")
}

/// A process that has ended.
fn dead() -> ProcessIdentity {
    let mut child = Command::new("sleep").arg("1000").spawn().expect("spawn");
    let identity = ProcessIdentity::of(child.id()).expect("identity");
    child.kill().expect("kill");
    child.wait().expect("wait");
    identity
}

/// All roots, as a collection that has walked them knows them.
fn known(store: &SqliteRecords) -> BTreeSet<Root> {
    let roots = store.roots().expect("roots");
    let root = |owner: String, object: Object| Root { owner, object };
    let images = roots.images.iter();
    let mut known: BTreeSet<Root> = images
        .map(|i| root(format!("image {}", i.name), Object::Blob(i.digest.clone())))
        .collect();
    for container in &roots.containers {
        let digest = container.image_digest.clone();
        known.extend(digest.map(|d| root(format!("container {}", container.id), Object::Blob(d))));
    }
    for lease in &roots.leases {
        known.extend(
            lease
                .objects()
                .map(|o| root(format!("lease {}", lease.id), o)),
        );
    }
    known
}

#[test]
fn leases_grow_and_end() {
    let (_dir, store) = store();
    let mut one = lease("one");
    store.put_lease(&one).expect("put");
    let more = [blob("x"), blob("x"), layer("sha256:aa"), blob("one")];
    store.extend_lease(&one.id, &more).expect("extend");
    one.blobs.push(Algorithm::Sha256.digest(b"x"));
    one.blobs.sort();
    one.snapshots.push((
        "overlay".parse().expect("i"),
        "sha256:aa".parse().expect("k"),
    ));
    let found = store.lease(&one.id).expect("lease");
    assert_eq!(found, one);
    let error = store.extend_lease(&id("two"), &more).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    for (name, expires, holder) in [
        ("past", Some(Timestamp::from_unix_nanos(1)), None),
        ("future", Some(Timestamp::from_unix_nanos(i64::MAX)), None),
        (
            "dead",
            Some(Timestamp::from_unix_nanos(i64::MAX)),
            Some(dead()),
        ),
        (
            "living",
            None,
            Some(ProcessIdentity::of(std::process::id()).expect("self")),
        ),
    ] {
        let mut next = lease(name);
        (next.expires, next.holder) = (expires, holder);
        store.put_lease(&next).expect("put");
        assert_eq!(store.lease(&next.id).expect("lease"), next);
    }
    let ended = store.end_leases().expect("end");
    let names: Vec<&str> = ended.iter().map(|lease| lease.id.as_str()).collect();
    assert_eq!(names, ["dead", "past"]);
    assert_eq!(store.end_leases().expect("end"), []);
    store.delete_lease(&one.id).expect("delete");
    store.delete_lease(&one.id).expect("twice");
    assert_eq!(store.roots().expect("roots").leases.len(), 2);
}

#[test]
fn nothing_is_condemned_while_there_is_a_root_that_was_not_walked() {
    let (_dir, store) = store();
    let me = ProcessIdentity::of(std::process::id()).expect("self");
    let objects = [blob("a"), layer("sha256:aa")];
    let yes = Condemned::Yes(objects.to_vec());
    let mut walked = known(&store);
    assert_eq!(store.condemn(&me, &objects, &walked).expect("condemn"), yes);
    for change in [
        &(|| drop(store.put_image(&image("busybox", "one")).expect("put"))) as &dyn Fn(),
        // Another name, and another owner, of what is known.
        &|| drop(store.put_image(&image("other", "one")).expect("put")),
        &|| drop(store.put_image(&image("busybox", "two")).expect("put")),
        &|| {
            store
                .create_container(&container("c", "web"))
                .expect("create")
        },
        &|| store.put_lease(&lease("l")).expect("put"),
        &|| {
            store
                .extend_lease(&id("l"), &[blob("new")])
                .expect("extend")
        },
        &|| {
            store
                .extend_lease(&id("l"), &[layer("new")])
                .expect("extend")
        },
    ] {
        change();
        let grown = store.condemn(&me, &objects, &walked).expect("condemn");
        assert_eq!(grown, Condemned::Grown);
        // And what was condemned before is not any more.
        assert_eq!(store.condemned(&objects).expect("condemned"), []);
        walked = known(&store);
        assert_eq!(store.condemn(&me, &objects, &walked).expect("condemn"), yes);
    }
    // Fewer roots are no reason.
    store.delete_lease(&id("l")).expect("delete");
    assert_eq!(store.condemn(&me, &objects, &walked).expect("condemn"), yes);
    let found = store.condemned(&[blob("a"), blob("b")]).expect("condemned");
    assert_eq!(found, [(blob("a"), me.clone())]);
    store.pardon(&me).expect("pardon");
    assert_eq!(store.condemned(&objects).expect("condemned"), []);
}

#[test]
fn what_another_is_removing_is_left_to_it_unless_it_died() {
    let (_dir, store) = store();
    let me = ProcessIdentity::of(std::process::id()).expect("self");
    let mut child = Command::new("sleep").arg("1000").spawn().expect("spawn");
    let other = ProcessIdentity::of(child.id()).expect("identity");
    let objects = [blob("a"), blob("b")];
    let none = BTreeSet::new();
    store
        .condemn(&other, &objects[..1], &none)
        .expect("condemn");
    let mine = store.condemn(&me, &objects, &none).expect("condemn");
    assert_eq!(mine, Condemned::Yes(vec![blob("b")]));
    store.pardon(&me).expect("pardon");
    assert_eq!(store.condemned(&objects).expect("condemned").len(), 1);

    // Who needs it waits; the death of the other ends that.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Lease::take(store.clone(), &[blob("a")]).expect("lease"));
        while store.roots().expect("roots").leases.is_empty() {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        child.kill().expect("kill");
        child.wait().expect("wait");
        let lease = waiting.join().expect("join");
        lease.add(&[blob("b"), layer("x")]).expect("add");
        assert_eq!(known(&store).len(), 3);
    });
    assert_eq!(known(&store).len(), 0);
    let mine = store.condemn(&me, &objects, &none).expect("condemn");
    assert_eq!(mine, Condemned::Yes(objects.to_vec()));
}

#[test]
fn looking_for_roots_reads_no_record() {
    let (dir, store) = store();
    store.put_image(&image("a", "a")).expect("put");
    let walked = known(&store);
    let db = rusqlite::Connection::open(dir.path().join("records.db")).expect("open");
    db.execute("UPDATE image SET record = 'spoilt'", [])
        .expect("spoil");
    let me = ProcessIdentity::of(std::process::id()).expect("self");
    let done = store.condemn(&me, &[blob("x")], &walked).expect("condemn");
    assert_eq!(done, Condemned::Yes(vec![blob("x")]));
    // But who starts from them is told.
    let error = store.roots().expect_err("spoilt");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
}
