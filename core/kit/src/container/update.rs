//! Change the limits of a container that lives.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::Value;

use super::freeze::lacking;
use super::{Containers, StatusName};
use crate::bundle;
use crate::error::{Error, Result};
use crate::fs::Durability;
use crate::lock::{FileLock, Wait};
use crate::record::{ContainerRecord, Lifetime};
use crate::spec::Limits;
use crate::step::step;

/// How long another update may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Containers {
    /// Changes limits of a container's cgroup, and records them for its next
    /// start; what is `None` stays as it is. `FailedPrecondition` for one that
    /// does not live.
    ///
    /// The kernel has the first word: what it refuses is not recorded. Killed
    /// between the two, an update has changed this run alone; done again, it
    /// is whole.
    pub fn update(&self, record: &ContainerRecord, limits: &Limits) -> Result<()> {
        let change = limits.resources()?;
        if change == LinuxResources::default() {
            return Err(Error::invalid(format!(
                "container {}: no limit to change was given",
                record.name
            )));
        }
        self.want(record, &[StatusName::Running, StatusName::Paused])?;
        let runtime = self.runtime(record)?;
        if !runtime.capabilities().update {
            return Err(lacking(record, "change the limits of a running container"));
        }
        let path = self.state_dir(&record.id).join("update.lock");
        let what = format!("the limits of container {}", record.name);
        let _lock = FileLock::acquire(&path, &what, Wait::AtMost(PATIENCE))?;
        runtime.update(&record.id, &change)?;
        step("container.updated");
        if record.lifetime == Lifetime::Durable {
            record_limits(&self.kept_bundle(&record.id), &change, Durability::Synced)?;
            step("container.update.kept");
        }
        record_limits(&self.bundle_dir(&record.id), &change, Durability::Volatile)?;
        self.tell(record, "update", |event| event);
        Ok(())
    }
}

fn record_limits(folder: &Path, change: &LinuxResources, durability: Durability) -> Result<()> {
    let spec = bundle::read_spec(&folder.join(bundle::CONFIG))?;
    bundle::replace_spec(folder, &with_limits(spec, change)?, durability)
}

/// A spec with these limits laid over its own.
fn with_limits(mut spec: Spec, change: &LinuxResources) -> Result<Spec> {
    let encode = |error| Error::internal("encode limits").with_source(error);
    let mut linux = spec.linux().clone().unwrap_or_default();
    let old = linux.resources().clone().unwrap_or_default();
    let mut all = serde_json::to_value(old).map_err(encode)?;
    lay_over(&mut all, serde_json::to_value(change).map_err(encode)?);
    linux.set_resources(Some(serde_json::from_value(all).map_err(encode)?));
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// Key by key; what the change does not have stays.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_does_not_name_stays() {
        let limits = |memory, pids| Limits {
            memory,
            pids_limit: pids,
            cpu_shares: memory.map(|_| 512),
            ..Limits::default()
        };
        let first = limits(Some(64 << 20), Some(10))
            .resources()
            .expect("limits");
        let spec = with_limits(Spec::default(), &first).expect("first");
        let second = limits(None, Some(20)).resources().expect("limits");
        let spec = with_limits(spec, &second).expect("second");
        let found = spec.linux().clone().unwrap_or_default();
        let found = found.resources().clone().unwrap_or_default();
        assert_eq!(found.pids().as_ref().map(|pids| pids.limit()), Some(20));
        let memory = found.memory().expect("memory").limit();
        assert_eq!(memory, Some(64 << 20));
        assert_eq!(found.cpu().as_ref().expect("cpu").shares(), Some(512));
        // The device rules of the default spec are none of the limits.
        assert_eq!(
            found.devices(),
            Spec::default()
                .linux()
                .as_ref()
                .expect("linux")
                .resources()
                .as_ref()
                .expect("resources")
                .devices()
        );
    }
}
