//! The system-call filter: the default, and profiles from files.
//!
//! A runtime compiles the filter; here it is data. The default allows what
//! ordinary programs use and opens more as capabilities are given. Everything
//! else is EPERM, except `clone3`, whose flags lie in memory where a filter
//! cannot look: it is ENOSYS, and the C library falls back to `clone`.

use std::path::Path;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::caps::CapabilitySet;
use super::syscalls::{ALLOWED, CLONE_NAMESPACES, PERSONALITIES, REFUSED_FAMILIES, When};
use crate::error::{Error, Result, quote};

/// A profile's file larger than this is refused.
const FILE_LIMIT: u64 = 4 << 20;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// An architecture that the default profile knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86, with the 32-bit calls.
    X86_64,
    /// 64-bit ARM, with the 32-bit calls.
    Aarch64,
    /// Another: its own calls only.
    Other,
}

impl Machine {
    /// The one that this program was built for.
    pub const fn native() -> Machine {
        if cfg!(target_arch = "x86_64") {
            Machine::X86_64
        } else if cfg!(target_arch = "aarch64") {
            Machine::Aarch64
        } else {
            Machine::Other
        }
    }

    fn arches(self) -> Option<Vec<Arch>> {
        match self {
            // Hardly a kernel takes the calls of x32 and hardly a program makes
            // them, and each further architecture costs a runtime milliseconds.
            Machine::X86_64 => Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]),
            Machine::Aarch64 => Some(vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]),
            Machine::Other => None,
        }
    }

    /// As profiles in files name it, with its 32-bit kin.
    fn names(self) -> &'static [&'static str] {
        match self {
            Machine::X86_64 => &["amd64", "x86", "x32"],
            Machine::Aarch64 => &["arm64", "arm"],
            Machine::Other => &[],
        }
    }
}

