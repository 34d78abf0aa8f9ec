//! What becomes of every configured instance: for `driver ls`, `driver trace`
//! and `config check`.

use std::path::PathBuf;

use containerkit::{Digest, DriverKind, Drivers, Error, InstanceName, Result};
use containerkit_plugin::host::{Declaration, Tried, declaration};
use serde::Serialize;

use crate::config::Config;
use crate::drivers::{LoadedDrivers, load, load_file};
use crate::resolve::look;
use crate::source::Origin;

/// Whether an instance can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was opened.
    Ok,
    /// It was not; the reason says why.
    Failed,
}

/// An instance as `driver ls` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct DriverStatus {
    /// The kind.
    pub kind: DriverKind,
    /// The instance.
    pub instance: InstanceName,
    /// The driver's name, once it was loaded.
    pub driver: Option<String>,
    /// The driver's version, once it was loaded.
    pub version: Option<String>,
    /// The version of the SDK it was built with, once it was loaded.
    pub abi: Option<String>,
    /// The shared object, once it was loaded.
    pub path: Option<PathBuf>,
    /// Its hash, once it was loaded.
    pub sha256: Option<Digest>,
    /// What it can do beyond its contract's core, once it was opened.
    pub capabilities: Vec<String>,
    /// Whether it serves.
    pub status: Status,
    /// Why not.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether it serves when none is named.
    pub default: bool,
}

/// The search for an instance's file.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The kind.
    pub kind: DriverKind,
    /// The instance.
    pub instance: InstanceName,
    /// What the configuration names.
    pub driver: String,
    /// Where it names it.
    pub origin: Origin,
    /// Every place that was tried, in order.
    pub tried: Vec<Tried>,
    /// The file that was found.
    pub path: Option<PathBuf>,
    /// What that file declares, read without loading it, or why it is refused.
    pub declaration: Option<Result<Declaration>>,
}

/// What is wrong with an instance.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The kind.
    pub kind: DriverKind,
    /// The instance.
    pub instance: InstanceName,
    /// What is wrong, with its place.
    pub error: Error,
}

impl LoadedDrivers {
    /// Opens every instance and tells what came of it, by kind and name.
    pub fn status_all(&self) -> Vec<DriverStatus> {
        let keys = self.config().instances.keys();
        keys.map(|(kind, name)| self.status(*kind, name)).collect()
    }

    /// Opens one instance and tells what came of it.
    pub fn status(&self, kind: DriverKind, name: &InstanceName) -> DriverStatus {
        let mut status = DriverStatus {
            kind,
            instance: name.clone(),
            driver: None,
            version: None,
            abi: None,
            path: None,
            sha256: None,
            capabilities: Vec::new(),
            status: Status::Failed,
            reason: None,
            hint: None,
            default: self.config().default.of(kind) == Some(name),
        };
        match self.fill(&mut status) {
            Ok(()) => status.status = Status::Ok,
            Err(error) => {
                status.reason = Some(error.to_string());
                status.hint = error.hint().map(str::to_owned);
            }
        }
        status
    }

    fn fill(&self, status: &mut DriverStatus) -> Result<()> {
        let name = status.instance.clone();
        let (_, library, info) = load_file(self.config(), status.kind, &name)?;
        status.driver = Some(info.name);
        status.version = Some(info.version);
        status.abi = Some(library.abi_version().to_string());
        status.path = Some(library.path().to_path_buf());
        status.sha256 = Some(library.sha256()?);
        let capabilities = match status.kind {
            DriverKind::Runtime => self.runtime(Some(&name))?.capabilities().names(),
            DriverKind::Snapshotter => self.snapshotter(Some(&name))?.capabilities().names(),
            DriverKind::Content => self.content(Some(&name))?.capabilities().names(),
            kind => return Err(Error::unimplemented(kind.name())),
        };
        status.capabilities = capabilities.into_iter().map(str::to_owned).collect();
        Ok(())
    }

    /// The search for every instance's file; nothing is loaded.
    pub fn trace(&self) -> Vec<Trace> {
        let instances = self.config().instances.iter();
        instances
            .map(|((kind, name), instance)| {
                let (path, tried) = look(self.config(), instance);
                Trace {
                    kind: *kind,
                    instance: name.clone(),
                    driver: instance.driver.clone(),
                    origin: instance.origin.clone(),
                    tried,
                    declaration: path.as_deref().map(declaration),
                    path,
                }
            })
            .collect()
    }
}

/// Everything that loading says of a configuration: that each driver is there,
/// loads, is of its kind, has its pinned hash and takes its options. No
/// instance is opened, and nothing is written.
pub fn check(config: &Config) -> Vec<Problem> {
    let keys = config.instances.keys();
    keys.filter_map(|(kind, name)| {
        let error = load(config, *kind, name).err()?;
        Some(Problem {
            kind: *kind,
            instance: name.clone(),
            error,
        })
    })
    .collect()
}
