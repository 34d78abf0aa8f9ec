//! `image`: names of images, and what is behind them.

use std::path::Path;

use containerkit::lease::Lease;
use containerkit::oci_spec::image::Descriptor;
use containerkit::record::{DriverStamp, ImageRecord, Object};
use containerkit::value::all_pages;
use containerkit::{
    ContentStore, Context, Error, ErrorKind, Labels, Mount, Reference, Result, SnapshotKey,
    Timestamp, mounter,
};
use containerkit_distribution::sign::Stored;
use containerkit_image::{ImportOptions, Imported, Role, descriptor};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::{App, existing_dir, platform_choice};
use crate::args::ImageCommand;
use crate::args::registry::Access;
use crate::cmd::{registry, sign};
use crate::output::{self, Format, human_size};
use crate::policy;
use crate::progress::{Progress, Stderr};

pub(crate) fn run(app: &App, command: ImageCommand) -> Result<Outcome> {
    match command {
        ImageCommand::Import {
            path,
            name,
            no_unpack,
            platform,
            policy,
            access,
        } => {
            let platform = platform.as_deref();
            let asked = policy.then_some(&access);
            import(app, &path, name.as_deref(), !no_unpack, platform, asked)
        }
        ImageCommand::Pack(args) => crate::cmd::pack::pack(app, *args),
        ImageCommand::Index(args) => crate::cmd::pack::assemble(app, args),
        ImageCommand::Export(args) => crate::cmd::export::export(app, args),
        ImageCommand::Sign(args) => sign::sign(app, &args),
        ImageCommand::Verify(args) => sign::verify(app, &args),
        ImageCommand::Pull(args) => registry::pull(app, &args),
        ImageCommand::Push(args) => registry::push(app, &args),
        ImageCommand::Copy(args) => registry::copy(app, &args),
        ImageCommand::Ls => ls(app),
        ImageCommand::Inspect { names, platform } => inspect(app, &names, platform.as_deref()),
        ImageCommand::History { name } => history(app, &name),
        ImageCommand::Tag { source, target } => tag(app, &source, &target),
        ImageCommand::Rm { force, names } => rm(app, force, &names),
        ImageCommand::Unpack {
            name,
            snapshotter,
            platform,
        } => {
            let (record, lease) = app.hold(&name)?;
            policy::permit(app, &record, &Access::default())?;
            let progress = Progress::new(app.format, Stderr::Own)?;
            let (snapshotter, platform) = (snapshotter.as_deref(), platform.as_deref());
            unpack(app, &record, snapshotter, platform, &lease, &progress)?;
            Ok(Outcome::Success)
        }
        ImageCommand::Mount {
            name,
            dir,
            snapshotter,
        } => mount(app, &name, &dir, snapshotter.as_deref()),
        ImageCommand::Unmount { dir } => unmount(app, &dir),
        ImageCommand::Check { repair, names } => super::check::images(app, repair, &names),
    }
}

