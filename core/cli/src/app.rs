//! What commands share: the configuration, the drivers, the records.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use containerkit::kit::{Drivers, Opened};
use containerkit::lease::Lease;
use containerkit::record::{ImageRecord, Object};
use containerkit::{
    ContentStore, Error, InstanceName, Records, Reference, Result, Snapshotter, fs,
};
use containerkit_config::{Config, Flags, LoadedDrivers};
use containerkit_image::{Image, PlatformChoice, UnpackOptions, descriptor};
use containerkit_records::SqliteRecords;

use crate::args::Global;
use crate::output::Format;
use crate::progress::Progress;

/// A command's surroundings. Stores and drivers open when first asked for.
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) drivers: Arc<LoadedDrivers>,
    pub(crate) format: Format,
    /// Whether both `--root` and `--state` were given: then nothing is written
    /// elsewhere.
    pub(crate) is_private: bool,
    /// `--config` as it was given.
    pub(crate) config_flag: Option<PathBuf>,
    records: OnceLock<Arc<dyn Records>>,
}

/// The flags as the configuration takes them.
pub(crate) fn flags(global: &Global) -> Result<Flags> {
    let absolute = |path: &Option<PathBuf>| {
        path.as_deref()
            .map(std::path::absolute)
            .transpose()
            .map_err(|e| Error::io("find the current folder", e))
    };
    Ok(Flags {
        config: absolute(&global.config)?,
        root: absolute(&global.root)?,
        state: absolute(&global.state)?,
        log_level: global.log_level,
    })
}

impl App {
    pub(crate) fn open(global: &Global) -> Result<App> {
        let flags = flags(global)?;
        let config = Arc::new(Config::load(&flags)?);
        log::set_max_level(config.log_level);
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        Ok(App {
            drivers: Arc::new(LoadedDrivers::new(Arc::clone(&config))),
            config,
            format: global.format,
            is_private: global.root.is_some() && global.state.is_some(),
            config_flag: flags.config,
            records: OnceLock::new(),
        })
    }

