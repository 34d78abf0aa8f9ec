//! How registries are reached: what a configuration and a command's flags say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use containerkit::{Cancel, Error, Reference, Result, quote};

use crate::auth::Keyring;
use crate::deadline::Deadline;
use crate::origin::{Origin, Scheme, Url};

/// Everything that is not the image: one for a command.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By the domain that references have, such as `docker.io`.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Domains that are spoken to in the clear because the user said so now.
    pub plain_http: Vec<String>,
    /// Where credentials come from.
    pub keyring: Keyring,
    /// What is done about failures that may pass.
    pub retry: Retry,
    /// A folder (0700) that remembers uploads, so that another process can
    /// go on with them; without one each begins anew.
    pub uploads: Option<PathBuf>,
    /// Blobs moved at a time; 0 is four.
    pub jobs: usize,
    /// Ends everything early.
    pub cancel: Cancel,
}

/// What is known of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Asked first, in this order; they only serve pulls.
    pub mirrors: Vec<Mirror>,
    /// Speaks HTTP in the clear.
    pub plain_http: bool,
    /// Certificates (PEM) that are trusted beside the host's own.
    pub ca: Option<PathBuf>,
    /// The credential helper `docker-credential-NAME`, before any file.
    pub helper: Option<String>,
    /// Where tokens may be asked for with credentials. `None`: on the
    /// registry's own host, and where public registries are known to have it.
    pub token_realms: Option<Vec<Origin>>,
    /// How long nothing may come or go.
    pub idle_timeout: Duration,
    /// How long one transfer of a blob may take, all attempts together; one
    /// that runs is ended then.
    pub timeout: Option<Duration>,
}

impl Default for RegistrySettings {
    fn default() -> RegistrySettings {
        RegistrySettings {
            mirrors: Vec::new(),
            plain_http: false,
            ca: None,
            helper: None,
            token_realms: None,
            idle_timeout: Duration::from_secs(60),
            timeout: None,
        }
    }
}

/// `[SCHEME://]HOST[:PORT][/PREFIX]`, the prefix put before the repository.
/// Without a scheme it is https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    origin: Origin,
    prefix: String,
}

impl Mirror {
    /// Where it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl FromStr for Mirror {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mirror> {
        let full = match text.contains("://") {
            true => text.to_string(),
            false => format!("https://{text}"),
        };
        let url: Url = full.parse()?;
        let prefix = url.path.trim_matches('/');
        let fits = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if !prefix.chars().all(fits) || prefix.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!(
                "mirror {}: its path is no prefix of a repository",
                quote(text)
            )));
        }
        Ok(Mirror {
            origin: url.origin,
            prefix: prefix.into(),
        })
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.origin)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

/// What is done about failures that may pass: 429, 5xx, resets, silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all.
    pub attempts: u32,
    /// The pause after the first failure; it doubles, with some chance in it.
    pub pause: Duration,
    /// No pause is longer, not even one that a server asks for.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts: 5,
            pause: Duration::from_millis(400),
            longest: Duration::from_secs(60),
        }
    }
}

/// What an endpoint is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The registry of the reference.
    Registry,
    /// A mirror of it.
    Mirror,
}

/// A place that serves a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub origin: Origin,
    /// The repository's name there.
    pub repository: String,
    /// What it is there for.
    pub role: Role,
    /// The domain whose settings count there.
    pub domain: String,
}

impl Endpoint {
    pub(crate) fn url(&self, path: &str) -> Url {
        Url::new(
            self.origin.clone(),
            format!("/v2/{}/{path}", self.repository),
        )
    }
}

const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";
const GITLAB_HOST: &str = "registry.gitlab.com";

impl Settings {
    /// The settings of a domain.
    pub(crate) fn of(&self, domain: &str) -> RegistrySettings {
        self.registries.get(domain).cloned().unwrap_or_default()
    }

    /// The registry of a reference itself.
    pub fn registry(&self, reference: &Reference) -> Result<Endpoint> {
        let domain = reference.domain();
        Ok(Endpoint {
            origin: self.origin(domain)?,
            repository: reference.path().into(),
            role: Role::Registry,
            domain: domain.into(),
        })
    }

    /// The origin of a domain. In the clear only where the configuration or a
    /// flag says so, loopback too.
    pub fn origin(&self, domain: &str) -> Result<Origin> {
        let plain =
            self.plain_http.iter().any(|known| known == domain) || self.of(domain).plain_http;
        let scheme = match plain {
            true => Scheme::Http,
            false => Scheme::Https,
        };
        let host = match domain {
            DOCKER => DOCKER_HOST,
            domain => domain,
        };
        format!("{}://{host}", scheme.name()).parse()
    }

