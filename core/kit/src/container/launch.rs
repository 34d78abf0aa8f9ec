//! Hand a created container over to its shim.

use std::os::fd::OwnedFd;

use super::create::Created;
use crate::error::{Error, Result};
use crate::record::AfterExit;
use crate::shim::{PROTOCOL, Shim, ShimRequest};

impl Created {
    /// Starts the shim, which takes the lock and the standard streams. From
    /// here on the container is the shim's; the caller ends with
    /// [`Containers::remove_ended`](super::Containers::remove_ended), or with
    /// [`Shim::finish`] for one that is kept.
    pub fn launch(mut self, stdio: [OwnedFd; 3]) -> Result<Shim> {
        let lock = self
            .lock
            .take()
            .ok_or_else(|| Error::internal("a container without a lock"))?;
        let id = &self.record.id;
        let mut cleanup = Vec::new();
        if self.record.after_exit == AfterExit::Remove {
            cleanup.clone_from(&self.containers.cleanup);
            cleanup.push(id.to_string());
        }
        let request = ShimRequest {
            version: PROTOCOL,
            id: id.clone(),
            bundle: self.containers.bundle_dir(id),
            mounts: self.mounts.clone(),
            runtime: self.runtime.clone(),
            terminal: self.terminal,
            state_dir: self.containers.state_dir(id),
            cleanup,
            log_level: log::max_level().as_str().to_ascii_lowercase(),
        };
        // A failed launch dropped the lock, and `self` undoes the rest.
        let shim = Shim::launch(&self.containers.shim, &request, stdio, lock)?;
        self.armed = false;
        Ok(shim)
    }
}
