//! Networks, names and kernel parameters as text.

use std::net::{IpAddr, Ipv6Addr};

use crate::error::{Error, ErrorKind, Result, quote};
use crate::spec::HostEntry;

/// What `--net` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkWish {
    /// Only `lo`.
    None,
    /// The host's.
    Host,
    /// That of a running container, by name or id.
    Container(String),
}

/// A `--net`: `none`, `host` or `container:ID`. A network by name is refused
/// as long as there is no driver that makes one.
pub fn parse_network(text: &str) -> Result<NetworkWish> {
    match text {
        "none" => Ok(NetworkWish::None),
        "host" => Ok(NetworkWish::Host),
        _ => match text.strip_prefix("container:") {
            Some(id) if !id.is_empty() => Ok(NetworkWish::Container(id.to_owned())),
            Some(_) => Err(Error::invalid(
                "--net container: needs the container's name or id",
            )),
            None if text.parse::<crate::ids::InstanceName>().is_err() => Err(Error::invalid(
                format!("--net {}: want none, host or a name", quote(text)),
            )),
            None => Err(no_driver(&format!("--net {}", quote(text)))),
        },
    }
}

/// A `-p`: `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/tcp|udp|sctp]`. What is
/// right is refused too as long as there is no driver that publishes.
pub fn parse_publish(text: &str) -> Result<()> {
    let bad = |why: &str| {
        Err(Error::invalid(format!("-p {}: {why}", quote(text)))
            .with_hint("write [IP:]HOST:CONTAINER[/tcp|udp], like 127.0.0.1:8080:80"))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return bad("want the protocol tcp, udp or sctp");
    }
    let parts: Vec<&str> = match ports
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
    {
        Some((ip, rest)) => std::iter::once(ip).chain(rest.split(':')).collect(),
        None => ports.split(':').collect(),
    };
    let (ip, host, container) = match parts[..] {
        [container] => ("", "", container),
        [host, container] => ("", host, container),
        [ip, host, container] => (ip, host, container),
        _ => return bad("it has too many colons"),
    };
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return bad("want an IP address first");
    }
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u16>().ok().filter(|port| *port > 0),
            false => None,
        };
        port(last)?.checked_sub(port(first)?)
    };
    match (count(container), count(host)) {
        (None, _) => bad("want a port from 1 to 65535"),
        (Some(_), None) if !host.is_empty() => bad("want a port from 1 to 65535"),
        (Some(container), Some(host)) if container != host => bad("the ranges differ in length"),
        _ => Err(no_driver(&format!("-p {}", quote(text)))),
    }
}

fn no_driver(what: &str) -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        format!("{what}: there is no network driver in this build"),
    )
    .with_hint("use --net none (only lo) or --net host")
}

/// An `--add-host`: `NAME:IP`, or `NAME=IP`; an IPv6 address may have brackets.
pub fn parse_host(text: &str) -> Result<HostEntry> {
    let bad = |why: &str| {
        Error::invalid(format!("--add-host {}: {why}", quote(text)))
            .with_hint("write NAME:IP, like db:10.0.0.7")
    };
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| bad("there is no colon"))?;
    if address == "host-gateway" {
        return Err(bad(
            "there is no gateway to the host without a network driver",
        ));
    }
    if !is_domain(name) {
        return Err(bad("want a host's name first"));
    }
    Ok(HostEntry {
        name: name.to_owned(),
        address: address_of(address).ok_or_else(|| bad("want an IP address behind the name"))?,
    })
}

/// The IP address of a `--dns`; `flag` is named in the error.
pub fn parse_address(flag: &str, text: &str) -> Result<IpAddr> {
    address_of(text).ok_or_else(|| {
        Error::invalid(format!(
            "{flag} {}: want an IP address, like 1.1.1.1",
            quote(text)
        ))
    })
}

