//! Limits of a container's cgroup and of its process.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, PosixRlimit};
use rustix::process::{Resource, getrlimit};

use super::caps::CapabilitySet;
use crate::error::{Error, Result, quote};

/// Below this no runtime starts a process.
const MEMORY_MINIMUM: i64 = 6 << 20;
/// The kernel's limit of tasks on any machine.
const PIDS_MAXIMUM: i64 = 4 << 20;
const CPU_PERIOD: u64 = 100_000;

/// Limits of a container's cgroup. What is `None` is not limited, or left as
/// it is by an update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory, at least 6 MiB.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together, -1 for any amount of swap. Without
    /// it, twice the memory where the kernel accounts for swap.
    pub memory_swap: Option<i64>,
    /// Bytes that the container is shrunk to when the host is short.
    pub memory_reservation: Option<i64>,
    /// CPUs, 1.5 for one and a half.
    pub cpus: Option<f64>,
    /// Weight against other containers, 2 to 262144; 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// CPUs that may be used, as `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// Tasks; 0 or less: any number.
    pub pids_limit: Option<i64>,
}

impl Limits {
    /// As the runtime wants them; also what an update of a running container
    /// consists of.
    pub fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        resources.set_memory(self.memory()?).set_cpu(self.cpu()?);
        if let Some(limit) = self.pids_limit {
            if limit > PIDS_MAXIMUM {
                return Err(Error::invalid(format!(
                    "limit of {limit} tasks: the kernel has no more than {PIDS_MAXIMUM}"
                )));
            }
            let mut pids = LinuxPids::default();
            // The spec's unlimited is -1; a 0 would forbid even the first.
            pids.set_limit(if limit > 0 { limit } else { -1 });
            resources.set_pids(Some(pids));
        }
        Ok(resources)
    }

    fn memory(&self) -> Result<Option<LinuxMemory>> {
        let mut memory = LinuxMemory::default();
        if let Some(bytes) = self.memory {
            if bytes < MEMORY_MINIMUM {
                return Err(Error::invalid(format!(
                    "memory limit of {bytes} bytes: no container starts with less than 6m"
                )));
            }
            memory.set_limit(Some(bytes));
        }
        match (self.memory_swap, self.memory) {
            (Some(-1), _) => drop(memory.set_swap(Some(-1))),
            (Some(_), None) => {
                return Err(
                    Error::invalid("a limit of memory and swap needs one of memory too")
                        .with_hint("give --memory as well, or --memory-swap -1"),
                );
            }
            (Some(both), Some(bytes)) if both < bytes => {
                return Err(Error::invalid(format!(
                    "limit of {both} bytes of memory and swap: it is less than that of memory, {bytes}"
                ))
                .with_hint("--memory-swap counts memory and swap together"));
            }
            (Some(both), Some(_)) => drop(memory.set_swap(Some(both))),
            (None, Some(bytes)) if has_swap_limit() => {
                memory.set_swap(Some(bytes.checked_mul(2).unwrap_or(-1)));
            }
            (None, _) => {}
        }
        if self.memory_swap.is_some() && !has_swap_limit() {
            return Err(Error::precondition(
                "this kernel does not account for swap, and cannot limit it",
            )
            .with_hint("leave --memory-swap out"));
        }
        if let Some(bytes) = self.memory_reservation {
            if self.memory.is_some_and(|limit| bytes > limit) {
                return Err(Error::invalid(format!(
                    "memory reservation of {bytes} bytes: it is above the limit"
                )));
            }
            memory.set_reservation(Some(bytes));
        }
        Ok((memory != LinuxMemory::default()).then_some(memory))
    }

    fn cpu(&self) -> Result<Option<LinuxCpu>> {
        let mut cpu = LinuxCpu::default();
        if let Some(cpus) = self.cpus {
            if !(0.01..=1_000_000.0).contains(&cpus) {
                return Err(Error::invalid(format!("CPUs {cpus}: want at least 0.01")));
            }
            cpu.set_period(Some(CPU_PERIOD))
                .set_quota(Some((cpus * CPU_PERIOD as f64).round() as i64));
        }
        cpu.set_shares(self.cpu_shares)
            .set_cpus(self.cpuset_cpus.clone())
            .set_mems(self.cpuset_mems.clone());
        for (what, wanted, online) in [
            ("CPUs", &self.cpuset_cpus, "/sys/devices/system/cpu/online"),
            (
                "memory nodes",
                &self.cpuset_mems,
                "/sys/devices/system/node/online",
            ),
        ] {
            let Some(wanted) = wanted else { continue };
            check_set(
                what,
                wanted,
                &std::fs::read_to_string(online).unwrap_or_default(),
            )?;
        }
        Ok((cpu != LinuxCpu::default()).then_some(cpu))
    }
}

