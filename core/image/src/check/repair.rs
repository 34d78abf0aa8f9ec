//! Damaged snapshots are unpacked again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use containerkit::container::SNAPSHOT_LABEL;
use containerkit::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit::{Error, ErrorKind, Result, SnapshotKey, Snapshotter};

use super::Course;
use super::snapshots::walk;
use crate::unpack::{UnpackOptions, abandoned, unpack};

impl Course<'_> {
    pub(super) fn rebuild(&mut self) -> Result<()> {
        for (place, bad) in std::mem::take(&mut self.bad_snapshots) {
            self.options.cancel.check()?;
            let ended = self.rebuild_in(place, &bad);
            let instance = &self.stores.snapshotters[place].stamp.instance;
            for finding in &mut self.checked.findings {
                let ours = finding.kind == "snapshot"
                    && finding.store.as_ref() == Some(instance)
                    && bad.iter().any(|key| key.as_str() == finding.id);
                if !ours {
                    continue;
                }
                match &ended {
                    Ok(mended) if mended.iter().any(|key| key.as_str() == finding.id) => {
                        finding.repaired = Some("unpacked again".into());
                    }
                    Ok(_) => {
                        finding.mend = Some(format!(
                            "no image has its layer: `containerkit snapshot rm {}`",
                            finding.id
                        ));
                    }
                    Err(error) => {
                        finding.mend = Some(match error.hint() {
                            Some(hint) => format!("{error}: {hint}"),
                            None => error.to_string(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Unpacks again what stands on these; returns those that are whole then.
    fn rebuild_in(&self, place: usize, bad: &[SnapshotKey]) -> Result<Vec<SnapshotKey>> {
        let snapshotter = &self.stores.snapshotters[place];
        let key_of = |layer: &crate::resolve::Layer| layer.chain_id.to_string().parse();
        let mut images = Vec::new();
        let mut covered = BTreeSet::new();
        let infos = walk(&*snapshotter.driver)?;
        let above = above(&infos, bad);
        for (record, image) in &self.resolved {
            let keys: Vec<SnapshotKey> = image.layers.iter().map(key_of).collect::<Result<_>>()?;
            if keys
                .iter()
                .any(|key| above.iter().any(|info| info.key == *key))
            {
                covered.extend(keys);
                images.push((record, image));
            }
        }
        // What no image has cannot be had again.
        let doomed: Vec<&SnapshotInfo> = above
            .into_iter()
            .filter(|info| info.kind != SnapshotKind::Committed || covered.contains(&info.key))
            .collect();
        remove(&*snapshotter.driver, &doomed)?;
        for (record, image) in images {
            let contents = &self.stores.contents;
            let store = contents.iter().find(|s| s.stamp.instance == record.content);
            let Some(store) = store else { continue };
            let mut options =
                UnpackOptions::new(self.options.locks.join(snapshotter.stamp.instance.as_str()));
            options.limits = self.options.limits.clone();
            options.cancel = self.options.cancel.clone();
            options.wait = Duration::from_secs(600);
            // Of another platform, perhaps, with layers missing.
            if let Err(error) = unpack(&*store.driver, &*snapshotter.driver, image, &options) {
                log::warn!("image {}: {error}", record.name);
            }
        }
        let whole = |key: &&SnapshotKey| covered.contains(key) && snapshotter.stat(key).is_ok();
        Ok(bad.iter().filter(whole).cloned().collect())
    }
}

/// These snapshots and all that stand on them, the topmost first.
fn above<'a>(infos: &'a [SnapshotInfo], bad: &[SnapshotKey]) -> Vec<&'a SnapshotInfo> {
    let mut children: HashMap<&SnapshotKey, Vec<&SnapshotInfo>> = HashMap::new();
    for info in infos {
        if let Some(parent) = &info.parent {
            children.entry(parent).or_default().push(info);
        }
    }
    let mut found: Vec<&SnapshotInfo> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut pending: Vec<&SnapshotInfo> = infos
        .iter()
        .filter(|info| bad.contains(&info.key))
        .collect();
    while let Some(info) = pending.pop() {
        if !seen.insert(&info.key) {
            // Seen as a lower one: it must go after what is above it.
            found.retain(|other| other.key != info.key);
        }
        if found.len() > infos.len() {
            break;
        }
        found.push(info);
        pending.extend(children.get(&info.key).into_iter().flatten());
    }
    found.reverse();
    found
}

/// Removes them, unless somebody's work stands there.
fn remove(snapshotter: &dyn Snapshotter, doomed: &[&SnapshotInfo]) -> Result<()> {
    for info in doomed {
        if info.kind == SnapshotKind::Committed || abandoned(info)? {
            continue;
        }
        return Err(match info.labels.get(SNAPSHOT_LABEL) {
            Some(id) => {
                Error::precondition(format!("container {id} stands on it")).with_hint(format!(
                    "`containerkit delete --force {id}`, and `containerkit check --repair` again"
                ))
            }
            None => Error::precondition(format!("snapshot {} stands on it", info.key)).with_hint(
                format!(
                    "`containerkit snapshot rm {}`, and `containerkit check --repair` again",
                    info.key
                ),
            ),
        });
    }
    for info in doomed {
        match snapshotter.remove(&info.key) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