/// Blobs first, then the layers, then the names: a killed import has no name
/// that promises what is not there.
fn import(
    app: &App,
    path: &Path,
    name: Option<&str>,
    unpack_too: bool,
    platform: Option<&str>,
    policy: Option<&Access>,
) -> Result<Outcome> {
    let name: Option<Reference> = name.map(str::parse).transpose()?;
    let choice = platform_choice(platform)?;
    let store = app.content()?;
    let scratch = app.config.state.join("scratch");
    containerkit::fs::ensure_dir(&app.config.state, 0o711)?;
    containerkit::fs::ensure_dir(&scratch, 0o700)?;
    let mut options = ImportOptions::new(scratch);
    options.platform = unpack_too.then(|| choice.clone());
    let progress = Progress::new(app.format, Stderr::Own)?;
    options.cancel = progress.cancel.clone();
    let watch = |event| progress.event(event);
    let lease = app.lease(&[])?;
    let leased = lease.content(&*store.driver);
    let imported = containerkit_image::import(&leased, path, &options, &watch)?;
    let (images, attached): (Vec<Imported>, Vec<Imported>) = imported
        .into_iter()
        .partition(|one| one.role == Role::Image);
    let named = names(path, images, name)?;
    let now = Timestamp::now();
    let mut records = Vec::new();
    for (name, target) in named {
        records.push(new_record(name, &target, &store.stamp, now)?);
    }
    if let Some(access) = policy {
        let beside = Stored {
            store: &*store.driver,
            manifests: attached
                .into_iter()
                .map(|one| (one.name, one.target))
                .collect(),
        };
        for record in &mut records {
            record.labels = policy::permit_imported(app, record, access, &beside)?;
        }
    }
    if unpack_too {
        for record in &records {
            // An archive of several images may hold some for other hosts.
            let target = descriptor(record)?;
            let fits = containerkit_image::offers(&*store.driver, &target, &choice)?;
            if fits || records.len() == 1 {
                unpack(app, record, None, platform, &lease, &progress)?;
            } else {
                log::warn!(
                    "image {}: not unpacked, it is for another platform",
                    record.name
                );
            }
        }
    }
    let mut report = Vec::new();
    for record in &records {
        let record = app.records()?.put_image(record)?;
        if app.format == Format::Text {
            output::print_line(&format!("{} {}", record.name, record.digest));
        }
        report.push(json!({ "name": record.name, "digest": record.digest }));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    }
    Ok(Outcome::Success)
}

/// The record of a name for what is in a content store.
pub(crate) fn new_record(
    name: Reference,
    target: &Descriptor,
    content: &DriverStamp,
    now: Timestamp,
) -> Result<ImageRecord> {
    Ok(ImageRecord {
        name,
        digest: target.digest().to_string().parse()?,
        media_type: target.media_type().to_string(),
        size: target.size(),
        content: content.instance.clone(),
        labels: Labels::new(),
        created: now,
        updated: now,
    })
}

/// The name to record for each image of an archive.
fn names(
    path: &Path,
    imported: Vec<Imported>,
    name: Option<Reference>,
) -> Result<Vec<(Reference, Descriptor)>> {
    if let Some(name) = name {
        let mut targets: Vec<Descriptor> = imported.into_iter().map(|i| i.target).collect();
        targets.dedup_by(|a, b| a.digest() == b.digest());
        return match <[_; 1]>::try_from(targets) {
            Ok([target]) => Ok(vec![(name, target)]),
            Err(targets) => Err(Error::invalid(format!(
                "{} holds {} images, and --name names one",
                path.display(),
                targets.len()
            ))
            .with_hint("import without --name to take the names in the archive")),
        };
    }
    let count = imported.len();
    let mut named = Vec::new();
    for image in imported {
        let name = match image.name.as_deref() {
            // A layout's ref name is often a bare tag: the folder's name is
            // then the repository, as other tools have it.
            Some(text) if text.contains(['/', ':']) => text.parse::<Reference>()?,
            Some(tag) => fallback_name(path)?.with_tag(tag)?,
            None if count == 1 => fallback_name(path)?,
            None => {
                return Err(Error::invalid(format!(
                    "{} holds {count} images and not all have a name",
                    path.display()
                ))
                .with_hint("copy the image you want into a layout of its own, and give --name"));
            }
        };
        named.push((name, image.target));
    }
    Ok(named)
}

