//! Which namespaces a container has, and the kernel parameters that are its
//! own with them.

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
};

use super::{IdMap, NamespaceMode, NetworkMode, SpecRequest, UserNamespace};
use crate::error::{Error, Result, quote};

pub(super) fn namespaces(request: &SpecRequest) -> Vec<LinuxNamespace> {
    let network = match &request.network {
        NetworkMode::None => NamespaceMode::Private,
        NetworkMode::Host => NamespaceMode::Host,
        NetworkMode::Namespace(path) => NamespaceMode::Join(path.clone()),
    };
    let wanted = &request.namespaces;
    let has_cgroup = Path::new("/proc/self/ns/cgroup").exists();
    let users = match &request.users {
        UserNamespace::Host => NamespaceMode::Host,
        UserNamespace::Auto { .. } | UserNamespace::Mapped(_) => NamespaceMode::Private,
    };
    [
        (LinuxNamespaceType::User, &users),
        (LinuxNamespaceType::Pid, &wanted.pid),
        (LinuxNamespaceType::Ipc, &wanted.ipc),
        (LinuxNamespaceType::Uts, &wanted.uts),
        (LinuxNamespaceType::Mount, &NamespaceMode::Private),
        (LinuxNamespaceType::Network, &network),
        (LinuxNamespaceType::Cgroup, &wanted.cgroup),
    ]
    .into_iter()
    .filter(|(kind, _)| *kind != LinuxNamespaceType::Cgroup || has_cgroup)
    .filter_map(|(kind, mode)| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        match mode {
            NamespaceMode::Host => return None,
            NamespaceMode::Private => {}
            NamespaceMode::Join(path) => drop(namespace.set_path(Some(path.clone()))),
        }
        Some(namespace)
    })
    .collect()
}

pub(super) fn mappings(maps: &[IdMap]) -> Vec<LinuxIdMapping> {
    maps.iter()
        .map(|map| {
            LinuxIdMappingBuilder::default()
                .container_id(map.container)
                .host_id(map.host)
                .size(map.count)
                .build()
                .expect("every field has a value")
        })
        .collect()
}

/// Refuses what contradicts itself or reaches beyond the container.
pub(super) fn check(request: &SpecRequest) -> Result<()> {
    let wanted = &request.namespaces;
    if wanted.uts != NamespaceMode::Private {
        for (flag, given) in [
            ("--hostname", &request.hostname),
            ("--domainname", &request.domainname),
        ] {
            if given.is_some() {
                return Err(Error::invalid(format!(
                    "{flag}: the container shares the host's name with --uts host"
                ))
                .with_hint("leave one of the two out"));
            }
        }
    }
    let joined = [&wanted.pid, &wanted.ipc]
        .iter()
        .any(|mode| matches!(mode, NamespaceMode::Join(_)));
    if joined && request.users != UserNamespace::Host {
        return Err(Error::invalid(
            "mapped users and another container's namespace: they belong to different users",
        )
        .with_hint("leave --userns out"));
    }
    for (key, value) in &request.sysctls {
        check_sysctl(request, key)?;
        if value.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "sysctl {}: its value holds a control character",
                quote(key)
            )));
        }
    }
    Ok(())
}

/// Only parameters of a namespace that is the container's own: others are the
/// host's.
fn check_sysctl(request: &SpecRequest, key: &str) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let shown = quote(key);
    let is_path = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && key.split('.').all(|part| !part.is_empty());
    if !is_path {
        return Err(Error::invalid(format!(
            "sysctl {shown}: want a name like net.ipv4.ip_forward"
        )));
    }
    let (own, shared) = if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        (
            request.namespaces.ipc == NamespaceMode::Private,
            "IPC namespace",
        )
    } else if key.starts_with("net.") {
        (request.network == NetworkMode::None, "network")
    } else if key == "kernel.domainname" {
        (request.namespaces.uts == NamespaceMode::Private, "name")
    } else {
        return Err(Error::invalid(format!(
            "sysctl {shown}: it is the whole host's, not a container's own"
        ))
        .with_hint(
            "a container has its own net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm*",
        ));
    };
    match own {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "sysctl {shown}: the container has no {shared} of its own"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_host_are_refused() {
        let mut request = SpecRequest::default();
        for good in [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
            "kernel.domainname",
            "net.ipv4.conf.eth0-1.rp_filter",
        ] {
            check_sysctl(&request, good).expect(good);
        }
        for bad in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net",
            "net..x",
            "net/ipv4",
            "../net.x",
            "net.x\n",
            "",
            "kernel.hostname",
        ] {
            assert!(check_sysctl(&request, bad).is_err(), "{bad}");
        }
        request.network = NetworkMode::Host;
        request.namespaces.ipc = NamespaceMode::Host;
        for bad in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"] {
            assert!(check_sysctl(&request, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_are_made_joined_or_left_out() {
        let mut request = SpecRequest::default();
        request.namespaces.pid = NamespaceMode::Host;
        request.namespaces.ipc = NamespaceMode::Join("/proc/7/ns/ipc".into());
        let list = namespaces(&request);
        let find = |kind| list.iter().find(|namespace| namespace.typ() == kind);
        assert!(find(LinuxNamespaceType::Pid).is_none());
        assert!(find(LinuxNamespaceType::User).is_none());
        let ipc = find(LinuxNamespaceType::Ipc).expect("ipc");
        assert_eq!(ipc.path().as_deref(), Some(Path::new("/proc/7/ns/ipc")));
        let mount = find(LinuxNamespaceType::Mount).expect("mount");
        assert_eq!(mount.path(), &None);
    }
}