/// The default filter for a container with these capabilities.
pub fn default_profile(machine: Machine, caps: CapabilitySet) -> LinuxSeccomp {
    let applies = |when: When| match when {
        When::Always => true,
        When::Cap(any) => any.iter().any(|name| caps.has(name)),
        When::X86 => machine == Machine::X86_64,
        When::Arm => machine == Machine::Aarch64,
    };
    let mut allowed: Vec<&str> = ALLOWED
        .iter()
        .filter(|(when, _)| applies(*when))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    allowed.sort_unstable();
    allowed.dedup();

    let mut rules = vec![rule(&allowed, LinuxSeccompAction::ScmpActAllow, None, &[])];
    let allow_if = |name: &str, args: &[LinuxSeccompArg]| {
        rule(&[name], LinuxSeccompAction::ScmpActAllow, None, args)
    };
    for domain in PERSONALITIES {
        let is = arg(0, domain, None, LinuxSeccompOperator::ScmpCmpEq);
        rules.push(allow_if("personality", &[is]));
    }
    // The families below, between and above the refused ones.
    let [low, high] = REFUSED_FAMILIES;
    rules.push(allow_if(
        "socket",
        &[arg(0, low, None, LinuxSeccompOperator::ScmpCmpLt)],
    ));
    for family in low + 1..high {
        rules.push(allow_if(
            "socket",
            &[arg(0, family, None, LinuxSeccompOperator::ScmpCmpEq)],
        ));
    }
    rules.push(allow_if(
        "socket",
        &[arg(0, high, None, LinuxSeccompOperator::ScmpCmpGt)],
    ));
    if !caps.has("SYS_ADMIN") {
        let none = arg(
            0,
            CLONE_NAMESPACES,
            Some(0),
            LinuxSeccompOperator::ScmpCmpMaskedEq,
        );
        rules.push(allow_if("clone", &[none]));
        rules.push(rule(
            &["clone3"],
            LinuxSeccompAction::ScmpActErrno,
            Some(ENOSYS),
            &[],
        ));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(machine.arches())
        .set_syscalls(Some(rules));
    profile
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: &[LinuxSeccompArg],
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args((!args.is_empty()).then(|| args.to_vec()));
    rule
}

fn arg(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .op(op);
    match value_two {
        Some(value) => builder.value_two(value),
        None => builder,
    }
    .build()
    .expect("the builder has a default for every field")
}

/// A profile's file: the OCI object, or the form with conditions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads a profile from a file, its conditions decided for this machine and
/// these capabilities.
pub fn load_profile(path: &Path, machine: Machine, caps: CapabilitySet) -> Result<LinuxSeccomp> {
    let shown = quote(&path.to_string_lossy());
    let data =
        crate::fs::read_file(path, FILE_LIMIT).map_err(|error| error.context("seccomp profile"))?;
    let profile: Profile = serde_json::from_slice(&data).map_err(|error| {
        Error::invalid(format!("seccomp profile {shown}: {error}"))
            .with_hint("want the `seccomp` object of an OCI spec, or a profile with archMap")
    })?;
    let kernel = rustix::system::uname();
    let kernel = version(&kernel.release().to_string_lossy());
    Ok(decide(profile, machine, caps, kernel))
}

fn decide(
    profile: Profile,
    machine: Machine,
    caps: CapabilitySet,
    kernel: (u32, u32),
) -> LinuxSeccomp {
    let arches = match profile.arch_map {
        None => profile.architectures,
        Some(map) => {
            let native = machine.arches().and_then(|arches| arches.first().copied());
            map.into_iter()
                .find(|entry| Some(entry.architecture) == native)
                .map(|entry| {
                    let mut arches = vec![entry.architecture];
                    arches.extend(entry.sub_architectures.unwrap_or_default());
                    arches
                })
        }
    };
    let has_cap = |name: &String| caps.has(name.trim_start_matches("CAP_"));
    let is_arch = |name: &String| machine.names().contains(&name.as_str());
    let included = |condition: &Condition| {
        condition.caps.iter().flatten().all(has_cap)
            && condition
                .arches
                .as_ref()
                .is_none_or(|arches| arches.is_empty() || arches.iter().any(is_arch))
            && condition
                .min_kernel
                .as_ref()
                .is_none_or(|min| kernel >= version(min))
    };
    let excluded = |condition: &Condition| {
        condition.caps.iter().flatten().any(has_cap)
            || condition.arches.iter().flatten().any(is_arch)
            || condition
                .min_kernel
                .as_ref()
                .is_some_and(|min| kernel >= version(min))
    };
    let rules = profile
        .syscalls
        .unwrap_or_default()
        .into_iter()
        .filter(|rule| rule.includes.as_ref().is_none_or(included))
        .filter(|rule| !rule.excludes.as_ref().is_some_and(excluded))
        .map(|rule| {
            let mut result = LinuxSyscall::default();
            let mut names = rule.names;
            names.extend(rule.name);
            result
                .set_names(names)
                .set_action(rule.action)
                .set_errno_ret(rule.errno_ret)
                .set_args(rule.args.filter(|args| !args.is_empty()));
            result
        })
        .filter(|rule| !rule.names().is_empty())
        .collect();
    let mut result = LinuxSeccomp::default();
    result
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(arches)
        .set_flags(profile.flags)
        .set_syscalls(Some(rules));
    result
}

/// Major and minor of a kernel's release.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn allowed(caps: &[&str]) -> BTreeSet<String> {
        let list: Vec<String> = caps.iter().map(|cap| (*cap).to_owned()).collect();
        let set = super::super::caps::choose(false, &list, &[], CapabilitySet::ALL).expect("caps");
        let profile = default_profile(Machine::X86_64, set);
        let rules = profile.syscalls().clone().unwrap_or_default();
        rules
            .iter()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow)
            .filter(|rule| rule.args().is_none())
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let default = allowed(&[]);
        for (call, cap) in [
            ("mount", "SYS_ADMIN"),
            ("unshare", "SYS_ADMIN"),
            ("setns", "SYS_ADMIN"),
            ("clone3", "SYS_ADMIN"),
            ("bpf", "BPF"),
            ("perf_event_open", "PERFMON"),
            ("open_by_handle_at", "DAC_READ_SEARCH"),
            ("init_module", "SYS_MODULE"),
            ("kexec_load", "SYS_BOOT"),
            ("settimeofday", "SYS_TIME"),
            ("syslog", "SYSLOG"),
        ] {
            assert!(!default.contains(call), "{call}");
            assert!(allowed(&[cap]).contains(call), "{call} with {cap}");
        }
        for call in [
            "keyctl",
            "add_key",
            "userfaultfd",
            "io_uring_setup",
            "nfsservctl",
        ] {
            assert!(!allowed(&["ALL"]).contains(call), "{call}");
        }
        for call in ["read", "execve", "chroot", "futex", "openat2", "ptrace"] {
            assert!(default.contains(call), "{call}");
        }
        // 14 capabilities are there, so that their calls are: chroot above.
        assert!(default.len() > 340, "{}", default.len());
    }

    #[test]
    fn the_table_names_each_call_once() {
        let mut seen = BTreeSet::new();
        for (_, names) in ALLOWED {
            for name in *names {
                assert!(seen.insert(name), "{name} twice");
                assert!(
                    name.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                );
            }
        }
        for special in ["socket", "personality"] {
            assert!(
                !seen.contains(&special),
                "{special} would lose its conditions"
            );
        }
    }

    #[test]
    fn profiles_from_files_are_decided() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("profile.json");
        std::fs::write(
            &path,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
            "syscalls": [
              {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "c"},
              {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
              {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
              {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
              {"name": "f", "action": "SCMP_ACT_TRACE"}
            ]}"#,
        )
        .expect("write");
        let names = |machine, caps| -> Vec<String> {
            let profile = load_profile(&path, machine, caps).expect("profile");
            assert_eq!(profile.default_errno_ret(), Some(38));
            let rules = profile.syscalls().clone().unwrap_or_default();
            rules.iter().flat_map(|rule| rule.names().clone()).collect()
        };
        let default = CapabilitySet::default_set();
        assert_eq!(names(Machine::X86_64, default), ["read", "b", "d", "f"]);
        assert_eq!(
            names(Machine::Aarch64, CapabilitySet::ALL),
            ["read", "a", "c", "d", "f"]
        );
        let profile = load_profile(&path, Machine::X86_64, default).expect("profile");
        assert_eq!(
            profile.architectures().as_deref(),
            Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
        );

        std::fs::write(&path, "{}").expect("write");
        let error = load_profile(&path, Machine::X86_64, default).expect_err("no action");
        assert!(error.to_string().contains("profile.json"), "{error}");
    }
}
