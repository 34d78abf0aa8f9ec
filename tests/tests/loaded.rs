//! The default drivers keep their contracts' promises, linked into a program
//! and loaded from their shared objects: the same suites, case by case the
//! same results.

use std::sync::Arc;

use containerkit::{ContentStore, Driver, DriverContext, Result, Runtime, Snapshotter};
use containerkit_conformance::apart::{Suite, apart_as, for_crun, show};
use containerkit_conformance::{CaseResult, assert_conforms, content, report, runtime, snapshot};
use containerkit_local::Local;
use containerkit_overlay::Overlay;
use containerkit_plugin::host::Library;
use containerkit_runc::Runc;
use containerkit_tests::kit::built;

fn library(name: &str) -> Arc<Library> {
    let path = built().join(format!("libcontainerkit_{name}.so"));
    Library::load(&path, None).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs both suites, each in a process of its own, and judges them.
fn same(
    suite: &Suite,
    unsupported: &[&str],
    linked: impl FnOnce() -> Vec<CaseResult>,
    loaded: impl FnOnce() -> Vec<CaseResult>,
) {
    let linked = apart_as(&suite.clone().labelled("linked"), linked);
    let loaded = apart_as(&suite.clone().labelled("loaded"), loaded);
    show("linked", &linked);
    show("loaded", &loaded);
    assert_conforms(&linked, unsupported);
    assert_conforms(&loaded, unsupported);
    let differences = report::differences(&linked, &loaded);
    assert!(
        differences.is_empty(),
        "linked and loaded: {differences:#?}"
    );
}

#[test]
fn local() {
    same(
        &Suite::of("local"),
        &[],
        || content::suite(|context| Ok(Arc::new(Local::open(context)?))),
        || {
            let library = library("local");
            let open = move |context| -> Result<Arc<dyn ContentStore>> { library.content(context) };
            content::suite(open)
        },
    );
}

#[test]
fn overlay() {
    same(
        &Suite::of("overlay"),
        &["DRV-S-60"],
        || snapshot::suite(|context| Ok(Arc::new(Overlay::open(context)?))),
        || {
            let library = library("overlay");
            let open =
                move |context| -> Result<Arc<dyn Snapshotter>> { library.snapshotter(context) };
            snapshot::suite(open)
        },
    );
}

fn runtimes(suite: &Suite, binary: &'static str, unsupported: &[&str]) {
    let with = move |context: DriverContext| {
        let options = [("binary".to_owned(), binary.into())];
        context.with_options(options.into_iter().collect())
    };
    same(
        suite,
        unsupported,
        || runtime::suite(move |context| Ok(Arc::new(Runc::open(with(context))?))),
        || {
            let library = library("runc");
            let open =
                move |context| -> Result<Arc<dyn Runtime>> { library.runtime(with(context)) };
            runtime::suite(open)
        },
    );
}

#[test]
fn runc() {
    runtimes(&Suite::of("runc"), "runc", &["DRV-R-58"]);
}

#[test]
fn crun() {
    // crun 1.8 has no `events`.
    let unsupported = ["DRV-R-56", "DRV-R-58"];
    runtimes(&Suite::of("crun").under(for_crun()), "crun", &unsupported);
}
