//! `[registry."HOST[:PORT]"]`: how a registry is reached.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use containerkit::{Reference, Result, quote};
use serde_json::{Value, json};
use toml::de::DeValue;

use crate::layer::{At, Item, Reader, entries};
use crate::source::Origin;

const KEYS: [&str; 7] = [
    "mirrors",
    "plain_http",
    "ca",
    "helper",
    "token_realms",
    "idle_timeout",
    "timeout",
];

/// A registry; what is `None` is left to the registry client.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// `[SCHEME://]HOST[:PORT][/PREFIX]`, asked before the registry itself.
    pub mirrors: Option<Vec<String>>,
    /// Whether it speaks HTTP in the clear.
    pub plain_http: Option<bool>,
    /// PEM certificates that are trusted beside the host's own.
    pub ca: Option<PathBuf>,
    /// The credential helper `docker-credential-NAME`.
    pub helper: Option<String>,
    /// `SCHEME://HOST[:PORT]` of token servers that may have its credentials.
    pub token_realms: Option<Vec<String>>,
    /// How long nothing may come or go.
    pub idle_timeout: Option<Duration>,
    /// How long a blob may take in all; zero is for ever.
    pub timeout: Option<Duration>,
    /// Where each key stands.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
}

impl Registry {
    /// Where a key stands.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// A later file over an earlier one, key by key.
    pub(crate) fn lay(&mut self, over: Registry) {
        fn set<T>(under: &mut Option<T>, over: Option<T>) {
            if over.is_some() {
                *under = over;
            }
        }
        set(&mut self.mirrors, over.mirrors);
        set(&mut self.plain_http, over.plain_http);
        set(&mut self.ca, over.ca);
        set(&mut self.helper, over.helper);
        set(&mut self.token_realms, over.token_realms);
        set(&mut self.idle_timeout, over.idle_timeout);
        set(&mut self.timeout, over.timeout);
        self.origins.extend(over.origins);
    }

    /// The keys that are set, in the order of the manual.
    pub(crate) fn values(&self) -> Vec<(&'static str, Value)> {
        let all = [
            ("mirrors", self.mirrors.as_ref().map(|list| json!(list))),
            ("plain_http", self.plain_http.map(|flag| json!(flag))),
            (
                "ca",
                self.ca.as_ref().map(|path| json!(path.to_string_lossy())),
            ),
            ("helper", self.helper.as_ref().map(|name| json!(name))),
            (
                "token_realms",
                self.token_realms.as_ref().map(|list| json!(list)),
            ),
            (
                "idle_timeout",
                self.idle_timeout.map(|time| json!(time.as_secs())),
            ),
            ("timeout", self.timeout.map(|time| json!(time.as_secs()))),
        ];
        all.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }

    pub(crate) fn schema() -> Value {
        let place = "^(https?://)?[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9/._-]*)?$";
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "mirrors": {
                    "description": "Asked first, in this order; pulls only. Without a scheme it is https.",
                    "type": "array",
                    "items": { "type": "string", "pattern": place },
                },
                "plain_http": {
                    "description": "It speaks HTTP in the clear.",
                    "type": "boolean",
                },
                "ca": {
                    "description": "PEM certificates that are trusted beside the host's own.",
                    "type": "string",
                    "pattern": "^/",
                },
                "helper": {
                    "description": "Its credentials come from docker-credential-NAME.",
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_.-]+$",
                },
                "token_realms": {
                    "description": "Token servers that may be given its credentials, and no others.",
                    "type": "array",
                    "items": { "type": "string", "pattern": "^https?://[^/@]+$" },
                },
                "idle_timeout": {
                    "description": "Seconds that nothing may come or go.",
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 604_800,
                },
                "timeout": {
                    "description": "Seconds that one blob may take in all; 0 is for ever.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 604_800,
                },
            },
        })
    }
}

