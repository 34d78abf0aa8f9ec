//! [`Drivers`]: how everything above reaches the configured drivers.

use std::sync::Arc;

use crate::content::ContentStore;
use crate::error::Result;
use crate::ids::InstanceName;
use crate::record::DriverStamp;
use crate::runtime::Runtime;
use crate::snapshot::Snapshotter;

/// An open driver instance.
pub struct Opened<T: ?Sized> {
    /// Instance, driver and version, as records keep them.
    pub stamp: DriverStamp,
    /// The driver.
    pub driver: Arc<T>,
}

impl<T: ?Sized> Clone for Opened<T> {
    fn clone(&self) -> Opened<T> {
        Opened {
            stamp: self.stamp.clone(),
            driver: Arc::clone(&self.driver),
        }
    }
}

impl<T: ?Sized> std::fmt::Debug for Opened<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.stamp)
    }
}

impl<T: ?Sized> std::ops::Deref for Opened<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.driver
    }
}

/// The driver instances of a configuration, each opened when it is first
/// asked for and kept. `None` asks for the default instance of the kind.
///
/// `containerkit-config` implements it over shared objects; a program that
/// links its drivers implements it over them. Both serve the same traits.
pub trait Drivers: Send + Sync {
    /// A runtime instance.
    fn runtime(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn Runtime>>;
    /// A snapshotter instance.
    fn snapshotter(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn Snapshotter>>;
    /// A content-store instance.
    fn content(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn ContentStore>>;
}
