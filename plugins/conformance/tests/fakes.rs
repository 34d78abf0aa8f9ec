//! The fakes keep every promise of their contracts but those that they declare
//! they cannot.

use containerkit_conformance::apart::{apart, show};
use containerkit_conformance::{assert_conforms, content, fake, runtime, snapshot};

#[test]
fn memory_conforms() {
    let results = apart(|| content::run(&fake::memories()));
    show("memory", &results);
    assert_conforms(&results, &[]);
}

#[test]
fn copying_conforms() {
    let results = apart(|| snapshot::run(&*fake::copyings()));
    show("copying", &results);
    assert_conforms(
        &results,
        &[
            "DRV-S-53", "DRV-S-54", "DRV-S-55", "DRV-S-56", "DRV-S-57", "DRV-S-59", "DRV-S-60",
        ],
    );
}

#[test]
fn processes_conform() {
    let results = apart(|| runtime::run(&fake::processes()));
    show("processes", &results);
    assert_conforms(
        &results,
        &[
            "DRV-R-53", "DRV-R-54", "DRV-R-55", "DRV-R-56", "DRV-R-57", "DRV-R-58",
        ],
    );
}
