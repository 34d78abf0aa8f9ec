//! Capabilities by name and number, and which a container gets.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use crate::error::{Error, IoContext, Result, quote};

/// Every capability, at its kernel number.
const TABLE: [(&str, Capability); 41] = {
    use Capability::*;
    [
        ("CHOWN", Chown),
        ("DAC_OVERRIDE", DacOverride),
        ("DAC_READ_SEARCH", DacReadSearch),
        ("FOWNER", Fowner),
        ("FSETID", Fsetid),
        ("KILL", Kill),
        ("SETGID", Setgid),
        ("SETUID", Setuid),
        ("SETPCAP", Setpcap),
        ("LINUX_IMMUTABLE", LinuxImmutable),
        ("NET_BIND_SERVICE", NetBindService),
        ("NET_BROADCAST", NetBroadcast),
        ("NET_ADMIN", NetAdmin),
        ("NET_RAW", NetRaw),
        ("IPC_LOCK", IpcLock),
        ("IPC_OWNER", IpcOwner),
        ("SYS_MODULE", SysModule),
        ("SYS_RAWIO", SysRawio),
        ("SYS_CHROOT", SysChroot),
        ("SYS_PTRACE", SysPtrace),
        ("SYS_PACCT", SysPacct),
        ("SYS_ADMIN", SysAdmin),
        ("SYS_BOOT", SysBoot),
        ("SYS_NICE", SysNice),
        ("SYS_RESOURCE", SysResource),
        ("SYS_TIME", SysTime),
        ("SYS_TTY_CONFIG", SysTtyConfig),
        ("MKNOD", Mknod),
        ("LEASE", Lease),
        ("AUDIT_WRITE", AuditWrite),
        ("AUDIT_CONTROL", AuditControl),
        ("SETFCAP", Setfcap),
        ("MAC_OVERRIDE", MacOverride),
        ("MAC_ADMIN", MacAdmin),
        ("SYSLOG", Syslog),
        ("WAKE_ALARM", WakeAlarm),
        ("BLOCK_SUSPEND", BlockSuspend),
        ("AUDIT_READ", AuditRead),
        ("PERFMON", Perfmon),
        ("BPF", Bpf),
        ("CHECKPOINT_RESTORE", CheckpointRestore),
    ]
};

/// What a container has without further wishes.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities, as the kernel's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// Every capability that is known here.
    pub const ALL: CapabilitySet = CapabilitySet((1 << TABLE.len()) - 1);

    /// What a container has without further wishes.
    pub fn default_set() -> CapabilitySet {
        let mut bits = 0;
        for (number, (name, _)) in TABLE.iter().enumerate() {
            if DEFAULT.contains(name) {
                bits |= 1 << number;
            }
        }
        CapabilitySet(bits)
    }

    /// The set of the kernel's bits; unknown ones are dropped.
    pub fn from_bits(bits: u64) -> CapabilitySet {
        CapabilitySet(bits & CapabilitySet::ALL.0)
    }

    /// As the kernel's bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// What this process can give to another: its bounding set.
    pub fn available() -> Result<CapabilitySet> {
        const PATH: &str = "/proc/self/status";
        let status = std::fs::read_to_string(PATH).io_context(|| format!("read {PATH}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .map(CapabilitySet::from_bits)
            .ok_or_else(|| Error::internal(format!("{PATH} has no CapBnd line")))
    }

    /// Whether it holds a capability, named without `CAP_`.
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & 1 << n != 0)
    }

    /// The names, without `CAP_`, sorted.
    pub fn names(self) -> BTreeSet<&'static str> {
        self.numbers().map(|n| TABLE[n].0).collect()
    }

    /// As the spec names it for a process of this user: bounding, for root
    /// also effective and permitted; never inheritable or ambient
    /// (CVE-2022-24769). Another user loses them by its first exec anyway, and
    /// until then they would open to it what is not its own.
    pub fn to_spec(self, uid: u32) -> LinuxCapabilities {
        let bounding: oci_spec::runtime::Capabilities =
            self.numbers().map(|n| TABLE[n].1).collect();
        let set = if uid == 0 {
            bounding.clone()
        } else {
            Default::default()
        };
        let mut capabilities = LinuxCapabilities::default();
        capabilities
            .set_bounding(Some(bounding))
            .set_effective(Some(set.clone()))
            .set_permitted(Some(set))
            .set_inheritable(Some(Default::default()))
            .set_ambient(Some(Default::default()));
        capabilities
    }

    /// The set of a spec's bounding capabilities.
    pub fn from_spec(capabilities: &LinuxCapabilities) -> CapabilitySet {
        let mut bits = 0;
        for (number, (_, capability)) in TABLE.iter().enumerate() {
            let bounding = capabilities.bounding().as_ref();
            if bounding.is_some_and(|set| set.contains(capability)) {
                bits |= 1 << number;
            }
        }
        CapabilitySet(bits)
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..TABLE.len()).filter(move |n| self.0 & 1 << n != 0)
    }
}

