//! Which file an instance is, and what it is opened with; nothing is loaded.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use containerkit::fs::ensure_dir;
use containerkit::{
    Digest, DriverContext, DriverKind, Error, ErrorKind, InstanceName, IoContext, Result,
};
use containerkit_plugin::host::{Tried, search};
use rustix::fs::Mode;

use crate::config::{Config, Instance};
use crate::source::{Origin, shown};

/// Bytes of an error line that the places tried may take.
const TRIED_LIMIT: usize = 2000;

/// An instance whose file was found.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The kind.
    pub kind: DriverKind,
    /// The instance.
    pub instance: InstanceName,
    /// The shared object, absolute.
    pub path: PathBuf,
    /// Every place that was tried, the last one being `path`.
    pub tried: Vec<Tried>,
    /// The digest that the file must have.
    pub pin: Option<Digest>,
    /// Folders and options; [`Resolved::make_folders`] makes the folders.
    pub context: DriverContext,
    /// Where the configuration names the driver.
    pub origin: Origin,
    root: PathBuf,
    state: PathBuf,
}

impl Resolved {
    /// Makes `<root>`, `<state>` (0711) and the instance's own folders in
    /// them: 0700, and 0711 for a snapshotter, so that a container with
    /// mapped users can reach its root file system.
    pub fn make_folders(&self) -> Result<()> {
        let mode = match self.kind {
            DriverKind::Snapshotter => 0o711,
            _ => 0o700,
        };
        for (top, own) in [
            (&self.root, &self.context.root),
            (&self.state, &self.context.state),
        ] {
            ensure_dir(top, 0o711)?;
            if let Some(kind) = own.parent() {
                make_own(kind, mode)?;
            }
            make_own(own, mode)?;
        }
        Ok(())
    }
}

/// As `ensure_dir`; and one that a killed process made and had not yet opened
/// to others is opened.
fn make_own(path: &Path, mode: u32) -> Result<()> {
    ensure_dir(path, mode)?;
    let stat = std::fs::metadata(path).io_context(|| format!("stat {}", shown(path)))?;
    let closed = stat.mode() & 0o777 == 0o700 && mode != 0o700;
    if closed && stat.uid() == rustix::process::geteuid().as_raw() {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))
            .io_context(|| format!("chmod {}", shown(path)))?;
    }
    Ok(())
}

/// How an error calls an instance.
pub(crate) fn called(kind: DriverKind, name: &InstanceName, origin: &Origin) -> String {
    format!("{kind} {name} ({origin})")
}

/// The places that were tried, and the file when there is one.
pub(crate) fn look(config: &Config, instance: &Instance) -> (Option<PathBuf>, Vec<Tried>) {
    search(&instance.driver, &config.driver_path, true)
}

pub(crate) fn resolve(config: &Config, kind: DriverKind, name: &InstanceName) -> Result<Resolved> {
    let instance = config.instance(kind, name)?;
    let (path, tried) = look(config, instance);
    let Some(path) = path else {
        return Err(missing(kind, name, instance, &tried));
    };
    Ok(Resolved {
        kind,
        instance: name.clone(),
        path,
        tried,
        pin: instance.sha256.clone(),
        context: DriverContext::new(
            name.clone(),
            config.instance_root(kind, name),
            config.instance_state(kind, name),
        )
        .with_options(instance.options.clone())
        .with_call_timeout(Some(config.call_timeout(instance))),
        origin: instance.origin.clone(),
        root: config.root.clone(),
        state: config.state.clone(),
    })
}

fn missing(kind: DriverKind, name: &InstanceName, instance: &Instance, tried: &[Tried]) -> Error {
    let mut list = String::new();
    for (index, Tried { path, outcome }) in tried.iter().enumerate() {
        let part = format!("{} ({outcome})", shown(path));
        if list.len() + part.len() > TRIED_LIMIT {
            list.push_str(&format!(", and {} more", tried.len() - index));
            break;
        }
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(&part);
    }
    // Not `NotFound`: to a caller that says of a container, that it is gone.
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "{}: the driver {} is not there; tried {list}",
            called(kind, name, &instance.origin),
            shown(Path::new(&instance.driver)),
        ),
    )
    .with_hint(
        "install it, or correct `driver` or `driver_path`; \
         `containerkit driver trace` shows the search",
    )
}
