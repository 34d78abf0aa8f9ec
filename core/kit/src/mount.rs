//! [`Mount`]: the noun that joins snapshotters and runtimes.
//!
//! A mount is a `mount(2)` call as a value. A snapshotter emits mounts, the
//! [mounter](crate::mounter) performs them, a runtime finds the result; none
//! of them knows another.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A mount to perform, in `mount(2)`'s terms.
///
/// Options are whole strings as in fstab (`ro`, `nosuid`, `size=64m`), and
/// hold **plain** values: the mounter escapes what the kernel wants escaped.
/// An overlay names its layers by one `lowerdir+=PATH` option a layer, topmost
/// first, then `upperdir=PATH` and `workdir=PATH`; PATH is absolute and may
/// hold commas, colons, spaces and backslashes. A bind mount has type `bind`
/// and the option `bind` or `rbind`, with `ro` when it is read-only. The option
/// `idmap=UIDS;GIDS` ([`IdMapping`](crate::idmap::IdMapping)) shows the layers
/// that come after it, or the source of a bind, with mapped owners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File-system type: `overlay`, `bind`, `tmpfs`, …
    #[serde(rename = "type")]
    pub fstype: String,
    /// Device, or the absolute path of a bind's source.
    pub source: String,
    /// Where under the root that the caller chooses: empty for the root
    /// itself, else a path resolved in that root.
    pub target: String,
    /// Options, in order.
    pub options: Vec<String>,
}

impl Mount {
    /// A bind mount of a whole folder onto the root.
    pub fn bind(source: impl Into<PathBuf>, access: Access) -> Mount {
        Mount {
            fstype: "bind".into(),
            source: source.into().to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".into(), access.option().into()],
        }
    }

    /// Whether the options make it read-only.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// The mount made read-only. An overlay loses its upper and work folder,
    /// with the upper as its topmost layer.
    #[must_use]
    pub fn read_only(mut self) -> Mount {
        let upper = self
            .options
            .iter()
            .find_map(|option| option.strip_prefix("upperdir=").map(str::to_owned));
        self.options.retain(|option| {
            !matches!(option.as_str(), "rw" | "volatile")
                && !option.starts_with("upperdir=")
                && !option.starts_with("workdir=")
        });
        if let Some(upper) = upper {
            let first = self
                .options
                .iter()
                .position(|o| o.starts_with("lowerdir+=") || o.starts_with("idmap="))
                .unwrap_or(0);
            self.options.insert(first, format!("lowerdir+={upper}"));
        }
        if !self.is_read_only() {
            self.options.push("ro".into());
        }
        self
    }
}

impl Mount {
    /// The mount without any promise that what is written to it survives a
    /// crash of the machine, for what is thrown away at its end. An overlay
    /// then skips the sync of its whole upper file system when it is unmounted
    /// (the kernel's `Documentation/filesystems/overlayfs.rst`, "Volatile
    /// mount"); its upper cannot be mounted a second time. Other types stay as
    /// they are.
    #[must_use]
    pub fn volatile(mut self) -> Mount {
        let writes = |option: &String| option.starts_with("upperdir=");
        if self.fstype == "overlay" && self.options.iter().any(writes) {
            self.options.push("volatile".into());
        }
        self
    }
}

/// Whether something may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

impl Access {
    /// The mount option.
    pub const fn option(self) -> &'static str {
        match self {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_keeps_every_layer() {
        let mount = Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                "lowerdir+=/b".into(),
                "upperdir=/u".into(),
                "workdir=/w".into(),
            ],
        };
        assert_eq!(
            mount.read_only().options,
            ["lowerdir+=/u", "lowerdir+=/b", "ro"]
        );
        assert!(Mount::bind("/x", Access::ReadOnly).is_read_only());
    }

    #[test]
    fn only_what_is_written_is_volatile() {
        let view = Mount {
            fstype: "overlay".into(),
            options: vec!["lowerdir+=/b".into()],
            ..Mount::default()
        };
        assert_eq!(view.clone().volatile(), view);
        let mut active = view;
        active.options.push("upperdir=/u".into());
        let options = active.volatile().options;
        assert_eq!(options, ["lowerdir+=/b", "upperdir=/u", "volatile"]);
        let bind = Mount::bind("/x", Access::ReadWrite);
        assert_eq!(bind.clone().volatile(), bind);
    }
}
