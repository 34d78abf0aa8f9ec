//! Patterns of image references, for rules that hold for some images.
//!
//! | pattern | covers |
//! |---|---|
//! | `*` | every image |
//! | `*.example.com` | the registries of every host beneath `example.com` |
//! | `example.com`, `example.com:5000` | that registry |
//! | `example.com/team` | that repository and all beneath it |
//! | `example.com/team/app:v1` | that tag of that repository |
//!
//! Of two patterns that cover one image, one lies inside the other; so the
//! narrowest is always one, whatever the order they are written in. A host is
//! the same in any case, with and without `:443`, and by any of Docker Hub's
//! names. An address and a name of one host are two hosts. On Docker Hub,
//! `docker.io/team` is a namespace and `docker.io/library/busybox` an image.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, quote};
use crate::ids::serde_as_text;
use crate::reference::Reference;

/// A parsed pattern. `Display` is its one spelling and parses back to itself.
///
/// ```
/// use containerkit::{Pattern, Reference};
/// let team: Pattern = "example.com/team".parse().unwrap();
/// let image: Reference = "example.com/team/app:v1".parse().unwrap();
/// assert!(team.covers(&image));
/// assert!(!team.covers(&"example.com/teams/app".parse().unwrap()));
/// let all: Pattern = "*".parse().unwrap();
/// assert_eq!(Pattern::narrowest([&all, &team], &image), Some(&team));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    host: Host,
    path: Option<String>,
    tag: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    Any,
    /// Every host beneath this one.
    Beneath(String),
    Exactly(String),
}

impl Pattern {
    /// The pattern that covers everything.
    pub fn any() -> Pattern {
        Pattern {
            host: Host::Any,
            path: None,
            tag: None,
        }
    }

    /// Whether an image is meant. A reference by digest alone has no tag.
    pub fn covers(&self, image: &Reference) -> bool {
        let host = canonical(image.domain());
        let on_host = match &self.host {
            Host::Any => true,
            Host::Beneath(parent) => host
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
            Host::Exactly(name) => host == *name,
        };
        let in_path = match (&self.path, &self.tag) {
            (None, _) => true,
            (Some(path), Some(_)) => image.path() == path,
            (Some(path), None) => image
                .path()
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        };
        on_host && in_path && (self.tag.is_none() || self.tag.as_deref() == image.tag())
    }

    /// The narrowest of the patterns that cover an image.
    pub fn narrowest<'a>(
        patterns: impl IntoIterator<Item = &'a Pattern>,
        image: &Reference,
    ) -> Option<&'a Pattern> {
        let covering = patterns.into_iter().filter(|p| p.covers(image));
        covering.max_by_key(|pattern| pattern.narrowness())
    }

    fn narrowness(&self) -> (u8, usize, usize, bool) {
        let (kind, length) = match &self.host {
            Host::Any => (0, 0),
            Host::Beneath(name) => (1, name.len()),
            Host::Exactly(_) => (2, 0),
        };
        let path = self.path.as_ref().map_or(0, String::len);
        (kind, length, path, self.tag.is_some())
    }
}

/// The one spelling of a registry's host.
fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        host => host.into(),
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern> {
        let refuse = |why: &str| Error::invalid(format!("pattern {}: {why}", quote(text)));
        if text == "*" {
            return Ok(Pattern::any());
        }
        if let Some(parent) = text.strip_prefix("*.") {
            if parent.contains(['/', ':', '*']) {
                return Err(refuse("after `*.` want a host name alone"));
            }
            // Some name beneath it, since `com` alone would be a repository.
            host(&format!("x.{parent}")).map_err(|why| refuse(&why))?;
            return Ok(Pattern {
                host: Host::Beneath(parent.to_ascii_lowercase()),
                path: None,
                tag: None,
            });
        }
        if text.contains('*') {
            return Err(refuse(
                "a `*` stands alone or begins `*.HOST`; a repository covers all beneath it without one",
            ));
        }
        let Some((name, _)) = text.split_once('/') else {
            return Ok(Pattern {
                host: Host::Exactly(host(text).map_err(|why| refuse(&why))?),
                path: None,
                tag: None,
            });
        };
        let whole: Reference = text
            .parse()
            .map_err(|error: Error| refuse(error.message()))?;
        if canonical(whole.domain()) != canonical(name) {
            return Err(refuse(&format!("it names no host; write {whole}")));
        }
        if whole.digest().is_some() {
            return Err(refuse("it has a digest; want a repository or a tag"));
        }
        let typed = &text[name.len() + 1..];
        // Normalizing gives a tag to what has none, and `library` to what has
        // one component, which here is a namespace.
        let tagged = typed.contains(':');
        let path = match typed.contains('/') || tagged {
            true => whole.path(),
            false => typed,
        };
        Ok(Pattern {
            host: Host::Exactly(canonical(name)),
            path: Some(path.into()),
            tag: whole.tag().filter(|_| tagged).map(str::to_owned),
        })
    }
}

