//! The driver keeps every promise that it makes, linked and loaded.

use std::sync::Arc;

use containerkit_conformance::apart::{Suite, apart_as, for_crun};
use containerkit_conformance::{CaseResult, assert_conforms, report, runtime};
use containerkit_crun::Runtime;
use containerkit_plugin::{Driver, Library, search};

/// What it does not offer: STATS and CHECKPOINT.
const UNSUPPORTED: [&str; 2] = ["DRV-R-56", "DRV-R-58"];

fn linked() -> Vec<CaseResult> {
    runtime::suite(|context| Ok(Arc::new(Runtime::open(context)?)))
}

fn loaded() -> Vec<CaseResult> {
    let (found, tried) = search("libcontainerkit_crun.so", &[], true);
    let path = found.unwrap_or_else(|| panic!("{tried:?}"));
    let library = Library::load(&path, None).unwrap_or_else(|error| panic!("{error}"));
    runtime::suite(move |context| library.runtime(context))
}

#[test]
fn conforms() {
    let suite = Suite::of("conforms").under(for_crun());
    let linked = apart_as(&suite.clone().labelled("linked"), linked);
    let loaded = apart_as(&suite.labelled("loaded"), loaded);
    assert_conforms(&linked, &UNSUPPORTED);
    assert_conforms(&loaded, &UNSUPPORTED);
    let differences = report::differences(&linked, &loaded);
    assert!(differences.is_empty(), "{differences:#?}");
}
