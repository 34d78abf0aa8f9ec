//! Imports that succeed, and imports that are refused in every wrapping.

use std::fs;
use std::path::Path;

use containerkit::Result;
use containerkit_image::event::ignore;
use containerkit_image::{ImportOptions, Imported, import};

use super::assert_one_line;
use super::images::Layout;
use super::store::Memory;

pub fn run(store: &Memory, path: &Path) -> Result<Vec<Imported>> {
    let scratch = tempfile::tempdir().unwrap();
    let result = import(store, path, &ImportOptions::new(scratch.path()), &ignore);
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "scratch is empty"
    );
    result
}

pub fn refused(name: &str, path: &Path) -> containerkit::Error {
    let store = Memory::default();
    let error = run(&store, path).expect_err(name);
    assert_one_line(&error);
    let ingests = store.ingests.lock().unwrap();
    assert!(ingests.is_empty(), "{name}: {ingests:?} stays behind");
    error
}

pub fn refused_layout(name: &str, layout: &Layout) -> containerkit::Error {
    let tmp = tempfile::tempdir().unwrap();
    let folder = refused(name, &layout.write(tmp.path()));
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("archive");
    fs::write(&path, layout.tar()).unwrap();
    let archive = refused(name, &path);
    assert_eq!(
        folder.kind(),
        archive.kind(),
        "{name}: {folder} / {archive}"
    );
    folder
}
