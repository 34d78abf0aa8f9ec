//! `diff` and `snapshot diff`: what changed.

use containerkit::container::{Containers, Status};
use containerkit::idmap::{IdMap, IdMapping};
use containerkit::oci_spec::runtime::{LinuxIdMapping, Spec};
use containerkit::record::ContainerRecord;
use containerkit::{Context, Error, Result, SnapshotKey, Snapshotter};
use containerkit_image::diff::{Trees, of_snapshot};
use containerkit_image::{Change, ChangeKind, DiffOptions};

use crate::Outcome;
use crate::app::App;
use crate::args::pack::DiffArgs;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::progress::{Progress, Stderr};

pub(crate) fn diff(app: &App, args: DiffArgs) -> Result<Outcome> {
    let containers = containers(app)?;
    let record = find(&containers, &args.id)?;
    let snapshotter = snapshotter(app, &record)?;
    let (mut trees, mut options) = of_container(&containers, &record, &*snapshotter.driver)?;
    options.cancel = Progress::new(app.format, Stderr::Own)?.cancel.clone();
    let changes = trees
        .changes(&options)
        .context(|| format!("container {}", record.name))?;
    print(app, changes)
}

/// The snapshotter that a container was made with.
pub(crate) fn snapshotter(
    app: &App,
    record: &ContainerRecord,
) -> Result<containerkit::kit::Opened<dyn Snapshotter>> {
    let stamp = record.snapshotter.as_ref().ok_or_else(|| {
        Error::precondition(format!(
            "container {} has a folder of the host as its root file system, and no snapshot",
            record.name
        ))
        .with_hint("`containerkit image pack --rootfs DIR` packs a folder")
    })?;
    app.snapshotter(Some(stamp.instance.as_str()))
}

/// A container's tree beside its image's, and how to look at it: without what
/// its runtime made to mount on, and with its users as it knows them.
pub(crate) fn of_container<'a>(
    containers: &Containers,
    record: &ContainerRecord,
    snapshotter: &'a dyn Snapshotter,
) -> Result<(Trees<'a>, DiffOptions)> {
    let key = record
        .snapshot
        .as_ref()
        .ok_or_else(|| Error::precondition(format!("container {} has no snapshot", record.name)))?;
    let mut options = DiffOptions::default();
    // One that is half made has no spec, and has changed nothing.
    if let Ok(spec) = containers.spec(&record.id) {
        options.mapping = mapping(&spec)?;
        let mounts = spec.mounts().iter().flatten();
        options.mount_points = mounts.map(|mount| mount.destination().clone()).collect();
    }
    Ok((of_snapshot(snapshotter, key, None)?, options))
}

fn mapping(spec: &Spec) -> Result<Option<IdMapping>> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let maps = |maps: &Option<Vec<LinuxIdMapping>>| -> Vec<IdMap> {
        let maps = maps.iter().flatten();
        maps.map(|map| IdMap {
            container: map.container_id(),
            host: map.host_id(),
            count: map.size(),
        })
        .collect()
    };
    let (uids, gids) = (maps(linux.uid_mappings()), maps(linux.gid_mappings()));
    match uids.is_empty() || gids.is_empty() {
        true => Ok(None),
        false => IdMapping::new(uids, gids).map(Some),
    }
}

/// `Ok` unless the container's files change while they are read.
pub(crate) fn check_still(record: &ContainerRecord, status: &Status) -> Result<()> {
    if status.name != containerkit::container::StatusName::Running {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "container {} is running, and its files may change while they are packed",
        record.name
    ))
    .with_hint("stop or pause it first, or pack it as it is with --live"))
}

/// `snapshot diff`: a list, or the layer as a tar stream.
pub(crate) fn snapshot(
    app: &App,
    snapshotter: &dyn Snapshotter,
    (key, from): (&str, Option<&str>),
    form: Form,
) -> Result<Outcome> {
    let from: Option<SnapshotKey> = from.map(str::parse).transpose()?;
    let options = DiffOptions {
        epoch: app.source_date_epoch()?,
        cancel: Progress::new(app.format, Stderr::Own)?.cancel.clone(),
        ..DiffOptions::default()
    };
    let mut trees = of_snapshot(snapshotter, &key.parse()?, from.as_ref())?;
    let changes = trees.changes(&options)?;
    match form {
        Form::List => print(app, changes),
        Form::Layer => {
            trees.write(&changes, &mut std::io::stdout().lock(), &options)?;
            Ok(Outcome::Success)
        }
    }
}

/// How changes are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    List,
    Layer,
}

fn print(app: &App, mut changes: Vec<Change>) -> Result<Outcome> {
    changes.retain(|change| change.kind != ChangeKind::Kept);
    if app.format == Format::Json {
        output::print_json(&changes)?;
        return Ok(Outcome::Success);
    }
    for change in changes {
        let path = String::from_utf8_lossy(&change.path);
        output::print_line(&format!("{} /{path}", change.kind.letter()));
    }
    Ok(Outcome::Success)
}
