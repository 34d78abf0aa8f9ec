//! `system df`: what takes room, and what of it could be freed.

use std::collections::BTreeSet;

use containerkit::Result;
use containerkit::container::SNAPSHOT_LABEL;
use containerkit::snapshot::{SnapshotFilter, SnapshotKind};
use containerkit::value::all_pages;
use containerkit_image::gc::{self, Action, GcOptions, Kind, Measure, Mode};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::cmd::gc::stores;
use crate::cmd::run::containers;
use crate::output::{self, Format, human_size};

/// One line of the table.
#[derive(Default)]
struct Row {
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

impl Row {
    fn json(&self, name: &str) -> Value {
        json!({
            "type": name,
            "total": self.total,
            "active": self.active,
            "size": self.size,
            "reclaimable": self.reclaimable,
        })
    }

    fn text(&self, name: &str) -> Vec<String> {
        vec![
            name.into(),
            self.total.to_string(),
            self.active.to_string(),
            human_size(self.size),
            human_size(self.reclaimable),
        ]
    }
}

pub(crate) fn run(app: &App) -> Result<Outcome> {
    let stores = stores(app)?;
    let told = gc::collect(
        &stores,
        &GcOptions {
            mode: Mode::Tell,
            measure: Measure::All,
            ingest_age: std::time::Duration::ZERO,
            ..GcOptions::default()
        },
    )?;
    let of_kind = |kind: Kind| {
        let mut row = Row::default();
        for verdict in told.verdicts.iter().filter(|v| v.kind == kind) {
            let size = verdict.size.unwrap_or(0);
            row.total += 1;
            row.size += size;
            match verdict.action {
                Action::Keep => row.active += 1,
                Action::Remove => row.reclaimable += size,
            }
        }
        row
    };
    let rows = [
        ("images", images(app, &stores)?),
        ("containers", of_containers(app, &stores)?),
        ("snapshots", of_kind(Kind::Snapshot)),
        ("blobs", of_kind(Kind::Blob)),
        ("ingests", of_kind(Kind::Ingest)),
    ];
    if app.format == Format::Json {
        let report: Vec<Value> = rows.iter().map(|(name, row)| row.json(name)).collect();
        output::print_json(&report)?;
    } else {
        let rows: Vec<Vec<String>> = rows.iter().map(|(name, row)| row.text(name)).collect();
        output::print_table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows);
    }
    Ok(Outcome::Success)
}

/// Images by their blobs. Each blob is counted once, however many images
/// share it; reclaimable is what only unused images have.
fn images(app: &App, stores: &gc::Stores<'_>) -> Result<Row> {
    let records = app.records()?;
    let all = all_pages(|page| records.images(page), |image| image.name.to_string())?;
    let mut row = Row::default();
    let (mut used, mut unused) = (BTreeSet::new(), BTreeSet::new());
    for image in &all {
        row.total += 1;
        let blobs = gc::blobs_of(stores, &image.digest)?;
        if records.image_in_use(&image.digest)?.is_some() {
            row.active += 1;
            used.extend(blobs);
        } else {
            unused.extend(blobs);
        }
    }
    for (_, size) in &used {
        row.size += size;
    }
    for (_, size) in unused.difference(&used) {
        row.size += size;
        row.reclaimable += size;
    }
    Ok(row)
}

/// Containers by what they wrote.
fn of_containers(app: &App, stores: &gc::Stores<'_>) -> Result<Row> {
    let containers = containers(app)?;
    let records = containers.records();
    let all = all_pages(|page| records.containers(page), |c| c.id.to_string())?;
    let mut row = Row::default();
    let mut idle = BTreeSet::new();
    for record in &all {
        row.total += 1;
        match containers.status(record)?.is_live() {
            true => row.active += 1,
            false => drop(idle.insert(record.id.to_string())),
        }
    }
    let filter = SnapshotFilter {
        kind: Some(SnapshotKind::Active),
        labels: vec![(SNAPSHOT_LABEL.into(), None)],
        ..SnapshotFilter::default()
    };
    for snapshotter in &stores.snapshotters {
        let found = all_pages(
            |page| snapshotter.walk(&filter, page),
            |info| info.key.to_string(),
        )?;
        for info in found {
            let size = snapshotter.usage(&info.key).map_or(0, |usage| usage.size);
            row.size += size;
            let owner = info.labels.get(SNAPSHOT_LABEL);
            if owner.is_some_and(|id| idle.contains(id)) {
                row.reclaimable += size;
            }
        }
    }
    Ok(row)
}
