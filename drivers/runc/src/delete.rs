//! Deleting what has stopped and nothing else, and by force, whatever state
//! the runtime's own records are in.

use containerkit::runtime::RuntimeStatus;
use containerkit::{ContainerId, ErrorKind, Result, Runtime, fs};

use crate::Runc;
use crate::runtime::unfit;

impl Runc {
    pub(crate) fn delete_stopped(&self, id: &ContainerId) -> Result<()> {
        match self.state(id) {
            // Both runtimes would end a created container.
            Ok(state) if state.status != RuntimeStatus::Stopped => {
                Err(unfit(id, "be deleted", state.status))
            }
            _ => self.simple("delete", id, &[]).map(drop),
        }
    }

    pub(crate) fn delete_by_force(&self, id: &ContainerId) -> Result<()> {
        let force = || match self.simple("delete", id, &["--force"]) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map(drop),
        };
        let Err(first) = force() else { return Ok(()) };
        // Helps a runtime that gave up waiting for the init, and one that
        // cannot read its own state, as far as we know the init.
        self.inits.end(id)?;
        let Err(error) = force() else { return Ok(()) };
        let damaged = matches!(error.kind(), ErrorKind::Unavailable) && self.inits.knows(id);
        if !damaged || self.state(id).is_ok() {
            return Err(first);
        }
        log::warn!("container {id}: the runtime's state is damaged and removed: {error}");
        self.inits.end_all(id)?;
        fs::remove_tree_path(&self.options.root.join(id.as_str()))
    }
}
