//! Verdicts, and the removals.

use std::collections::{HashMap, HashSet};

use containerkit::container::SNAPSHOT_LABEL;
use containerkit::content::{BlobInfo, IngestStatus};
use containerkit::lease::ROOT_LABEL;
use containerkit::process::ProcessIdentity;
use containerkit::record::{Condemned, Object};
use containerkit::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit::{Error, ErrorKind, InstanceName, Result, SnapshotKey, lock};

use super::mark::{Marks, Reason, Wanted};
use super::{Action, Collected, GcOptions, Kind, Listing, Measure, Mode, Stores, Verdict};
use crate::unpack::PROCESS_LABEL;

/// Objects condemned at a time. Who wants one of them waits for so many
/// removals.
const BATCH: usize = 128;

/// On a view that is mounted on a folder of the host: which.
pub const MOUNT_LABEL: &str = "containerkit.mount";

/// A snapshot or a blob that no root reaches.
struct Candidate {
    object: Object,
    /// The place of its store in [`Stores`].
    store: usize,
    size: u64,
    reason: Reason,
}

pub(super) fn run(
    stores: &Stores<'_>,
    listing: &Listing,
    marks: &mut Marks<'_>,
    options: &GcOptions,
    collected: &mut Collected,
) -> Result<()> {
    labelled(stores, listing, marks)?;
    let mut pending = judge(stores, listing, marks, options, collected)?;
    if options.mode == Mode::Tell {
        for candidate in pending {
            collected
                .verdicts
                .push(candidate.verdict(stores, Action::Remove, None));
        }
        return ingests(stores, listing, options, collected);
    }
    let me = ProcessIdentity::of(std::process::id())?;
    // Topmost snapshots come last in the list, for they are taken from its end.
    while !pending.is_empty() {
        options.cancel.check()?;
        let batch = pending.split_off(pending.len().saturating_sub(BATCH));
        let objects: Vec<Object> = batch.iter().rev().map(|c| c.object.clone()).collect();
        match stores.records.condemn(&me, &objects, &marks.known)? {
            Condemned::Grown => {
                marks.walk(&stores.records.roots()?)?;
                labelled(stores, listing, marks)?;
                pending.extend(batch);
                let kept = reprieve(stores, listing, marks, &mut pending);
                collected.verdicts.extend(kept);
            }
            Condemned::Yes(taken) => {
                containerkit::step("gc.condemned");
                let taken: HashSet<Object> = taken.into_iter().collect();
                for candidate in batch.into_iter().rev() {
                    let verdict = if taken.contains(&candidate.object) {
                        candidate.remove(stores, &mut collected.failures)
                    } else {
                        let by = "another collection is removing it".to_string();
                        candidate.verdict(stores, Action::Keep, Some(by))
                    };
                    collected.verdicts.push(verdict);
                }
                containerkit::step("gc.removed");
            }
        }
    }
    stores.records.pardon(&me)?;
    ingests(stores, listing, options, collected)?;
    for snapshotter in &stores.snapshotters {
        if let Err(error) = snapshotter.cleanup() {
            collected.failures.push(error.to_string());
        }
    }
    Ok(())
}

/// What bears the label of a root is one, with what it refers to.
fn labelled(stores: &Stores<'_>, listing: &Listing, marks: &mut Marks<'_>) -> Result<()> {
    let reason: Reason = format!("it has the label {ROOT_LABEL}").into();
    for blob in listing.blobs.iter().flatten() {
        if blob.labels.contains_key(ROOT_LABEL) {
            marks.document(&blob.digest, &reason, Wanted::IfThere)?;
        }
    }
    for (snapshotter, infos) in stores.snapshotters.iter().zip(&listing.snapshots) {
        for info in infos {
            if info.labels.contains_key(ROOT_LABEL) {
                let place = (snapshotter.stamp.instance.clone(), info.key.clone());
                marks
                    .snapshots
                    .entry(place)
                    .or_insert_with(|| reason.clone());
            }
        }
    }
    Ok(())
}

/// Tells what is kept, and returns the rest: blobs, then snapshots, those with
/// most below them last.
fn judge(
    stores: &Stores<'_>,
    listing: &Listing,
    marks: &Marks<'_>,
    options: &GcOptions,
    collected: &mut Collected,
) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for (place, blobs) in listing.blobs.iter().enumerate() {
        for blob in blobs {
            match kept_blob(marks, blob) {
                Some(reason) => collected.verdicts.push(Verdict {
                    kind: Kind::Blob,
                    store: Some(stores.contents[place].stamp.instance.clone()),
                    id: blob.digest.to_string(),
                    size: Some(blob.size),
                    action: Action::Keep,
                    reason: reason.to_string(),
                }),
                None => candidates.push(Candidate {
                    object: Object::Blob(blob.digest.clone()),
                    store: place,
                    size: blob.size,
                    reason: "no image, container or lease refers to it".into(),
                }),
            }
        }
    }
    for (place, infos) in listing.snapshots.iter().enumerate() {
        let snapshotter = &stores.snapshotters[place];
        let instance = &snapshotter.stamp.instance;
        let reasons = kept_snapshots(marks, instance, infos)?;
        let mut above = Vec::new();
        for (info, verdict) in infos.iter().zip(reasons.verdicts) {
            let size = match (&verdict, options.measure) {
                (Ok(_), Measure::Removed) => None,
                _ => snapshotter.usage(&info.key).ok().map(|usage| usage.size),
            };
            match verdict {
                Ok(reason) => collected.verdicts.push(Verdict {
                    kind: Kind::Snapshot,
                    store: Some(instance.clone()),
                    id: info.key.to_string(),
                    size,
                    action: Action::Keep,
                    reason: reason.to_string(),
                }),
                Err(reason) => above.push((
                    reasons.depth.get(&info.key).copied().unwrap_or(0),
                    Candidate {
                        object: Object::Snapshot(instance.clone(), info.key.clone()),
                        store: place,
                        size: size.unwrap_or(0),
                        reason,
                    },
                )),
            }
        }
        above.sort_by_key(|(depth, _)| *depth);
        candidates.extend(above.into_iter().map(|(_, candidate)| candidate));
    }
    Ok(candidates)
}

