//! The config of a packed image: OCI image-spec `config.md`.

use std::collections::BTreeMap;

use containerkit::content::ContentStore;
use containerkit::{Digest, Error, Result, Timestamp, quote};
use serde_json::{Map, Value, json};

use super::PackOptions;
use crate::PlatformChoice;
use crate::document::{self, json_error};
use crate::resolve::Image;

/// Wishes beyond the base's config. What is `None` or empty stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// The words before every command; without [`ConfigChanges::cmd`] the
    /// base's command goes, which was not made for it.
    pub entrypoint: Option<Vec<String>>,
    /// The default command.
    pub cmd: Option<Vec<String>>,
    /// Variables, each replacing one of the same name.
    pub env: Vec<(String, String)>,
    /// Labels, each replacing one of the same key.
    pub labels: BTreeMap<String, String>,
    /// The folder that it starts in, absolute.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// Ports, `PORT[/tcp|udp|sctp]`.
    pub expose: Vec<String>,
    /// Folders that shall be volumes, absolute.
    pub volumes: Vec<String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Who is responsible.
    pub author: Option<String>,
}

impl ConfigChanges {
    /// Refuses what no runtime could do.
    pub fn check(&self) -> Result<()> {
        let absolute = self.workdir.iter().chain(&self.volumes);
        for path in absolute {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(Error::invalid(format!(
                    "{}: want an absolute path",
                    quote(path)
                )));
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Error::invalid(format!(
                    "variable {}: want NAME=VALUE",
                    quote(name)
                )));
            }
        }
        if let Some(signal) = &self.stop_signal {
            containerkit::spec::parse::parse_signal(signal)?;
        }
        self.expose
            .iter()
            .try_for_each(|port| self::port(port).map(drop))
    }
}

/// `PORT[/PROTOCOL]` with its protocol.
fn port(text: &str) -> Result<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    match number.parse::<u16>() {
        Ok(number) if digits && number > 0 && matches!(protocol, "tcp" | "udp" | "sctp") => {
            Ok(format!("{number}/{protocol}"))
        }
        _ => Err(Error::invalid(format!(
            "port {}: want PORT[/tcp|udp|sctp]",
            quote(text)
        ))),
    }
}

/// An object that is there, whatever some tool wrote in its place.
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Map<String, Value>> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .ok_or_else(|| Error::invalid(format!("the base's config: {key} is not an object")))
}

fn array<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .ok_or_else(|| Error::invalid(format!("the base's config: {key} is not an array")))
}

/// The config; of the base's, what nobody wished to change is kept, unknown
/// members too.
pub(super) fn make(
    store: &dyn ContentStore,
    base: Option<&Image>,
    options: &PackOptions,
    created: Timestamp,
    diff_id: Option<&Digest>,
) -> Result<Value> {
    let mut config: Map<String, Value> = match base {
        Some(base) => {
            let data = document::read(store, &base.config_descriptor)?;
            serde_json::from_slice(&data).map_err(json_error)?
        }
        None => Map::new(),
    };
    let created = created.to_string();
    platform(&mut config, base, options.platform.as_ref());
    config.insert("created".into(), json!(created));
    if let Some(author) = &options.changes.author {
        config.insert("author".into(), json!(author));
    }
    let rootfs = object(&mut config, "rootfs")?;
    rootfs.insert("type".into(), json!("layers"));
    let diff_ids = array(rootfs, "diff_ids")?;
    let below = diff_ids.len();
    diff_ids.extend(diff_id.map(|diff_id| json!(diff_id)));
    history(&mut config, below, options, &created, diff_id)?;
    run(object(&mut config, "config")?, &options.changes)?;
    // The build instructions and container of whoever made the base.
    for stale in ["container", "container_config", "docker_version", "parent"] {
        config.remove(stale);
    }
    Ok(Value::Object(config))
}

fn platform(
    config: &mut Map<String, Value>,
    base: Option<&Image>,
    platform: Option<&PlatformChoice>,
) {
    let host = PlatformChoice::host();
    let (platform, variant) = match (platform, base) {
        (Some(platform), _) => (platform, platform.variant()),
        (None, Some(_)) => return,
        // How modern this machine is says nothing of the programs.
        (None, None) => (
            &host,
            host.variant().filter(|_| host.architecture() == "arm"),
        ),
    };
    config.insert("os".into(), json!(platform.os()));
    config.insert("architecture".into(), json!(platform.architecture()));
    match variant {
        Some(variant) => drop(config.insert("variant".into(), json!(variant))),
        None => drop(config.remove("variant")),
    }
}

