//! `snapshot migrate`: committed snapshots, and the containers on them, into
//! another snapshotter.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use containerkit::kit::Drivers;
use containerkit::record::{ContainerRecord, Object};
use containerkit::snapshot::{SnapshotFilter, SnapshotKind};
use containerkit::value::all_pages;
use containerkit::{
    ContentStore, Digest, Error, ErrorKind, InstanceName, Opened, Result, SnapshotKey, Snapshotter,
};
use containerkit_image::migrate::{MigrateOptions, Migrated, Route, migrate};
use containerkit_image::{Limits, descriptor, mirror};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::cmd::each::all;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::progress::{Progress, Stderr};

/// What is to be migrated.
struct Wanted {
    /// The topmost snapshots of the chains.
    tops: Vec<SnapshotKey>,
    /// Only containers of these images, or on these chains; all without one.
    images: BTreeSet<Digest>,
    everything: bool,
}

pub(crate) fn run(
    app: &App,
    from: &Opened<dyn Snapshotter>,
    to: &str,
    words: &[String],
) -> Result<Outcome> {
    let to: InstanceName = to.parse()?;
    if to == from.stamp.instance {
        return Err(
            Error::invalid(format!("snapshotter {to} is what is migrated from"))
                .with_hint("name another with --to, or the source with --snapshotter"),
        );
    }
    let to = app.drivers.snapshotter(Some(&to))?;
    let progress = Progress::new(app.format, Stderr::Own)?;
    let wanted = wanted(app, from, words)?;
    let mut keys: Vec<Object> = Vec::new();
    for instance in [&from.stamp.instance, &to.stamp.instance] {
        let tops = wanted.tops.iter().cloned();
        keys.extend(tops.map(|key| Object::Snapshot(instance.clone(), key)));
    }
    let lease = app.lease(&keys)?;
    let source = Opened {
        stamp: from.stamp.clone(),
        driver: from.driver.clone(),
    };
    let leased = lease.snapshotter(&to.stamp.instance, &*to.driver);
    let contents = super::gc::stores(app)?.contents;
    let route = Route {
        from: &source,
        to: &leased,
        layers: layers(app, &contents)?,
    };
    let options = MigrateOptions {
        locks: app
            .config
            .state
            .join("locks")
            .join(to.stamp.instance.as_str()),
        limits: Limits::default(),
        cancel: progress.cancel.clone(),
    };
    let mut done: BTreeMap<SnapshotKey, Migrated> = BTreeMap::new();
    for top in &wanted.tops {
        migrate(&route, top, &options, &mut |key, how| {
            done.entry(key.clone()).or_insert(how);
        })?;
    }
    let (moved, failed) = move_containers(app, from, &to, &wanted, &lease, &progress)?;
    if app.format == Format::Json {
        let rows = done
            .iter()
            .map(|(key, how)| json!({ "kind": "snapshot", "id": key, "action": how.name() }));
        let more = moved
            .iter()
            .map(|id| json!({ "kind": "container", "id": id, "action": "moved" }));
        output::print_json(&rows.chain(more).collect::<Vec<_>>())?;
    } else {
        for (key, how) in &done {
            output::print_line(&format!("snapshot {key} {}", how.name()));
        }
        for id in &moved {
            output::print_line(&format!("container {id} moved"));
        }
    }
    all(failed)?;
    if app.config.default.snapshotter != to.stamp.instance {
        log::info!(
            "new containers use it with `--snapshotter {0}`, or with `snapshotter = \"{0}\"` \
             under [default] in the configuration",
            to.stamp.instance
        );
    }
    Ok(Outcome::Success)
}

fn committed(snapshotter: &dyn Snapshotter) -> Result<Vec<containerkit::snapshot::SnapshotInfo>> {
    let filter = SnapshotFilter {
        kind: Some(SnapshotKind::Committed),
        ..SnapshotFilter::default()
    };
    all_pages(
        |page| snapshotter.walk(&filter, page),
        |info| info.key.to_string(),
    )
}

