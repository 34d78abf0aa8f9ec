//! The files that tell a container its name and whom to ask for others'.

use std::fmt::Write;
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::OFlags;

use super::path::resolve;
use super::{Dns, NetworkMode, SpecRequest, target};
use crate::bundle::BundleFile;
use crate::error::{Error, Result};
use crate::fs::{Root, read_file};

/// A file of the host larger than this is left out.
const HOST_FILE_LIMIT: u64 = 1 << 20;

/// `/etc/hostname`, `/etc/hosts` and, with the host's network or when servers
/// are named, `/etc/resolv.conf`. They are bound over the image's, so that they
/// follow the container and not the image; where the image has no `/etc`, or a
/// mount covers it, there is nothing to bind on and nobody is told, unless the
/// user named hosts or servers. The same where a symlink leads to the runtime's
/// mounts.
pub(super) fn files(
    request: &SpecRequest,
    rootfs: &Root,
    hostname: &str,
    own: &[Mount],
) -> Result<Vec<BundleFile>> {
    let is_there = rootfs.open_at("/etc", OFlags::PATH | OFlags::DIRECTORY, 0);
    let etc = match (is_there, resolve(rootfs, "/etc", "folder")) {
        (Ok(_), Ok(etc)) => Some(etc),
        _ => None,
    };
    let has_place = |name: &str| {
        let Some(etc) = &etc else { return false };
        let target = Path::new(etc).join(name);
        let leads = resolve(rootfs, &target.to_string_lossy(), "file");
        leads.is_ok_and(|place| !target::is_system(&place))
            && own
                .iter()
                .all(|mount| !target.starts_with(mount.destination()))
    };
    let mut list = vec![
        ("hostname", Some(format!("{hostname}\n"))),
        ("hosts", Some(hosts(request, hostname))),
    ];
    if request.network == NetworkMode::Host || request.dns != Dns::default() {
        list.push(("resolv.conf", resolv_conf(request)));
    }
    let mut files = Vec::new();
    for (name, text) in list {
        let Some(text) = text else { continue };
        if has_place(name) {
            files.push(BundleFile {
                path: name.into(),
                data: text.into_bytes(),
                mode: 0o644,
            });
            continue;
        }
        let wanted = match name {
            "hosts" => !request.hosts.is_empty(),
            "resolv.conf" => request.dns != Dns::default(),
            _ => false,
        };
        if wanted {
            return Err(Error::precondition(format!(
                "/etc/{name} of the image cannot be replaced: the image has no such place, or a mount covers it"
            ))
            .with_hint("leave --add-host and --dns out, or write the file into the mount"));
        }
    }
    Ok(files)
}

fn of_host(path: &str) -> Option<String> {
    String::from_utf8(read_file(Path::new(path), HOST_FILE_LIMIT).ok()?).ok()
}

fn hosts(request: &SpecRequest, hostname: &str) -> String {
    let own = || {
        format!(
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             127.0.0.1\t{hostname}\n"
        )
    };
    let mut text = match request.network {
        NetworkMode::Host => of_host("/etc/hosts").unwrap_or_else(own),
        NetworkMode::None | NetworkMode::Namespace(_) => own(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in &request.hosts {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.name);
    }
    text
}

/// The host's with the host's network; what the user names takes the place of
/// what the host says of it. `None`: there is nothing to say.
fn resolv_conf(request: &SpecRequest) -> Option<String> {
    let dns = &request.dns;
    let host = match request.network {
        NetworkMode::Host => of_host("/etc/resolv.conf"),
        _ => None,
    };
    if *dns == Dns::default() {
        return host;
    }
    let replaced = |line: &str| match line.split_whitespace().next() {
        Some("nameserver") => !dns.servers.is_empty(),
        Some("search" | "domain") => !dns.searches.is_empty(),
        Some("options") => !dns.options.is_empty(),
        _ => false,
    };
    let mut text = String::new();
    for line in host.as_deref().unwrap_or_default().lines() {
        if !replaced(line) {
            let _ = writeln!(text, "{line}");
        }
    }
    // "." is how one says that there is none.
    match dns.searches.as_slice() {
        [] => {}
        [dot] if dot == "." => {}
        searches => drop(writeln!(text, "search {}", searches.join(" "))),
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::HostEntry;

    #[test]
    fn what_is_named_is_written() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = Root::open(dir.path()).expect("root");
        let mut request = SpecRequest {
            hosts: vec![HostEntry {
                name: "db".into(),
                address: "10.0.0.7".parse().expect("address"),
            }],
            dns: Dns {
                servers: vec!["1.1.1.1".parse().expect("address")],
                searches: vec!["a.example".into(), "b.example".into()],
                options: vec!["ndots:2".into()],
            },
            ..SpecRequest::default()
        };
        let error = files(&request, &root, "box", &[]).expect_err("no /etc");
        assert!(error.to_string().contains("/etc/hosts"), "{error}");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        let list = files(&request, &root, "box", &[]).expect("files");
        let text = |name: &str| {
            let file = list.iter().find(|file| file.path == Path::new(name));
            String::from_utf8(file.expect(name).data.clone()).expect("text")
        };
        assert!(text("hosts").ends_with("127.0.0.1\tbox\n10.0.0.7\tdb\n"));
        assert_eq!(
            text("resolv.conf"),
            "search a.example b.example\nnameserver 1.1.1.1\noptions ndots:2\n"
        );
        request.dns = Dns::default();
        let list = files(&request, &root, "box", &[]).expect("files");
        assert_eq!(list.len(), 2, "without a network there are no servers");
    }
}