    /// Who is asked for a reference's content: mirrors, then the registry.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for mirror in self.of(reference.domain()).mirrors {
            let repository = match mirror.prefix.as_str() {
                "" => reference.path().to_string(),
                prefix => format!("{prefix}/{}", reference.path()),
            };
            endpoints.push(Endpoint {
                domain: mirror.origin.authority(),
                origin: mirror.origin,
                repository,
                role: Role::Mirror,
            });
        }
        endpoints.push(self.registry(reference)?);
        Ok(endpoints)
    }

    /// Whether a token server may be given the credentials of an endpoint.
    pub(crate) fn covers(&self, endpoint: &Endpoint, realm: &Origin) -> bool {
        if *realm == endpoint.origin {
            return true;
        }
        if endpoint.origin.scheme() == Scheme::Https && realm.scheme() == Scheme::Http {
            return false;
        }
        if let Some(realms) = self.of(&endpoint.domain).token_realms {
            return realms.contains(realm);
        }
        let known = |host: &str, server: &str| {
            endpoint.origin.host() == host && realm.to_string() == format!("https://{server}")
        };
        realm.host() == endpoint.origin.host()
            || known(DOCKER_HOST, "auth.docker.io")
            || known(GITLAB_HOST, "gitlab.com")
    }

    /// The token servers that may be given an endpoint's credentials, for
    /// people.
    pub fn realms(&self, endpoint: &Endpoint) -> Vec<String> {
        match self.of(&endpoint.domain).token_realms {
            Some(realms) => realms.iter().map(Origin::to_string).collect(),
            None => {
                let known = match endpoint.origin.host() {
                    DOCKER_HOST => Some("https://auth.docker.io".to_owned()),
                    GITLAB_HOST => Some("https://gitlab.com".to_owned()),
                    _ => None,
                };
                let own = format!("any port of {}", endpoint.origin.host());
                std::iter::once(own).chain(known).collect()
            }
        }
    }

    /// How long nothing may come or go.
    pub fn idle_timeout(&self, endpoint: &Endpoint) -> Duration {
        self.of(&endpoint.domain).idle_timeout
    }

    /// When a transfer that begins now must have ended.
    pub(crate) fn deadline(&self, domain: &str) -> Deadline {
        Deadline::within(self.of(domain).timeout)
    }

    pub(crate) fn jobs(&self) -> usize {
        match self.jobs {
            0 => 4,
            jobs => jobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(domain: &str, registry: RegistrySettings) -> Settings {
        Settings {
            registries: BTreeMap::from([(domain.to_string(), registry)]),
            ..Settings::default()
        }
    }

    #[test]
    fn mirrors_come_first_and_have_a_prefix() {
        let settings = settings(
            "docker.io",
            RegistrySettings {
                mirrors: vec![
                    "http://127.0.0.1:5000".parse().expect("mirror"),
                    "m.example/hub".parse().expect("mirror"),
                ],
                ..RegistrySettings::default()
            },
        );
        let reference = "busybox".parse().expect("reference");
        let urls: Vec<String> = settings
            .endpoints(&reference)
            .expect("endpoints")
            .iter()
            .map(|endpoint| endpoint.url("manifests/x").to_string())
            .collect();
        assert_eq!(
            urls,
            [
                "http://127.0.0.1:5000/v2/library/busybox/manifests/x",
                "https://m.example/v2/hub/library/busybox/manifests/x",
                "https://registry-1.docker.io/v2/library/busybox/manifests/x",
            ]
        );
        for bad in ["m.example/../x", "m.example/a?b", "ftp://m.example", "a b"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_not_plain_by_itself() {
        let reference = "127.0.0.1:5000/a".parse().expect("reference");
        let mut settings = Settings::default();
        let origin = |settings: &Settings| {
            settings
                .registry(&reference)
                .expect("endpoint")
                .origin
                .to_string()
        };
        assert_eq!(origin(&settings), "https://127.0.0.1:5000");
        settings.plain_http.push("127.0.0.1:5000".into());
        assert_eq!(origin(&settings), "http://127.0.0.1:5000");
    }

    #[test]
    fn realms_are_covered_by_the_registrys_own_rules() {
        let covers = |settings: &Settings, domain: &str, realm: &str| {
            let reference = format!("{domain}/a/b").parse().expect("reference");
            let endpoint = settings.registry(&reference).expect("endpoint");
            settings.covers(&endpoint, &realm.parse().expect("realm"))
        };
        let plain = Settings::default();
        assert!(covers(&plain, "r.example", "https://r.example"));
        assert!(covers(&plain, "r.example", "https://r.example:5001"));
        assert!(!covers(&plain, "r.example", "http://r.example"));
        assert!(!covers(&plain, "r.example", "https://evil.example"));
        assert!(!covers(
            &plain,
            "r.example",
            "https://r.example.evil.example"
        ));
        assert!(covers(&plain, "docker.io", "https://auth.docker.io"));
        assert!(!covers(&plain, "r.example", "https://auth.docker.io"));
        let strict = settings(
            "r.example",
            RegistrySettings {
                token_realms: Some(vec!["https://auth.example".parse().expect("realm")]),
                ..RegistrySettings::default()
            },
        );
        assert!(covers(&strict, "r.example", "https://auth.example"));
        assert!(!covers(&strict, "r.example", "https://r.example:5001"));
    }
}