/// Each word is a key of the source, or an image.
fn wanted(app: &App, from: &Opened<dyn Snapshotter>, words: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted {
        tops: Vec::new(),
        images: BTreeSet::new(),
        everything: words.is_empty(),
    };
    if words.is_empty() {
        let all = committed(&*from.driver)?;
        let parents: BTreeSet<_> = all.iter().filter_map(|info| info.parent.clone()).collect();
        let tops = all.into_iter().map(|info| info.key);
        wanted.tops = tops.filter(|key| !parents.contains(key)).collect();
        return Ok(wanted);
    }
    for word in words {
        if let Ok(key) = word.parse::<SnapshotKey>()
            && from.stat(&key).is_ok()
        {
            wanted.tops.push(key);
            continue;
        }
        let record = app.image(word)?;
        let (_, image) = app.resolve(&record, None)?;
        wanted.images.insert(record.digest);
        let Some(top) = image.layers.last() else {
            continue;
        };
        let top: SnapshotKey = top.chain_id.to_string().parse()?;
        match from.stat(&top) {
            Ok(_) => wanted.tops.push(top),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::precondition(format!(
                    "image {} is not unpacked in snapshotter {}",
                    record.name, from.stamp.instance
                ))
                .with_hint(format!(
                    "`containerkit image unpack --snapshotter NAME {}` unpacks it anywhere",
                    record.name
                )));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(wanted)
}

/// The layer that each snapshot of an image is, where its blob is there.
fn layers<'a>(
    app: &App,
    contents: &'a [Opened<dyn ContentStore>],
) -> Result<HashMap<SnapshotKey, (&'a dyn ContentStore, containerkit_image::Layer)>> {
    let records = app.records()?;
    let mut layers = HashMap::new();
    for record in all_pages(|page| records.images(page), |image| image.name.to_string())? {
        let store = contents.iter().find(|s| s.stamp.instance == record.content);
        let Some(store) = store else { continue };
        let target = descriptor(&record)?;
        // What cannot be resolved is copied instead.
        let choice = containerkit_image::PlatformChoice::host();
        let Ok(image) = containerkit_image::resolve(&*store.driver, &target, &choice) else {
            continue;
        };
        for layer in image.layers {
            if store.info(&layer.digest).is_ok() {
                let key = layer.chain_id.to_string().parse()?;
                layers.entry(key).or_insert((&*store.driver, layer));
            }
        }
    }
    Ok(layers)
}

type Failures = Vec<(String, Error)>;

/// Containers that do not run; those that do are failures, told at the end.
fn move_containers(
    app: &App,
    from: &Opened<dyn Snapshotter>,
    to: &Opened<dyn Snapshotter>,
    wanted: &Wanted,
    lease: &containerkit::lease::Lease,
    progress: &Progress,
) -> Result<(Vec<String>, Failures)> {
    let containers = containers(app)?;
    let records = containers.records();
    let (mut moved, mut failed) = (Vec::new(), Failures::new());
    let chains = below(&*from.driver, &wanted.tops)?;
    for record in all_pages(|page| records.containers(page), |c| c.id.to_string())? {
        progress.cancel.check()?;
        if !concerns(&record, from, wanted, &chains) {
            continue;
        }
        if let Some(key) = &record.snapshot {
            let (old, new) = (&from.stamp.instance, &to.stamp.instance);
            let both = [old, new].map(|name| Object::Snapshot(name.clone(), key.clone()));
            lease.add(&both)?;
        }
        let copy = |one: std::os::fd::BorrowedFd<'_>, other: std::os::fd::BorrowedFd<'_>| {
            mirror::copy(one, other, &progress.cancel)?;
            match mirror::compare(one, other, 1, &progress.cancel)?.first() {
                None => Ok(()),
                Some(difference) => Err(Error::data_loss(format!(
                    "the copy is not equal: {difference}"
                ))),
            }
        };
        match containers.rehouse(&record, to, &copy) {
            Ok(_) => moved.push(record.id.to_string()),
            Err(error) => failed.push((record.name.to_string(), error)),
        }
    }
    Ok((moved, failed))
}

/// These snapshots and those below them.
fn below(snapshotter: &dyn Snapshotter, tops: &[SnapshotKey]) -> Result<BTreeSet<SnapshotKey>> {
    let all = committed(snapshotter)?;
    let parents: HashMap<_, _> = all
        .into_iter()
        .map(|info| (info.key, info.parent))
        .collect();
    let mut found = BTreeSet::new();
    for top in tops {
        let mut next = Some(top.clone());
        while let Some(key) = next {
            next = parents.get(&key).cloned().flatten();
            if !found.insert(key) {
                break;
            }
        }
    }
    Ok(found)
}

fn concerns(
    record: &ContainerRecord,
    from: &Opened<dyn Snapshotter>,
    wanted: &Wanted,
    chains: &BTreeSet<SnapshotKey>,
) -> bool {
    let ours = record
        .snapshotter
        .as_ref()
        .is_some_and(|stamp| stamp.instance == from.stamp.instance);
    let named = record
        .image_digest
        .as_ref()
        .is_some_and(|digest| wanted.images.contains(digest));
    let on_chain = || {
        let key = record.snapshot.as_ref()?;
        from.stat(key).ok()?.parent
    };
    ours && (wanted.everything || named || on_chain().is_some_and(|key| chains.contains(&key)))
}
