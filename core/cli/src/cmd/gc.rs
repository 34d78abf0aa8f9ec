//! `gc`, `lease`: what is collected, and what keeps it.

use containerkit::kit::Drivers;
use containerkit::record::LeaseRecord;
use containerkit::value::all_pages;
use containerkit::{
    ContainerId, DriverKind, Error, InstanceName, Opened, Records, Result, Timestamp,
};
use containerkit_image::gc::{self, Action, Collected, GcOptions, Measure, Mode, Stores};

use crate::Outcome;
use crate::app::App;
use crate::args::store::{GcArgs, LeaseCommand};
use crate::output::{self, Format, human_size};
use crate::progress::{Progress, Stderr};
use crate::time::parse_age;

/// Every store that has anything: the defaults, and each configured instance
/// with a folder.
pub(crate) fn stores(app: &App) -> Result<Stores<'_>> {
    Ok(Stores {
        records: &**app.records()?,
        contents: opened(app, DriverKind::Content, |name| {
            app.drivers.content(Some(name))
        })?,
        snapshotters: opened(app, DriverKind::Snapshotter, |name| {
            app.drivers.snapshotter(Some(name))
        })?,
    })
}

fn opened<T: ?Sized>(
    app: &App,
    kind: DriverKind,
    open: impl Fn(&InstanceName) -> Result<Opened<T>>,
) -> Result<Vec<Opened<T>>> {
    used(app, kind).iter().map(open).collect()
}

/// The instances of a kind that have a folder, and the default.
pub(crate) fn used(app: &App, kind: DriverKind) -> Vec<InstanceName> {
    let default = app.config.default.of(kind);
    app.config
        .names(kind)
        .filter(|name| Some(*name) == default || app.config.instance_root(kind, name).is_dir())
        .cloned()
        .collect()
}

pub(crate) fn run(app: &App, args: &GcArgs) -> Result<Outcome> {
    let progress = Progress::new(app.format, Stderr::Own)?;
    let tells = args.dry_run || app.format == Format::Json;
    let options = GcOptions {
        mode: if args.dry_run {
            Mode::Tell
        } else {
            Mode::Remove
        },
        measure: if tells {
            Measure::All
        } else {
            Measure::Removed
        },
        ingest_age: parse_age(&args.ingest_age)?,
        cancel: progress.cancel.clone(),
    };
    let collected = gc::collect(&stores(app)?, &options)?;
    if app.format == Format::Json {
        output::print_json(&collected.verdicts)?;
    } else {
        print(&collected, args.dry_run);
    }
    failures(&collected)?;
    Ok(Outcome::Success)
}

/// What goes, or of a dry run everything, and the sum.
fn print(collected: &Collected, dry: bool) {
    for verdict in &collected.verdicts {
        let action = match verdict.action {
            Action::Keep if !dry => continue,
            Action::Keep => "keep   ",
            Action::Remove => "remove ",
        };
        let store = verdict.store.as_ref().map_or("", InstanceName::as_str);
        let size = verdict.size.map_or("-".into(), human_size);
        output::print_line(&format!(
            "{action} {:<8} {store:<8} {} {size}: {}",
            verdict.kind.name(),
            verdict.id,
            verdict.reason
        ));
    }
    let (count, size) = collected.removed();
    let verb = if dry { "would be removed" } else { "removed" };
    output::print_line(&format!("{count} objects {verb}, {}", human_size(size)));
}

/// One error of what could not be removed.
pub(crate) fn failures(collected: &Collected) -> Result<()> {
    match collected.failures.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::precondition(one.clone())),
        [first, rest @ ..] => Err(Error::precondition(format!(
            "{} objects could not be removed: {first}",
            rest.len() + 1
        ))),
    }
}

pub(crate) fn lease(app: &App, command: LeaseCommand) -> Result<Outcome> {
    let records = app.records()?;
    match command {
        LeaseCommand::Ls => ls(app, &**records),
        LeaseCommand::Create {
            expires,
            blobs,
            snapshots,
            snapshotter,
        } => {
            let instance = match snapshotter {
                Some(name) => name.parse()?,
                None => app.config.default.snapshotter.clone(),
            };
            let lease = LeaseRecord {
                id: ContainerId::generate()?,
                expires: expires.map(|text| after(&text)).transpose()?,
                created: Timestamp::now(),
                holder: None,
                blobs: blobs.iter().map(|d| d.parse()).collect::<Result<_>>()?,
                snapshots: snapshots
                    .iter()
                    .map(|key| Ok((instance.clone(), key.parse()?)))
                    .collect::<Result<_>>()?,
            };
            records.put_lease(&lease)?;
            output::print_names(app.format, &[lease.id.to_string()])?;
            Ok(Outcome::Success)
        }
        LeaseCommand::Rm { ids } => {
            for id in &ids {
                let id: ContainerId = id.parse()?;
                records.lease(&id)?;
                records.delete_lease(&id)?;
            }
            output::print_names(app.format, &ids)?;
            Ok(Outcome::Success)
        }
    }
}

/// The moment so long from now.
fn after(text: &str) -> Result<Timestamp> {
    let end = std::time::SystemTime::now().checked_add(parse_age(text)?);
    end.map(Timestamp::from)
        .ok_or_else(|| Error::invalid("the lease would hold for ever: leave --expires out"))
}

fn ls(app: &App, records: &dyn Records) -> Result<Outcome> {
    let leases = all_pages(|page| records.leases(page), |lease| lease.id.to_string())?;
    if app.format == Format::Json {
        output::print_json(&leases)?;
        return Ok(Outcome::Success);
    }
    let mut rows = Vec::new();
    for lease in &leases {
        let state = lease.ended()?.unwrap_or_else(|| "it holds".into());
        rows.push(vec![
            lease.id.to_string(),
            lease.blobs.len().to_string(),
            lease.snapshots.len().to_string(),
            lease
                .holder
                .as_ref()
                .map_or("-".into(), |h| h.pid.to_string()),
            lease.expires.map_or("-".into(), |at| at.to_string()),
            state,
        ]);
    }
    output::print_table(
        &["ID", "BLOBS", "SNAPSHOTS", "PID", "EXPIRES", "STATE"],
        &rows,
    );
    Ok(Outcome::Success)
}