fn address_of(text: &str) -> Option<IpAddr> {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// A `--dns-search`: a domain, or `.` for none.
pub fn parse_domain(text: &str) -> Result<String> {
    match text {
        "." => Ok(text.to_owned()),
        _ if is_domain(text) => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!(
            "--dns-search {}: want a domain, like example.com",
            quote(text)
        ))),
    }
}

/// A `--dns-option`: one word of resolv.conf(5).
pub fn parse_dns_option(text: &str) -> Result<String> {
    let is_word = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_'));
    match is_word {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!(
            "--dns-option {}: want an option like ndots:2",
            quote(text)
        ))),
    }
}

fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
    };
    name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

/// A `--sysctl`: `KEY=VALUE`; slashes may stand for dots, as in sysctl(8).
pub fn parse_sysctl(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.contains('\0') => {
            Ok((key.replace('/', "."), value.to_owned()))
        }
        _ => Err(Error::invalid(format!(
            "--sysctl {}: want KEY=VALUE, like net.ipv4.ip_forward=1",
            quote(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse_network("host"), Ok(NetworkWish::Host));
        assert_eq!(
            parse_network("container:web"),
            Ok(NetworkWish::Container("web".into()))
        );
        let error = parse_network("bridge").expect_err("no driver");
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        for bad in ["", "a b", "container:", "../x", "x\n"] {
            let error = parse_network(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn ports() {
        for good in [
            "80",
            "8080:80",
            "8080:80/udp",
            "127.0.0.1:8080:80",
            "127.0.0.1::80",
            "[::1]:8080:80",
            "8000-8003:80-83",
        ] {
            let error = parse_publish(good).expect_err("no driver");
            assert_eq!(error.kind(), ErrorKind::Unimplemented, "{good}");
        }
        for bad in [
            "",
            "x",
            "0:80",
            "80:0",
            "65536:80",
            "-1:80",
            "80:80/icmp",
            "80:",
            "1:2:3:4",
            "a:1:2",
            "8000-8003:80-82",
            "9-8",
            "80:80/",
            "8 0:80",
            "+80:80",
        ] {
            let error = parse_publish(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn names_and_addresses() {
        for (text, name, address) in [
            ("db:10.0.0.7", "db", "10.0.0.7"),
            ("db=10.0.0.7", "db", "10.0.0.7"),
            ("a.b-c:::1", "a.b-c", "::1"),
            ("db:[::1]", "db", "::1"),
            ("db=::1", "db", "::1"),
        ] {
            let entry = parse_host(text).expect(text);
            assert_eq!(
                (entry.name.as_str(), entry.address.to_string().as_str()),
                (name, address)
            );
        }
        for bad in [
            "",
            "db",
            "db:",
            ":1.1.1.1",
            "db:x",
            "db:host-gateway",
            "a b:1.1.1.1",
            "db:1.1.1.1\n2.2.2.2 evil",
            "a\nb:1.1.1.1",
            "db:1.1.1.1 evil",
        ] {
            refused(parse_host(bad), bad);
        }
        assert!(parse_address("--dns", "1.1.1.1").is_ok());
        for bad in ["", "dns", "1.1.1", "1.1.1.1\nsearch x"] {
            refused(parse_address("--dns", bad), bad);
        }
        for good in [".", "example.com", "a.example.", "local"] {
            assert_eq!(parse_domain(good), Ok(good.to_owned()));
        }
        for bad in ["", "..", "a b", "a\nnameserver 6.6.6.6", "-x", "x..y"] {
            refused(parse_domain(bad), bad);
        }
        assert!(parse_dns_option("ndots:2").is_ok());
        for bad in ["", "a b", "a\nb"] {
            refused(parse_dns_option(bad), bad);
        }
        assert_eq!(
            parse_sysctl("net/ipv4/ip_forward=1"),
            Ok(("net.ipv4.ip_forward".into(), "1".into()))
        );
        for bad in ["", "x", "=1", "a=\0"] {
            refused(parse_sysctl(bad), bad);
        }
    }
}
