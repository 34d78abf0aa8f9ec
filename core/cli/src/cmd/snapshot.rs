//! `snapshot`: the snapshotter's primitives.

use std::collections::BTreeMap;

use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotInfo, Snapshotter};
use containerkit::value::all_pages;
use containerkit::{Error, Labels, Mount, Result, SnapshotKey};
use serde_json::json;

use crate::Outcome;
use crate::app::{App, label_changes};
use crate::args::{SnapshotAction, SnapshotCommand};
use crate::cmd::diff;
use crate::output::{self, Format, human_size};

pub(crate) fn run(app: &App, command: SnapshotCommand) -> Result<Outcome> {
    let snapshotter = app.snapshotter(command.snapshotter.as_deref())?;
    if let SnapshotAction::Migrate { to, what } = &command.action {
        return super::migrate::run(app, &snapshotter, to, what);
    }
    let snapshotter = &*snapshotter.driver;
    match command.action {
        SnapshotAction::Migrate { .. } => Err(Error::internal("handled above")),
        SnapshotAction::Ls => ls(app, snapshotter),
        SnapshotAction::Tree => tree(app, snapshotter),
        SnapshotAction::Prepare { key, parent } => {
            let (key, parent) = keys(&key, parent.as_deref())?;
            print_mounts(
                app,
                &snapshotter.prepare(&key, parent.as_ref(), &Labels::new())?,
            )
        }
        SnapshotAction::View { key, parent } => {
            let (key, parent) = keys(&key, parent.as_deref())?;
            print_mounts(
                app,
                &snapshotter.view(&key, parent.as_ref(), &Labels::new())?,
            )
        }
        SnapshotAction::Mounts { key } => print_mounts(app, &snapshotter.mounts(&key.parse()?)?),
        SnapshotAction::Commit { name, key } => {
            let (name, key) = (name.parse()?, key.parse()?);
            // What was written to it is the caller's to make durable, and here
            // the caller was some shell.
            containerkit::fs::sync_file_system(&app.config.root)?;
            let info = snapshotter.commit(&name, &key, &CommitOptions::default())?;
            print_infos(app, &[info])
        }
        SnapshotAction::Rm { keys } => {
            let keys: Vec<SnapshotKey> =
                keys.iter().map(|key| key.parse()).collect::<Result<_>>()?;
            let result = keys.iter().try_for_each(|key| snapshotter.remove(key));
            // Also after a failure: the removal that was killed has happened.
            if let Err(error) = snapshotter.cleanup() {
                log::warn!("clean up after removals: {error}");
            }
            result?;
            let removed: Vec<String> = keys.iter().map(SnapshotKey::to_string).collect();
            output::print_names(app.format, &removed)?;
            Ok(Outcome::Success)
        }
        SnapshotAction::Usage { keys } => usage(app, snapshotter, &keys),
        SnapshotAction::Diff { key, from, tar } => {
            let form = match tar {
                true => diff::Form::Layer,
                false => diff::Form::List,
            };
            diff::snapshot(app, snapshotter, (&key, from.as_deref()), form)
        }
        SnapshotAction::Label { key, labels } => {
            let info = snapshotter.update(&key.parse()?, &label_changes(&labels)?)?;
            print_infos(app, &[info])
        }
    }
}

fn keys(key: &str, parent: Option<&str>) -> Result<(SnapshotKey, Option<SnapshotKey>)> {
    Ok((key.parse()?, parent.map(str::parse).transpose()?))
}

fn walk(snapshotter: &dyn Snapshotter) -> Result<Vec<SnapshotInfo>> {
    let filter = SnapshotFilter::default();
    all_pages(
        |page| snapshotter.walk(&filter, page),
        |info| info.key.to_string(),
    )
}

fn ls(app: &App, snapshotter: &dyn Snapshotter) -> Result<Outcome> {
    print_infos(app, &walk(snapshotter)?)
}

fn print_infos(app: &App, infos: &[SnapshotInfo]) -> Result<Outcome> {
    if app.format == Format::Json {
        output::print_json(&infos)?;
        return Ok(Outcome::Success);
    }
    let rows: Vec<Vec<String>> = infos
        .iter()
        .map(|info| {
            vec![
                info.key.to_string(),
                info.kind.to_string(),
                info.parent
                    .as_ref()
                    .map_or("-".into(), SnapshotKey::to_string),
                info.created.to_string(),
            ]
        })
        .collect();
    output::print_table(&["KEY", "KIND", "PARENT", "CREATED"], &rows);
    Ok(Outcome::Success)
}

fn tree(app: &App, snapshotter: &dyn Snapshotter) -> Result<Outcome> {
    let infos = walk(snapshotter)?;
    if app.format == Format::Json {
        output::print_json(&infos)?;
        return Ok(Outcome::Success);
    }
    let mut children: BTreeMap<Option<&SnapshotKey>, Vec<&SnapshotInfo>> = BTreeMap::new();
    for info in &infos {
        children.entry(info.parent.as_ref()).or_default().push(info);
    }
    // A stack instead of recursion: chains are up to 500 deep.
    let roots = children.get(&None).cloned().unwrap_or_default();
    let mut pending: Vec<(usize, &SnapshotInfo)> =
        roots.into_iter().rev().map(|i| (0, i)).collect();
    while let Some((depth, info)) = pending.pop() {
        output::print_line(&format!(
            "{}{} ({})",
            "  ".repeat(depth),
            info.key,
            info.kind
        ));
        let below = children.get(&Some(&info.key)).cloned().unwrap_or_default();
        pending.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
    }
    Ok(Outcome::Success)
}

fn print_mounts(app: &App, mounts: &[Mount]) -> Result<Outcome> {
    if app.format == Format::Json {
        output::print_json(&mounts)?;
        return Ok(Outcome::Success);
    }
    for mount in mounts {
        let target = if mount.target.is_empty() {
            "/"
        } else {
            &mount.target
        };
        output::print_line(&format!("{} {} on {target}", mount.fstype, mount.source));
        for option in &mount.options {
            output::print_line(&format!("  {option}"));
        }
    }
    Ok(Outcome::Success)
}

fn usage(app: &App, snapshotter: &dyn Snapshotter, keys: &[String]) -> Result<Outcome> {
    let keys: Vec<SnapshotKey> = if keys.is_empty() {
        walk(snapshotter)?
            .into_iter()
            .map(|info| info.key)
            .collect()
    } else {
        keys.iter().map(|key| key.parse()).collect::<Result<_>>()?
    };
    let mut rows = Vec::new();
    let mut report = Vec::new();
    for key in &keys {
        let usage = snapshotter.usage(key)?;
        rows.push(vec![
            key.to_string(),
            human_size(usage.size),
            usage.inodes.to_string(),
        ]);
        report.push(json!({ "key": key, "size": usage.size, "inodes": usage.inodes }));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    } else {
        output::print_table(&["KEY", "SIZE", "INODES"], &rows);
    }
    Ok(Outcome::Success)
}