/// A registry's host, checked as in a reference.
fn host(text: &str) -> Result<String, String> {
    let whole: Reference = format!("{text}/x")
        .parse()
        .map_err(|_| "it is no host, repository or tag".to_string())?;
    if canonical(whole.domain()) != canonical(text) {
        return Err(format!(
            "{} is no host with a dot or a port; a repository begins with its host, as docker.io/library/busybox",
            quote(text)
        ));
    }
    Ok(canonical(text))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Beneath(name) => write!(f, "*.{name}")?,
            Host::Exactly(name) => f.write_str(name)?,
        }
        if let Some(path) = &self.path {
            write!(f, "/{path}")?;
        }
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        Ok(())
    }
}

serde_as_text!(Pattern);

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    fn covers(of: &str, image: &str) -> bool {
        pattern(of).covers(&image.parse().expect(image))
    }

    #[test]
    fn a_pattern_covers_what_it_names_and_all_beneath() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (of, image) in [
            ("*", "busybox"),
            ("docker.io", "busybox"),
            ("docker.io/library", "busybox:1"),
            ("docker.io/team", "team/app"),
            ("docker.io/library/busybox", "busybox:1"),
            ("docker.io/library/busybox:1", "busybox:1"),
            (
                "docker.io/library/busybox:1",
                &format!("busybox:1@{digest}"),
            ),
            (
                "index.docker.io/library",
                "registry-1.docker.io/library/busybox",
            ),
            ("*.example.com", "a.b.example.com/x"),
            ("*.example.com", "a.example.com:443/x"),
            ("Example.com", "example.COM/x"),
            ("localhost:5000/a", "localhost:5000/a/b/c:v1"),
            ("example.com", &format!("example.com:443/x@{digest}")),
            ("[::1]:5000", "[::1]:5000/x"),
        ] {
            assert!(covers(of, image), "{of} {image}");
        }
        for (of, image) in [
            ("docker.io/library/busybox", "docker.io/library/busybox2"),
            ("docker.io/library/busybox:1", "busybox:2"),
            ("docker.io/library/busybox:1", &format!("busybox@{digest}")),
            ("docker.io/team", "team"),
            ("example.com/a:1", "example.com/a/b:1"),
            ("*.example.com", "example.com/x"),
            ("*.example.com", "badexample.com/x"),
            ("*.example.com", "a.example.com:5000/x"),
            ("example.com", "example.com:5000/x"),
            ("example.com", "sub.example.com/x"),
        ] {
            assert!(!covers(of, image), "{of} {image}");
        }
    }

    #[test]
    fn the_narrowest_wins_in_any_order() {
        let texts = [
            "*",
            "*.com",
            "*.example.com",
            "a.example.com",
            "a.example.com/team",
            "a.example.com/team/app",
            "a.example.com/team/app:v1",
        ];
        let image: Reference = "a.example.com/team/app:v1".parse().expect("image");
        let patterns: Vec<Pattern> = texts.iter().map(|text| pattern(text)).collect();
        for count in 1..=patterns.len() {
            let some = &patterns[..count];
            let last = some.last();
            assert_eq!(Pattern::narrowest(some, &image), last);
            assert_eq!(Pattern::narrowest(some.iter().rev(), &image), last);
        }
        let other = pattern("docker.io");
        assert_eq!(Pattern::narrowest([&other], &image), None);
    }

    #[test]
    fn each_pattern_has_one_spelling() {
        for (typed, want) in [
            ("*", "*"),
            ("*.Example.com", "*.example.com"),
            ("Example.com:443", "example.com"),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox",
            ),
            ("docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("localhost:5000", "localhost:5000"),
            ("localhost:5000/x:latest", "localhost:5000/x:latest"),
        ] {
            assert_eq!(pattern(typed).to_string(), want);
            assert_eq!(pattern(want), pattern(typed));
        }
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_is_meant() {
        for (bad, why) in [
            ("", "no host"),
            ("busybox", "begins with its host"),
            ("library/busybox", "docker.io/library/busybox"),
            ("docker.io/library/*", "without one"),
            ("docker.io/*/x", "without one"),
            ("*example.com", "stands alone"),
            ("*.example.com/x", "a host name alone"),
            ("*.example.com:5000", "a host name alone"),
            ("example.com/x:", "tag"),
            ("example.com/", "repository"),
            ("example.com:99999", "no host"),
            ("example.com\n", "no host"),
            (
                &format!("example.com/x@sha256:{}", "a".repeat(64)),
                "digest",
            ),
        ] {
            let error = bad.parse::<Pattern>().expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.chars().any(char::is_control), "{error}");
        }
    }
}