/// [`Limits::resources`] of the three that an update has.
pub fn limits(
    memory: Option<i64>,
    cpus: Option<f64>,
    pids_limit: Option<i64>,
) -> Result<LinuxResources> {
    let limits = Limits {
        memory,
        cpus,
        pids_limit,
        ..Limits::default()
    };
    limits.resources()
}

/// Whether the kernel limits swap of a cgroup.
fn has_swap_limit() -> bool {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Path::new("/proc/swaps").exists();
    }
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

/// The ranges of a list as the kernel writes them, `0-3,5`.
pub(super) fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().ok().filter(|n| *n < 8192),
        false => None,
    };
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

fn check_set(what: &str, wanted: &str, online: &str) -> Result<()> {
    let Some(wanted_ranges) = ranges(wanted) else {
        return Err(Error::invalid(format!(
            "{what} {}: want a list like 0-3,5",
            quote(wanted)
        )));
    };
    // A host that does not tell leaves the answer to the kernel.
    let Some(there) = ranges(online.trim()) else {
        return Ok(());
    };
    let is_there = |n: u32| {
        there
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&n))
    };
    let missing = wanted_ranges
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .find(|n| !is_there(*n));
    match missing {
        None => Ok(()),
        Some(n) => Err(Error::precondition(format!(
            "{what} {}: this machine has {}, and no {n}",
            quote(wanted),
            quote(online.trim())
        ))),
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

/// Refuses an adjustment below this process's own without the privilege.
pub(super) fn check_oom_score(wanted: Option<i32>, caps: CapabilitySet) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    if !(-1000..=1000).contains(&wanted) {
        return Err(Error::invalid(format!(
            "OOM score adjustment {wanted}: want -1000 to 1000"
        )));
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own: i32 = own.trim().parse().unwrap_or(0);
    if wanted < own && !caps.has("SYS_RESOURCE") {
        return Err(Error::precondition(format!(
            "OOM score adjustment {wanted}: this process may not go below its own, {own}"
        ))
        .with_hint("that needs CAP_SYS_RESOURCE"));
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
        assert_eq!(memory.swap(), has_swap_limit().then_some(128 << 20));
        let cpu = resources.cpu().as_ref().expect("cpu");
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(resources.pids().as_ref().map(|pids| pids.limit()), Some(-1));
        let none = Limits::default().resources().expect("none");
        assert_eq!(none, LinuxResources::default());
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let limits = Limits {
            memory: Some(64 << 20),
            ..Limits::default()
        };
        for (why, bad) in [
            (
                "too little memory",
                Limits {
                    memory: Some(1024),
                    ..Limits::default()
                },
            ),
            (
                "swap below memory",
                Limits {
                    memory_swap: Some(32 << 20),
                    ..limits.clone()
                },
            ),
            (
                "swap alone",
                Limits {
                    memory_swap: Some(32 << 20),
                    ..Limits::default()
                },
            ),
            (
                "reservation above",
                Limits {
                    memory_reservation: Some(65 << 20),
                    ..limits.clone()
                },
            ),
            (
                "no number",
                Limits {
                    cpus: Some(f64::NAN),
                    ..Limits::default()
                },
            ),
            (
                "no CPU",
                Limits {
                    cpus: Some(0.0),
                    ..Limits::default()
                },
            ),
            (
                "tasks",
                Limits {
                    pids_limit: Some(i64::MAX),
                    ..Limits::default()
                },
            ),
        ] {
            assert!(bad.resources().is_err(), "{why}");
        }
    }

    #[test]
    fn sets_are_of_what_is_there() {
        assert_eq!(ranges("0-2,5"), Some(vec![(0, 2), (5, 5)]));
        check_set("CPUs", "1,0", "0-1\n").expect("there");
        check_set("CPUs", "7", "").expect("a host that does not tell");
        for bad in ["", "a", "1-", "-1", "2-1", "0,,1", "0-99999999", "0 1", "2"] {
            assert!(check_set("CPUs", bad, "0-1").is_err(), "{bad}");
        }
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
        assert!(check_oom_score(Some(1000), none).is_ok());
        assert!(check_oom_score(Some(-1000), none).is_err());
        assert!(check_oom_score(Some(-1000), CapabilitySet::ALL).is_ok());
        assert!(check_oom_score(Some(1001), CapabilitySet::ALL).is_err());
    }
}
