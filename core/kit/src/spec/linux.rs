//! The `linux` object: namespaces, masked paths, resources.

use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources,
    LinuxSeccomp, PosixRlimit,
};
use rustix::process::{Resource, getrlimit};

use super::caps::CapabilitySet;
use super::{NetworkMode, SecurityOption, SpecRequest, devices, seccomp};
use crate::error::{Error, Result, quote};
use crate::ids::ContainerId;

/// Hidden from the container: they tell of the host or act on it.
pub(super) const MASKED: [&str; 13] = [
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
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only.
pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Below this no runtime starts a process.
const MEMORY_MINIMUM: i64 = 6 << 20;

const CPU_PERIOD: u64 = 100_000;

pub(super) fn linux(request: &SpecRequest, id: &ContainerId, caps: CapabilitySet) -> Result<Linux> {
    let (device_nodes, device_rules) = devices::devices(request)?;
    let mut resources = limits(request.memory, request.cpus, request.pids_limit)?;
    resources.set_devices(Some(device_rules));

    let paths = |list: &[&str]| {
        let list = if request.privileged { &[] } else { list };
        Some(list.iter().map(|path| (*path).to_owned()).collect())
    };
    let cgroup = match request.cgroups_path.as_str() {
        "" => format!("/containerkit/{id}"),
        path => super::path::clean(path, "cgroup")?,
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(&request.network)))
        .set_masked_paths(paths(&MASKED))
        .set_readonly_paths(paths(&READ_ONLY))
        .set_cgroups_path(Some(cgroup.into()))
        .set_resources(Some(resources))
        .set_devices((!device_nodes.is_empty()).then_some(device_nodes))
        .set_seccomp(filter(request, caps)?);
    Ok(linux)
}

fn namespaces(network: &NetworkMode) -> Vec<LinuxNamespace> {
    let namespace = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut list = vec![
        namespace(LinuxNamespaceType::Pid),
        namespace(LinuxNamespaceType::Ipc),
        namespace(LinuxNamespaceType::Uts),
        namespace(LinuxNamespaceType::Mount),
    ];
    match network {
        NetworkMode::None => list.push(namespace(LinuxNamespaceType::Network)),
        NetworkMode::Host => {}
        NetworkMode::Namespace(path) => {
            let mut joined = namespace(LinuxNamespaceType::Network);
            joined.set_path(Some(path.clone()));
            list.push(joined);
        }
    }
    if std::path::Path::new("/proc/self/ns/cgroup").exists() {
        list.push(namespace(LinuxNamespaceType::Cgroup));
    }
    list
}

/// The limits as the runtime wants them; also what an update of a running
/// container consists of.
pub fn limits(
    memory: Option<i64>,
    cpus: Option<f64>,
    pids_limit: Option<i64>,
) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    if let Some(bytes) = memory {
        if bytes < MEMORY_MINIMUM {
            return Err(Error::invalid(format!(
                "memory limit of {bytes} bytes: no container starts with less than 6m"
            )));
        }
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(bytes));
        resources.set_memory(Some(memory));
    }
    if let Some(cpus) = cpus {
        if !(0.01..=1_000_000.0).contains(&cpus) {
            return Err(Error::invalid(format!("CPUs {cpus}: want at least 0.01")));
        }
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(CPU_PERIOD))
            .set_quota(Some((cpus * CPU_PERIOD as f64).round() as i64));
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = pids_limit {
        let mut pids = LinuxPids::default();
        // The spec's unlimited is -1; a 0 would forbid even the first.
        pids.set_limit(if limit > 0 { limit } else { -1 });
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// The last word on seccomp wins; a privileged container has none unless a
/// file is named.
fn filter(request: &SpecRequest, caps: CapabilitySet) -> Result<Option<LinuxSeccomp>> {
    let machine = seccomp::Machine::native();
    let wish = request
        .security
        .iter()
        .rev()
        .find(|option| !matches!(option, SecurityOption::NoNewPrivileges(_)));
    match wish {
        Some(SecurityOption::SeccompFile(path)) => {
            seccomp::load_profile(path, machine, caps).map(Some)
        }
        Some(_) => Ok(None),
        None if request.privileged => Ok(None),
        None => Ok(Some(seccomp::default_profile(machine, caps))),
    }
}

/// Refuses limits that the kernel will refuse: a hard limit above this
/// process's own, without the privilege to raise it.
pub(super) fn check_ulimits(limits: &[PosixRlimit], caps: CapabilitySet) -> Result<()> {
    if caps.has("SYS_RESOURCE") {
        return Ok(());
    }
    for limit in limits {
        let Some(current) = getrlimit(resource(limit.typ())).maximum else {
            continue;
        };
        if limit.hard() > current {
            let name = super::parse::ulimit_name(limit.typ());
            return Err(Error::precondition(format!(
                "ulimit {}: this process may not raise the hard limit above {current}",
                quote(name)
            ))
            .with_hint("that needs CAP_SYS_RESOURCE; ask for less, or raise the caller's limit"));
        }
    }
    Ok(())
}

fn resource(kind: oci_spec::runtime::PosixRlimitType) -> Resource {
    use oci_spec::runtime::PosixRlimitType::*;
    match kind {
        RlimitAs => Resource::As,
        RlimitCore => Resource::Core,
        RlimitCpu => Resource::Cpu,
        RlimitData => Resource::Data,
        RlimitFsize => Resource::Fsize,
        RlimitLocks => Resource::Locks,
        RlimitMemlock => Resource::Memlock,
        RlimitMsgqueue => Resource::Msgqueue,
        RlimitNice => Resource::Nice,
        RlimitNofile => Resource::Nofile,
        RlimitNproc => Resource::Nproc,
        RlimitRss => Resource::Rss,
        RlimitRtprio => Resource::Rtprio,
        RlimitRttime => Resource::Rttime,
        RlimitSigpending => Resource::Sigpending,
        RlimitStack => Resource::Stack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_in_the_runtimes_units() {
        let resources = limits(Some(64 << 20), Some(1.5), Some(0)).expect("limits");
        let memory = resources.memory().as_ref().expect("memory");
        assert_eq!(memory.limit(), Some(64 << 20));
        let cpu = resources.cpu().as_ref().expect("cpu");
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(resources.pids().as_ref().map(|pids| pids.limit()), Some(-1));
        assert!(limits(Some(1024), None, None).is_err());
        assert!(limits(None, Some(f64::NAN), None).is_err());
        assert!(limits(None, Some(0.0), None).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_raised_is_refused_early() {
        let Some(current) = getrlimit(Resource::Nofile).maximum else {
            return;
        };
        let limit = |n| super::super::parse::parse_ulimit(&format!("nofile={n}")).expect("limit");
        let none = CapabilitySet::default();
        assert!(check_ulimits(&[limit(current)], none).is_ok());
        let error = check_ulimits(&[limit(current + 1)], none).expect_err("above");
        assert!(error.to_string().contains("nofile"), "{error}");
        assert!(check_ulimits(&[limit(current + 1)], CapabilitySet::ALL).is_ok());
    }
}