impl Reader<'_> {
    pub(crate) fn registries(&self, value: &Item<'_>) -> Result<BTreeMap<String, Registry>> {
        let mut registries = BTreeMap::new();
        for (name, span, value) in entries(self.table("registry", value)?) {
            // `[registry] ca = …`: the registry's name was forgotten.
            if KEYS.contains(&name) && !value.get_ref().is_table() {
                let why = format!("{name} stands without a registry; write [registry.\"HOST\"]");
                return Err(self.fail(span, "registry", why));
            }
            let known = format!("{name}/x").parse::<Reference>();
            if known.map_or(true, |reference| reference.domain() != name) {
                let why = format!(
                    "{} is no registry as image names begin with it: HOST[:PORT], without a scheme",
                    quote(name)
                );
                return Err(self.fail(span, "registry", why));
            }
            registries.insert(name.to_owned(), self.registry(name, value)?);
        }
        Ok(registries)
    }

    fn registry(&self, name: &str, value: &Item<'_>) -> Result<Registry> {
        let path = format!("registry.\"{name}\"");
        let mut registry = Registry::default();
        for (key, span, value) in entries(self.table(&path, value)?) {
            let full = format!("{path}.{key}");
            let Some(known) = KEYS.into_iter().find(|known| *known == key) else {
                return Err(self.unknown(&format!("[{path}]"), key, span, &KEYS));
            };
            match known {
                "mirrors" => registry.mirrors = Some(self.places(&full, value, Kind::Mirror)?),
                "token_realms" => {
                    registry.token_realms = Some(self.places(&full, value, Kind::Origin)?);
                }
                "plain_http" => registry.plain_http = Some(self.flag(&full, value)?),
                "ca" => registry.ca = Some(self.absolute(&full, value)?.value),
                "helper" => registry.helper = Some(self.helper(&full, value)?),
                "timeout" => registry.timeout = Some(self.seconds(&full, value)?.value),
                _ => {
                    let At { value: time, .. } = self.seconds(&full, value)?;
                    if time.is_zero() {
                        return Err(self.fail(value.span(), &full, "want at least a second"));
                    }
                    registry.idle_timeout = Some(time);
                }
            }
            registry.origins.insert(known, self.at((), value).origin);
        }
        Ok(registry)
    }

    fn flag(&self, key: &str, value: &Item<'_>) -> Result<bool> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Ok(*flag),
            _ => Err(self.wrong(key, "a boolean", value)),
        }
    }

    fn helper(&self, key: &str, value: &Item<'_>) -> Result<String> {
        let name = self.string(key, value)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            let why = format!(
                "{} is no name of a helper; docker-credential-NAME is run",
                quote(name)
            );
            return Err(self.fail(value.span(), key, why));
        }
        Ok(name.to_owned())
    }

    fn places(&self, key: &str, value: &Item<'_>, kind: Kind) -> Result<Vec<String>> {
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong(key, "an array of strings", value))?;
        let mut places = Vec::new();
        for item in list {
            let text = self.string(key, item)?;
            check(text, kind).map_err(|why| self.at_place(item.span(), key, text, why))?;
            places.push(text.to_owned());
        }
        Ok(places)
    }

    fn at_place(
        &self,
        span: Range<usize>,
        key: &str,
        text: &str,
        why: &str,
    ) -> containerkit::Error {
        self.fail(span, key, format!("{}: {why}", quote(text)))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Mirror,
    Origin,
}

/// The shape of a URL that names a host and at most a prefix.
fn check(text: &str, kind: Kind) -> Result<(), &'static str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    match (scheme, kind) {
        (Some("http" | "https"), _) | (None, Kind::Mirror) => {}
        _ => return Err("want https:// or http:// before the host"),
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if matches!(kind, Kind::Origin) && rest.contains('/') {
        return Err("want no path behind the host");
    }
    let host = format!("{authority}/x").parse::<Reference>();
    let named = host.is_ok_and(|reference| reference.domain() == authority);
    // One word is a host here, and none in a reference.
    let bare = !authority.is_empty() && authority.bytes().all(|b| b.is_ascii_alphanumeric());
    if !named && !bare {
        return Err("want HOST[:PORT]");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match path.chars().all(fits) && path.split('/').all(|part| part != "..") {
        true => Ok(()),
        false => Err("its path is no prefix of a repository"),
    }
}
