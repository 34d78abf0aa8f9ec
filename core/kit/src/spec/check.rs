//! What can be told of a request before there is a root file system.

use super::build::{capabilities, check_hostname, non_empty, stop_signal};
use super::caps::CapabilitySet;
use super::{SpecRequest, devices, limits, linux, lsm, mounts, namespace, path, target, user};
use crate::error::Result;
use crate::idmap::IdMapping;
use crate::ids::ContainerId;

impl SpecRequest {
    /// Refuses what [`build`](super::build()) would refuse whatever the root
    /// file system holds. Called before anything is made, and by `build`.
    pub fn check(&self) -> Result<()> {
        if let Some(whole) = &self.whole {
            return whole.check(self);
        }
        let available = CapabilitySet::available()?;
        let capabilities = capabilities(self)?;
        limits::check_ulimits(&self.ulimits, available)?;
        limits::check_oom_score(self.oom_score_adj, available)?;
        self.limits.resources()?;
        devices::devices(self)?;
        linux::filter(self, capabilities)?;
        lsm::apparmor(self)?;
        namespace::check(self)?;
        stop_signal(self, &Default::default())?;
        for (what, name) in [
            ("host name", &self.hostname),
            ("domain name", &self.domainname),
        ] {
            if let Some(name) = non_empty(name) {
                check_hostname(what, name)?;
            }
        }
        if let Some(text) = non_empty(&self.user) {
            user::parse_user(text)?;
        }
        for group in &self.groups {
            user::parse_group(group)?;
        }
        if let Some(dir) = non_empty(&self.workdir) {
            path::clean(dir, "working folder")?;
        }
        for entry in &self.env {
            super::parse::parse_env(entry)?;
        }
        for mount in &self.mounts {
            target::literal(&mount.target)?;
            mounts::check_source(mount)?;
        }
        check_annotations(self)
    }

    /// The mapped users of the container `id`.
    pub fn mapping(&self, id: &ContainerId) -> Result<Option<IdMapping>> {
        match &self.whole {
            Some(whole) => whole.mapping(),
            None => self.users.mapping(id),
        }
    }
}

pub(super) fn check_annotations(request: &SpecRequest) -> Result<()> {
    for (key, value) in &request.annotations {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            return Err(crate::Error::invalid(format!(
                "annotation {}: want KEY=VALUE without NUL",
                crate::quote(key)
            )));
        }
    }
    Ok(())
}
