//! Device nodes and the rules of the device cgroup.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{DeviceRequest, SpecRequest};
use crate::error::{Error, IoContext, Result, quote};

/// A privileged container gets at most so many of the host's nodes.
const HOST_DEVICE_LIMIT: usize = 4096;

/// What every container may use: the nodes that runtimes make (runtime-spec
/// `config-linux.md`, "Default Devices"), and mknod of anything, which opens
/// nothing. Type, major, minor, access; -1 is any.
const DEFAULT: [(LinuxDeviceType, i64, i64, &str); 10] = [
    (LinuxDeviceType::C, -1, -1, "m"),
    (LinuxDeviceType::B, -1, -1, "m"),
    (LinuxDeviceType::C, 1, 3, "rwm"),
    (LinuxDeviceType::C, 1, 5, "rwm"),
    (LinuxDeviceType::C, 1, 7, "rwm"),
    (LinuxDeviceType::C, 1, 8, "rwm"),
    (LinuxDeviceType::C, 1, 9, "rwm"),
    (LinuxDeviceType::C, 5, 0, "rwm"),
    (LinuxDeviceType::C, 5, 2, "rwm"),
    (LinuxDeviceType::C, 136, -1, "rwm"),
];

pub(super) fn devices(request: &SpecRequest) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if request.privileged {
        rules.push(rule(LinuxDeviceType::A, -1, -1, "rwm"));
        host_devices(Path::new("/dev"), &mut nodes)?;
    } else {
        let mut deny = rule(LinuxDeviceType::A, -1, -1, "rwm");
        deny.set_allow(false);
        rules.push(deny);
        rules.extend(DEFAULT.map(|(kind, major, minor, access)| rule(kind, major, minor, access)));
    }
    for wanted in &request.devices {
        for node in of_wish(wanted)? {
            rules.push(rule(node.typ(), node.major(), node.minor(), &wanted.access));
            nodes.retain(|known: &LinuxDevice| known.path() != node.path());
            nodes.push(node);
        }
    }
    rules.extend(request.device_rules.iter().cloned());
    Ok((nodes, rules))
}

fn rule(kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major((major >= 0).then_some(major))
        .set_minor((minor >= 0).then_some(minor))
        .set_access(Some(access.to_owned()));
    rule
}

/// The node, or every node in the folder.
fn of_wish(wanted: &DeviceRequest) -> Result<Vec<LinuxDevice>> {
    let shown = quote(&wanted.host.to_string_lossy());
    let meta = std::fs::metadata(&wanted.host).io_context(|| format!("device {shown}"))?;
    let mut nodes = Vec::new();
    if meta.is_dir() {
        in_folder(&wanted.host, Path::new(&wanted.container), &[], &mut nodes)?;
    } else {
        nodes.extend(device(&meta, Path::new(&wanted.container)));
    }
    if nodes.is_empty() {
        let why = match meta.is_dir() {
            true => "there is no device node in it",
            false => "it is not a device node",
        };
        return Err(Error::invalid(format!("device {shown}: {why}"))
            .with_hint("a file or a folder is given with -v"));
    }
    Ok(nodes)
}

fn device(meta: &std::fs::Metadata, path: &Path) -> Option<LinuxDevice> {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(i64::from(rustix::fs::major(meta.rdev())))
        .set_minor(i64::from(rustix::fs::minor(meta.rdev())))
        .set_file_mode(Some(meta.mode() & 0o7777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    Some(device)
}

/// The host's nodes, without what the container has of its own.
fn host_devices(dir: &Path, nodes: &mut Vec<LinuxDevice>) -> Result<()> {
    const OWN: [&str; 12] = [
        "pts", "shm", "mqueue", "fd", "console", "ptmx", "tty", "null", "zero", "full", "random",
        "urandom",
    ];
    in_folder(dir, Path::new("/dev"), &OWN, nodes)
}

/// Every node beneath `dir`, as one beneath `target`; symlinks are passed over.
fn in_folder(dir: &Path, target: &Path, own: &[&str], nodes: &mut Vec<LinuxDevice>) -> Result<()> {
    let entries = std::fs::read_dir(dir).io_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry.io_context(|| format!("list {}", dir.display()))?;
        if own.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        let path = entry.path();
        let target = target.join(entry.file_name());
        // A node may vanish between listing and asking.
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            in_folder(&path, &target, &[], nodes)?;
        } else if let Some(device) = device(&meta, &target) {
            nodes.push(device);
        }
        if nodes.len() > HOST_DEVICE_LIMIT {
            return Err(Error::precondition(format!(
                "{} has more than {HOST_DEVICE_LIMIT} devices",
                dir.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str) -> SpecRequest {
        SpecRequest {
            devices: vec![DeviceRequest {
                host: host.into(),
                container: "/dev/x".into(),
                access: "r".into(),
            }],
            ..SpecRequest::default()
        }
    }

    #[test]
    fn everything_is_denied_first() {
        let (nodes, rules) = devices(&request("/dev/zero")).expect("devices");
        assert!(!rules[0].allow());
        assert_eq!(rules[0].typ(), Some(LinuxDeviceType::A));
        assert!(rules[1..].iter().all(LinuxDeviceCgroup::allow));
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 5));
        let last = rules.last().expect("rule");
        assert_eq!(last.to_string(), "c 1:5 r");
    }

    #[test]
    fn a_folder_stands_for_its_nodes() {
        let (nodes, rules) = devices(&request("/dev")).expect("devices");
        let zero = nodes
            .iter()
            .find(|node| node.path() == Path::new("/dev/x/zero"));
        assert_eq!(zero.map(LinuxDevice::minor), Some(5));
        assert_eq!(rules.len(), 1 + DEFAULT.len() + nodes.len());
        let mut wish = SpecRequest::default();
        wish.device_rules
            .push(super::super::parse::parse_device_rule("c 10:200 rw").expect("rule"));
        let (_, rules) = devices(&wish).expect("devices");
        let last = rules.last().expect("rule");
        assert_eq!(last.to_string(), "c 10:200 rw");
    }

    #[test]
    fn only_devices_are_devices() {
        for bad in ["/etc", "/dev/does-not-exist", "/etc/passwd"] {
            assert!(devices(&request(bad)).is_err(), "{bad}");
        }
    }
}
