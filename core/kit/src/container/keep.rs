//! What of a durable container outlives a reboot, in `<root>/containers/ID`:
//! the source of its bundle, and how its runs ended.
//!
//! `bundle/` appears by one rename as the last step of making a container:
//! where it is, the container is whole. `run.json` is written before each
//! start and holds the exit of the run before; `exit.json` is removed then and
//! is the shim's to write at the end. So a run that a power cut ended is known
//! by a `run.json` without an `exit.json`, and a start that never came to a
//! process leaves what was true before.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};

use super::Containers;
use crate::bundle::{BundleFile, CONFIG, CONFIG_LIMIT};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::fs::{self, Durability};
use crate::ids::{ContainerId, InstanceName};
use crate::process::boot_id;
use crate::shim::{self, ExitRecord};
use crate::step::step;
use crate::value::Timestamp;

/// The version of these files.
const VERSION: u32 = 1;
const RUN: &str = "run.json";
const SETTINGS: &str = "start.json";
const LIMIT: u64 = 64 << 10;

/// What a start needs to know beyond the bundle. A file of the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The version of this document.
    pub version: u32,
    /// Whether its process has a terminal.
    pub terminal: bool,
    /// Whether its standard input is open for clients.
    #[serde(default)]
    pub open_stdin: bool,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// The runtime instance.
    pub runtime: InstanceName,
    /// The folder of the host that is its root file system, when it has no
    /// snapshot.
    #[serde(default)]
    pub rootfs: Option<PathBuf>,
    /// A file that gets its pid at each start.
    #[serde(default)]
    pub pidfile: Option<PathBuf>,
    /// How its output is logged.
    #[serde(default)]
    pub log: crate::spec::LogOptions,
}

impl Settings {
    /// With the version of this program.
    pub(super) fn new(terminal: bool, stop_signal: i32, runtime: InstanceName) -> Settings {
        Settings {
            version: VERSION,
            terminal,
            open_stdin: false,
            stop_signal,
            runtime,
            rootfs: None,
            pidfile: None,
            log: Default::default(),
        }
    }

