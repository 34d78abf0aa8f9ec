//! Scheme, host and port: what credentials are bound to.

use std::fmt;
use std::str::FromStr;

use containerkit::{Error, Result, quote};
use ureq::http::Uri;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// `SCHEME://HOST[:PORT]`. What was meant for one origin is given to no other.
///
/// ```
/// use containerkit_distribution::Origin;
/// let origin: Origin = "https://Registry.example:443".parse().unwrap();
/// assert_eq!(origin.to_string(), "https://registry.example");
/// assert!("https://user@registry.example".parse::<Origin>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, lowercase.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `HOST[:PORT]`, without the scheme's own port.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Origin> {
        let url: Url = text.parse()?;
        if url.path != "/" {
            return Err(refuse(text, "want SCHEME://HOST[:PORT] and no path"));
        }
        Ok(url.origin)
    }
}

/// An absolute URL, without a fragment and never with a user in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, beginning with a slash.
    pub(crate) path: String,
}

fn refuse(text: &str, why: &str) -> Error {
    Error::invalid(format!("URL {}: {why}", quote(text)))
}

impl Url {
    pub(crate) fn new(origin: Origin, path: impl Into<String>) -> Url {
        Url {
            origin,
            path: path.into(),
        }
    }

    /// Where a `Location` leads: absolute, or relative to this.
    pub(crate) fn join(&self, location: &str) -> Result<Url> {
        if location.contains("://") {
            return location.parse();
        }
        if let Some(rest) = location.strip_prefix("//") {
            return format!("{}://{rest}", self.origin.scheme.name()).parse();
        }
        let path = if location.starts_with('/') {
            location.to_string()
        } else {
            let path = self.path.split('?').next().unwrap_or("/");
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        };
        format!("{}{path}", self.origin).parse()
    }

    /// The whole URL, to be asked for.
    pub(crate) fn full(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }

    /// With one more parameter of the query.
    pub(crate) fn with_query(mut self, key: &str, value: &str) -> Url {
        let join = if self.path.contains('?') { '&' } else { '?' };
        self.path
            .push_str(&format!("{join}{key}={}", encode(value)));
        self
    }
}

/// Percent-encodes a value of a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// For people: a query may hold what opens a store to whoever reads it.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or("/");
        write!(f, "{}{path}", self.origin)
    }
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Url> {
        if text.len() > 8192 {
            return Err(refuse(text, "it is too long"));
        }
        let plain = text.split('#').next().unwrap_or("");
        let uri: Uri = plain.parse().map_err(|_| refuse(text, "it is malformed"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(refuse(text, "want http:// or https://")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| refuse(text, "it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse(text, "it must not name a user"));
        }
        let host = authority.host().to_ascii_lowercase();
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => scheme.port(),
            Some(port) => port
                .parse()
                .map_err(|_| refuse(text, "its port is no number up to 65535"))?,
        };
        if host.is_empty() {
            return Err(refuse(text, "it has no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url {
            origin: Origin { scheme, host, port },
            path: format!("{slash}{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_joined() {
        let base: Url = "https://r.example:5000/v2/a/blobs/uploads/1?x=y"
            .parse()
            .expect("url");
        for (location, want) in [
            ("/v2/b", "https://r.example:5000/v2/b"),
            ("2?s=1", "https://r.example:5000/v2/a/blobs/uploads/2?s=1"),
            ("http://o.example/b#f", "http://o.example/b"),
            ("//o.example/b", "https://o.example/b"),
            ("https://[::1]:80", "https://[::1]:80/"),
        ] {
            assert_eq!(base.join(location).expect(location).full(), want);
        }
        assert!(!base.to_string().contains("x=y"), "{base}");
        for bad in [
            "ftp://x/",
            "https://",
            "https://a@b/",
            "https://a:99999/",
            "https://a\n/",
            "file:///etc/passwd",
            "",
        ] {
            let error = bad.parse::<Url>().expect_err(bad).to_string();
            assert!(!error.chars().any(char::is_control), "{error}");
        }
        let url = Url::new(base.origin, "/token").with_query("scope", "repository:a b&c");
        assert_eq!(
            url.with_query("x", "1").path,
            "/token?scope=repository:a%20b%26c&x=1"
        );
    }
}
