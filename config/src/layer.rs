//! One file as typed: every key known, every value of its type, each with its
//! place; nothing is compared with other layers yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use containerkit::{Digest, DriverKind, Error, ErrorKind, InstanceName, Pattern, Result, quote};
use log::LevelFilter;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::Policy;
use crate::registry::Registry;
use crate::source::{Origin, Source};
use crate::suggest;

/// The format that this build reads.
pub(crate) const VERSION: i64 = 1;

/// The kinds that have instances.
pub(crate) const KINDS: [DriverKind; 3] = [
    DriverKind::Runtime,
    DriverKind::Snapshotter,
    DriverKind::Content,
];

const TOP: [&str; 12] = [
    "version",
    "root",
    "state",
    "log_level",
    "driver_path",
    "call_timeout",
    "default",
    "runtime",
    "snapshotter",
    "content",
    "registry",
    "policy",
];
const INSTANCE: [&str; 4] = ["driver", "sha256", "call_timeout", "options"];

/// The longest limit of a call, in seconds: a week.
const LONGEST: u64 = 7 * 24 * 3600;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// One layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) root: Option<At<PathBuf>>,
    pub(crate) state: Option<At<PathBuf>>,
    pub(crate) log_level: Option<At<LevelFilter>>,
    pub(crate) driver_path: Option<At<Vec<PathBuf>>>,
    pub(crate) call_timeout: Option<At<Duration>>,
    pub(crate) default: BTreeMap<DriverKind, At<InstanceName>>,
    pub(crate) instances: BTreeMap<(DriverKind, InstanceName), RawInstance>,
    pub(crate) registries: BTreeMap<String, Registry>,
    pub(crate) policies: BTreeMap<Pattern, Policy>,
}

/// An instance as one layer has it.
#[derive(Debug)]
pub(crate) struct RawInstance {
    pub(crate) origin: Origin,
    pub(crate) driver: Option<At<String>>,
    pub(crate) sha256: Option<At<Digest>>,
    pub(crate) call_timeout: Option<At<Duration>>,
    pub(crate) options: BTreeMap<String, At<Value>>,
}

pub(crate) type Item<'a> = Spanned<DeValue<'a>>;

/// The entries of a table in the order of the file, so that the first mistake
/// is the one told.
pub(crate) fn entries<'a, 'd>(
    table: &'a DeTable<'d>,
) -> Vec<(&'a str, Range<usize>, &'a Item<'d>)> {
    let mut list: Vec<_> = table
        .iter()
        .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
        .collect();
    list.sort_by_key(|(_, span, _)| span.start);
    list
}

fn document(source: &Source) -> Result<Spanned<DeTable<'_>>> {
    DeTable::parse(&source.text).map_err(|error| {
        let end = source.text.len();
        let why: String = error
            .message()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect();
        source.fail(error.span().unwrap_or(end..end), why)
    })
}

/// Reads one document.
pub(crate) fn parse(source: &Source) -> Result<Layer> {
    let document = document(source)?;
    let reader = Reader { source };
    let top = entries(document.get_ref());
    // First, since a newer format may have any keys.
    if let Some((_, _, value)) = top.iter().find(|(key, _, _)| *key == "version") {
        reader.version(value)?;
    }
    let mut layer = Layer::default();
    for (key, span, value) in top {
        match key {
            "version" => {}
            "root" => layer.root = Some(reader.absolute(key, value)?),
            "state" => layer.state = Some(reader.absolute(key, value)?),
            "log_level" => layer.log_level = Some(reader.level(key, value)?),
            "driver_path" => layer.driver_path = Some(reader.paths(key, value)?),
            "call_timeout" => layer.call_timeout = Some(reader.seconds(key, value)?),
            "default" => layer.default = reader.defaults(value)?,
            "registry" => layer.registries = reader.registries(value)?,
            "policy" => reader.policies(value, &mut layer)?,
            _ => match KINDS.into_iter().find(|kind| kind.name() == key) {
                Some(kind) => reader.instances(kind, value, &mut layer)?,
                None => return Err(reader.unknown("", key, span, &TOP)),
            },
        }
    }
    Ok(layer)
}

/// A document that is a driver's options alone.
pub(crate) fn parse_options(source: &Source) -> Result<Map<String, Value>> {
    let document = document(source)?;
    let reader = Reader { source };
    let options = entries(document.get_ref()).into_iter();
    options
        .map(|(key, _, value)| Ok((key.to_owned(), reader.json(key, value)?)))
        .collect()
}

