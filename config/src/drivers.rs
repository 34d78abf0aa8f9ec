//! [`LoadedDrivers`]: the instances of a configuration, from shared objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use containerkit::record::DriverStamp;
use containerkit::shim::RuntimeRef;
use containerkit::{
    ContentStore, DriverInfo, DriverKind, Drivers, Error, ErrorKind, InstanceName, Opened, Result,
    Runtime, Snapshotter,
};
use containerkit_plugin::host::Library;

use crate::config::Config;
use crate::options::check_options;
use crate::resolve::{Resolved, called, resolve};

/// The driver instances of a configuration, each loaded when it is first
/// asked for and kept. What does not load is an error of that call, and is
/// tried again at the next.
#[derive(Debug)]
pub struct LoadedDrivers {
    config: Arc<Config>,
    runtimes: Cache<dyn Runtime>,
    snapshotters: Cache<dyn Snapshotter>,
    contents: Cache<dyn ContentStore>,
}

impl LoadedDrivers {
    /// Loads nothing yet.
    ///
    /// The configuration's `call_timeout` becomes the process's: it also
    /// counts while a library is loaded, before there is an instance.
    pub fn new(config: Arc<Config>) -> LoadedDrivers {
        containerkit_plugin::host::set_default_limit(config.call_timeout);
        LoadedDrivers {
            config,
            runtimes: Cache::default(),
            snapshotters: Cache::default(),
            contents: Cache::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Which file an instance is and what it is opened with, without loading
    /// it: what another process needs to open it. An instance that is not
    /// configured, or whose file is nowhere, is an error.
    pub fn resolve(&self, kind: DriverKind, name: &InstanceName) -> Result<Resolved> {
        resolve(&self.config, kind, name)
    }

    /// The loaded file of an instance, not opened, its options checked
    /// against the schema, and what it says of itself.
    pub fn library(
        &self,
        kind: DriverKind,
        name: &InstanceName,
    ) -> Result<(Arc<Library>, DriverInfo)> {
        let (_, library, info) = load(&self.config, kind, name)?;
        Ok((library, info))
    }

    /// What a shim needs to load a runtime for itself: its file checked, its
    /// options too, its folders made, nothing opened here.
    pub fn runtime_ref(
        &self,
        instance: Option<&InstanceName>,
    ) -> Result<(RuntimeRef, DriverStamp)> {
        let name = instance.unwrap_or(&self.config.default.runtime);
        let (resolved, _, info) = load(&self.config, DriverKind::Runtime, name)?;
        Ok((reference(resolved)?, stamp(name, info)))
    }

    /// The same with nothing checked but where the file is: for a shim that
    /// loads it while [`runtime_ref`](LoadedDrivers::runtime_ref) checks here.
    pub fn unchecked_runtime_ref(&self, instance: Option<&InstanceName>) -> Result<RuntimeRef> {
        let name = instance.unwrap_or(&self.config.default.runtime);
        reference(self.resolve(DriverKind::Runtime, name)?)
    }

    fn open<T: ?Sized>(
        &self,
        kind: DriverKind,
        cache: &Cache<T>,
        name: Option<&InstanceName>,
        open: impl FnOnce(&Library, &Resolved) -> Result<Arc<T>>,
    ) -> Result<Opened<T>> {
        let Some(name) = name.or_else(|| self.config.default.of(kind)) else {
            return Err(Error::internal(format!("there is no default {kind}")));
        };
        cache.get(name, || {
            let (resolved, library, info) = load(&self.config, kind, name)?;
            resolved.make_folders()?;
            let driver = open(&library, &resolved).map_err(|error| named(error, &resolved))?;
            log::debug!(
                "{kind} {name}: {} {} from {}",
                info.name,
                info.version,
                library.path().display()
            );
            Ok(Opened {
                stamp: stamp(name, info),
                driver,
            })
        })
    }
}

impl Drivers for LoadedDrivers {
    fn runtime(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn Runtime>> {
        self.open(DriverKind::Runtime, &self.runtimes, instance, |l, r| {
            l.runtime(r.context.clone())
        })
    }

    fn snapshotter(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn Snapshotter>> {
        let kind = DriverKind::Snapshotter;
        self.open(kind, &self.snapshotters, instance, |l, r| {
            l.snapshotter(r.context.clone())
        })
    }

    fn content(&self, instance: Option<&InstanceName>) -> Result<Opened<dyn ContentStore>> {
        self.open(DriverKind::Content, &self.contents, instance, |l, r| {
            l.content(r.context.clone())
        })
    }
}

/// Makes its folders.
fn reference(resolved: Resolved) -> Result<RuntimeRef> {
    resolved.make_folders()?;
    Ok(RuntimeRef {
        library: resolved.path,
        sha256: resolved.pin,
        instance: resolved.instance,
        root: resolved.context.root,
        state: resolved.context.state,
        options: resolved.context.options,
        call_timeout: resolved.context.call_timeout.map(|limit| limit.as_secs()),
    })
}

fn stamp(name: &InstanceName, info: DriverInfo) -> DriverStamp {
    DriverStamp {
        instance: name.clone(),
        driver: info.name,
        version: info.version,
    }
}

/// Loads the file of an instance and checks its options.
pub(crate) fn load(
    config: &Config,
    kind: DriverKind,
    name: &InstanceName,
) -> Result<(Resolved, Arc<Library>, DriverInfo)> {
    let (resolved, library, info) = load_file(config, kind, name)?;
    check_options(kind, name, config.instance(kind, name)?, &info)?;
    Ok((resolved, library, info))
}

/// Loads the file of an instance.
pub(crate) fn load_file(
    config: &Config,
    kind: DriverKind,
    name: &InstanceName,
) -> Result<(Resolved, Arc<Library>, DriverInfo)> {
    let resolved = resolve(config, kind, name)?;
    let library = Library::load(&resolved.path, resolved.pin.as_ref())
        .map_err(|error| named(error, &resolved))?;
    let info = library
        .info(kind)
        .map_err(|error| named(error, &resolved))?;
    Ok((resolved, library, info))
}

/// An instance's error, with the place that configured it.
fn named(error: Error, resolved: &Resolved) -> Error {
    let kind = match error.kind() {
        // To a caller it would say that a container or a blob is gone.
        ErrorKind::NotFound => ErrorKind::Unavailable,
        kind => kind,
    };
    error
        .context(called(resolved.kind, &resolved.instance, &resolved.origin))
        .with_kind(kind)
}

type Slot<T> = Arc<Mutex<Option<Opened<T>>>>;

/// Open instances by name. One slow driver holds up who waits for that driver.
struct Cache<T: ?Sized>(Mutex<BTreeMap<InstanceName, Slot<T>>>);

impl<T: ?Sized> Default for Cache<T> {
    fn default() -> Cache<T> {
        Cache(Mutex::default())
    }
}

impl<T: ?Sized> std::fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(slots.keys()).finish()
    }
}

impl<T: ?Sized> Cache<T> {
    fn get(
        &self,
        name: &InstanceName,
        open: impl FnOnce() -> Result<Opened<T>>,
    ) -> Result<Opened<T>> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(name.clone()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*slot {
            return Ok(opened.clone());
        }
        let opened = open()?;
        *slot = Some(opened.clone());
        Ok(opened)
    }
}
