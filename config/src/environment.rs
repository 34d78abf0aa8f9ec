//! The environment variables that count.

use std::collections::BTreeMap;
use std::ffi::OsString;

use containerkit::{DriverKind, Error, InstanceName, Result};

use crate::layer::{self, At, Layer};
use crate::source::Origin;

/// Names the file, as `--config` does.
pub(crate) const CONFIG: &str = "CONTAINERKIT_CONFIG";
const ROOT: &str = "CONTAINERKIT_ROOT";
const STATE: &str = "CONTAINERKIT_STATE";
const LOG_LEVEL: &str = "CONTAINERKIT_LOG_LEVEL";
const DEFAULTS: [(&str, DriverKind); 3] = [
    ("CONTAINERKIT_RUNTIME", DriverKind::Runtime),
    ("CONTAINERKIT_SNAPSHOTTER", DriverKind::Snapshotter),
    ("CONTAINERKIT_CONTENT", DriverKind::Content),
];

/// The variables of ours that are set and not empty.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    values: BTreeMap<&'static str, OsString>,
    /// Why variables that are set do not count.
    pub(crate) warning: Option<String>,
}

impl Environment {
    /// Those of this process; none when its privileges differ from its
    /// caller's, who must not choose what is loaded into it.
    pub(crate) fn of_process() -> Environment {
        let found = Environment::from_lookup(|name| std::env::var_os(name));
        if found.values.is_empty() || !privileges_differ() {
            return found;
        }
        found.ignored()
    }

    fn ignored(self) -> Environment {
        let names: Vec<&str> = self.values.into_keys().collect();
        Environment {
            values: BTreeMap::new(),
            warning: Some(format!(
                "ignored, since this process has other privileges than its caller: ${}",
                names.join(", $")
            )),
        }
    }

    pub(crate) fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Environment {
        let names = [CONFIG, ROOT, STATE, LOG_LEVEL]
            .into_iter()
            .chain(DEFAULTS.iter().map(|(name, _)| *name));
        Environment {
            values: names
                .filter_map(|name| Some((name, lookup(name)?)))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            warning: None,
        }
    }

    pub(crate) fn config(&self) -> Option<&OsString> {
        self.values.get(CONFIG)
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>> {
        let Some(value) = self.values.get(name) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) if !text.chars().any(char::is_control) => Ok(Some(text)),
            _ => Err(Error::invalid(format!(
                "${name}: want UTF-8 without control characters"
            ))),
        }
    }

    fn value<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<At<T>>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let value = read(text).map_err(|why| Error::invalid(format!("${name}: {why}")))?;
        Ok(Some(At {
            value,
            origin: Origin::Environment(name),
        }))
    }

    /// The layer of the environment.
    pub(crate) fn layer(&self) -> Result<Layer> {
        let mut layer = Layer {
            root: self.value(ROOT, layer::absolute)?,
            state: self.value(STATE, layer::absolute)?,
            log_level: self.value(LOG_LEVEL, layer::level)?,
            ..Layer::default()
        };
        for (name, kind) in DEFAULTS {
            let value = self.value(name, |text| {
                text.parse::<InstanceName>()
                    .map_err(|error| error.to_string())
            })?;
            if let Some(value) = value {
                layer.default.insert(kind, value);
            }
        }
        Ok(layer)
    }
}

/// Whether the program was started with more rights than its caller has: set
/// user or group ids, or file capabilities (`AT_SECURE`).
fn privileges_differ() -> bool {
    let ids = rustix::process::getuid() != rustix::process::geteuid()
        || rustix::process::getgid() != rustix::process::getegid();
    ids || match std::fs::read("/proc/self/auxv") {
        Ok(vector) => at_secure(&vector),
        // Without /proc the ids alone must do; a vector that may not be read
        // is that of a program with rights of its own.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn at_secure(vector: &[u8]) -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    vector.chunks_exact(2 * WORD).any(|pair| {
        let word = |at: usize| {
            let mut bytes = [0; WORD];
            bytes.copy_from_slice(&pair[at..at + WORD]);
            usize::from_ne_bytes(bytes)
        };
        word(0) == AT_SECURE && word(WORD) != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_caller_with_fewer_rights_nothing_counts() {
        let set = Environment::from_lookup(|name| Some(name.into()));
        assert!(set.config().is_some());
        let ignored = set.ignored();
        assert!(ignored.config().is_none());
        assert!(ignored.layer().expect("empty").root.is_none());
        let warning = ignored.warning.expect("warning");
        assert!(
            warning.contains("$CONTAINERKIT_CONFIG, $CONTAINERKIT_CONTENT"),
            "{warning}"
        );
    }

    #[test]
    fn the_auxiliary_vector_tells_privileges() {
        let vector = |pairs: &[(usize, usize)]| -> Vec<u8> {
            pairs
                .iter()
                .flat_map(|(a, b)| [a.to_ne_bytes(), b.to_ne_bytes()].concat())
                .collect()
        };
        assert!(at_secure(&vector(&[(3, 9), (23, 1), (0, 0)])));
        assert!(!at_secure(&vector(&[(3, 23), (23, 0), (0, 0)])));
        assert!(!at_secure(&[1, 2, 3]));
        // A test runs with the rights of its caller.
        assert!(!privileges_differ());
    }
}
