//! Namespaces as text.

use crate::error::{Error, Result, quote};
use crate::idmap::UserNamespace;

/// What `--pid`, `--ipc`, `--uts` and `--cgroupns` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceWish {
    /// One of its own.
    Private,
    /// The host's.
    Host,
    /// That of a running container, by name or id.
    Container(String),
}

/// Reads `private`, `host` or `container:ID`; `flag` is named in the error.
pub fn parse_namespace(flag: &str, text: &str) -> Result<NamespaceWish> {
    let can_join = matches!(flag, "--pid" | "--ipc");
    match text {
        "private" => Ok(NamespaceWish::Private),
        // A private one can be joined here like any other.
        "shareable" if flag == "--ipc" => Ok(NamespaceWish::Private),
        "host" => Ok(NamespaceWish::Host),
        _ => match text.strip_prefix("container:") {
            Some(id) if can_join && !id.is_empty() => Ok(NamespaceWish::Container(id.to_owned())),
            _ => Err(Error::invalid(format!(
                "{flag} {}: want private, host{}",
                quote(text),
                if can_join { " or container:ID" } else { "" }
            ))),
        },
    }
}

/// `--userns`: `host`, `auto`, `auto:size=N`, or a mapping
/// `CONTAINER:HOST:COUNT[,…]` of users and groups alike.
pub fn parse_users(text: &str) -> Result<UserNamespace> {
    let bad = |why: &str| {
        Error::invalid(format!("--userns {}: {why}", quote(text)))
            .with_hint("want host, auto, auto:size=N or CONTAINER:HOST:COUNT")
    };
    match text {
        "host" | "" => return Ok(UserNamespace::Host),
        "auto" => return Ok(UserNamespace::Auto { size: None }),
        _ => {}
    }
    if let Some(size) = text.strip_prefix("auto:") {
        let number = size.strip_prefix("size=").unwrap_or("");
        let size = match number.bytes().all(|b| b.is_ascii_digit()) {
            true => number.parse::<u32>().ok().filter(|size| *size > 0),
            false => None,
        };
        return match size {
            Some(size) => Ok(UserNamespace::Auto { size: Some(size) }),
            None => Err(bad("want auto:size=N")),
        };
    }
    if text == "keep-id" || text.starts_with("keep-id:") {
        return Err(bad(
            "there is no other user to keep: containers are made by root",
        ));
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad("it is unknown"));
    }
    // Groups are the same unless they are said.
    match text.contains(';') {
        true => Err(bad("groups are mapped with --gidmap")),
        false => text.parse().map(UserNamespace::Mapped),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn namespaces() {
        assert_eq!(parse_namespace("--uts", "host"), Ok(NamespaceWish::Host));
        assert_eq!(
            parse_namespace("--pid", "container:web"),
            Ok(NamespaceWish::Container("web".into()))
        );
        assert_eq!(
            parse_namespace("--ipc", "shareable"),
            Ok(NamespaceWish::Private)
        );
        for (flag, bad) in [
            ("--uts", "container:web"),
            ("--pid", "container:"),
            ("--pid", "shareable"),
            ("--pid", ""),
            ("--cgroupns", "x"),
        ] {
            refused(parse_namespace(flag, bad), bad);
        }
    }

    #[test]
    fn users() {
        assert_eq!(parse_users("host"), Ok(UserNamespace::Host));
        assert_eq!(parse_users("auto"), Ok(UserNamespace::Auto { size: None }));
        assert_eq!(
            parse_users("auto:size=1000"),
            Ok(UserNamespace::Auto { size: Some(1000) })
        );
        let mapping = "0:100000:65536;0:100000:65536".parse().expect("mapping");
        assert_eq!(
            parse_users("0:100000:65536"),
            Ok(UserNamespace::Mapped(mapping))
        );
        for bad in [
            "keep-id",
            "keep-id:uid=1",
            "auto:",
            "auto:size=0",
            "auto:size=-1",
            "auto:size=4294967296",
            "nomap",
            "0",
            "1:1:1",
            "0:1:1;0:1:1",
            "-1:0:1",
        ] {
            refused(parse_users(bad), bad);
        }
    }
}
