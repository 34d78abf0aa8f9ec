//! Which of an image's platforms is meant: OCI image-spec `image-index.md`,
//! with the order among CPU variants that the tools of the field keep.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Platform;

use crate::error::{Error, Result, quote};

/// A wanted platform, `OS/ARCHITECTURE[/VARIANT]`.
///
/// ```
/// use containerkit::PlatformChoice;
/// let choice: PlatformChoice = "linux/arm64/v8".parse().unwrap();
/// assert_eq!(choice.to_string(), "linux/arm64");
/// assert!("linux".parse::<PlatformChoice>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformChoice {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl PlatformChoice {
    /// This machine's, with the highest variant it can run.
    pub fn host() -> PlatformChoice {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", Some(amd64_level())),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7".to_string())),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        PlatformChoice {
            os: "linux".into(),
            architecture: architecture.into(),
            variant,
        }
    }

    /// The operating system, as images name it.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture, as images name it.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well something fits; higher is better, `None` not at all.
    pub fn rank(&self, offered: &Offered) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let wanted = level(&self.architecture, self.variant.as_deref());
        let found = level(&self.architecture, offered.variant.as_deref());
        match (wanted, found) {
            (Some(wanted), Some(found)) if found <= wanted => Some(found),
            (Some(_), Some(_)) => None,
            _ if self.variant == offered.variant => Some(1),
            _ if offered.variant.is_none() => Some(0),
            _ => None,
        }
    }
}

impl Default for PlatformChoice {
    fn default() -> PlatformChoice {
        PlatformChoice::host()
    }
}

impl fmt::Display for PlatformChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if self.architecture != "amd64" => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for PlatformChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<PlatformChoice> {
        let bad = || {
            Error::invalid(format!(
                "platform {}: want OS/ARCHITECTURE[/VARIANT], such as linux/arm64/v8",
                quote(text)
            ))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(fits) {
            return Err(bad());
        }
        let offered = Offered::new(parts[0], parts[1], parts.get(2).copied());
        Ok(PlatformChoice {
            os: offered.os,
            architecture: offered.architecture,
            variant: offered.variant,
        })
    }
}

/// What an image has, with the field's other spellings made one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub architecture: String,
    /// The CPU's variant.
    pub variant: Option<String>,
}

impl Offered {
    /// From words as they stand in an image.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Offered {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64", _) => ("amd64".to_string(), variant),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64".to_string(), None),
            ("aarch64", _) => ("arm64".to_string(), variant),
            ("armhf", _) => ("arm".to_string(), Some("v7".to_string())),
            ("armel", _) => ("arm".to_string(), Some("v6".to_string())),
            ("i386" | "i686", _) => ("386".to_string(), variant),
            _ => (architecture, variant),
        };
        Offered {
            os,
            architecture,
            variant,
        }
    }

    /// From a descriptor.
    pub fn of(platform: &Platform) -> Offered {
        Offered::new(
            &platform.os().to_string(),
            &platform.architecture().to_string(),
            platform.variant().as_deref(),
        )
    }

    /// As in an index.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({ "os": self.os, "architecture": self.architecture });
        if let Some(variant) = &self.variant {
            json["variant"] = serde_json::json!(variant);
        }
        json
    }

    /// Build attestations and the like say so.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The number of a variant where variants are an order.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let default = match architecture {
        "amd64" => 1,
        "arm" => 7,
        "arm64" => 8,
        _ => return None,
    };
    match variant {
        None => Some(default),
        Some(variant) => variant.trim_start_matches('v').parse().ok(),
    }
}

#[cfg(target_arch = "x86_64")]
fn amd64_level() -> String {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let level = 1 + u32::from(v2) + u32::from(v3) + u32::from(v4);
    format!("v{level}")
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> String {
    "v1".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(choice: &str, os: &str, architecture: &str, variant: Option<&str>) -> Option<u32> {
        let choice: PlatformChoice = choice.parse().expect("platform");
        choice.rank(&Offered::new(os, architecture, variant))
    }

    #[test]
    fn the_best_variant_that_runs_wins() {
        assert_eq!(
            rank("linux/amd64/v3", "linux", "amd64", Some("v2")),
            Some(2)
        );
        assert_eq!(rank("linux/amd64/v3", "linux", "amd64", None), Some(1));
        assert_eq!(rank("linux/amd64/v3", "linux", "amd64", Some("v4")), None);
        assert_eq!(rank("linux/amd64", "linux", "amd64", Some("v2")), None);
        assert_eq!(rank("linux/arm64", "linux", "arm64", Some("v8")), Some(8));
        assert_eq!(rank("linux/arm/v6", "linux", "arm", Some("v7")), None);
        assert_eq!(rank("linux/arm/v7", "linux", "arm", Some("v5")), Some(5));
        assert_eq!(rank("linux/amd64", "windows", "amd64", None), None);
        assert_eq!(rank("linux/s390x", "linux", "s390x", None), Some(1));
        let host = PlatformChoice::host();
        let offered = Offered::new("linux", &host.architecture, None);
        assert!(host.rank(&offered).is_some());
    }

    #[test]
    fn hostile_platforms_are_refused() {
        for bad in [
            "",
            "linux",
            "a/b/c/d",
            "linux/",
            "/amd64",
            "linux/a\nb",
            "../x/y/z",
        ] {
            assert!(bad.parse::<PlatformChoice>().is_err(), "{bad}");
        }
    }
}
