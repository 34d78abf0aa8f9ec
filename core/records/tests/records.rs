//! What the record store promises, call by call.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{container, image, lease};
use containerkit::record::{Lifetime, Records};
use containerkit::value::all_pages;
use containerkit::{Algorithm, ErrorKind, Page};
use containerkit_records::SqliteRecords;

fn store() -> (tempfile::TempDir, SqliteRecords) {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = SqliteRecords::open(&dir.path().join("root/records")).expect("open");
    (dir, store)
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

#[test]
fn a_name_with_a_digest_is_for_that_content_only() {
    let (_dir, store) = store();
    let right = image("busybox", "data").digest;
    let name = format!("example.com/busybox@{right}");
    store.put_image(&image(&name, "data")).expect("its own");
    let error = store.put_image(&image(&name, "other")).expect_err("a lie");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(store.images(&Page::default()).expect("list").len(), 1);
}

#[test]
fn files_and_folders_have_their_modes() {
    let (dir, store) = store();
    store.put_image(&image("a", "a")).expect("put");
    let root = dir.path().join("root");
    assert_eq!(mode(&root), 0o711);
    assert_eq!(mode(&root.join("records")), 0o700);
    for entry in std::fs::read_dir(root.join("records")).expect("list") {
        let path = entry.expect("entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(store.path(), root.join("records/records.db"));
    // A file that somebody opened up is closed again.
    std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let again = SqliteRecords::open(store.path()).expect("by file name");
    assert_eq!(mode(store.path()), 0o600);
    assert_eq!(again.images(&Page::default()).expect("images").len(), 1);
}

#[test]
fn images_are_pointed_anew_and_keep_what_they_should() {
    let (_dir, store) = store();
    let first = store.put_image(&image("busybox", "one")).expect("put");
    assert_eq!(store.image(&first.name).expect("get"), first);

    // The same again changes nothing, whatever time it claims.
    assert_eq!(
        store.put_image(&image("busybox", "one")).expect("same"),
        first
    );

    let mut labelled = image("busybox", "one");
    labelled.labels.insert("a".into(), "b".into());
    let labelled = store.put_image(&labelled).expect("labels");
    assert_eq!(labelled.updated, first.updated);
    assert_eq!(labelled.labels["a"], "b");

    let moved = store.put_image(&image("busybox", "two")).expect("move");
    assert_eq!(moved.created, first.created);
    assert!(moved.updated > first.updated);
    assert_eq!(moved.labels, labelled.labels);

    store.put_image(&image("other", "two")).expect("other");
    let names: Vec<String> = store
        .images_of(&moved.digest)
        .expect("of")
        .iter()
        .map(|image| image.name.to_string())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.is_sorted());
    assert!(store.images_of(&first.digest).expect("of").is_empty());

    store.delete_image(&moved.name).expect("delete");
    for error in [
        store.delete_image(&moved.name).expect_err("twice"),
        store.image(&moved.name).expect_err("gone"),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("busybox"), "{error}");
    }
    let mut bad = image("x", "x");
    bad.labels.insert(String::new(), String::new());
    assert_eq!(
        store.put_image(&bad).expect_err("label").kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn pages_come_in_key_order() {
    let (_dir, store) = store();
    for n in (0..25).rev() {
        store
            .put_image(&image(&format!("i{n:02}"), "x"))
            .expect("put");
        store
            .create_container(&container(&format!("c{n:02}"), &format!("n{n:02}")))
            .expect("create");
        store.put_lease(&lease(&format!("l{n:02}"))).expect("lease");
    }
    let small = |page: &Page| Page {
        limit: 7,
        ..page.clone()
    };
    let first = store.images(&small(&Page::default())).expect("page");
    assert_eq!(first.len(), 7);
    let mut names = Vec::new();
    let mut page = small(&Page::default());
    loop {
        let part = store.images(&page).expect("page");
        let Some(last) = part.last() else { break };
        page.after = Some(last.name.to_string());
        names.extend(part.iter().map(|image| image.name.to_string()));
    }
    assert_eq!(names.len(), 25);
    assert!(names.is_sorted());
    let ids = all_pages(|page| store.containers(page), |c| c.id.to_string()).expect("all");
    assert_eq!(ids.len(), 25);
    assert!(ids.is_sorted_by_key(|c| c.id.clone()));
    assert_eq!(store.leases(&Page::default()).expect("leases").len(), 25);
    // A limit of nothing still makes progress.
    let one = Page {
        after: None,
        limit: 0,
    };
    assert_eq!(store.containers(&one).expect("page").len(), 1);
}

#[test]
fn no_name_is_another_containers_name_or_id() {
    let (_dir, store) = store();
    let id = "ab12cd34ef56789012345678";
    store.create_container(&container(id, "web")).expect("one");
    for (other, name) in [(id, "x"), ("other", "web"), ("other", id), ("web", "y")] {
        let error = store
            .create_container(&container(other, name))
            .expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        let hint = error.hint().expect("hint");
        assert!(hint.contains("containerkit delete"), "{hint}");
    }
    let error = store
        .create_container(&container("other", "web"))
        .expect_err("taken");
    assert_eq!(
        error.to_string(),
        "name \"web\" is used by container ab12cd34ef56"
    );
    assert_eq!(
        error.hint(),
        Some("remove it with `containerkit delete web`, or choose another name")
    );
    // A refused one leaves nothing behind.
    assert_eq!(store.containers(&Page::default()).expect("list").len(), 1);
    assert!(store.find_container("other").is_err());

    // A container may be named as its own id.
    store
        .create_container(&container("same", "same"))
        .expect("same");
    store
        .delete_container(&"same".parse().expect("id"))
        .expect("delete");
    store
        .create_container(&container("same", "same"))
        .expect("again");

    // And the name of a deleted one is free.
    store
        .delete_container(&id.parse().expect("id"))
        .expect("delete");
    store
        .delete_container(&id.parse().expect("id"))
        .expect("twice");
    store
        .create_container(&container("new", "web"))
        .expect("free");
}

#[test]
fn an_update_replaces_and_keeps_names_apart() {
    let (_dir, store) = store();
    let mut one = container("one", "a");
    assert_eq!(
        store.update_container(&one).expect_err("none").kind(),
        ErrorKind::NotFound
    );
    store.create_container(&one).expect("one");
    store.create_container(&container("two", "b")).expect("two");
    one.snapshot = None;
    one.lifetime = Lifetime::Ephemeral;
    store.update_container(&one).expect("update");
    assert_eq!(store.container(&one.id).expect("get"), one);
    for taken in ["b", "two"] {
        one.name = taken.parse().expect("name");
        let error = store.update_container(&one).expect_err(taken);
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    assert_eq!(store.find_container("a").expect("kept").id, one.id);
    one.name = "c".parse().expect("name");
    store.update_container(&one).expect("rename");
    assert!(store.find_container("a").is_err());
    assert_eq!(store.find_container("c").expect("new").id, one.id);
}

#[test]
fn a_user_finds_by_name_id_and_unambiguous_beginning() {
    let (_dir, store) = store();
    for (id, name) in [
        ("abc111", "web"),
        ("abc222", "abc"),
        ("a_c333", "db"),
        ("ABC444", "up"),
        ("abd", "abd"),
    ] {
        store.create_container(&container(id, name)).expect(id);
    }
    for (text, id) in [
        ("web", "abc111"),
        ("abc111", "abc111"),
        ("abc1", "abc111"),
        ("abc", "abc222"), // a name goes before a beginning
        ("a_", "a_c333"),  // no wildcard
        ("AB", "ABC444"),
        ("abd", "abd"),
    ] {
        assert_eq!(store.find_container(text).expect(text).id.as_str(), id);
    }
    let error = store.find_container("ab").expect_err("several");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        error.to_string(),
        "\"ab\" begins the ids of several containers: abc111, abc222, abd"
    );
    for text in ["we", "zzz", "abc1119", "{"] {
        let error = store.find_container(text).expect_err(text);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    for text in ["", "%", "a%", "a\n", "../x", "a b", "'"] {
        let error = store.find_container(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    for n in 0..20 {
        let id = format!("many{n:02}");
        store.create_container(&container(&id, &id)).expect("many");
    }
    let error = store.find_container("many").expect_err("many");
    assert!(error.to_string().ends_with("many04, …"), "{error}");
}

#[test]
fn an_image_in_use_is_told_by_a_container_of_it() {
    let (_dir, store) = store();
    let record = container("one", "web");
    let digest = record.image_digest.clone().expect("digest");
    assert_eq!(store.image_in_use(&digest).expect("none"), None);
    store.create_container(&record).expect("create");
    assert_eq!(store.image_in_use(&digest).expect("one"), Some(record));
    let other = Algorithm::Sha256.digest(b"other");
    assert_eq!(store.image_in_use(&other).expect("other"), None);
}

#[test]
fn leases_are_replaced_and_ended_twice() {
    let (_dir, store) = store();
    let mut record = lease("l");
    store.put_lease(&record).expect("put");
    record.blobs.clear();
    store.put_lease(&record).expect("replace");
    assert_eq!(
        store.leases(&Page::default()).expect("list"),
        [record.clone()]
    );
    store.delete_lease(&record.id).expect("end");
    store.delete_lease(&record.id).expect("twice");
    assert!(store.leases(&Page::default()).expect("list").is_empty());
}
