//! `image pack` and `image index`: new images.

use std::path::Path;

use containerkit::container::Containers;
use containerkit::kit::Opened;
use containerkit::lease::Lease;
use containerkit::oci_spec::image::Descriptor;
use containerkit::record::{ContainerRecord, ImageRecord, Object};
use containerkit::{ContentStore, Context, Error, ErrorKind, Mount, Reference, Result, Timestamp};
use containerkit_image::diff::{Trees, on_snapshot};
use containerkit_image::pack::{ConfigChanges, Packed, index};
use containerkit_image::{Image, PackOptions, descriptor, pack as pack_image};
use serde_json::json;

use crate::Outcome;
use crate::app::{App, existing_dir, split_pair};
use crate::args::pack::{IndexArgs, PackArgs};
use crate::cmd::diff::{check_still, of_container, snapshotter};
use crate::cmd::image::new_record;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::progress::{Progress, Stderr};

pub(crate) fn pack(app: &App, args: PackArgs) -> Result<Outcome> {
    let name: Reference = args.name.parse()?;
    if name.digest().is_some() {
        return Err(Error::invalid(format!(
            "{name}: an image that is not made yet has no digest; give a name and a tag"
        )));
    }
    let mut options = options(app, &args)?;
    let progress = Progress::new(app.format, Stderr::Own)?;
    options.diff.cancel = progress.cancel.clone();
    // What is made is nobody's until the name points at it.
    let lease = app.lease(&[])?;
    let (store, packed) = match (&args.container, &args.rootfs) {
        (Some(id), _) => container(app, id, &args, options, &lease)?,
        (None, Some(dir)) => folder(app, dir, &args, options, &lease, &progress)?,
        (None, None) => return Err(Error::internal("nothing to pack was given")),
    };
    if packed.entries == 0 {
        log::warn!("image {name}: nothing has changed, and there is no new layer");
    }
    record(app, name, &packed.target, &store)
}

/// Points the name at the image and tells of it.
fn record(
    app: &App,
    name: Reference,
    target: &Descriptor,
    store: &Opened<dyn ContentStore>,
) -> Result<Outcome> {
    let record = new_record(name, target, &store.stamp, Timestamp::now())?;
    let record = app.records()?.put_image(&record)?;
    match app.format {
        Format::Json => {
            output::print_json(&json!({ "name": record.name, "digest": record.digest }))?;
        }
        Format::Text => output::print_line(&format!("{} {}", record.name, record.digest)),
    }
    Ok(Outcome::Success)
}

fn options(app: &App, args: &PackArgs) -> Result<PackOptions> {
    let pairs = |words: &[String], what: &str| -> Result<Vec<(String, String)>> {
        words
            .iter()
            .map(|word| split_pair(word, what).map(|(k, v)| (k.to_string(), v.to_string())))
            .collect()
    };
    let mut options = PackOptions {
        compression: args.compression.parse()?,
        changes: ConfigChanges {
            entrypoint: words(&args.entrypoint, "--entrypoint")?,
            cmd: words(&args.cmd, "--cmd")?,
            env: pairs(&args.env, "variable")?,
            labels: pairs(&args.label, "label")?.into_iter().collect(),
            workdir: args.workdir.clone(),
            user: args.user.clone(),
            expose: args.expose.clone(),
            volumes: args.volume.clone(),
            stop_signal: args.stop_signal.clone(),
            author: args.author.clone(),
        },
        platform: args.platform.as_deref().map(str::parse).transpose()?,
        created_by: args.created_by.clone().unwrap_or_default(),
        message: args.message.clone(),
        ..PackOptions::default()
    };
    options.diff.epoch = app.source_date_epoch()?;
    Ok(options)
}

/// The words of a command, as the flags give them.
fn words(given: &[String], flag: &str) -> Result<Option<Vec<String>>> {
    match given {
        [] => Ok(None),
        [json] if json.trim_start().starts_with('[') => {
            serde_json::from_str(json).map(Some).map_err(|_| {
                Error::invalid(format!(
                    "{flag} {}: want a JSON array of strings",
                    containerkit::quote(json)
                ))
            })
        }
        [line] => Ok(Some(line.split_whitespace().map(str::to_string).collect())),
        words => Ok(Some(words.to_vec())),
    }
}

/// What a container changed, on the image that it was made from.
fn container(
    app: &App,
    id: &str,
    args: &PackArgs,
    mut options: PackOptions,
    lease: &Lease,
) -> Result<(Opened<dyn ContentStore>, Packed)> {
    let containers = containers(app)?;
    let record = find(&containers, id)?;
    if !args.live {
        check_still(&record, &containers.status(&record)?)?;
    }
    let snapshotter = snapshotter(app, &record)?;
    let (store, base) = base_of(app, &record)?;
    options.base_name = record.image.as_ref().map(ToString::to_string);
    if args.created_by.is_none() {
        options.created_by = command(&containers, &record);
    }
    let (mut trees, diff) = of_container(&containers, &record, &*snapshotter.driver)?;
    options.diff.mapping = diff.mapping;
    options.diff.mount_points = diff.mount_points;
    let leased = lease.content(&*store.driver);
    let packed = pack_image(&leased, Some(&base), &mut trees, &options)
        .context(|| format!("pack container {}", record.name))?;
    Ok((store, packed))
}

