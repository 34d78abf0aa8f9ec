//! The suite of the content-store contract on this driver, linked.

use std::sync::Arc;

use containerkit::{Driver, DriverContext};
use containerkit_conformance::{assert_conforms, content};
use containerkit_local::Local;

fn run(fsync: bool) {
    let dir = tempfile::tempdir().expect("tempdir");
    let stores = content::Folders::new(dir.path(), move |context: DriverContext| {
        let options = [("fsync".to_owned(), fsync.into())].into_iter().collect();
        Ok(Arc::new(Local::open(context.with_options(options))?))
    });
    assert_conforms(&content::run(&stores), &[]);
}

#[test]
fn conforms() {
    run(true);
}

#[test]
fn conforms_without_fsync() {
    run(false);
}
