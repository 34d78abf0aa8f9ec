//! The driver keeps every promise that it makes.

use containerkit_conformance::{assert_conforms, snapshot};
use containerkit_native::Native;
use containerkit_plugin::{Driver, DriverContext};

/// What a copying snapshotter does not offer: REBASE and DIRECT_UPPER.
const UNSUPPORTED: [&str; 5] = ["DRV-S-53", "DRV-S-54", "DRV-S-55", "DRV-S-56", "DRV-S-57"];

#[test]
fn conforms() {
    let results = snapshot::run(&|root| {
        let context = DriverContext::new("native".parse()?, root, root.join("state"));
        Ok(std::sync::Arc::new(Native::open(context)?))
    });
    assert_conforms(&results, &UNSUPPORTED);
}
