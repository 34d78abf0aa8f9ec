//! The runtime driver, loaded into this process.

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use containerkit::shim::{Channel, RuntimeRef, ToClient, WireError};
use containerkit::{DriverContext, Error, IoContext, Result, Runtime};
use containerkit_plugin::host::{Library, set_default_limit, set_hook};

use crate::guard::tell;
use crate::sys;

/// The exit status of a shim's process whose driver does not return. The guard
/// then ends the container and asks that driver for nothing more.
pub(crate) const HUNG: i32 = 75;

/// Whom a hang is told.
static CLIENT: OnceLock<Channel> = OnceLock::new();

/// Loads the driver of a request and opens its instance.
pub(crate) fn open(reference: &RuntimeRef, client: &Channel) -> Result<Arc<dyn Runtime>> {
    if CLIENT.get().is_none() {
        let copy = client.as_fd().try_clone_to_owned();
        let copy = copy.io_context(|| "keep the client's socket")?;
        let _ = CLIENT.set(Channel::from_fd(copy)?);
    }
    set_hook(hung);
    let limit = reference.call_timeout.map(Duration::from_secs);
    if let Some(limit) = limit {
        set_default_limit(limit);
    }
    let context = DriverContext::new(
        reference.instance.clone(),
        &reference.root,
        &reference.state,
    )
    .with_options(reference.options.clone())
    .with_call_timeout(limit);
    Library::load(&reference.library, reference.sha256.as_ref())?.runtime(context)
}

/// Tells the client, whatever it waits for, and ends without a destructor.
fn hung(error: &Error) {
    if let Some(client) = CLIENT.get() {
        let error = WireError::from(error);
        tell(
            client,
            &ToClient::Failed {
                error: error.clone(),
            },
        );
        tell(client, &ToClient::Gone { error: Some(error) });
    }
    log::error!("{error}");
    sys::exit_now(HUNG)
}
