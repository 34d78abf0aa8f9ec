//! The runtime driver, loaded into this process.

use std::sync::Arc;

use containerkit::shim::RuntimeRef;
use containerkit::{DriverContext, Result, Runtime};
use containerkit_plugin::host::Library;

/// Loads the driver of a request and opens its instance.
pub(crate) fn open(reference: &RuntimeRef) -> Result<Arc<dyn Runtime>> {
    let context = DriverContext::new(
        reference.instance.clone(),
        &reference.root,
        &reference.state,
    )
    .with_options(reference.options.clone());
    Library::load(&reference.library, reference.sha256.as_ref())?.runtime(context)
}
