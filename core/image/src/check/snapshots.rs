//! Snapshots against each other, and against the layers that they are.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use containerkit::container::SNAPSHOT_LABEL;
use containerkit::snapshot::{SnapshotFilter, SnapshotInfo, SnapshotKind};
use containerkit::value::all_pages;
use containerkit::{Error, ErrorKind, Result, SnapshotKey, Snapshotter};

use super::{Course, Finding, State};
use crate::mirror;
use crate::resolve::Layer;
use crate::unpack::scratch::{self, Scratch};
use crate::unpack::{PROCESS_LABEL, abandoned};

/// Differences that a finding shows.
const SHOWN: usize = 3;

impl Course<'_> {
    pub(super) fn snapshots(&mut self) -> Result<()> {
        for place in 0..self.stores.snapshotters.len() {
            let snapshotter = self.stores.snapshotters[place].clone();
            let instance = snapshotter.stamp.instance.clone();
            let infos = walk(&*snapshotter.driver)?;
            let by_key: HashMap<&SnapshotKey, &SnapshotInfo> =
                infos.iter().map(|info| (&info.key, info)).collect();
            let layers = self.layers_of(&by_key);
            for info in &infos {
                self.options.cancel.check()?;
                let layer = layers.get(&info.key);
                if self.options.images.is_some() && layer.is_none() {
                    continue;
                }
                self.checked.snapshots += 1;
                let found = match standing(info, &by_key) {
                    Some(why) => Err(Error::data_loss(why)),
                    None if info.kind == SnapshotKind::Committed => {
                        self.committed(&*snapshotter.driver, info, layer)
                    }
                    None => Ok(None),
                };
                let (state, why) = match found {
                    Ok(None) => continue,
                    Ok(Some(why)) => (State::Damaged, why),
                    Err(error) if is_gone(&*snapshotter.driver, info, &error) => continue,
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) => (State::of(&error), error.to_string()),
                };
                let finding = Finding::new("snapshot", &info.key, state, why);
                self.checked.findings.push(finding.of(&instance));
                if state == State::Unchecked {
                    continue;
                }
                let bad = self.bad_snapshots.entry(place).or_default();
                bad.push(info.key.clone());
            }
        }
        Ok(())
    }

    /// Which layer each snapshot is, where its blob can be read.
    fn layers_of(
        &self,
        by_key: &HashMap<&SnapshotKey, &SnapshotInfo>,
    ) -> HashMap<SnapshotKey, (usize, Layer)> {
        let mut layers = HashMap::new();
        for (record, image) in &self.resolved {
            let contents = &self.stores.contents;
            let store = contents
                .iter()
                .position(|s| s.stamp.instance == record.content);
            let Some(store) = store else { continue };
            for layer in &image.layers {
                let Ok(key) = layer.chain_id.to_string().parse::<SnapshotKey>() else {
                    continue;
                };
                if by_key.contains_key(&key) {
                    layers.entry(key).or_insert_with(|| (store, layer.clone()));
                }
            }
        }
        layers
    }

    /// What is wrong with a committed snapshot.
    fn committed(
        &mut self,
        snapshotter: &dyn Snapshotter,
        info: &SnapshotInfo,
        layer: Option<&(usize, Layer)>,
    ) -> Result<Option<String>> {
        let view = Scratch::view(snapshotter, &info.key)?;
        let Some((store, layer)) = layer else {
            return Ok(None);
        };
        let store = &*self.stores.contents[*store].driver;
        let there = crate::resolve::is_there(store, &layer.digest).unwrap_or(false);
        if !there || self.bad_blobs.contains(&layer.digest) {
            return Ok(None);
        }
        let parent = info.parent.as_ref();
        let anew = Scratch::prepare(snapshotter, &info.key, parent)?;
        let options = self.options;
        let written = scratch::write(store, layer, anew.root()?, &options.limits, &options.cancel);
        if let Err(error) = written {
            options.cancel.check()?;
            // The layer's fault, and told of the image; or the disk's.
            return match error.kind() {
                ErrorKind::ResourceExhausted => Err(error),
                _ => Ok(None),
            };
        }
        self.checked.compared += 1;
        let (one, other) = (anew.root()?.as_fd(), view.root()?.as_fd());
        let found = mirror::compare(one, other, SHOWN + 1, &options.cancel)?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut shown: Vec<String> = found.iter().take(SHOWN).map(ToString::to_string).collect();
        if found.len() > SHOWN {
            shown.push("…".into());
        }
        Ok(Some(format!(
            "it is not what its layer {} gives: {}",
            layer.digest,
            shown.join("; ")
        )))
    }

    /// What the killed left, and what can be gone on with.
    pub(super) fn leftovers(&mut self) -> Result<()> {
        const GC: &str = "`containerkit gc` removes it";
        for lease in &self.roots.leases {
            if let Some(why) = lease.ended()? {
                let finding = Finding::new("lease", &lease.id, State::Leftover, why);
                self.checked.findings.push(finding.mend(GC.into()));
            }
        }
        for store in &self.stores.contents {
            for status in store.list_statuses()? {
                if status.holder.is_some() {
                    continue;
                }
                let why = format!("it holds {} bytes and can be gone on with", status.offset);
                let finding = Finding::new("ingest", &status.name, State::Leftover, why);
                self.checked
                    .findings
                    .push(finding.of(&store.stamp.instance));
            }
        }
        for snapshotter in &self.stores.snapshotters {
            let instance = &snapshotter.stamp.instance;
            let infos = walk(&*snapshotter.driver)?;
            let there: HashSet<&SnapshotKey> = infos.iter().map(|info| &info.key).collect();
            for info in &infos {
                let owner = info.labels.get(SNAPSHOT_LABEL);
                let why = match owner {
                    Some(id) if self.is_forgotten(id)? => format!("its container {id} is gone"),
                    None if info.labels.contains_key(PROCESS_LABEL) && abandoned(info)? => {
                        "the process that wrote it was killed".into()
                    }
                    _ => continue,
                };
                let finding = Finding::new("snapshot", &info.key, State::Leftover, why);
                self.checked
                    .findings
                    .push(finding.of(instance).mend(GC.into()));
            }
            for container in &self.roots.containers {
                let (Some(stamp), Some(key)) = (&container.snapshotter, &container.snapshot) else {
                    continue;
                };
                // One that is being made has a record first.
                if stamp.instance != *instance
                    || there.contains(key)
                    || container.creator.open()?.is_some()
                    || self.is_forgotten(container.id.as_str())?
                    || snapshotter.stat(key).is_ok()
                {
                    continue;
                }
                let why = format!("its snapshot {key} is not in snapshotter {instance}");
                let mend = format!("`containerkit delete --force {}`", container.id);
                let finding = Finding::new("container", &container.id, State::Damaged, why);
                self.checked.findings.push(finding.of(instance).mend(mend));
            }
        }
        Ok(())
    }

    fn is_forgotten(&self, id: &str) -> Result<bool> {
        let Ok(id) = id.parse() else {
            return Ok(true);
        };
        match self.stores.records.container(&id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            other => other.map(|_| false),
        }
    }
}

