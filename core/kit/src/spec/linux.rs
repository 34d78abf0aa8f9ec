//! The `linux` object: masked paths, and all the parts put together.

use std::collections::HashMap;

use oci_spec::runtime::{Linux, LinuxSeccomp};

use super::caps::CapabilitySet;
use super::{IdMapping, SecurityOption, SpecRequest, devices, namespace, seccomp};
use crate::error::Result;
use crate::ids::ContainerId;

/// Hidden from the container: they tell of the host or act on it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn linux(
    request: &SpecRequest,
    id: &ContainerId,
    caps: CapabilitySet,
    users: Option<&IdMapping>,
) -> Result<Linux> {
    let (device_nodes, device_rules) = devices::devices(request)?;
    let mut resources = request.limits.resources()?;
    resources.set_devices(Some(device_rules));

    let is_open = request.privileged
        || request
            .security
            .contains(&SecurityOption::SystemPathsUnconfined);
    let paths = |list: Vec<String>| Some(if is_open { Vec::new() } else { list });
    let mut sysctls: HashMap<String, String> = request.sysctls.clone().into_iter().collect();
    if let Some(name) = &request.domainname {
        // Runtimes from before the spec's own field know this one.
        sysctls.insert("kernel.domainname".into(), name.clone());
    }
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespace::namespaces(request)))
        .set_uid_mappings(users.map(|map| namespace::mappings(map.uids())))
        .set_gid_mappings(users.map(|map| namespace::mappings(map.gids())))
        .set_masked_paths(paths(masked()))
        .set_readonly_paths(paths(READ_ONLY.map(str::to_owned).to_vec()))
        .set_sysctl((!sysctls.is_empty()).then_some(sysctls))
        .set_cgroups_path(Some(cgroups_path(request, id)?.into()))
        .set_resources(Some(resources))
        .set_devices((!device_nodes.is_empty()).then_some(device_nodes))
        .set_seccomp(filter(request, caps)?);
    Ok(linux)
}

pub(super) fn cgroups_path(request: &SpecRequest, id: &ContainerId) -> Result<String> {
    match request.cgroups_path.as_str() {
        "" => Ok(format!("/containerkit/{id}")),
        path => super::path::clean(path, "cgroup"),
    }
}

/// [`MASKED`], and how warm each CPU is: it tells what others compute.
fn masked() -> Vec<String> {
    let mut list: Vec<String> = MASKED.map(str::to_owned).to_vec();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let cpus = super::limits::ranges(online.trim()).unwrap_or_default();
    for cpu in cpus.into_iter().flat_map(|(first, last)| first..=last) {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        if std::path::Path::new(&path).exists() {
            list.push(path);
        }
    }
    list
}

/// The last word on seccomp wins; a privileged container has none unless one
/// is named.
pub(super) fn filter(request: &SpecRequest, caps: CapabilitySet) -> Result<Option<LinuxSeccomp>> {
    let machine = seccomp::Machine::native();
    let wish = request.security.iter().rev().find(|option| {
        matches!(
            option,
            SecurityOption::SeccompFile(_)
                | SecurityOption::SeccompUnconfined
                | SecurityOption::SeccompDefault
        )
    });
    match wish {
        Some(SecurityOption::SeccompFile(path)) => {
            seccomp::load_profile(path, machine, caps).map(Some)
        }
        Some(SecurityOption::SeccompUnconfined) => Ok(None),
        None if request.privileged => Ok(None),
        _ => Ok(Some(seccomp::default_profile(machine, caps))),
    }
}
