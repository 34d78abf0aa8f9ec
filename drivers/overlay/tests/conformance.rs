//! The driver keeps every promise of its contract.

use containerkit::{Driver, DriverContext};
use containerkit_conformance::{assert_conforms, snapshot};
use containerkit_overlay::Overlay;

#[test]
fn conforms() {
    let results = snapshot::run(&|root| {
        let context = DriverContext::new("overlay".parse()?, root, root.join("state"));
        Ok(std::sync::Arc::new(Overlay::open(context)?))
    });
    assert_conforms(&results, &[]);
}
