//! The snapshot database tells its version.

use containerkit::{Driver, DriverContext, ErrorKind};
use containerkit_overlay::Overlay;

#[test]
fn a_newer_database_is_refused_by_name() {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path().join("root");
    let context = DriverContext::new("overlay".parse().expect("name"), &root, temp.path());
    drop(Overlay::open(context.clone()).expect("open"));
    let database = std::fs::read_dir(&root)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|end| end == "db"))
        .expect("a database");
    let db = rusqlite::Connection::open(&database).expect("open the database");
    db.pragma_update(None, "user_version", 1000)
        .expect("raise the version");
    drop(db);
    let before = std::fs::read(&database).expect("read");

    let error = Overlay::open(context).map(drop).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let text = error.to_string();
    assert!(text.contains(&*database.to_string_lossy()), "{text}");
    assert!(text.contains("1000"), "{text}");
    assert_eq!(std::fs::read(&database).expect("read"), before);
}