/// As the history tells it.
fn command(containers: &Containers, record: &ContainerRecord) -> String {
    let spec = containers.spec(&record.id).ok();
    let process = spec.as_ref().and_then(|spec| spec.process().as_ref());
    let words = process.and_then(|process| process.args().as_ref());
    words.map(|words| words.join(" ")).unwrap_or_default()
}

/// The image that a container was made from, be its name gone or given to
/// another.
fn base_of(app: &App, record: &ContainerRecord) -> Result<(Opened<dyn ContentStore>, Image)> {
    let digest = record.image_digest.as_ref().ok_or_else(|| {
        Error::precondition(format!(
            "container {} was not made from an image",
            record.name
        ))
    })?;
    let named = record.image.as_ref().and_then(|name| {
        let records = app.records().ok()?;
        records.image(name).ok()
    });
    let store = match &named {
        Some(image) => app.content_of(image)?,
        None => app.content()?,
    };
    let lost = |error: Error| match error.kind() {
        ErrorKind::NotFound => error.with_hint("pull or import the container's image again"),
        _ => error,
    };
    let target = containerkit_image::describe(&*store.driver, digest).map_err(lost)?;
    let mut image = None;
    // A manifest has one platform, whatever it is.
    for platform in containerkit_image::platforms(&*store.driver, &target)? {
        image = Some(containerkit_image::resolve(
            &*store.driver,
            &target,
            &platform.parse()?,
        )?);
    }
    let image = image
        .ok_or_else(|| Error::precondition(format!("{digest} is no image of any platform")))?;
    Ok((store, image))
}

/// A folder of the host, whole or beside an image's tree.
fn folder(
    app: &App,
    dir: &Path,
    args: &PackArgs,
    mut options: PackOptions,
    lease: &Lease,
    progress: &Progress,
) -> Result<(Opened<dyn ContentStore>, Packed)> {
    let dir = existing_dir(dir)?;
    if args.created_by.is_none() {
        options.created_by = "containerkit image pack".into();
    }
    // What is mounted beneath it is not of it: the bind is not recursive.
    let upper = [Mount {
        fstype: "bind".into(),
        source: dir.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["bind".into(), "ro".into()],
    }];
    let (store, base) = match &args.base {
        None => (app.content()?, None),
        Some(name) => {
            let (record, _held) = app.hold(name)?;
            lease.add(&[Object::Blob(record.digest.clone())])?;
            options.base_name = Some(record.name.to_string());
            let (store, base) = app.resolve(&record, args.platform.as_deref())?;
            (store, Some((base, app.snapshotter(None)?)))
        }
    };
    let mut trees = match &base {
        None => Trees::of_mounts(&[], &upper)?,
        Some((base, snapshotter)) => {
            match app.unpack(&*store.driver, snapshotter, base, lease, progress)? {
                None => Trees::of_mounts(&[], &upper)?,
                Some(top) => on_snapshot(&*snapshotter.driver, &top, &upper)?,
            }
        }
    };
    let base = base.as_ref().map(|(base, _)| base);
    let leased = lease.content(&*store.driver);
    let packed = pack_image(&leased, base, &mut trees, &options)
        .context(|| format!("pack {}", containerkit::quote(&dir.to_string_lossy())))?;
    drop(trees);
    Ok((store, packed))
}

pub(crate) fn assemble(app: &App, args: IndexArgs) -> Result<Outcome> {
    let name: Reference = args.name.parse()?;
    let mut sources = Vec::new();
    let mut leases = Vec::new();
    let mut content: Option<ImageRecord> = None;
    for source in &args.sources {
        let (record, lease) = app.hold(source)?;
        leases.push(lease);
        let first = content.get_or_insert_with(|| record.clone());
        if first.content != record.content {
            return Err(Error::precondition(format!(
                "image {} is in content {}, image {} in {}",
                first.name, first.content, record.name, record.content
            )));
        }
        sources.push((record.name.to_string(), descriptor(&record)?));
    }
    let first = content.ok_or_else(|| Error::invalid("give the images of the index"))?;
    let store = app.content_of(&first)?;
    let lease = app.lease(&[])?;
    let leased = lease.content(&*store.driver);
    let target = index(&leased, &sources).context(|| format!("index {name}"))?;
    record(app, name, &target, &store)
}
