//! Names that are parsed once: container ids, snapshot keys, ingest refs and
//! driver instances.
//!
//! What could climb out of a folder, split a line or hide a control character
//! is refused here, where text becomes a name, and never checked again.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, quote};

/// Implements serde through `Display` and `FromStr`, so that stored and
/// received names pass the same parser.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<$name> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok($name(text.into())),
                    Err(why) => Err(Error::invalid(format!("{} {}: {why}", $what, quote(text)))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        serde_as_text!($name);
    };
}

text_type!(
    /// The id or name of a container: `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`,
    /// a single path component that starts with a letter or digit.
    ContainerId,
    "container id",
    |text| identifier(text, 128)
);

text_type!(
    /// The key of a snapshot: 1 to 255 bytes of `[A-Za-z0-9_.:@+=/-]`, whose
    /// `/`-separated components are neither empty nor `.` nor `..`. A key is a
    /// name in a database and never a path.
    SnapshotKey,
    "snapshot key",
    |text| key(text, 255)
);

text_type!(
    /// The name of an ingest: as a snapshot key, up to 255 bytes. Stores hash
    /// it where they need a file name.
    IngestRef,
    "ingest ref",
    |text| key(text, 255)
);

text_type!(
    /// The name of a driver instance in the configuration:
    /// `[a-z0-9][a-z0-9_.-]{0,63}`.
    InstanceName,
    "driver instance",
    |text| {
        identifier(text, 64)?;
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("want lowercase letters");
        }
        Ok(())
    }
);

impl ContainerId {
    /// A fresh random id: 64 lowercase hex characters.
    pub fn generate() -> Result<ContainerId> {
        let mut bytes = [0u8; 32];
        rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::io("get random bytes for a container id", e))?;
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(ContainerId(hex.into()))
    }

    /// The first 12 characters, for people.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

fn identifier(text: &str, limit: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > limit {
        return Err("it is too long");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("it must begin with a letter or a digit");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        return Err("want letters, digits, '_', '.' and '-' only");
    }
    Ok(())
}

fn key(text: &str, limit: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > limit {
        return Err("it is too long");
    }
    if !text.bytes().all(|b| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'_' | b'.' | b':' | b'@' | b'+' | b'=' | b'/' | b'-')
    }) {
        return Err("want letters, digits and any of _ . : @ + = / - only");
    }
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("a component between slashes is empty, '.' or '..'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused_in_one_line() {
        let long = "a".repeat(300);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "a\0b",
            "a\nb",
            "a b",
            "é",
            "x\u{1b}[31m",
            long.as_str(),
        ] {
            for error in [
                bad.parse::<ContainerId>().map(drop).expect_err(bad),
                bad.parse::<SnapshotKey>().map(drop).expect_err(bad),
                bad.parse::<IngestRef>().map(drop).expect_err(bad),
                bad.parse::<InstanceName>().map(drop).expect_err(bad),
            ] {
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{text}");
                assert!(text.len() < 400, "{text}");
            }
        }
        assert!("a/b".parse::<ContainerId>().is_err());
        assert!("Overlay".parse::<InstanceName>().is_err());
    }

    #[test]
    fn good_names_pass_and_serde_uses_the_parser() {
        for good in ["a", "web-1", "A.b_c", "0", &"a".repeat(128)] {
            assert_eq!(
                good.parse::<ContainerId>()
                    .map(|id| id.to_string())
                    .as_deref(),
                Ok(good)
            );
        }
        assert!("sha256:00/extract@x".parse::<SnapshotKey>().is_ok());
        assert!(serde_json::from_str::<ContainerId>("\"../x\"").is_err());
        assert_eq!(ContainerId::generate().map(|id| id.as_str().len()), Ok(64));
    }
}