/// The default set, or every available one when privileged, with `add` and
/// `drop` applied. `ALL` in either comes first; then single names count.
pub fn choose(
    privileged: bool,
    add: &[String],
    drop: &[String],
    available: CapabilitySet,
) -> Result<CapabilitySet> {
    let added = parse_list(add, "--cap-add")?;
    let dropped = parse_list(drop, "--cap-drop")?;
    let mut set = if privileged || added.all {
        available.0
    } else if dropped.all {
        0
    } else {
        CapabilitySet::default_set().0
    };
    set &= !dropped.named;
    set |= added.named;
    let missing = CapabilitySet(added.named & !available.0);
    if let Some(name) = missing.names().first() {
        return Err(Error::precondition(format!(
            "capability CAP_{name}: this process does not have it and cannot give it to a container"
        )));
    }
    if set & !available.0 != 0 {
        let names: Vec<_> = CapabilitySet(set & !available.0)
            .names()
            .into_iter()
            .collect();
        log::warn!(
            "the container goes without the capabilities {}, which this process does not have",
            names.join(", ")
        );
    }
    Ok(CapabilitySet(set & available.0))
}

struct Named {
    all: bool,
    named: u64,
}

fn parse_list(list: &[String], flag: &str) -> Result<Named> {
    let mut result = Named {
        all: false,
        named: 0,
    };
    for text in list.iter().flat_map(|item| item.split(',')) {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            result.all = true;
            continue;
        }
        match number(name) {
            Some(n) => result.named |= 1 << n,
            None => {
                return Err(
                    Error::invalid(format!("{flag} {}: unknown capability", quote(text)))
                        .with_hint("names are those of capabilities(7), NET_ADMIN or CAP_NET_ADMIN, or ALL"),
                );
            }
        }
    }
    Ok(result)
}

fn number(name: &str) -> Option<usize> {
    TABLE.iter().position(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_default_set_is_the_usual_fourteen() {
        // The mask that /proc/PID/status shows in containers of other engines.
        assert_eq!(CapabilitySet::default_set().bits(), 0xa804_25fb);
    }

    #[test]
    fn names_agree_with_the_specs() {
        for (name, capability) in TABLE {
            assert_eq!(capability.to_string(), name);
        }
        assert_eq!(CapabilitySet::ALL.bits(), 0x1ff_ffff_ffff);
        let set = CapabilitySet::default_set();
        assert_eq!(CapabilitySet::from_spec(&set.to_spec(0)), set);
        assert_eq!(CapabilitySet::from_spec(&set.to_spec(1000)), set);
    }

    #[test]
    fn nothing_is_inheritable_or_ambient() {
        let spec = CapabilitySet::ALL.to_spec(0);
        assert_eq!(spec.inheritable().as_ref().map(|set| set.len()), Some(0));
        assert_eq!(spec.ambient().as_ref().map(|set| set.len()), Some(0));
        let spec = CapabilitySet::ALL.to_spec(1000);
        assert_eq!(spec.effective().as_ref().map(|set| set.len()), Some(0));
        assert_eq!(spec.permitted().as_ref().map(|set| set.len()), Some(0));
    }

    #[test]
    fn wishes_are_applied() {
        let all = CapabilitySet::ALL;
        let choose = |privileged, add: &[&str], drop: &[&str]| {
            choose(privileged, &list(add), &list(drop), all).expect("choose")
        };
        assert!(choose(false, &["net_admin"], &[]).has("NET_ADMIN"));
        assert!(!choose(false, &[], &["CAP_CHOWN"]).has("CHOWN"));
        assert_eq!(choose(false, &[], &["ALL"]).bits(), 0);
        let one = choose(false, &["KILL"], &["ALL"]);
        assert_eq!(one.names().into_iter().collect::<Vec<_>>(), ["KILL"]);
        assert_eq!(
            choose(false, &["ALL"], &["SYS_ADMIN"]).bits(),
            all.bits() & !(1 << 21)
        );
        assert_eq!(choose(true, &[], &[]), all);
        assert_eq!(
            choose(false, &["NET_ADMIN,SYS_TIME"], &[]).names().len(),
            16
        );
    }

    #[test]
    fn what_is_not_there_cannot_be_given() {
        let without = CapabilitySet::from_bits(CapabilitySet::ALL.bits() & !(1 << 24));
        let error = choose(false, &list(&["SYS_RESOURCE"]), &[], without).expect_err("missing");
        assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
        assert_eq!(choose(true, &[], &[], without), Ok(without));
        assert!(choose(false, &list(&["SYS_ADMINN"]), &[], without).is_err());
    }
}
