//! The layers in one: [`Config`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit::{Context, Digest, DriverKind, Error, InstanceName, Pattern, Result, quote};
use log::LevelFilter;
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::layer::{self, At, Layer, RawInstance};
use crate::policy::Policy;
use crate::registry::Registry;
use crate::source::{Origin, Source, drop_ins};
use crate::suggest;

const DEFAULT: &str = include_str!("../containerkit.toml");
const SYSTEM: &str = "/etc/containerkit/containerkit.toml";

/// The flags of a command line, which override everything.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`: the file; it must exist.
    pub config: Option<PathBuf>,
    /// `--root`; relative to the current folder.
    pub root: Option<PathBuf>,
    /// `--state`; relative to the current folder.
    pub state: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<LevelFilter>,
}

/// The instances that serve when none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Of runtimes.
    pub runtime: InstanceName,
    /// Of snapshotters.
    pub snapshotter: InstanceName,
    /// Of content stores.
    pub content: InstanceName,
}

impl Defaults {
    /// The default of a kind; kinds without instances have none.
    pub fn of(&self, kind: DriverKind) -> Option<&InstanceName> {
        match kind {
            DriverKind::Runtime => Some(&self.runtime),
            DriverKind::Snapshotter => Some(&self.snapshotter),
            DriverKind::Content => Some(&self.content),
            _ => None,
        }
    }
}

/// A driver instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The shared object: a bare file name or an absolute path.
    pub driver: String,
    /// Its hash, when it is pinned.
    pub sha256: Option<Digest>,
    /// How long one call into it may take, when it differs from the
    /// configuration's; zero is for ever.
    pub call_timeout: Option<Duration>,
    /// Its options, not yet checked against the driver's schema.
    pub options: Map<String, Value>,
    /// Where `driver` stands.
    pub origin: Origin,
    pub(crate) sha256_origin: Option<Origin>,
    pub(crate) call_timeout_origin: Option<Origin>,
    pub(crate) option_origins: BTreeMap<String, Origin>,
}

impl Instance {
    /// Where an option stands.
    pub fn option_origin(&self, name: &str) -> &Origin {
        self.option_origins.get(name).unwrap_or(&self.origin)
    }

    /// Where the pin stands.
    pub fn sha256_origin(&self) -> Option<&Origin> {
        self.sha256_origin.as_ref()
    }
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The version of the format.
    pub version: u32,
    /// What lasts.
    pub root: PathBuf,
    /// What a reboot ends.
    pub state: PathBuf,
    /// What is logged.
    pub log_level: LevelFilter,
    /// Where a bare file name is looked for.
    pub driver_path: Vec<PathBuf>,
    /// How long one call into a driver may take before the program ends; zero
    /// is for ever.
    pub call_timeout: Duration,
    /// The instances that serve when none is named; all are in `instances`.
    pub default: Defaults,
    /// All instances.
    pub instances: BTreeMap<(DriverKind, InstanceName), Instance>,
    /// How registries are reached, by the domain that image names have.
    pub registries: BTreeMap<String, Registry>,
    /// What is asked of images before they are used, by pattern; `*` is among
    /// them.
    pub policies: BTreeMap<Pattern, Policy>,
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
    /// What is unwise and no error, one line each. They are for the caller to
    /// log: how it logs may depend on this very configuration.
    pub warnings: Vec<String>,
    /// By key, as in TOML.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
}

impl Config {
    /// Reads all layers of this process. Any mistake in any of them is an
    /// error, whether or not a later layer covers it.
    pub fn load(flags: &Flags) -> Result<Config> {
        Config::load_with(flags, &Environment::of_process(), Path::new(SYSTEM))
    }

    /// The configuration of a TOML text laid over the built-in default, as if
    /// `path` had it; no other file and no environment counts.
    pub fn from_toml(text: &str, path: &Path) -> Result<Config> {
        let source = Source::new(Some(path.into()), text.to_owned());
        merge(vec![built_in()?, layer::parse(&source)?], vec![path.into()])
    }