pub(super) fn walk(snapshotter: &dyn Snapshotter) -> Result<Vec<SnapshotInfo>> {
    all_pages(
        |page| snapshotter.walk(&SnapshotFilter::default(), page),
        |info| info.key.to_string(),
    )
}

/// Why a snapshot cannot stand where it does.
fn standing(info: &SnapshotInfo, by_key: &HashMap<&SnapshotKey, &SnapshotInfo>) -> Option<String> {
    let mut seen = HashSet::from([&info.key]);
    let mut below = info.parent.as_ref();
    while let Some(key) = below {
        if !seen.insert(key) {
            return Some(format!("its chain goes round in a circle at {key}"));
        }
        match by_key.get(key) {
            None => return Some(format!("the snapshot {key} below it is missing")),
            Some(parent) if parent.kind != SnapshotKind::Committed => {
                return Some(format!("the snapshot {key} below it is {}", parent.kind));
            }
            Some(parent) => below = parent.parent.as_ref(),
        }
    }
    None
}

/// Whether it, or what is below it, was removed since it was listed.
fn is_gone(snapshotter: &dyn Snapshotter, info: &SnapshotInfo, error: &Error) -> bool {
    let missing = |key: &SnapshotKey| {
        snapshotter
            .stat(key)
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    error.kind() != ErrorKind::Cancelled && missing(&info.key)
}
