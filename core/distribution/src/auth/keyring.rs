//! Where the credentials of a registry come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use containerkit::{Error, ErrorKind, Result};
use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::auth::file::AuthFile;

/// What proves who asks. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// For Basic, and for a token server.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// For a token server alone.
    IdentityToken(String),
}

impl Secret {
    /// The user, where there is one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Secret::Password { user, .. } => Some(user),
            Secret::IdentityToken(_) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.user().unwrap_or("identity token"))
    }
}

/// A secret and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The secret.
    pub secret: Secret,
    /// A flag, a file, or a helper.
    pub source: String,
}

/// Where credentials are looked for, in this order: what was given by hand,
/// the helper that the configuration names, files.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// By domain: `--creds` and the like.
    pub given: BTreeMap<String, Secret>,
    /// Files of docker's and podman's form; the first that knows wins.
    pub files: Vec<PathBuf>,
}

/// The name under which a domain's credentials are kept.
pub(crate) fn key_of(domain: &str) -> &str {
    match domain {
        "docker.io" | "registry-1.docker.io" => "https://index.docker.io/v1/",
        domain => domain,
    }
}

impl Keyring {
    /// The credentials of a domain; files may have others for a repository.
    pub fn find(
        &self,
        domain: &str,
        repository: &str,
        helper: Option<&str>,
    ) -> Result<Option<Found>> {
        if let Some(secret) = self.given.get(domain) {
            return Ok(Some(Found {
                secret: secret.clone(),
                source: "the command line".into(),
            }));
        }
        if let Some(helper) = helper {
            let config = serde_json::json!({ "credHelpers": { key_of(domain): helper } });
            if let Some(secret) = look(config.to_string().as_bytes(), key_of(domain))? {
                return Ok(Some(Found {
                    secret,
                    source: format!("docker-credential-{helper}"),
                }));
            }
        }
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else {
                continue;
            };
            let data = file.bytes();
            // podman's form may name a repository: the longest name wins.
            let mut name = format!("{domain}/{repository}");
            loop {
                let key = match name == domain {
                    true => key_of(domain),
                    false => &name,
                };
                if (name == domain || file.names(key))
                    && let Some(secret) = look(&data, key)
                        .map_err(|error| error.context(format!("{}", path.display())))?
                {
                    return Ok(Some(Found {
                        secret,
                        source: file.source(key),
                    }));
                }
                match name.rsplit_once('/') {
                    Some((shorter, _)) => name.truncate(shorter.len()),
                    None => break,
                }
            }
        }
        Ok(None)
    }
}

fn look(config: &[u8], key: &str) -> Result<Option<Secret>> {
    let found = match docker_credential::get_credential_from_reader(config, key) {
        Ok(found) => found,
        Err(CredentialRetrievalError::NoCredentialConfigured) => return Ok(None),
        // So says every helper that does not know the server.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            return Ok(None);
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stderr, .. }) => {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "credential helper {} fails: {}",
                    containerkit::quote(&helper),
                    containerkit::quote(stderr.trim())
                ),
            ));
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the credential helper of {key} cannot be run"),
            )
            .with_hint("it must be a program docker-credential-NAME in $PATH"));
        }
        Err(error) => {
            return Err(Error::invalid(format!("credentials of {key}")).with_source(error));
        }
    };
    Ok(match found {
        DockerCredential::IdentityToken(token) if token.is_empty() => None,
        DockerCredential::IdentityToken(token) => Some(Secret::IdentityToken(token)),
        // How helpers say that the secret is an identity token.
        DockerCredential::UsernamePassword(user, token) if user == "<token>" => {
            Some(Secret::IdentityToken(token))
        }
        DockerCredential::UsernamePassword(user, password) if user.is_empty() => {
            log::debug!(
                "{key}: a password without a user ({} bytes)",
                password.len()
            );
            None
        }
        DockerCredential::UsernamePassword(user, password) => {
            Some(Secret::Password { user, password })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(text: &str) -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).expect("write");
        let keyring = Keyring {
            files: vec![dir.path().join("absent.json"), path],
            ..Keyring::default()
        };
        (dir, keyring)
    }

    fn user(keyring: &Keyring, domain: &str, repository: &str) -> Option<String> {
        let found = keyring.find(domain, repository, None).expect("find")?;
        found.secret.user().map(str::to_owned)
    }

    #[test]
    fn files_of_docker_and_podman_are_read() {
        // a:b, c:d, e:f
        let (_dir, keyring) = keyring(
            r#"{"auths":{
                "r.example:5000":{"auth":"YTpi"},
                "r.example:5000/team/app":{"auth":"Yzpk"},
                "https://index.docker.io/v1/":{"auth":"ZTpm"}
            }}"#,
        );
        assert_eq!(user(&keyring, "r.example:5000", "x").as_deref(), Some("a"));
        let team = user(&keyring, "r.example:5000", "team/app");
        assert_eq!(team.as_deref(), Some("c"));
        let deep = user(&keyring, "r.example:5000", "team/app/deep");
        assert_eq!(deep.as_deref(), Some("c"));
        assert_eq!(
            user(&keyring, "docker.io", "library/x").as_deref(),
            Some("e")
        );
        // Another port is another registry, and so is a longer name.
        assert_eq!(user(&keyring, "r.example", "x"), None);
        assert_eq!(user(&keyring, "r.example:5001", "x"), None);
        assert_eq!(user(&keyring, "evil-r.example:5000", "x"), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::Password {
            user: "u".into(),
            password: "hidden".into(),
        };
        assert!(!format!("{secret:?}").contains("hidden"));
        let token = Secret::IdentityToken("hidden".into());
        assert!(!format!("{token:?}").contains("hidden"));
    }
}