/// The file's or folder's name without its archive suffix, as a repository.
fn fallback_name(path: &Path) -> Result<Reference> {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let name = full
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let stem = [".tar.gz", ".tar.zst", ".tgz", ".tar"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(&name);
    stem.parse::<Reference>().map_err(|error| {
        error
            .context(format!("{} names no image", path.display()))
            .with_hint("give --name")
    })
}

/// Unpacks for a platform; the top layer's key.
fn unpack(
    app: &App,
    record: &ImageRecord,
    snapshotter: Option<&str>,
    platform: Option<&str>,
    lease: &Lease,
    progress: &Progress,
) -> Result<Option<SnapshotKey>> {
    let (store, image) = app.resolve(record, platform)?;
    let snapshotter = app.snapshotter(snapshotter)?;
    app.unpack(&*store.driver, &snapshotter, &image, lease, progress)
        .context(|| format!("unpack {}", record.name))
}

fn records(app: &App) -> Result<Vec<ImageRecord>> {
    let records = app.records()?;
    all_pages(
        |page| records.images(page),
        |record| record.name.to_string(),
    )
}

fn ls(app: &App) -> Result<Outcome> {
    let mut report = Vec::new();
    let mut rows = Vec::new();
    for record in records(app)? {
        let store = app.content_of(&record)?;
        let (size, platforms, complete) =
            summary(app, &*store.driver, &record).unwrap_or_else(|error| {
                log::warn!("image {}: {error}", record.name);
                (record.size, Vec::new(), false)
            });
        rows.push(vec![
            record.name.to_string(),
            record.digest.short().to_string(),
            human_size(size),
            platforms.join(","),
            if complete {
                record.created.to_string()
            } else {
                format!("{} (incomplete)", record.created)
            },
        ]);
        report.push(json!({
            "name": record.name,
            "digest": record.digest,
            "media_type": record.media_type,
            "size": size,
            "platforms": platforms,
            "created": record.created,
            "complete": complete,
        }));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    } else {
        output::print_table(&["NAME", "DIGEST", "SIZE", "PLATFORMS", "CREATED"], &rows);
    }
    Ok(Outcome::Success)
}

/// Size for this host, platforms, and whether every blob is there.
fn summary(
    app: &App,
    store: &dyn ContentStore,
    record: &ImageRecord,
) -> Result<(u64, Vec<String>, bool)> {
    let target = descriptor(record)?;
    let platforms = containerkit_image::platforms(store, &target)?;
    let missing = containerkit_image::is_complete(store, &target)?;
    let size = match app.resolve(record, None) {
        Ok((_, image)) => image.size(),
        // An image for other hosts only.
        Err(_) => record.size,
    };
    Ok((size, platforms, missing.is_empty()))
}

fn inspect(app: &App, names: &[String], platform: Option<&str>) -> Result<Outcome> {
    let mut report: Vec<Value> = Vec::new();
    for name in names {
        let record = app.image(name)?;
        let (_, image) = app.resolve(&record, platform)?;
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "digest": layer.digest,
                    "media_type": layer.descriptor.media_type().to_string(),
                    "size": layer.descriptor.size(),
                    "diff_id": layer.diff_id,
                    "chain_id": layer.chain_id,
                })
            })
            .collect();
        report.push(json!({
            "name": record.name,
            "digest": record.digest,
            "media_type": record.media_type,
            "created": record.created,
            "updated": record.updated,
            "content": record.content,
            "labels": record.labels,
            "platform": image.platform,
            "manifest_digest": image.manifest_descriptor.digest().to_string(),
            "manifest": image.manifest,
            "config_digest": image.config_descriptor.digest().to_string(),
            "config": image.config,
            "layers": layers,
        }));
    }
    // A nested document is JSON for people too.
    output::print_json(&report)?;
    Ok(Outcome::Success)
}