    /// The built-in default, comments and all.
    pub fn default_toml() -> &'static str {
        DEFAULT
    }

    pub(crate) fn load_with(
        flags: &Flags,
        environment: &Environment,
        system: &Path,
    ) -> Result<Config> {
        let (main, wanted_by) = match (&flags.config, environment.config()) {
            (Some(path), _) => (path.clone(), Some("--config")),
            (None, Some(path)) => (PathBuf::from(path), Some("$CONTAINERKIT_CONFIG")),
            (None, None) => (system.to_path_buf(), None),
        };
        let mut files = Vec::new();
        // One that was asked for must be there; that of the system may be
        // absent, and its drop-ins count all the same.
        let found = wanted_by.is_some() || std::fs::symlink_metadata(&main).is_ok();
        if found {
            files.push(main.clone());
        }
        if main != Path::new("/dev/null") {
            files.extend(drop_ins(&main)?);
        }
        let mut layers = vec![built_in()?];
        let mut warnings: Vec<String> = environment.warning.iter().cloned().collect();
        for (index, path) in files.iter().enumerate() {
            let source = match wanted_by {
                Some(by) if index == 0 => Source::read(path).context(|| by)?,
                _ => Source::read(path)?,
            };
            layers.push(layer::parse(&source)?);
            warnings.extend(source.warning);
        }
        layers.push(environment.layer()?);
        layers.push(flags_layer(flags)?);
        let mut config = merge(layers, files)?;
        config.warnings = warnings;
        Ok(config)
    }

    /// An instance by name.
    pub fn instance(&self, kind: DriverKind, name: &InstanceName) -> Result<&Instance> {
        self.instances.get(&(kind, name.clone())).ok_or_else(|| {
            let known: Vec<&str> = self.names(kind).map(InstanceName::as_str).collect();
            Error::not_found(format!(
                "no {kind} instance {} is configured{}",
                quote(name.as_str()),
                suggest::ending(name.as_str(), known)
            ))
        })
    }

    /// The instances of a kind, in name order.
    pub fn names(&self, kind: DriverKind) -> impl Iterator<Item = &InstanceName> {
        self.instances
            .keys()
            .filter(move |(of, _)| *of == kind)
            .map(|(_, name)| name)
    }

    /// `<root>/<kind>/<instance>`: what an instance keeps.
    pub fn instance_root(&self, kind: DriverKind, name: &InstanceName) -> PathBuf {
        self.root.join(kind.name()).join(name.as_str())
    }

    /// `<state>/<kind>/<instance>`: what an instance forgets at a reboot.
    pub fn instance_state(&self, kind: DriverKind, name: &InstanceName) -> PathBuf {
        self.state.join(kind.name()).join(name.as_str())
    }

    /// How long one call into an instance may take; zero is for ever.
    pub fn call_timeout(&self, instance: &Instance) -> Duration {
        instance.call_timeout.unwrap_or(self.call_timeout)
    }

    /// Where a top-level key (`root`) or a default (`default.runtime`) was set.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }
}

fn built_in() -> Result<Layer> {
    layer::parse(&Source::new(None, DEFAULT.into()))
}

fn flags_layer(flags: &Flags) -> Result<Layer> {
    let path = |name: &'static str, path: &Option<PathBuf>| -> Result<Option<At<PathBuf>>> {
        let Some(path) = path else { return Ok(None) };
        let value = std::path::absolute(path).map_err(|error| {
            Error::io(format!("{name} {}", quote(&path.to_string_lossy())), error)
                .with_kind(containerkit::ErrorKind::InvalidArgument)
        })?;
        if value.to_string_lossy().chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "{name}: {} has a control character",
                quote(&value.to_string_lossy())
            )));
        }
        Ok(Some(At {
            value,
            origin: Origin::Flag(name),
        }))
    };
    Ok(Layer {
        root: path("--root", &flags.root)?,
        state: path("--state", &flags.state)?,
        log_level: flags.log_level.map(|value| At {
            value,
            origin: Origin::Flag("--log-level"),
        }),
        ..Layer::default()
    })
}

fn lay<T>(under: &mut Option<At<T>>, over: Option<At<T>>) {
    if over.is_some() {
        *under = over;
    }
}

fn merge(layers: Vec<Layer>, files: Vec<PathBuf>) -> Result<Config> {
    let mut all = Layer::default();
    for layer in layers {
        lay(&mut all.root, layer.root);
        lay(&mut all.state, layer.state);
        lay(&mut all.log_level, layer.log_level);
        lay(&mut all.driver_path, layer.driver_path);
        lay(&mut all.call_timeout, layer.call_timeout);
        all.default.extend(layer.default);
        for (name, over) in layer.registries {
            all.registries.entry(name).or_default().lay(over);
        }
        all.policies.extend(layer.policies);
        for (key, over) in layer.instances {
            match all.instances.get_mut(&key) {
                // Options are a driver's own: another driver starts anew.
                Some(under) if over.driver.is_none() => {
                    lay(&mut under.sha256, over.sha256);
                    lay(&mut under.call_timeout, over.call_timeout);
                    under.options.extend(over.options);
                }
                _ => {
                    all.instances.insert(key, over);
                }
            }
        }
    }
    finish(all, files)
}

