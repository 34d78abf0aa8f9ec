//! Which images may be used: rules by pattern.
//!
//! ```toml
//! [policy]
//! "*" = "reject"
//! "docker.io/library" = "accept"
//! "registry.example.com/team" = { any = ["keys/ann.pub", "keys/bob.pub"] }
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use containerkit::{Error, Pattern, Reference, Result};
use toml::de::DeValue;

use crate::config::Config;
use crate::layer::{Item, Layer, Reader, entries};
use crate::source::Origin;

/// Keys of one rule.
const MOST: usize = 64;

/// A file with a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Where; relative paths of the configuration are beside its file.
    pub path: PathBuf,
    /// Where it is named.
    pub origin: Origin,
}

/// What is asked of the images that a pattern covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyRule {
    /// Nothing.
    Accept,
    /// That they are not used.
    Reject,
    /// A signature by one of these keys.
    Any(Vec<KeyFile>),
    /// A signature by each of these keys.
    All(Vec<KeyFile>),
}

impl PolicyRule {
    /// The keys; none of a rule without.
    pub fn keys(&self) -> &[KeyFile] {
        match self {
            PolicyRule::Accept | PolicyRule::Reject => &[],
            PolicyRule::Any(keys) | PolicyRule::All(keys) => keys,
        }
    }

    /// As in TOML: a rule without keys is a string, one with keys a table.
    pub fn name(&self) -> &'static str {
        match self {
            PolicyRule::Accept => "accept",
            PolicyRule::Reject => "reject",
            PolicyRule::Any(_) => "any",
            PolicyRule::All(_) => "all",
        }
    }
}

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is asked.
    pub rule: PolicyRule,
    /// Where the pattern stands.
    pub origin: Origin,
}

impl Config {
    /// The rule for an image: that of the narrowest pattern that covers it.
    pub fn policy(&self, image: &Reference) -> Result<(&Pattern, &Policy)> {
        Pattern::narrowest(self.policies.keys(), image)
            .and_then(|pattern| self.policies.get_key_value(pattern))
            .ok_or_else(|| Error::internal("the built-in default has no policy for \"*\""))
    }
}

impl Reader<'_> {
    pub(crate) fn policies(&self, value: &Item<'_>, layer: &mut Layer) -> Result<()> {
        let mut typed: BTreeMap<Pattern, &str> = BTreeMap::new();
        for (key, span, value) in entries(self.table("policy", value)?) {
            let pattern: Pattern = key
                .parse()
                .map_err(|error: Error| self.fail(span.clone(), "policy", error))?;
            if let Some(other) = typed.insert(pattern.clone(), key) {
                let why = format!("\"{key}\" and \"{other}\" are one pattern; write it once");
                return Err(self.fail(span, "policy", why));
            }
            let policy = Policy {
                rule: self.rule(&format!("policy.\"{key}\""), span.clone(), value)?,
                origin: self.source.at(span),
            };
            layer.policies.insert(pattern, policy);
        }
        Ok(())
    }

    fn rule(&self, key: &str, span: Range<usize>, value: &Item<'_>) -> Result<PolicyRule> {
        match value.get_ref() {
            DeValue::String(text) if text == "accept" => Ok(PolicyRule::Accept),
            DeValue::String(text) if text == "reject" => Ok(PolicyRule::Reject),
            DeValue::Table(table) => match entries(table).as_slice() {
                [("any", _, keys)] => Ok(PolicyRule::Any(self.key_files(key, keys)?)),
                [("all", _, keys)] => Ok(PolicyRule::All(self.key_files(key, keys)?)),
                [] => Err(self.fail(span, key, "it is empty; want `any` or `all` with keys")),
                [(name, span, _)] => {
                    Err(self.unknown(&format!("[{key}]"), name, span.clone(), &["any", "all"]))
                }
                [_, (_, span, _), ..] => Err(self.fail(
                    span.clone(),
                    key,
                    "want one of `any` and `all`, and nothing else",
                )),
            },
            _ => Err(self.fail(
                value.span(),
                key,
                "want \"accept\", \"reject\", { any = [KEY…] } or { all = [KEY…] }",
            )),
        }
    }

    fn key_files(&self, key: &str, value: &Item<'_>) -> Result<Vec<KeyFile>> {
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong(key, "an array of key files", value))?;
        // Of no keys all have signed anything.
        if list.is_empty() {
            return Err(self.fail(value.span(), key, "want at least one key file"));
        }
        if list.len() > MOST {
            let why = format!("it has {} keys, more than {MOST}", list.len());
            return Err(self.fail(value.span(), key, why));
        }
        list.iter()
            .map(|item| {
                let text = self.string(key, item)?;
                if text.is_empty() {
                    return Err(self.fail(item.span(), key, "the name of a key file is empty"));
                }
                Ok(KeyFile {
                    path: self.source.beside(text),
                    origin: self.source.at(item.span()),
                })
            })
            .collect()
    }
}