    pub(super) fn to_file(&self) -> Result<BundleFile> {
        Ok(BundleFile {
            path: SETTINGS.into(),
            data: encode(self)?,
            mode: 0o600,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Run {
    version: u32,
    boot_id: String,
    at: Timestamp,
    previous: Option<ExitRecord>,
}

impl Containers {
    pub(super) fn kept_bundle(&self, id: &ContainerId) -> PathBuf {
        self.root_dir(id).join("bundle")
    }

    /// Whether a durable container was made to its end.
    pub(super) fn is_whole(&self, id: &ContainerId) -> bool {
        self.kept_bundle(id).is_dir()
    }

    /// The folder that holds `config.json` now.
    pub(super) fn source_dir(&self, id: &ContainerId) -> PathBuf {
        let bundle = self.bundle_dir(id);
        if bundle.join(CONFIG).exists() {
            bundle
        } else {
            self.kept_bundle(id)
        }
    }

    /// What a start of this container needs to know.
    pub fn settings(&self, id: &ContainerId) -> Result<Settings> {
        let path = self.source_dir(id).join(SETTINGS);
        read(&path)?.ok_or_else(|| Error::data_loss(format!("{} is missing", path.display())))
    }

    /// The container's spec as it is given to the runtime.
    pub fn spec(&self, id: &ContainerId) -> Result<oci_spec::runtime::Spec> {
        crate::bundle::read_spec(&self.source_dir(id).join(CONFIG))
    }

    /// Keeps the bundle's files: from here on the container is whole.
    pub(super) fn keep_bundle(&self, id: &ContainerId) -> Result<()> {
        let root = self.root_dir(id);
        fs::ensure_dir(&root, 0o711)?;
        let new = root.join(fs::unique_name(".bundle"));
        fs::ensure_dir(&new, 0o700)?;
        copy_files(&self.bundle_dir(id), &new, Durability::Synced)?;
        step("container.keep");
        let kept = self.kept_bundle(id);
        std::fs::rename(&new, &kept).io_context(|| format!("rename to {}", kept.display()))?;
        step("container.kept");
        fs::sync_dir(&root)?;
        // Of the folders above, one may be new.
        for dir in root.ancestors().skip(1).take(2) {
            fs::sync_dir(dir)?;
        }
        Ok(())
    }

    /// Makes the bundle in `state` anew where a reboot took it.
    pub(super) fn restore_bundle(&self, id: &ContainerId) -> Result<()> {
        let bundle = self.bundle_dir(id);
        if bundle.join(CONFIG).exists() {
            return Ok(());
        }
        fs::ensure_dir(&bundle, 0o711)?;
        fs::ensure_dir(&bundle.join("rootfs"), 0o755)?;
        copy_files(&self.kept_bundle(id), &bundle, Durability::Volatile)
    }

    /// From here on the container is half made, for whoever finds it after a
    /// kill.
    pub(super) fn unkeep(&self, id: &ContainerId) -> Result<()> {
        let (kept, away) = (self.kept_bundle(id), self.root_dir(id).join(".bundle.old"));
        fs::remove_tree_path(&away)?;
        match std::fs::rename(&kept, &away) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("rename {}", kept.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// A run begins; the caller holds the lock.
    pub(super) fn begin_run(&self, id: &ContainerId) -> Result<()> {
        let root = self.root_dir(id);
        let run = Run {
            version: VERSION,
            boot_id: boot_id()?,
            at: Timestamp::now(),
            previous: match shim::read_exit(&self.state_dir(id))? {
                Some(exit) => Some(exit),
                None => self.last_exit(id)?,
            },
        };
        fs::write_atomic(&root.join(RUN), &encode(&run)?, 0o600, Durability::Synced)?;
        step("container.run");
        let exit = root.join("exit.json");
        match std::fs::remove_file(&exit) {
            Ok(()) => fs::sync_dir(&root),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(format!("remove {}", exit.display()), error)),
        }
    }

    /// How the last run of a durable container without a process ended;
    /// `None` before the first.
    pub(super) fn last_exit(&self, id: &ContainerId) -> Result<Option<ExitRecord>> {
        let root = self.root_dir(id);
        if let Some(exit) = shim::read_exit(&root)? {
            return Ok(Some(exit));
        }
        let Some(run) = read::<Run>(&root.join(RUN))? else {
            return Ok(None);
        };
        if run.boot_id == boot_id()? && self.state_dir(id).exists() {
            // A start that never came to a process.
            return Ok(run.previous);
        }
        self.keep_exit(id, ExitRecord::unknown()).map(Some)
    }

    /// Records how the run ended, unless that is recorded.
    pub(super) fn keep_exit(&self, id: &ContainerId, exit: ExitRecord) -> Result<ExitRecord> {
        let root = self.root_dir(id);
        let (new, path) = (root.join(fs::unique_name(".exit")), root.join("exit.json"));
        fs::write_atomic(&new, &encode(&exit)?, 0o600, Durability::Synced)?;
        match rustix::fs::renameat_with(CWD, &new, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                fs::sync_dir(&root)?;
                Ok(exit)
            }
            Err(errno) => {
                let _ = std::fs::remove_file(&new);
                match shim::read_exit(&root)? {
                    Some(first) => Ok(first),
                    None => Err(Error::io(format!("rename to {}", path.display()), errno)),
                }
            }
        }
    }
}

/// Every file but `config.json`, then that.
fn copy_files(from: &Path, to: &Path, durability: Durability) -> Result<()> {
    let what = || format!("read {}", from.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from).io_context(what)? {
        let entry = entry.io_context(what)?;
        let is_temporary = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_file = entry.file_type().io_context(what)?.is_file();
        if is_file && entry.file_name() != "lock" && !is_temporary {
            names.push(entry.file_name());
        }
    }
    names.sort_by_key(|name| name == CONFIG);
    for name in names {
        use std::os::unix::fs::PermissionsExt;
        let path = from.join(&name);
        let shown = path.display().to_string();
        let file = std::fs::File::open(&path).io_context(|| format!("open {shown}"))?;
        let mode = file
            .metadata()
            .io_context(|| format!("stat {shown}"))?
            .permissions()
            .mode();
        let data = fs::read_limited(&file, &shown, CONFIG_LIMIT)?;
        fs::write_atomic(&to.join(&name), &data, mode & 0o7777, durability)?;
    }
    Ok(())
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("encode a container's file").with_source(error))
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let what = path.display().to_string();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("open {what}"), error)),
    };
    let data = fs::read_limited(&file, &what, LIMIT)?;
    let damaged = |error: serde_json::Error| {
        Error::data_loss(format!("{what} cannot be understood")).with_source(error)
    };
    let head: Head = serde_json::from_slice(&data).map_err(damaged)?;
    if head.version > VERSION {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "{what} has version {}, this program knows up to {VERSION}",
                head.version
            ),
        ));
    }
    serde_json::from_slice(&data).map(Some).map_err(damaged)
}
