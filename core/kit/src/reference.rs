//! Image references: `[DOMAIN/]PATH[:TAG][@DIGEST]`, normalized.
//!
//! Grammar: the distribution project's reference grammar, as users of docker
//! and containerd type it; `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result, quote};
use crate::ids::serde_as_text;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A normalized reference. `Display` is the whole of it and parses back to itself.
///
/// ```
/// use containerkit::Reference;
/// let r: Reference = "busybox".parse().unwrap();
/// assert_eq!(r.to_string(), "docker.io/library/busybox:latest");
/// let r: Reference = "localhost:5000/a/b:v1".parse().unwrap();
/// assert_eq!((r.domain(), r.path(), r.tag()), ("localhost:5000", "a/b", Some("v1")));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Registry host, with the port when one was given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `DOMAIN/PATH`, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference> {
        check_tag(tag).map_err(|why| refuse(tag, why))?;
        Ok(Reference {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }
}

fn refuse(text: &str, why: &str) -> Error {
    Error::invalid(format!("image reference {}: {why}", quote(text)))
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        if text.is_empty() {
            return Err(refuse(text, "it is empty"));
        }
        if text.len() > 512 {
            return Err(refuse(text, "it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| refuse(text, why))?;
        }
        let (domain, path) = split_domain(name);
        check_domain(domain).map_err(|why| refuse(text, why))?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_string()
        };
        if domain.len() + 1 + path.len() > 255 {
            return Err(refuse(text, "the name is longer than 255 characters"));
        }
        for component in path.split('/') {
            check_component(component).map_err(|why| refuse(text, why))?;
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_string()),
            (None, None) => Some(DEFAULT_TAG.to_string()),
            (None, Some(_)) => None,
        };
        Ok(Reference {
            domain: domain.to_string(),
            path,
            tag,
            digest,
        })
    }
}

/// The first component is a domain when it has a dot, a port or an uppercase
/// letter, or is `localhost`.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            let domain = if first == "index.docker.io" {
                DEFAULT_DOMAIN
            } else {
                first
            };
            (domain, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the host misses a ']'")?;
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return Err("the host is not an IPv6 address");
            }
            (
                None,
                after
                    .strip_prefix(':')
                    .or((!after.is_empty()).then_some("")),
            )
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    if let Some(host) = host {
        let label_ok = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !host.split('.').all(label_ok) {
            return Err("the registry host is malformed");
        }
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => {
            Err("the registry port is not a number up to 65535")
        }
        _ => Ok(()),
    }
}

fn check_component(component: &str) -> Result<(), &'static str> {
    const WHY: &str = "a repository is lowercase letters and digits, joined by '.', '_', '__' or dashes, with slashes between";
    let bytes = component.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return Err(WHY);
    }
    for separator in component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        let ok = matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
        if !ok {
            return Err(WHY);
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let ok = (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if ok {
        Ok(())
    } else {
        Err("a tag is 1 to 128 of letters, digits, '_', '.' and '-', not beginning with '.' or '-'")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Reference);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_as_users_expect() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (typed, want) in [
            ("busybox", "docker.io/library/busybox:latest".to_string()),
            ("busybox:1", "docker.io/library/busybox:1".into()),
            ("me/app", "docker.io/me/app:latest".into()),
            ("index.docker.io/me/app", "docker.io/me/app:latest".into()),
            ("quay.io/a/b:v1", "quay.io/a/b:v1".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".into()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".into()),
            (
                &format!("a@{digest}"),
                format!("docker.io/library/a@{digest}"),
            ),
            (
                &format!("a:t@{digest}"),
                format!("docker.io/library/a:t@{digest}"),
            ),
        ] {
            let parsed: Reference = typed.parse().expect(typed);
            assert_eq!(parsed.to_string(), want);
            assert_eq!(want.parse::<Reference>().expect(&want), parsed);
        }
    }

    #[test]
    fn refuses_the_hostile() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "../a",
            "a/../b",
            "a:",
            "a:-x",
            "a b",
            "a\nb",
            "a\0",
            "a@sha256:zz",
            "a@",
            "x.y:99999/a",
            "x.y:/a",
            "[::1/a",
            "a___b",
            "a..b",
            ".a",
            "é",
            &"a".repeat(300),
            &format!("a:{}", "t".repeat(129)),
        ] {
            let error = bad.parse::<Reference>().expect_err(bad);
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
