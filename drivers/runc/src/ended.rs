//! Deleting a container of runc that has ended, without a command.
//!
//! Starting runc costs more than all that is left to do then: an ended
//! container is its cgroups, which are empty, and the folder of its record.
//! Whatever else the record speaks of (hooks, systemd, resctrl), or that does
//! not look as expected, is runc's own to delete.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use containerkit::{ContainerId, fs};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Runc;

/// No record is longer: the spec's limits are in it, with its seccomp rules.
const LIMIT: u64 = 16 << 20;

/// The part of runc's `state.json` that says what there is to delete.
#[derive(Deserialize)]
struct State {
    id: String,
    init_process_pid: u32,
    init_process_start: u64,
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: String,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    cgroups: Cgroups,
    #[serde(default, rename = "Hooks")]
    hooks: Option<BTreeMap<String, Option<Vec<IgnoredAny>>>>,
    #[serde(default)]
    intel_rdt: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Cgroups {
    #[serde(default, rename = "Systemd", alias = "systemd")]
    systemd: bool,
}

impl State {
    fn is_plain(&self) -> bool {
        let hooks = self.config.hooks.iter().flat_map(BTreeMap::values);
        self.intel_rdt_path.is_empty()
            && self.config.intel_rdt.is_none()
            && !self.config.cgroups.systemd
            && hooks.flatten().next().is_none()
            && self.cgroup_paths.values().all(|path| is_cgroup(path))
    }
}

/// A folder below where cgroups are mounted; a hierarchy itself is never empty.
fn is_cgroup(path: &Path) -> bool {
    let mut parts = path.components();
    let start = [Component::RootDir]
        .into_iter()
        .chain(["sys", "fs", "cgroup"].map(|name| Component::Normal(OsStr::new(name))));
    start.eq(parts.by_ref().take(4))
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Runc {
    /// Whether it is deleted; without that nothing was lost that runc would
    /// miss.
    pub(crate) fn delete_ended(&self, id: &ContainerId) -> bool {
        if !self.is_runc || !self.options.args.is_empty() || self.options.systemd_cgroup {
            return false;
        }
        let Some(init) = self.inits.ended(id) else {
            return false;
        };
        let folder = self.options.root.join(id.as_str());
        let Some(state) = fs::Root::open(&folder)
            .and_then(|root| root.read("state.json", LIMIT))
            .ok()
            .and_then(|data| serde_json::from_slice::<State>(&data).ok())
        else {
            return false;
        };
        if state.id != id.as_str()
            || state.init_process_pid != init.pid
            || state.init_process_start != init.start_time
            || !state.is_plain()
        {
            return false;
        }
        // The record goes last: it is by it that runc would delete.
        state.cgroup_paths.values().all(|path| remove(path))
            && fs::remove_tree_path(&folder).is_ok()
    }
}

/// Removes an empty cgroup. One with processes or cgroups in it is runc's.
fn remove(path: &Path) -> bool {
    for _ in 0..10 {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return true,
            // A dying process leaves its cgroup a moment after it was reaped.
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_micros(500)),
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_below_the_cgroups_mount_are_cgroups() {
        for good in ["/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/a"] {
            assert!(is_cgroup(good.as_ref()), "{good}");
        }
        for bad in [
            "",
            "/",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/pids/../../../../tmp",
            "/tmp/sys/fs/cgroup/a/b",
            "sys/fs/cgroup/pids/a",
        ] {
            assert!(!is_cgroup(bad.as_ref()), "{bad}");
        }
    }

    #[test]
    fn hooks_and_systemd_are_for_runc() {
        let plain = serde_json::json!({
            "id": "a", "init_process_pid": 7, "init_process_start": 8,
            "cgroup_paths": {"pids": "/sys/fs/cgroup/pids/a"},
            "config": {"cgroups": {}, "Hooks": {"poststop": null}},
        });
        let is_plain = |pointer: &str, value: serde_json::Value| {
            let mut state = plain.clone();
            if let Some(place) = state.pointer_mut(pointer) {
                *place = value;
            }
            serde_json::from_value::<State>(state)
                .expect("state")
                .is_plain()
        };
        let hook = serde_json::json!([{"path": "/bin/true"}]);
        let systemd = serde_json::json!({"Systemd": true});
        assert!(is_plain("/id", "a".into()));
        assert!(!is_plain("/config/Hooks/poststop", hook));
        assert!(!is_plain("/config/cgroups", systemd));
        assert!(!is_plain("/cgroup_paths/pids", "/etc".into()));
    }
}