fn finish(all: Layer, files: Vec<PathBuf>) -> Result<Config> {
    let mut origins = BTreeMap::new();
    let mut instances = BTreeMap::new();
    for ((kind, name), raw) in &all.instances {
        let others = all
            .instances
            .iter()
            .filter(|(key, raw)| key.0 == *kind && raw.driver.is_some());
        let instance = instance(*kind, name, raw, others.map(|(key, _)| key.1.as_str()))?;
        instances.insert((*kind, name.clone()), instance);
    }
    let mut default = |kind: DriverKind, key: &'static str| -> Result<InstanceName> {
        let at = required(all.default.get(&kind).cloned(), key)?;
        if !instances.contains_key(&(kind, at.value.clone())) {
            let known: Vec<&str> = instances
                .keys()
                .filter(|(of, _)| *of == kind)
                .map(|(_, name)| name.as_str())
                .collect();
            return Err(Error::invalid(format!(
                "{}: {key}: no {kind} instance {} is configured{}",
                at.origin,
                quote(at.value.as_str()),
                suggest::ending(at.value.as_str(), known)
            )));
        }
        origins.insert(key, at.origin);
        Ok(at.value)
    };
    let default = Defaults {
        runtime: default(DriverKind::Runtime, "default.runtime")?,
        snapshotter: default(DriverKind::Snapshotter, "default.snapshotter")?,
        content: default(DriverKind::Content, "default.content")?,
    };
    let root = required(all.root, "root")?;
    let state = required(all.state, "state")?;
    if root.value == state.value {
        return Err(Error::invalid(format!(
            "{}: state: it is the same folder as root ({}); want two",
            state.origin, root.origin
        )));
    }
    let log_level = required(all.log_level, "log_level")?;
    let driver_path = required(all.driver_path, "driver_path")?;
    let call_timeout = required(all.call_timeout, "call_timeout")?;
    origins.insert("root", root.origin);
    origins.insert("state", state.origin);
    origins.insert("log_level", log_level.origin);
    origins.insert("driver_path", driver_path.origin);
    origins.insert("call_timeout", call_timeout.origin);
    Ok(Config {
        version: layer::VERSION as u32,
        root: root.value,
        state: state.value,
        log_level: log_level.value,
        driver_path: driver_path.value,
        call_timeout: call_timeout.value,
        default,
        instances,
        registries: all.registries,
        policies: all.policies,
        files,
        warnings: Vec::new(),
        origins,
    })
}

/// The built-in default has every key, so this fails only when it is broken.
fn required<T>(value: Option<T>, key: &str) -> Result<T> {
    value.ok_or_else(|| Error::internal(format!("the built-in default has no {key}")))
}

fn instance<'a>(
    kind: DriverKind,
    name: &InstanceName,
    raw: &RawInstance,
    known: impl Iterator<Item = &'a str>,
) -> Result<Instance> {
    let Some(driver) = &raw.driver else {
        let mut why = format!("{}: [{kind}.{name}] has no `driver`", raw.origin);
        if let Some(near) = suggest::nearest(name.as_str(), known) {
            why.push_str(&format!("; did you mean [{kind}.{near}]?"));
        }
        return Err(Error::invalid(why));
    };
    let option = |(key, at): (&String, &At<Value>)| (key.clone(), at.value.clone());
    let origin = |(key, at): (&String, &At<Value>)| (key.clone(), at.origin.clone());
    Ok(Instance {
        driver: driver.value.clone(),
        sha256: raw.sha256.as_ref().map(|at| at.value.clone()),
        call_timeout: raw.call_timeout.as_ref().map(|at| at.value),
        options: raw.options.iter().map(option).collect(),
        origin: driver.origin.clone(),
        sha256_origin: raw.sha256.as_ref().map(|at| at.origin.clone()),
        call_timeout_origin: raw.call_timeout.as_ref().map(|at| at.origin.clone()),
        option_origins: raw.options.iter().map(origin).collect(),
    })
}