fn history(
    config: &mut Map<String, Value>,
    below: usize,
    options: &PackOptions,
    created: &str,
    diff_id: Option<&Digest>,
) -> Result<()> {
    let history = array(config, "history")?;
    let told = history
        .iter()
        .filter(|entry| entry["empty_layer"] != json!(true))
        .count();
    // Readers count: an entry a layer, or none at all.
    for _ in told..below {
        history.push(json!({ "comment": "a layer of the base, which has no history of it" }));
    }
    let mut entry = json!({ "created": created, "created_by": options.created_by });
    if let Some(author) = &options.changes.author {
        entry["author"] = json!(author);
    }
    if let Some(message) = &options.message {
        entry["comment"] = json!(message);
    }
    if diff_id.is_none() {
        entry["empty_layer"] = json!(true);
    }
    history.push(entry);
    Ok(())
}

/// The part that says how to run it.
fn run(config: &mut Map<String, Value>, changes: &ConfigChanges) -> Result<()> {
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(key.into(), value);
        }
    };
    set(
        "WorkingDir",
        changes.workdir.as_ref().map(|path| json!(path)),
    );
    set("User", changes.user.as_ref().map(|user| json!(user)));
    set("StopSignal", changes.stop_signal.as_ref().map(|s| json!(s)));
    for (key, words) in [("Cmd", &changes.cmd), ("Entrypoint", &changes.entrypoint)] {
        match words {
            Some(words) if words.is_empty() => drop(config.remove(key)),
            Some(words) => drop(config.insert(key.into(), json!(words))),
            None if key == "Cmd" && changes.entrypoint.is_some() => drop(config.remove(key)),
            None => {}
        }
    }
    if !changes.env.is_empty() {
        let env = array(config, "Env")?;
        for (name, value) in &changes.env {
            let start = format!("{name}=");
            let new = json!(format!("{name}={value}"));
            let same = |old: &&mut Value| old.as_str().is_some_and(|old| old.starts_with(&start));
            match env.iter_mut().find(same) {
                Some(old) => *old = new,
                None => env.push(new),
            }
        }
    }
    let labels = changes.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let volumes: Vec<_> = changes
        .volumes
        .iter()
        .map(|v| (v.clone(), json!({})))
        .collect();
    let mut ports = Vec::new();
    for text in &changes.expose {
        ports.push((port(text)?, json!({})));
    }
    for (key, members) in [
        ("Labels", labels),
        ("Volumes", volumes),
        ("ExposedPorts", ports),
    ] {
        if !members.is_empty() {
            object(config, key)?.extend(members);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_that_no_runtime_could_fulfil_are_refused() {
        let base = ConfigChanges::default;
        let bad = [
            ConfigChanges {
                workdir: Some("relative".into()),
                ..base()
            },
            ConfigChanges {
                volumes: vec!["x".into()],
                ..base()
            },
            ConfigChanges {
                expose: vec!["0".into()],
                ..base()
            },
            ConfigChanges {
                expose: vec!["80/icmp".into()],
                ..base()
            },
            ConfigChanges {
                expose: vec!["+80".into()],
                ..base()
            },
            ConfigChanges {
                env: vec![(String::new(), "x".into())],
                ..base()
            },
            ConfigChanges {
                stop_signal: Some("SIGNONE".into()),
                ..base()
            },
        ];
        for changes in bad {
            assert!(changes.check().is_err(), "{changes:?}");
        }
        assert!(base().check().is_ok());
    }

    #[test]
    fn what_the_base_says_stays_unless_it_is_changed() {
        let mut config = json!({
            "Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "Labels": null, "Unknown": 1,
        });
        let changes = ConfigChanges {
            entrypoint: Some(vec!["/bin/tool".into()]),
            env: vec![("A".into(), "2".into()), ("B".into(), "3".into())],
            labels: BTreeMap::from([("k".into(), "v".into())]),
            expose: vec!["80".into(), "53/udp".into()],
            ..ConfigChanges::default()
        };
        run(config.as_object_mut().expect("object"), &changes).expect("run");
        assert_eq!(
            config,
            json!({
                "Env": ["PATH=/bin", "A=2", "B=3"],
                "Entrypoint": ["/bin/tool"],
                "Labels": { "k": "v" },
                "ExposedPorts": { "80/tcp": {}, "53/udp": {} },
                "Unknown": 1,
            })
        );
    }
}