/// Takes what the marks reach by now off the list.
fn reprieve(
    stores: &Stores<'_>,
    listing: &Listing,
    marks: &Marks<'_>,
    pending: &mut Vec<Candidate>,
) -> Vec<Verdict> {
    let mut safe: HashMap<Object, Reason> = HashMap::new();
    for blob in listing.blobs.iter().flatten() {
        if let Some(reason) = kept_blob(marks, blob) {
            safe.insert(Object::Blob(blob.digest.clone()), reason);
        }
    }
    for (snapshotter, infos) in stores.snapshotters.iter().zip(&listing.snapshots) {
        let instance = &snapshotter.stamp.instance;
        // A process that cannot be asked for keeps what it may have.
        let Ok(reasons) = kept_snapshots(marks, instance, infos) else {
            continue;
        };
        for (info, verdict) in infos.iter().zip(reasons.verdicts) {
            if let Ok(reason) = verdict {
                safe.insert(Object::Snapshot(instance.clone(), info.key.clone()), reason);
            }
        }
    }
    let mut kept = Vec::new();
    for candidate in std::mem::take(pending) {
        match safe.get(&candidate.object) {
            Some(reason) => {
                kept.push(candidate.verdict(stores, Action::Keep, Some(reason.to_string())));
            }
            None => pending.push(candidate),
        }
    }
    kept
}

fn kept_blob(marks: &Marks<'_>, blob: &BlobInfo) -> Option<Reason> {
    let reached = marks.blobs.get(&blob.digest).cloned();
    reached.or_else(|| marks.unknown.clone())
}

/// Why each snapshot is kept (`Ok`) or goes (`Err`), and how deep it stands.
struct Reasons<'a> {
    verdicts: Vec<Result<Reason, Reason>>,
    depth: HashMap<&'a SnapshotKey, usize>,
}

fn kept_snapshots<'a>(
    marks: &Marks<'_>,
    instance: &InstanceName,
    infos: &'a [SnapshotInfo],
) -> Result<Reasons<'a>> {
    let by_key: HashMap<&SnapshotKey, &SnapshotInfo> =
        infos.iter().map(|info| (&info.key, info)).collect();
    let mut kept: HashMap<&SnapshotKey, Reason> = HashMap::new();
    let mut gone: HashMap<&SnapshotKey, Reason> = HashMap::new();
    for info in infos {
        match own_reason(marks, instance, info)? {
            Ok(reason) => drop(kept.insert(&info.key, reason)),
            Err(reason) => drop(gone.insert(&info.key, reason)),
        }
    }
    // Whatever stands on another keeps it.
    let own: Vec<&SnapshotKey> = kept.keys().copied().collect();
    for key in own {
        let mut below = by_key.get(key).and_then(|info| info.parent.as_ref());
        while let Some(parent) = below.and_then(|parent| by_key.get(parent)) {
            if kept.contains_key(&parent.key) {
                break;
            }
            kept.insert(&parent.key, format!("below snapshot {key}").into());
            below = parent.parent.as_ref();
        }
    }
    let verdicts = infos
        .iter()
        .map(|info| match kept.remove(&info.key) {
            Some(reason) => Ok(reason),
            None => Err(gone
                .remove(&info.key)
                .unwrap_or_else(|| "nothing refers to it".into())),
        })
        .collect();
    Ok(Reasons {
        verdicts,
        depth: depths(infos, &by_key),
    })
}

/// How many stand below each.
fn depths<'a>(
    infos: &'a [SnapshotInfo],
    by_key: &HashMap<&'a SnapshotKey, &'a SnapshotInfo>,
) -> HashMap<&'a SnapshotKey, usize> {
    let mut depth: HashMap<&SnapshotKey, usize> = HashMap::new();
    for info in infos {
        let mut chain = Vec::new();
        let mut next = Some(info);
        let mut base = 0;
        while let Some(info) = next {
            if let Some(known) = depth.get(&info.key) {
                base = known + 1;
                break;
            }
            // A driver whose parents go round in circles.
            if chain.len() > infos.len() {
                break;
            }
            chain.push(&info.key);
            next = info
                .parent
                .as_ref()
                .and_then(|parent| by_key.get(parent).copied());
        }
        for (step, key) in chain.into_iter().rev().enumerate() {
            depth.insert(key, base + step);
        }
    }
    depth
}

