//! The driver keeps every promise that it makes.

use std::sync::Arc;

use containerkit_conformance::snapshot;
use containerkit_native::Native;
use containerkit_plugin::Driver;

/// What a copying snapshotter does not offer: REBASE, DIRECT_UPPER, IDMAP and
/// QUOTA.
const UNSUPPORTED: [&str; 7] = [
    "DRV-S-53", "DRV-S-54", "DRV-S-55", "DRV-S-56", "DRV-S-57", "DRV-S-59", "DRV-S-60",
];

#[test]
fn conforms() {
    snapshot::conforms(|context| Ok(Arc::new(Native::open(context)?)), &UNSUPPORTED);
}
