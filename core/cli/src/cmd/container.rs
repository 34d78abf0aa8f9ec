//! `ps`, `inspect`, `delete`.

use containerkit::container::{RemoveMode, Status, StatusName};
use containerkit::record::ContainerRecord;
use containerkit::value::all_pages;
use containerkit::{ErrorKind, Result};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::args::PsArgs;
use crate::cmd::run::containers;
use crate::output::{self, Format};

pub(crate) fn ps(app: &App, args: PsArgs) -> Result<Outcome> {
    let containers = containers(app)?;
    let records = containers.records();
    let all = all_pages(
        |page| records.containers(page),
        |record| record.id.to_string(),
    )?;
    let mut report = Vec::new();
    let mut rows = Vec::new();
    for record in &all {
        match containers.repair(record) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => log::warn!("repair container {}: {error}", record.name),
        }
        let status = containers.status(record)?;
        let ended = matches!(status.name, StatusName::Stopped | StatusName::Unknown);
        if ended && !args.all {
            continue;
        }
        rows.push(vec![
            record.id.short().to_string(),
            record.name.to_string(),
            record
                .image
                .as_ref()
                .map_or("-".into(), ToString::to_string),
            status.name.name().to_string(),
            status
                .init
                .as_ref()
                .map_or("-".into(), |init| init.pid.to_string()),
            record.created.to_string(),
        ]);
        report.push(describe(record, &status));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    } else {
        output::print_table(&["ID", "NAME", "IMAGE", "STATUS", "PID", "CREATED"], &rows);
    }
    Ok(Outcome::Success)
}

fn describe(record: &ContainerRecord, status: &Status) -> Value {
    json!({
        "id": record.id,
        "name": record.name,
        "image": record.image,
        "status": status.name,
        "pid": status.init.as_ref().map(|init| init.pid),
        "exit_code": status.exit.as_ref().map(|exit| exit.status()),
        "created": record.created,
        "runtime": record.runtime.instance,
        "snapshotter": record.snapshotter.as_ref().map(|stamp| &stamp.instance),
    })
}

pub(crate) fn inspect(app: &App, ids: &[String]) -> Result<Outcome> {
    let containers = containers(app)?;
    let mut report = Vec::new();
    for id in ids {
        let record = containers.records().find_container(id)?;
        let status = containers.status(&record)?;
        let mut document = describe(&record, &status);
        let bundle = containers.bundle_dir(&record.id);
        let spec = containerkit::bundle::Bundle::load(&bundle)
            .ok()
            .map(|bundle| bundle.spec().clone());
        document["exit"] = json!(status.exit);
        document["bundle"] = json!(bundle);
        document["snapshot"] = json!(record.snapshot);
        document["mounts"] = json!(
            spec.as_ref()
                .and_then(|spec| spec.mounts().clone())
                .unwrap_or_default()
        );
        document["networks"] = json!([]);
        document["labels"] = json!(record.labels);
        document["image_digest"] = json!(record.image_digest);
        document["spec"] = json!(spec);
        report.push(document);
    }
    output::print_json(&report)?;
    Ok(Outcome::Success)
}

/// Goes on after a failure, so that one stuck container keeps no other.
pub(crate) fn delete(app: &App, force: bool, ids: &[String]) -> Result<Outcome> {
    let containers = containers(app)?;
    let mode = if force {
        RemoveMode::Force
    } else {
        RemoveMode::Stopped
    };
    let mut failure = None;
    let mut deleted = Vec::new();
    for id in ids {
        let removed = match containers.records().find_container(id) {
            Err(error) if error.kind() == ErrorKind::NotFound && force => continue,
            Err(error) => Err(error),
            Ok(record) => containers.remove(&record, mode),
        };
        match removed {
            Ok(()) => deleted.push(id.clone()),
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    output::print_error(&earlier);
                }
            }
        }
    }
    output::print_names(app.format, &deleted)?;
    failure.map_or(Ok(Outcome::Success), Err)
}
