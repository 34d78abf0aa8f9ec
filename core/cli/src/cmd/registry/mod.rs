//! The commands that talk to registries.

mod copy;
mod explain;
mod login;
mod pull;
mod push;

use std::collections::BTreeMap;
use std::path::PathBuf;

use containerkit::{Cancel, Context as _, Error, Reference, Result, fs, quote};
use containerkit_distribution::{
    Keyring, Registry, RegistrySettings, Secret, Settings, default_files, login_file,
};

pub(crate) use copy::copy;
pub(crate) use explain::explain;
pub(crate) use login::{login, logout};
pub(crate) use pull::{Unpack, Wanted, image, pull};
pub(crate) use push::push;

use crate::app::App;
use crate::args::registry::Access;

/// A client for these domains, with the configuration and a command's flags.
pub(crate) fn client(
    app: &App,
    access: &Access,
    domains: &[&str],
    cancel: Cancel,
) -> Result<Registry> {
    let mut settings = settings(app, access, cancel)?;
    for domain in domains {
        if access.plain_http {
            settings.plain_http.push((*domain).to_owned());
        }
        if let Some(creds) = &access.creds {
            let secret = secret(creds).map_err(|error| error.context("--creds"))?;
            settings.keyring.given.insert((*domain).to_owned(), secret);
        }
    }
    Ok(Registry::new(settings))
}

fn settings(app: &App, access: &Access, cancel: Cancel) -> Result<Settings> {
    let mut registries = BTreeMap::new();
    for (domain, configured) in &app.config.registries {
        let at = |key: &str| match configured.origin(key) {
            Some(origin) => format!("{origin}: registry.\"{domain}\".{key}"),
            None => format!("registry.\"{domain}\".{key}"),
        };
        let mut registry = RegistrySettings {
            plain_http: configured.plain_http.unwrap_or_default(),
            ca: configured.ca.clone(),
            helper: configured.helper.clone(),
            timeout: configured.timeout.filter(|time| !time.is_zero()),
            ..RegistrySettings::default()
        };
        if let Some(time) = configured.idle_timeout {
            registry.idle_timeout = time;
        }
        for text in configured.mirrors.iter().flatten() {
            let mirror = text.parse().context(|| at("mirrors"))?;
            registry.mirrors.push(mirror);
        }
        if let Some(realms) = &configured.token_realms {
            let realms = realms.iter().map(|text| text.parse());
            let realms = realms.collect::<Result<_>>();
            registry.token_realms = Some(realms.context(|| at("token_realms"))?);
        }
        registries.insert(domain.clone(), registry);
    }
    fs::ensure_dir(&app.config.root, 0o711)?;
    Ok(Settings {
        registries,
        keyring: Keyring {
            files: auth_files(app, access),
            ..Keyring::default()
        },
        uploads: Some(app.config.root.join("uploads")),
        cancel,
        ..Settings::default()
    })
}

/// The files that are read: the one that was named, or this root's own and
/// then those of other tools.
fn auth_files(app: &App, access: &Access) -> Vec<PathBuf> {
    match &access.authfile {
        Some(path) => vec![path.clone()],
        None => {
            let own = std::iter::once(own_auth_file(app));
            own.chain(default_files()).collect()
        }
    }
}

fn own_auth_file(app: &App) -> PathBuf {
    app.config.root.join("auth.json")
}

/// The file that `login` writes. With `--root` and `--state` given nothing is
/// written elsewhere.
fn written_auth_file(app: &App, named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path),
        None if app.is_private => {
            fs::ensure_dir(&app.config.root, 0o711)?;
            Ok(own_auth_file(app))
        }
        None => login_file(),
    }
}

/// `USER:PASS`.
fn secret(text: &str) -> Result<Secret> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok(Secret::Password {
            user: user.into(),
            password: password.into(),
        }),
        // The text may be a password: it is not repeated.
        _ => Err(Error::invalid("want USER:PASS")),
    }
}

/// A registry as the user typed it, without a scheme or repository.
fn domain(text: &str) -> Result<String> {
    let bare = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text)
        .trim_end_matches('/');
    let known = format!("{bare}/x").parse::<Reference>();
    match known {
        Ok(reference) if reference.path() == "x" => Ok(reference.domain().to_owned()),
        // A word without a dot would be a repository of docker.io.
        Ok(_) | Err(_) => match bare {
            "index.docker.io" | "docker.io" | "index.docker.io/v1" => Ok("docker.io".into()),
            _ => Err(Error::invalid(format!(
                "registry {}: want HOST[:PORT] as image names begin with it",
                quote(text)
            ))),
        },
    }
}
