//! The driver keeps every promise of the contract, linked and loaded.

use std::sync::Arc;

use containerkit_conformance::{assert_conforms, content};
use containerkit_plugin::{ContentStore, Driver, DriverContext, Library, Result, search};
use containerkit_sqlite::Sqlite;

fn conforms(name: &str, open: impl Fn(DriverContext) -> Result<Arc<dyn ContentStore>> + 'static) {
    let folder = std::env::temp_dir().join(format!("sqlite-{name}-{}", std::process::id()));
    assert_conforms(&content::run(&content::Folders::new(&folder, open)), &[]);
    std::fs::remove_dir(&folder).expect("the suite leaves nothing");
}

#[test]
fn linked() {
    conforms("linked", |context| Ok(Arc::new(Sqlite::open(context)?)));
}

#[test]
fn loaded() {
    let (found, tried) = search("libcontainerkit_sqlite.so", &[], true);
    let path = found.unwrap_or_else(|| panic!("{tried:?}"));
    let library = Library::load(&path, None).expect("the driver loads");
    conforms("loaded", move |context| library.content(context));
}
