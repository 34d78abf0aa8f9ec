//! `prune`: what is not used any more.

use std::io::{BufRead, Write};

use containerkit::container::{Containers, RemoveMode, StatusName};
use containerkit::record::{ContainerRecord, ImageRecord};
use containerkit::value::all_pages;
use containerkit::{Error, ErrorKind, Labels, Result, Timestamp, quote};
use containerkit_image::gc::{self, Action, GcOptions};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::store::PruneArgs;
use crate::cmd::gc::{failures, stores};
use crate::cmd::run::containers;
use crate::output::{self, Format, human_size};
use crate::progress::{Progress, Stderr};
use crate::time::parse_time;

/// `--filter`: all of them must hold.
enum Filter {
    Until(Timestamp),
    Label(String, Option<String>),
    NoLabel(String, Option<String>),
}

impl Filter {
    fn parse(word: &str) -> Result<Filter> {
        let pair = |value: &str| match value.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        };
        if let Some(value) = word.strip_prefix("label!=") {
            let (key, value) = pair(value);
            return Ok(Filter::NoLabel(key, value));
        }
        if let Some(value) = word.strip_prefix("label=") {
            let (key, value) = pair(value);
            return Ok(Filter::Label(key, value));
        }
        match word.strip_prefix("until=") {
            Some(time) => Ok(Filter::Until(parse_time(time)?)),
            None => Err(Error::invalid(format!(
                "filter {}: want until=, label= or label!=",
                quote(word)
            ))),
        }
    }

    fn passes(&self, created: Timestamp, labels: &Labels) -> bool {
        let has = |key: &String, value: &Option<String>| {
            labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|wanted| wanted == found))
        };
        match self {
            Filter::Until(time) => created < *time,
            Filter::Label(key, value) => has(key, value),
            Filter::NoLabel(key, value) => !has(key, value),
        }
    }
}

pub(crate) fn run(app: &App, args: &PruneArgs) -> Result<Outcome> {
    let filters: Vec<Filter> = args
        .filter
        .iter()
        .map(|word| Filter::parse(word))
        .collect::<Result<_>>()?;
    if !args.force && !agreed(args)? {
        return Ok(Outcome::Success);
    }
    let containers = containers(app)?;
    let ended = prune_containers(&containers, &filters)?;
    let images = match args.all {
        true => prune_images(app, &filters)?,
        false => Vec::new(),
    };
    let progress = Progress::new(app.format, Stderr::Own)?;
    let mut options = GcOptions {
        cancel: progress.cancel.clone(),
        ..GcOptions::default()
    };
    if args.all {
        options.ingest_age = std::time::Duration::ZERO;
    }
    let collected = gc::collect(&stores(app)?, &options)?;
    let (count, size) = collected.removed();
    if app.format == Format::Json {
        let gone = collected.verdicts.iter();
        let gone: Vec<_> = gone.filter(|v| v.action == Action::Remove).collect();
        output::print_json(&json!({
            "containers": ended,
            "images": images,
            "removed": gone,
            "reclaimed": size,
        }))?;
    } else {
        for id in &ended {
            output::print_line(&format!("container {id}"));
        }
        for name in &images {
            output::print_line(&format!("image {name}"));
        }
        output::print_line(&format!(
            "{} containers, {} images and {count} objects of the stores removed, {}",
            ended.len(),
            images.len(),
            human_size(size)
        ));
    }
    failures(&collected)?;
    Ok(Outcome::Success)
}

/// Asks where somebody can answer.
fn agreed(args: &PruneArgs) -> Result<bool> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !rustix::termios::isatty(&stdin) || !rustix::termios::isatty(&stderr) {
        return Ok(true);
    }
    let images = match args.all {
        true => ", every image that no container uses, every ingest that nobody writes",
        false => "",
    };
    let _ = write!(
        stderr,
        "This removes every stopped container{images}, and the blobs and snapshots that nothing \
         needs then. Go on? [y/N] "
    );
    let _ = stderr.flush();
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::io("read the answer", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn pass(filters: &[Filter], created: Timestamp, labels: &Labels) -> bool {
    filters.iter().all(|filter| filter.passes(created, labels))
}

/// Containers that have ended or were never started.
fn prune_containers(containers: &Containers, filters: &[Filter]) -> Result<Vec<String>> {
    let all: Vec<ContainerRecord> = all_pages(
        |page| containers.records().containers(page),
        |record| record.id.to_string(),
    )?;
    let mut removed = Vec::new();
    for record in all {
        if !pass(filters, record.created, &record.labels) {
            continue;
        }
        // It was removed in passing when its end should have done that.
        let Some(status) = containers.look(&record)? else {
            continue;
        };
        let idle = matches!(status.name, StatusName::Stopped | StatusName::Created);
        let half_made = record.creator.open()?.is_some() && status.name == StatusName::Created;
        if !idle || (half_made && containers.settings(&record.id).is_err()) {
            continue;
        }
        match containers.remove(&record, RemoveMode::Stopped) {
            Ok(()) => removed.push(record.id.to_string()),
            // Started, or being removed, in this moment.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::FailedPrecondition | ErrorKind::Conflict
                ) =>
            {
                log::info!("container {} stays: {error}", record.name);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Names of images that no container was made from.
fn prune_images(app: &App, filters: &[Filter]) -> Result<Vec<String>> {
    let records = app.records()?;
    let all: Vec<ImageRecord> = all_pages(
        |page| records.images(page),
        |record| record.name.to_string(),
    )?;
    let mut removed = Vec::new();
    for record in all {
        if !pass(filters, record.created, &record.labels)
            || records.image_in_use(&record.digest)?.is_some()
        {
            continue;
        }
        match records.delete_image(&record.name) {
            Ok(()) => removed.push(record.name.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}
