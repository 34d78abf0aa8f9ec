//! `ps`, `inspect`.

use containerkit::container::{Containers, Status};
use containerkit::record::ContainerRecord;
use containerkit::value::all_pages;
use containerkit::{Error, Result, quote};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::args::container::PsArgs;
use crate::cmd::events::same_image;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format};

pub(crate) fn ps(app: &App, args: PsArgs) -> Result<Outcome> {
    let filters = filters(&args.filter)?;
    let all = args.all
        || args.last.is_some()
        || filters
            .iter()
            .any(|filter| matches!(filter, Filter::Status(_)));
    let containers = containers(app)?;
    let mut found = Vec::new();
    for (record, status) in looked_at(&containers)? {
        let wanted =
            (all || status.is_live()) && filters.iter().all(|f| f.matches(&record, &status));
        if wanted {
            found.push((record, status));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    found.truncate(args.last.unwrap_or(usize::MAX));
    if app.format == Format::Json {
        let report: Vec<Value> = found.iter().map(|(r, s)| describe(r, s)).collect();
        output::print_json(&report)?;
        return Ok(Outcome::Success);
    }
    let id = |record: &ContainerRecord| match args.no_trunc {
        true => record.id.to_string(),
        false => record.id.short().to_string(),
    };
    if args.quiet {
        found
            .iter()
            .for_each(|(record, _)| output::print_line(&id(record)));
        return Ok(Outcome::Success);
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(record, status)| row(id(record), record, status))
        .collect();
    output::print_table(&["ID", "NAME", "IMAGE", "STATUS", "PID", "CREATED"], &rows);
    Ok(Outcome::Success)
}

/// Every container with its state; what should be gone is removed.
pub(crate) fn looked_at(containers: &Containers) -> Result<Vec<(ContainerRecord, Status)>> {
    let records = containers.records();
    let all = all_pages(
        |page| records.containers(page),
        |record| record.id.to_string(),
    )?;
    let mut found = Vec::with_capacity(all.len());
    for record in all {
        if let Some(status) = containers.look(&record)? {
            found.push((record, status));
        }
    }
    Ok(found)
}

fn row(id: String, record: &ContainerRecord, status: &Status) -> Vec<String> {
    let state = match &status.exit {
        Some(exit) => format!("{} ({})", status.name.name(), exit.status()),
        None => status.name.name().to_string(),
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    vec![
        id,
        record.name.to_string(),
        or_dash(record.image.as_ref().map(ToString::to_string)),
        state,
        or_dash(status.init.as_ref().map(|init| init.pid.to_string())),
        record.created.to_string(),
    ]
}

/// `--filter`.
enum Filter {
    Status(String),
    Name(String),
    Label(String, Option<String>),
    Id(String),
    Ancestor(String),
}

impl Filter {
    fn matches(&self, record: &ContainerRecord, status: &Status) -> bool {
        match self {
            Filter::Status(name) => status.name.name() == name,
            Filter::Name(part) => record.name.as_str().contains(part),
            Filter::Label(key, value) => record
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|wanted| wanted == found)),
            Filter::Id(start) => record.id.as_str().starts_with(start),
            Filter::Ancestor(text) => {
                let digest = record.image_digest.as_ref().map(ToString::to_string);
                digest.as_deref() == Some(text)
                    || record
                        .image
                        .as_ref()
                        .is_some_and(|image| same_image(&image.to_string(), text))
            }
        }
    }
}

fn filters(words: &[String]) -> Result<Vec<Filter>> {
    const STATES: [&str; 5] = ["created", "running", "paused", "stopped", "unknown"];
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let value = value.to_owned();
            match key {
                // What other engines call it.
                "status" if value == "exited" => Ok(Filter::Status("stopped".into())),
                "status" if STATES.contains(&value.as_str()) => Ok(Filter::Status(value)),
                "status" => Err(Error::invalid(format!(
                    "filter {}: want one of {}",
                    quote(word),
                    STATES.join(", ")
                ))),
                "name" => Ok(Filter::Name(value)),
                "label" => Ok(match value.split_once('=') {
                    Some((key, value)) => Filter::Label(key.into(), Some(value.into())),
                    None => Filter::Label(value, None),
                }),
                "id" => Ok(Filter::Id(value)),
                "ancestor" => Ok(Filter::Ancestor(value)),
                _ => Err(Error::invalid(format!(
                    "filter {}: want status=, name=, label=, id= or ancestor=",
                    quote(word)
                ))),
            }
        })
        .collect()
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
    let (mut report, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        match find(&containers, id).and_then(|record| document(&containers, &record)) {
            Ok(document) => report.push(document),
            Err(error) => failed.push((id.clone(), error)),
        }
    }
    output::print_json(&report)?;
    crate::cmd::each::all(failed)?;
    Ok(Outcome::Success)
}

fn document(containers: &Containers, record: &ContainerRecord) -> Result<Value> {
    let status = containers.status(record)?;
    let mut document = describe(record, &status);
    // One that is half made has neither.
    let spec = containers.spec(&record.id).ok();
    let settings = containers.settings(&record.id).ok();
    document["exit"] = json!(status.exit);
    document["oom_killed"] = json!(containers.oom_killed(record, &status)?);
    document["bundle"] = json!(containers.bundle_dir(&record.id));
    document["snapshot"] = json!(record.snapshot);
    document["mounts"] = json!(
        spec.as_ref()
            .and_then(|spec| spec.mounts().clone())
            .unwrap_or_default()
    );
    document["networks"] = json!([]);
    document["labels"] = json!(record.labels);
    document["image_digest"] = json!(record.image_digest);
    document["auto_remove"] = json!(record.after_exit == containerkit::record::AfterExit::Remove);
    document["terminal"] = json!(settings.as_ref().map(|settings| settings.terminal));
    document["open_stdin"] = json!(settings.as_ref().map(|settings| settings.open_stdin));
    document["stop_signal"] = json!(settings.as_ref().map(|settings| settings.stop_signal));
    document["drivers"] = json!({ "runtime": record.runtime, "snapshotter": record.snapshotter });
    document["spec"] = json!(spec);
    Ok(document)
}
