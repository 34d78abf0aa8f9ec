//! The suite of the snapshotter contract on this driver, linked.

use std::sync::Arc;

use containerkit::Driver;
use containerkit_conformance::snapshot;
use containerkit_overlay::Overlay;

#[test]
fn conforms() {
    // No QUOTA.
    let unsupported = ["DRV-S-60"];
    snapshot::conforms(
        |context| Ok(Arc::new(Overlay::open(context)?)),
        &unsupported,
    );
}
