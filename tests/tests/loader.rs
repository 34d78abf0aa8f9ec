//! The loader: what it loads, and what it refuses.

#![allow(clippy::unwrap_used)]
use containerkit_plugin::*;
use containerkit_tests::fixtures;
#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let lib = Library::load(&fixtures::library("memory"), None).unwrap();
    println!(
        "{lib:?} {} {:?} {:?}",
        lib.abi_version(),
        lib.sha256(),
        lib.info(DriverKind::Snapshotter)
    );
    let s = lib
        .snapshotter(DriverContext::new(
            "a".parse().unwrap(),
            dir.path(),
            dir.path(),
        ))
        .unwrap();
    println!(
        "{:?}",
        s.prepare(&"k".parse().unwrap(), None, &Labels::new())
    );
    println!("{:?}", s.stat(&"k".parse().unwrap()));
}