fn history(app: &App, name: &str) -> Result<Outcome> {
    let record = app.image(name)?;
    let (_, image) = app.resolve(&record, None)?;
    let entries = image.config.history().clone().unwrap_or_default();
    if app.format == Format::Json {
        output::print_json(&entries)?;
        return Ok(Outcome::Success);
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .rev()
        .map(|entry| {
            vec![
                entry.created().clone().unwrap_or_default(),
                entry.empty_layer().unwrap_or(false).to_string(),
                entry.created_by().clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::print_table(&["CREATED", "EMPTY", "CREATED BY"], &rows);
    Ok(Outcome::Success)
}

fn tag(app: &App, source: &str, target: &str) -> Result<Outcome> {
    let name: Reference = target.parse()?;
    let (record, _lease) = app.hold(source)?;
    let now = Timestamp::now();
    app.records()?.put_image(&ImageRecord {
        name,
        created: now,
        updated: now,
        ..record
    })?;
    Ok(Outcome::Success)
}

/// Forgets names. Blobs and snapshots stay for the other names, and for `gc`.
fn rm(app: &App, force: bool, names: &[String]) -> Result<Outcome> {
    let records = app.records()?;
    let mut removed = Vec::new();
    for typed in names {
        let record = app.image(typed)?;
        let last = records.images_of(&record.digest)?.len() == 1;
        if last
            && !force
            && let Some(container) = records.image_in_use(&record.digest)?
        {
            return Err(Error::precondition(format!(
                "image {} is in use by container {}",
                record.name, container.name
            ))
            .with_hint(format!(
                "remove the container with `containerkit delete {}`, or give --force",
                container.name
            )));
        }
        records.delete_image(&record.name)?;
        removed.push(record.name.to_string());
    }
    output::print_names(app.format, &removed)?;
    Ok(Outcome::Success)
}

/// A view of the top layer, whose key tells the folder it is mounted on.
fn mount(app: &App, name: &str, dir: &Path, snapshotter: Option<&str>) -> Result<Outcome> {
    let dir = existing_dir(dir)?;
    for own in [&app.config.root, &app.config.state] {
        if own.starts_with(&dir) || dir.starts_with(own) {
            return Err(Error::invalid(format!(
                "{} holds containerkit's own data, or lies in it",
                dir.display()
            )));
        }
    }
    if mounter::is_mountpoint(&dir)? {
        return Err(Error::precondition(format!(
            "{} is a mount point already",
            dir.display()
        )));
    }
    let (record, lease) = app.hold(name)?;
    policy::permit(app, &record, &Access::default())?;
    let progress = Progress::new(app.format, Stderr::Own)?;
    let top = unpack(app, &record, snapshotter, None, &lease, &progress)?;
    progress.cancel.check()?;
    let snapshotter = app.snapshotter(snapshotter)?;
    let key = mount_key(&dir)?;
    // Until it is mounted, nothing else tells that it is wanted.
    let instance = snapshotter.stamp.instance.clone();
    lease.add(&[Object::Snapshot(instance, key.clone())])?;
    let mut labels = Labels::new();
    labels.insert(
        containerkit_image::gc::MOUNT_LABEL.into(),
        dir.to_string_lossy().into_owned(),
    );
    let mounts: Vec<Mount> = match snapshotter.view(&key, top.as_ref(), &labels) {
        Ok(mounts) => mounts,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Nothing is mounted there: a killed command's leftover.
            snapshotter.remove(&key)?;
            snapshotter.view(&key, top.as_ref(), &labels)?
        }
        Err(error) => return Err(error),
    };
    let mounts: Vec<Mount> = mounts.into_iter().map(Mount::read_only).collect();
    if let Err(error) = mounter::mount_all(&mounts, &dir) {
        let _ = snapshotter.remove(&key);
        return Err(error.context(format!("mount {} on {}", record.name, dir.display())));
    }
    output::print_names(app.format, &[dir.display().to_string()])?;
    Ok(Outcome::Success)
}

/// The view's snapshotter is not recorded: the default is asked first, and one
/// that does not load keeps no other from being asked.
fn unmount(app: &App, dir: &Path) -> Result<Outcome> {
    // The folder may be gone, the view that pins the image's layers not.
    let dir = existing_dir(dir).or_else(|_| {
        std::path::absolute(dir).map_err(|e| Error::io("find the current folder", e))
    })?;
    let key = mount_key(&dir)?;
    let mut names: Vec<_> = app
        .config
        .names(containerkit::DriverKind::Snapshotter)
        .collect();
    names.sort_by_key(|name| **name != app.config.default.snapshotter);
    let mut failure = None;
    for name in names {
        let found = app
            .snapshotter(Some(name.as_str()))
            .and_then(|snapshotter| snapshotter.stat(&key).map(|_| snapshotter));
        match found {
            Ok(snapshotter) => {
                if dir.exists() {
                    mounter::unmount(&dir)?;
                }
                snapshotter.remove(&key)?;
                return Ok(Outcome::Success);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure
        .unwrap_or_else(|| Error::not_found(format!("no image is mounted on {}", dir.display()))))
}

fn mount_key(dir: &Path) -> Result<SnapshotKey> {
    let digest = containerkit::Algorithm::Sha256.digest(dir.as_os_str().as_encoded_bytes());
    format!("mount-{}", digest.hex()).parse()
}
