//! The default drivers, loaded from their shared objects, keep the promises
//! that their own tests hold them to when they are linked: the same suites,
//! the same results.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerkit::DriverContext;
use containerkit_conformance::{assert_conforms, content, runtime, snapshot};
use containerkit_plugin::host::Library;
use containerkit_tests::kit::built;

/// One suite at a time: a process that one of them starts has, for a moment,
/// the mounts and descriptors of the others, which is what a mounted snapshot
/// looks like.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn library(name: &str) -> Arc<Library> {
    let path = built().join(format!("libcontainerkit_{name}.so"));
    Library::load(&path, None).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn local_conforms() {
    let _alone = alone();
    let library = library("local");
    let dir = tempfile::tempdir().expect("tempdir");
    let stores = content::Folders::new(dir.path(), move |context: DriverContext| {
        library.content(context)
    });
    assert_conforms(&content::run(&stores), &[]);
}

#[test]
fn overlay_conforms() {
    let _alone = alone();
    let library = library("overlay");
    let results = snapshot::run(&move |root| {
        let context = DriverContext::new("overlay".parse()?, root, root.join("state"));
        library.snapshotter(context)
    });
    assert_conforms(&results, &[]);
}

#[test]
fn runc_conforms() {
    let _alone = alone();
    let library = library("runc");
    let folder = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("chmod");
    let open = move |context: DriverContext| library.runtime(context);
    assert_conforms(
        &runtime::run(&runtime::Folders::new(folder.path(), open)),
        &[],
    );
}