/// A level as files, flags and variables write it.
pub(crate) fn level(text: &str) -> Result<LevelFilter, String> {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    match text {
        "off" => Ok(LevelFilter::Off),
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => Err(format!(
            "unknown level {}{}",
            quote(text),
            suggest::ending(text, LEVELS)
        )),
    }
}

pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source,
}

impl Reader<'_> {
    pub(crate) fn fail(&self, span: Range<usize>, key: &str, why: impl std::fmt::Display) -> Error {
        self.source.fail(span, format!("{key}: {why}"))
    }

    pub(crate) fn unknown(
        &self,
        table: &str,
        key: &str,
        span: Range<usize>,
        known: &[&str],
    ) -> Error {
        let path = if table.is_empty() {
            quote(key)
        } else {
            format!("{} in {table}", quote(key))
        };
        self.source.fail(
            span,
            format!(
                "unknown key {path}{}",
                suggest::ending(key, known.iter().copied())
            ),
        )
    }

    pub(crate) fn wrong(&self, key: &str, want: &str, value: &Item<'_>) -> Error {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.fail(value.span(), key, format!("want {want}, found {found}"))
    }

    pub(crate) fn string<'v>(&self, key: &str, value: &'v Item<'_>) -> Result<&'v str> {
        let text = value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong(key, "a string", value))?;
        if text.chars().any(char::is_control) {
            return Err(self.fail(
                value.span(),
                key,
                format!("{} has a control character", quote(text)),
            ));
        }
        Ok(text)
    }

    pub(crate) fn table<'v, 'd>(&self, key: &str, value: &'v Item<'d>) -> Result<&'v DeTable<'d>> {
        value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong(key, "a table", value))
    }

    pub(crate) fn at<T>(&self, value: T, item: &Item<'_>) -> At<T> {
        At {
            value,
            origin: self.source.at(item.span()),
        }
    }

    fn version(&self, value: &Item<'_>) -> Result<()> {
        let number = value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.wrong("version", "an integer", value))?;
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(VERSION) => Ok(()),
            Ok(found) if found < VERSION => Err(self.fail(
                value.span(),
                "version",
                format!("{found} never was; this containerkit reads version {VERSION}"),
            )),
            _ => Err(self
                .fail(
                    value.span(),
                    "version",
                    format!(
                        "this file has version {}; this containerkit reads up to {VERSION}",
                        // Digits alone, but perhaps a million of them.
                        number.as_str().chars().take(20).collect::<String>()
                    ),
                )
                .with_kind(ErrorKind::Incompatible)
                .with_hint("use the newer containerkit that the file is meant for")),
        }
    }

    pub(crate) fn absolute(&self, key: &str, value: &Item<'_>) -> Result<At<PathBuf>> {
        let text = self.string(key, value)?;
        absolute(text)
            .map(|path| self.at(path, value))
            .map_err(|why| self.fail(value.span(), key, why))
    }

    pub(crate) fn seconds(&self, key: &str, value: &Item<'_>) -> Result<At<Duration>> {
        let number = value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.wrong(key, "an integer of seconds", value))?;
        i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds <= LONGEST)
            .map(|seconds| self.at(Duration::from_secs(seconds), value))
            .ok_or_else(|| {
                let why = format!("want 0 (for ever) to {LONGEST} seconds");
                self.fail(value.span(), key, why)
            })
    }

    fn level(&self, key: &str, value: &Item<'_>) -> Result<At<LevelFilter>> {
        let text = self.string(key, value)?;
        level(text)
            .map(|level| self.at(level, value))
            .map_err(|why| self.fail(value.span(), key, why))
    }

    fn paths(&self, key: &str, value: &Item<'_>) -> Result<At<Vec<PathBuf>>> {
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong(key, "an array of strings", value))?;
        let mut paths = Vec::new();
        for item in list {
            paths.push(self.absolute(key, item)?.value);
        }
        Ok(self.at(paths, value))
    }

    fn name(&self, key: &str, text: &str, span: Range<usize>) -> Result<InstanceName> {
        text.parse()
            .map_err(|error: Error| self.fail(span, key, error))
    }

    fn defaults(&self, value: &Item<'_>) -> Result<BTreeMap<DriverKind, At<InstanceName>>> {
        let mut defaults = BTreeMap::new();
        for (key, span, value) in entries(self.table("default", value)?) {
            let Some(kind) = KINDS.into_iter().find(|kind| kind.name() == key) else {
                let known = KINDS.map(DriverKind::name);
                return Err(self.unknown("[default]", key, span, &known));
            };
            let path = format!("default.{key}");
            let name = self.name(&path, self.string(&path, value)?, value.span())?;
            defaults.insert(kind, self.at(name, value));
        }
        Ok(defaults)
    }

    fn instances(&self, kind: DriverKind, value: &Item<'_>, layer: &mut Layer) -> Result<()> {
        for (key, span, value) in entries(self.table(kind.name(), value)?) {
            // `[runtime] driver = …`: the instance's name was forgotten.
            if INSTANCE.contains(&key) && !value.get_ref().is_table() {
                return Err(self.fail(
                    span,
                    kind.name(),
                    format!(
                        "{} stands without an instance; write [{kind}.NAME]",
                        quote(key)
                    ),
                ));
            }
            let name = self.name(kind.name(), key, span.clone())?;
            let instance = self.instance(kind, &name, span, value)?;
            layer.instances.insert((kind, name), instance);
        }
        Ok(())
    }

    fn instance(
        &self,
        kind: DriverKind,
        name: &InstanceName,
        span: Range<usize>,
        value: &Item<'_>,
    ) -> Result<RawInstance> {
        let path = format!("{kind}.{name}");
        let mut instance = RawInstance {
            origin: self.source.at(span),
            driver: None,
            sha256: None,
            call_timeout: None,
            options: BTreeMap::new(),
        };
        for (key, span, value) in entries(self.table(&path, value)?) {
            let full = format!("{path}.{key}");
            match key {
                "driver" => {
                    let text = self.string(&full, value)?;
                    driver(text).map_err(|why| self.fail(value.span(), &full, why))?;
                    instance.driver = Some(self.at(text.to_owned(), value));
                }
                "sha256" => {
                    let pin = pin(self.string(&full, value)?)
                        .map_err(|why| self.fail(value.span(), &full, why))?;
                    instance.sha256 = Some(self.at(pin, value));
                }
                "call_timeout" => {
                    instance.call_timeout = Some(self.seconds(&full, value)?);
                }
                "options" => {
                    for (key, span, value) in entries(self.table(&full, value)?) {
                        let option = format!("{full}.{}", key.escape_default());
                        let at = At {
                            value: self.json(&option, value)?,
                            origin: self.source.at(span),
                        };
                        instance.options.insert(key.to_owned(), at);
                    }
                }
                _ => return Err(self.unknown(&format!("[{path}]"), key, span, &INSTANCE)),
            }
        }
        Ok(instance)
    }

    /// A driver's option; what JSON cannot say is refused.
    fn json(&self, key: &str, value: &Item<'_>) -> Result<Value> {
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(flag) => Value::from(*flag),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(Value::from)
                .map_err(|_| self.fail(value.span(), key, "the integer has more than 64 bits"))?,
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map(Value::Number)
                .ok_or_else(|| self.fail(value.span(), key, "want a finite number"))?,
            DeValue::Datetime(_) => return Err(self.wrong(key, "a string", value)),
            DeValue::Array(list) => list
                .iter()
                .map(|item| self.json(key, item))
                .collect::<Result<_>>()?,
            DeValue::Table(table) => {
                let mut map = Map::new();
                for (name, _, value) in entries(table) {
                    map.insert(name.to_owned(), self.json(key, value)?);
                }
                Value::Object(map)
            }
        })
    }
}

/// An absolute path.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("it is empty; want an absolute path".into());
    }
    if !text.starts_with('/') {
        return Err(format!(
            "{} is relative; want an absolute path",
            quote(text)
        ));
    }
    Ok(PathBuf::from(text))
}

fn driver(text: &str) -> Result<(), String> {
    if text.is_empty() || text == "." || text == ".." {
        return Err(format!("{} is no file name", quote(text)));
    }
    if text.contains('/') && !text.starts_with('/') {
        return Err(format!(
            "{} is a relative path; want a bare file name or an absolute path",
            quote(text)
        ));
    }
    Ok(())
}

fn pin(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}")
        .parse()
        .map_err(|error: Error| error.to_string())
}
