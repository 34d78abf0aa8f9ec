//! The effective configuration as TOML.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::config::Config;
use crate::layer::KINDS;
use crate::policy::PolicyRule;
use crate::source::Origin;

impl Config {
    /// The effective configuration as TOML, each line with where it came
    /// from; read again it gives the same configuration.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String, origin: Option<&Origin>| {
            let _ = match origin {
                Some(origin) => writeln!(text, "{line}  # {origin}"),
                None => writeln!(text, "{line}"),
            };
        };
        line(format!("version = {}", self.version), None);
        for (key, value) in [
            ("root", string(&self.root.to_string_lossy())),
            ("state", string(&self.state.to_string_lossy())),
            (
                "log_level",
                string(&self.log_level.as_str().to_ascii_lowercase()),
            ),
            ("driver_path", {
                let paths: Vec<String> = self
                    .driver_path
                    .iter()
                    .map(|path| string(&path.to_string_lossy()))
                    .collect();
                format!("[{}]", paths.join(", "))
            }),
            ("call_timeout", self.call_timeout.as_secs().to_string()),
        ] {
            line(format!("{key} = {value}"), self.origins.get(key));
        }
        line("\n[default]".into(), None);
        for kind in KINDS {
            if let Some(name) = self.default.of(kind) {
                let origin = self.origins.get(format!("default.{kind}").as_str());
                line(format!("{kind} = {}", string(name.as_str())), origin);
            }
        }
        for ((kind, name), instance) in &self.instances {
            line(format!("\n[{kind}.{}]", key(name.as_str())), None);
            line(
                format!("driver = {}", string(&instance.driver)),
                Some(&instance.origin),
            );
            if let Some(pin) = &instance.sha256 {
                line(
                    format!("sha256 = {}", string(pin.hex())),
                    instance.sha256_origin(),
                );
            }
            if let Some(limit) = instance.call_timeout {
                line(
                    format!("call_timeout = {}", limit.as_secs()),
                    instance.call_timeout_origin.as_ref(),
                );
            }
            for (option, value) in &instance.options {
                line(
                    format!("options.{} = {}", key(option), inline(value)),
                    Some(instance.option_origin(option)),
                );
            }
        }
        for (name, registry) in &self.registries {
            line(format!("\n[registry.{}]", key(name)), None);
            for (name, value) in registry.values() {
                line(
                    format!("{name} = {}", inline(&value)),
                    registry.origin(name),
                );
            }
        }
        line("\n[policy]".into(), None);
        for (pattern, policy) in &self.policies {
            let pattern = string(&pattern.to_string());
            let rule = inline(&rule(&policy.rule));
            line(format!("{pattern} = {rule}"), Some(&policy.origin));
        }
        text
    }
}

impl Config {
    /// The effective configuration as JSON, with the keys of TOML and `files`,
    /// the files that were read.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "version": self.version,
            "root": self.root.to_string_lossy(),
            "state": self.state.to_string_lossy(),
            "log_level": self.log_level.as_str().to_ascii_lowercase(),
            "driver_path": self.driver_path.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>(),
            "call_timeout": self.call_timeout.as_secs(),
            "default": {},
            "files": self.files.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>(),
        });
        for kind in KINDS {
            value["default"][kind.name()] = json!(self.default.of(kind));
            value[kind.name()] = json!({});
        }
        for ((kind, name), instance) in &self.instances {
            let mut table = json!({ "driver": instance.driver, "options": instance.options });
            if let Some(pin) = &instance.sha256 {
                table["sha256"] = pin.hex().into();
            }
            if let Some(limit) = instance.call_timeout {
                table["call_timeout"] = limit.as_secs().into();
            }
            value[kind.name()][name.as_str()] = table;
        }
        value["registry"] = json!({});
        for (name, registry) in &self.registries {
            let table = registry.values().into_iter();
            value["registry"][name.as_str()] = table
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        value["policy"] = json!({});
        for (pattern, policy) in &self.policies {
            value["policy"][pattern.to_string()] = rule(&policy.rule);
        }
        value
    }
}

/// A rule of the policy, with the paths that its keys have.
fn rule(rule: &PolicyRule) -> Value {
    let keys: Vec<_> = rule
        .keys()
        .iter()
        .map(|key| key.path.to_string_lossy())
        .collect();
    match rule {
        PolicyRule::Accept | PolicyRule::Reject => rule.name().into(),
        PolicyRule::Any(_) | PolicyRule::All(_) => json!({ rule.name(): keys }),
    }
}

/// A basic string: JSON's escapes are TOML's, but for DEL.
fn string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn key(text: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !text.is_empty() && text.bytes().all(bare) {
        text.to_owned()
    } else {
        string(text)
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{} = {}", key(name), inline(value)))
                .collect();
            format!("{{ {} }}", items.join(", "))
        }
        // Never null: TOML has none.
        other => other.to_string(),
    }
}
