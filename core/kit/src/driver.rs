//! What every driver has, whatever its kind: a name, options, folders of its own.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result, quote};
use crate::ids::InstanceName;

/// The kinds of driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum DriverKind {
    /// [`Runtime`](crate::Runtime).
    Runtime = 1,
    /// [`Snapshotter`](crate::Snapshotter).
    Snapshotter = 2,
    /// [`ContentStore`](crate::ContentStore).
    Content = 4,
    /// Container interfaces.
    Network = 8,
    /// Named volumes.
    Volume = 16,
}

impl DriverKind {
    /// All kinds.
    pub const ALL: [DriverKind; 5] = [
        DriverKind::Runtime,
        DriverKind::Snapshotter,
        DriverKind::Content,
        DriverKind::Network,
        DriverKind::Volume,
    ];

    /// The bit of this kind in a driver's declaration.
    pub const fn bit(self) -> u32 {
        self as u32
    }

    /// The name in the configuration and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            DriverKind::Runtime => "runtime",
            DriverKind::Snapshotter => "snapshotter",
            DriverKind::Content => "content",
            DriverKind::Network => "network",
            DriverKind::Volume => "volume",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DriverKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<DriverKind> {
        DriverKind::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "driver kind {}: want runtime, snapshotter, content, network or volume",
                    quote(text)
                ))
            })
    }
}

/// The type of an option's value in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionKind {
    /// A string.
    String,
    /// An absolute path, or a bare program name where the help says so.
    Path,
    /// An integer.
    Integer,
    /// A boolean.
    Boolean,
    /// An array of strings.
    StringList,
    /// A table whose values are strings.
    StringMap,
}

impl OptionKind {
    /// How the type is called in an error.
    pub const fn name(self) -> &'static str {
        match self {
            OptionKind::String => "a string",
            OptionKind::Path => "an absolute path",
            OptionKind::Integer => "an integer",
            OptionKind::Boolean => "true or false",
            OptionKind::StringList => "an array of strings",
            OptionKind::StringMap => "a table of strings",
        }
    }

    /// Whether a value has this type.
    pub fn accepts(self, value: &Value) -> bool {
        match self {
            OptionKind::String => value.is_string(),
            OptionKind::Path => value.as_str().is_some_and(|path| match path.contains('/') {
                true => path.starts_with('/') && !path.contains('\0'),
                false => !path.is_empty() && !path.contains('\0'),
            }),
            OptionKind::Integer => value.is_i64() || value.is_u64(),
            OptionKind::Boolean => value.is_boolean(),
            OptionKind::StringList => value
                .as_array()
                .is_some_and(|list| list.iter().all(Value::is_string)),
            OptionKind::StringMap => value
                .as_object()
                .is_some_and(|map| map.values().all(Value::is_string)),
        }
    }
}

/// One option of a driver: its part of the options schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionSpec {
    /// The key in TOML.
    pub name: String,
    /// The type of its value.
    pub kind: OptionKind,
    /// The default as people read it; empty when there is none.
    pub default: String,
    /// One sentence.
    pub help: String,
}

impl OptionSpec {
    /// One row of a driver's schema.
    pub fn new(name: &str, kind: OptionKind, default: &str, help: &str) -> OptionSpec {
        OptionSpec {
            name: name.into(),
            kind,
            default: default.into(),
            help: help.into(),
        }
    }
}

/// What a driver says of itself, before an instance exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// The driver's name, `overlay`.
    pub name: String,
    /// The driver's own version.
    pub version: String,
    /// Its kind.
    pub kind: DriverKind,
    /// Its options; an option that is not here is refused.
    pub options: Vec<OptionSpec>,
}

/// What an instance of a driver is given when it is opened.
///
/// `root` and `state` are this instance's own folders
/// (`<root>/<kind>/<instance>`), exist, are absolute and of mode 0700 (0711
/// where a container with mapped users must pass). A driver writes nowhere
/// else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverContext {
    /// The instance's name in the configuration.
    pub instance: InstanceName,
    /// Persistent data of this instance.
    pub root: PathBuf,
    /// Run-time data of this instance, gone after a reboot.
    pub state: PathBuf,
    /// The options, checked against the driver's schema.
    pub options: Map<String, Value>,
    /// How long one call may take before the program that loaded the driver
    /// ends; zero is for ever, `None` the program's own default. Not told to
    /// a loaded driver, which has nothing to do with it.
    pub call_timeout: Option<Duration>,
}

impl DriverContext {
    /// A context without options.
    pub fn new(
        instance: InstanceName,
        root: impl Into<PathBuf>,
        state: impl Into<PathBuf>,
    ) -> DriverContext {
        DriverContext {
            instance,
            root: root.into(),
            state: state.into(),
            options: Map::new(),
            call_timeout: None,
        }
    }

    /// The same with a limit of each call.
    #[must_use]
    pub fn with_call_timeout(mut self, limit: Option<Duration>) -> DriverContext {
        self.call_timeout = limit;
        self
    }

    /// The same with options.
    #[must_use]
    pub fn with_options(mut self, options: Map<String, Value>) -> DriverContext {
        self.options = options;
        self
    }

    fn option<T>(
        &self,
        name: &str,
        kind: OptionKind,
        get: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.options.get(name) {
            None => Ok(None),
            Some(value) => get(value).map(Some).ok_or_else(|| {
                Error::invalid(format!(
                    "driver instance {}: option {name}: want {}",
                    self.instance,
                    kind.name()
                ))
            }),
        }
    }

    /// A string option.
    pub fn string(&self, name: &str) -> Result<Option<String>> {
        self.option(name, OptionKind::String, |v| v.as_str().map(str::to_owned))
    }

    /// A boolean option.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>> {
        self.option(name, OptionKind::Boolean, Value::as_bool)
    }

    /// An integer option.
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        self.option(name, OptionKind::Integer, Value::as_i64)
    }

    /// An array-of-strings option.
    pub fn string_list(&self, name: &str) -> Result<Option<Vec<String>>> {
        self.option(name, OptionKind::StringList, |value| {
            value
                .as_array()?
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        })
    }

    /// Refuses options that the schema does not have or whose type is wrong.
    pub fn check_options(&self, schema: &[OptionSpec]) -> Result<()> {
        for (name, value) in &self.options {
            let Some(spec) = schema.iter().find(|spec| spec.name == *name) else {
                let known: Vec<&str> = schema.iter().map(|spec| spec.name.as_str()).collect();
                return Err(Error::invalid(format!(
                    "driver instance {}: unknown option {}; known: {}",
                    self.instance,
                    quote(name),
                    if known.is_empty() {
                        "none".into()
                    } else {
                        known.join(", ")
                    }
                )));
            };
            if !spec.kind.accepts(value) {
                return Err(Error::invalid(format!(
                    "driver instance {}: option {name}: want {}",
                    self.instance,
                    spec.kind.name()
                )));
            }
        }
        Ok(())
    }
}

/// A driver as an author writes it: a type that also implements the trait of
/// its kind. `export_driver!` of `containerkit-plugin` makes a shared object
/// of it; a program that links it calls [`Driver::open`].
pub trait Driver: Sized + 'static {
    /// Name, version, kind and options. Cheap and free of side effects.
    fn info() -> DriverInfo;

    /// Opens an instance. What is wrong with its surroundings (no such binary,
    /// a file system that cannot serve) is said here. Options were checked
    /// against [`DriverInfo::options`].
    fn open(context: DriverContext) -> Result<Self>;
}