/// Why a snapshot is kept for itself, or goes unless something stands on it.
fn own_reason(
    marks: &Marks<'_>,
    instance: &InstanceName,
    info: &SnapshotInfo,
) -> Result<Result<Reason, Reason>> {
    let place = (instance.clone(), info.key.clone());
    if let Some(reason) = marks.snapshots.get(&place) {
        return Ok(Ok(reason.clone()));
    }
    if let Some(reason) = &marks.unknown {
        return Ok(Ok(reason.clone()));
    }
    if info.kind == SnapshotKind::Committed {
        return Ok(match marks.chains.get(&info.key) {
            Some(reason) => Ok(reason.clone()),
            None => Err("no image, container or lease refers to it".into()),
        });
    }
    if let Some(id) = info.labels.get(SNAPSHOT_LABEL) {
        return Ok(match marks.containers.contains(id) {
            // Its record names the one that counts, and not this one.
            true => Err(format!("its container {id} has another snapshot").into()),
            false => Err(format!("its container {id} is gone").into()),
        });
    }
    if let Some(identity) = info.labels.get(PROCESS_LABEL) {
        let Ok(identity) = serde_json::from_str::<ProcessIdentity>(identity) else {
            return Ok(Ok("its label does not say whose it is".into()));
        };
        return Ok(match identity.open()? {
            Some(_) => Ok(format!("{} writes it", lock::name_process(identity.pid)).into()),
            None => Err(format!("the process {} that wrote it has ended", identity.pid).into()),
        });
    }
    if let Some(dir) = info.labels.get(MOUNT_LABEL) {
        let there = containerkit::mounter::is_mountpoint(dir.as_ref()).unwrap_or(true);
        return Ok(match there {
            true => Ok(format!("an image is mounted on {dir}").into()),
            false => Err(format!("nothing is mounted on {dir} any more").into()),
        });
    }
    Ok(Ok("made by hand, and not by an image or a container".into()))
}

impl Candidate {
    fn verdict(self, stores: &Stores<'_>, action: Action, reason: Option<String>) -> Verdict {
        let (kind, store, id) = match self.object {
            Object::Blob(digest) => {
                let store = stores.contents[self.store].stamp.instance.clone();
                (Kind::Blob, store, digest.to_string())
            }
            Object::Snapshot(instance, key) => (Kind::Snapshot, instance, key.to_string()),
        };
        Verdict {
            kind,
            store: Some(store),
            id,
            size: Some(self.size),
            action,
            reason: reason.unwrap_or_else(|| self.reason.to_string()),
        }
    }

    fn remove(self, stores: &Stores<'_>, failures: &mut Vec<String>) -> Verdict {
        let removed = match &self.object {
            Object::Blob(digest) => stores.contents[self.store].delete(digest),
            Object::Snapshot(_, key) => stores.snapshotters[self.store].remove(key),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // In use by somebody whom no record tells of, in this moment.
                let used = matches!(
                    error.kind(),
                    ErrorKind::FailedPrecondition | ErrorKind::Conflict
                );
                if !used {
                    failures.push(error.to_string());
                }
                self.verdict(stores, Action::Keep, Some(error.to_string()))
            }
            _ => self.verdict(stores, Action::Remove, None),
        }
    }
}

fn ingests(
    stores: &Stores<'_>,
    listing: &Listing,
    options: &GcOptions,
    collected: &mut Collected,
) -> Result<()> {
    for (store, statuses) in stores.contents.iter().zip(&listing.ingests) {
        for status in statuses {
            options.cancel.check()?;
            let (mut action, mut reason) = judge_ingest(status, options);
            if action == Action::Remove && options.mode == Mode::Remove {
                match store.abort(&status.name) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        action = Action::Keep;
                        reason = explain(error, &mut collected.failures);
                    }
                }
            }
            collected.verdicts.push(Verdict {
                kind: Kind::Ingest,
                store: Some(store.stamp.instance.clone()),
                id: status.name.to_string(),
                size: Some(status.offset),
                action,
                reason,
            });
        }
    }
    Ok(())
}

fn explain(error: Error, failures: &mut Vec<String>) -> String {
    if error.kind() != ErrorKind::Conflict {
        failures.push(error.to_string());
    }
    error.to_string()
}

fn judge_ingest(status: &IngestStatus, options: &GcOptions) -> (Action, String) {
    if let Some(holder) = status.holder {
        return (
            Action::Keep,
            format!("{} writes it", lock::name_process(holder)),
        );
    }
    let age = status.updated.age();
    let seconds = age.as_secs();
    match age >= options.ingest_age {
        true => (
            Action::Remove,
            format!("nobody went on with it for {seconds} s"),
        ),
        false => (
            Action::Keep,
            format!("it can be gone on with, last written {seconds} s ago"),
        ),
    }
}