    /// The records, opened once.
    pub(crate) fn records(&self) -> Result<&Arc<dyn Records>> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        fs::ensure_dir(&self.config.root, 0o711)?;
        let records: Arc<dyn Records> =
            Arc::new(SqliteRecords::open(&self.config.root.join("records.db"))?);
        Ok(self.records.get_or_init(|| records))
    }

    /// The default content store.
    pub(crate) fn content(&self) -> Result<Opened<dyn ContentStore>> {
        self.drivers.content(None)
    }

    /// The content store that holds an image's blobs.
    pub(crate) fn content_of(&self, image: &ImageRecord) -> Result<Opened<dyn ContentStore>> {
        self.drivers.content(Some(&image.content)).map_err(|error| {
            error.context(format!(
                "image {} was stored with content {}",
                image.name, image.content
            ))
        })
    }

    /// A snapshotter by name, or the default.
    pub(crate) fn snapshotter(&self, name: Option<&str>) -> Result<Opened<dyn Snapshotter>> {
        let name = name.map(str::parse::<InstanceName>).transpose()?;
        self.drivers.snapshotter(name.as_ref())
    }

    /// Begins to load a snapshotter in a thread, which is joined when what is
    /// returned is dropped: before any other driver is called. An error is not
    /// told here, but by who asks for the snapshotter.
    pub(crate) fn load_early(&self, name: Option<&str>) -> Early {
        let drivers = Arc::clone(&self.drivers);
        let name = name.map(str::parse::<InstanceName>).transpose();
        let load = move || drop(name.map(|name| drivers.snapshotter(name.as_ref())));
        Early(std::thread::Builder::new().spawn(load).ok())
    }

    /// The record of an image, by what a user typed.
    pub(crate) fn image(&self, typed: &str) -> Result<ImageRecord> {
        let name: Reference = typed.parse()?;
        self.records()?.image(&name).map_err(|error| {
            if error.kind() == containerkit::ErrorKind::NotFound {
                error.with_hint(format!(
                    "searched in {}; `containerkit image ls` lists what is there, `containerkit image pull` and `containerkit image import` bring more",
                    self.config.root.display()
                ))
            } else {
                error
            }
        })
    }

    /// Begins a lease, so that `gc` in another process leaves these alone.
    pub(crate) fn lease(&self, objects: &[Object]) -> Result<Lease> {
        Lease::take(Arc::clone(self.records()?), objects)
    }

    /// The record of an image that stays while the lease is held: what the
    /// name points at cannot have been collected in between.
    pub(crate) fn hold(&self, typed: &str) -> Result<(ImageRecord, Lease)> {
        loop {
            let record = self.image(typed)?;
            let lease = self.lease(&[Object::Blob(record.digest.clone())])?;
            if self.image(typed)?.digest == record.digest {
                return Ok((record, lease));
            }
        }
    }

    /// Manifest, config and layers of an image for a platform.
    pub(crate) fn resolve(
        &self,
        record: &ImageRecord,
        platform: Option<&str>,
    ) -> Result<(Opened<dyn ContentStore>, Image)> {
        let store = self.content_of(record)?;
        let choice = platform_choice(platform)?;
        let image = containerkit_image::resolve(&*store.driver, &descriptor(record)?, &choice)
            .map_err(|error| error.context(format!("image {}", record.name)))?;
        Ok((store, image))
    }

    /// The time that everything made now is to have, for who wants the same
    /// bytes twice.
    pub(crate) fn source_date_epoch(&self) -> Result<Option<i64>> {
        let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
            return Ok(None);
        };
        let text = text.to_string_lossy();
        match text.parse() {
            Ok(epoch) if epoch >= 0 => Ok(Some(epoch)),
            _ => Err(Error::invalid(format!(
                "SOURCE_DATE_EPOCH is {}: want seconds since 1970",
                containerkit::quote(&text)
            ))),
        }
    }

    /// Unpacks an image; the key of its top layer, `None` without layers. The
    /// snapshots stay while the lease is held.
    pub(crate) fn unpack(
        &self,
        store: &dyn ContentStore,
        snapshotter: &Opened<dyn Snapshotter>,
        image: &Image,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<Option<containerkit::SnapshotKey>> {
        let instance = &snapshotter.stamp.instance;
        // At once: one transaction, however many layers.
        let keys = image.layers.iter().map(|layer| {
            let key = layer.chain_id.to_string().parse()?;
            Ok(Object::Snapshot(instance.clone(), key))
        });
        lease.add(&keys.collect::<Result<Vec<_>>>()?)?;
        fs::ensure_dir(&self.config.state, 0o711)?;
        let locks = self
            .config
            .state
            .join("locks")
            .join(snapshotter.stamp.instance.as_str());
        fs::ensure_dir(&locks, 0o700)?;
        let watch = |event| progress.event(event);
        let mut options = UnpackOptions::new(locks);
        options.cancel = progress.cancel.clone();
        options.progress = &watch;
        let leased = lease.snapshotter(instance, &*snapshotter.driver);
        containerkit_image::unpack(store, &leased, image, &options)
    }
}

/// A driver that is being loaded.
pub(crate) struct Early(Option<JoinHandle<()>>);

impl Drop for Early {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// `--platform`, or the host's.
pub(crate) fn platform_choice(platform: Option<&str>) -> Result<PlatformChoice> {
    match platform {
        Some(text) => text.parse(),
        None => Ok(PlatformChoice::host()),
    }
}

/// `K=V` words as label changes: `K=` removes.
pub(crate) fn label_changes(words: &[String]) -> Result<containerkit::LabelChanges> {
    let mut changes = containerkit::LabelChanges::default();
    for word in words {
        let (key, value) = split_pair(word, "label")?;
        let value = (!value.is_empty()).then(|| value.to_string());
        changes.set.insert(key.to_string(), value);
    }
    Ok(changes)
}

/// `K=V`.
pub(crate) fn split_pair<'a>(word: &'a str, what: &str) -> Result<(&'a str, &'a str)> {
    word.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| {
            Error::invalid(format!(
                "{what} {}: want KEY=VALUE",
                containerkit::quote(word)
            ))
        })
}

/// An existing folder as an absolute path.
pub(crate) fn existing_dir(path: &Path) -> Result<PathBuf> {
    let full = std::fs::canonicalize(path).map_err(|e| {
        Error::io(
            format!("folder {}", containerkit::quote(&path.to_string_lossy())),
            e,
        )
    })?;
    if full.is_dir() {
        Ok(full)
    } else {
        Err(Error::invalid(format!(
            "{} is not a folder",
            full.display()
        )))
    }
}
