//! `check` and `image check`: whether what is stored is whole.

use std::path::{Path, PathBuf};

use containerkit::container::StatusName;
use containerkit::kit::Drivers;
use containerkit::record::{ImageRecord, Records};
use containerkit::value::all_pages;
use containerkit::{
    ContentStore, DriverKind, Error, ErrorKind, InstanceName, IoContext, Opened, Result,
    Snapshotter, Timestamp,
};
use containerkit_image::Limits;
use containerkit_image::check::{CheckOptions, Checked, Finding, Repair, State, check};
use containerkit_image::gc::Stores;
use containerkit_records::SqliteRecords;

use crate::Outcome;
use crate::app::App;
use crate::args::store::CheckArgs;
use crate::cmd::gc::used;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::progress::{Progress, Stderr};

pub(crate) fn run(app: &App, args: &CheckArgs) -> Result<Outcome> {
    let repair = repair(args.repair);
    let mut before = Vec::new();
    records(app, repair, &mut before)?;
    let contents = open(app, DriverKind::Content, &mut before, |name| {
        app.drivers.content(Some(name))
    })?;
    let Snapshotters { opened, fresh } = snapshotters(app, repair, &mut before)?;
    report(app, repair, None, contents, opened, before, &fresh)
}

pub(crate) fn images(app: &App, repair_too: bool, names: &[String]) -> Result<Outcome> {
    let repair = repair(repair_too);
    let images: Vec<ImageRecord> = match names {
        [] => {
            let records = app.records()?;
            all_pages(|page| records.images(page), |image| image.name.to_string())?
        }
        names => names
            .iter()
            .map(|name| app.image(name))
            .collect::<Result<_>>()?,
    };
    let stores = super::gc::stores(app)?;
    let (contents, snapshotters) = (stores.contents, stores.snapshotters);
    report(
        app,
        repair,
        Some(images),
        contents,
        snapshotters,
        Vec::new(),
        &[],
    )
}

fn repair(wanted: bool) -> Repair {
    match wanted {
        true => Repair::Yes,
        false => Repair::No,
    }
}

fn report(
    app: &App,
    repair: Repair,
    images: Option<Vec<ImageRecord>>,
    contents: Vec<Opened<dyn ContentStore>>,
    snapshotters: Vec<Opened<dyn Snapshotter>>,
    before: Vec<Finding>,
    fresh: &[InstanceName],
) -> Result<Outcome> {
    let progress = Progress::new(app.format, Stderr::Own)?;
    let options = CheckOptions {
        images,
        repair,
        locks: app.config.state.join("locks"),
        limits: Limits::default(),
        cancel: progress.cancel.clone(),
    };
    let mut checked = Checked::default();
    // Without records there is nothing to start from.
    let lost = |finding: &Finding| finding.kind == "records" && finding.is_damage();
    if !before.iter().any(lost) {
        let records = app.records()?;
        let stores = Stores {
            records: &**records,
            contents,
            snapshotters,
        };
        checked = check(&stores, &options)?;
        if fresh.contains(&app.config.default.snapshotter) {
            unpack_all(app, &progress)?;
        }
    }
    checked.findings.splice(0..0, before);
    if app.format == Format::Json {
        output::print_json(&checked.findings)?;
    } else {
        print(&checked);
    }
    let damage = checked.findings.iter().filter(|f| f.is_damage()).count();
    let unchecked = |finding: &&Finding| finding.state == State::Unchecked;
    let unchecked = checked.findings.iter().filter(unchecked).count();
    if damage == 0 && unchecked > 0 {
        let message = format!("{unchecked} of what is stored could not be checked");
        let error = Error::new(ErrorKind::Unavailable, message);
        return Err(
            error.with_hint("mend what the host refuses, as told beside each, and check again")
        );
    }
    if damage == 0 {
        return Ok(Outcome::Success);
    }
    let error = Error::data_loss(format!(
        "{damage} of what is stored is damaged or incomplete"
    ));
    Err(match repair {
        Repair::No => error.with_hint("`containerkit check --repair` mends what can be mended"),
        Repair::Yes => error.with_hint("what each needs is told beside it"),
    })
}

fn print(checked: &Checked) {
    for finding in &checked.findings {
        let store = finding.store.as_ref().map_or("", InstanceName::as_str);
        output::print_line(&format!(
            "{:<10} {:<9} {store:<8} {}: {}",
            finding.state.name(),
            finding.kind,
            finding.id,
            finding.reason
        ));
        if let Some(done) = &finding.repaired {
            output::print_line(&format!("  repaired: {done}"));
        } else if let Some(mend) = &finding.mend {
            output::print_line(&format!("  to mend: {mend}"));
        }
    }
    output::print_line(&format!(
        "{} blobs, {} images, {} snapshots checked, {} of them against their layers",
        checked.blobs, checked.images, checked.snapshots, checked.compared
    ));
}

/// A name beside a path, that tells what it is and when it was put there.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().unix_nanos()));
    PathBuf::from(name)
}

/// The record database: opened and read through. Repaired, it is put aside,
/// and a new one gets what can still be read.
fn records(app: &App, repair: Repair, found: &mut Vec<Finding>) -> Result<()> {
    let path = app.config.root.join("records.db");
    if std::fs::symlink_metadata(&path).is_err() {
        return app.records().map(drop);
    }
    // A record that cannot be understood stops whatever needs all of them.
    let looked = SqliteRecords::open(&path).and_then(|records| {
        let lines = records.verify()?;
        records.roots()?;
        Ok(lines)
    });
    let why = match looked {
        Ok(lines) => lines.first().cloned(),
        Err(error) if error.kind() == ErrorKind::DataLoss => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    let Some(why) = why else { return Ok(()) };
    let mut finding = Finding::new("records", path.display(), State::Damaged, why);
    if repair == Repair::Yes {
        let away = aside(&path);
        for end in ["", "-wal", "-shm"] {
            let (from, to) = (with_end(&path, end), with_end(&away, end));
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).io_context(|| format!("put {} aside", from.display()));
                }
                _ => {}
            }
        }
        let fresh = SqliteRecords::open(&path)?;
        let saved = containerkit_records::salvage(&away, &fresh)?;
        finding.repaired = Some(format!(
            "put aside as {}; {} images and {} containers could be read and are recorded anew",
            away.display(),
            saved.images,
            saved.containers
        ));
    }
    found.push(finding);
    Ok(())
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The instances that open; the others are findings.
fn open<T: ?Sized>(
    app: &App,
    kind: DriverKind,
    found: &mut Vec<Finding>,
    open: impl Fn(&InstanceName) -> Result<Opened<T>>,
) -> Result<Vec<Opened<T>>> {
    let mut opened = Vec::new();
    for name in used(app, kind) {
        match open(&name) {
            Ok(driver) => opened.push(driver),
            Err(error) => found.push(of_store(&name, &error)),
        }
    }
    Ok(opened)
}

fn of_store(name: &InstanceName, error: &Error) -> Finding {
    let mut finding = Finding::new("store", name, State::of(error), error.to_string());
    finding.mend = error.hint().map(str::to_owned);
    finding
}

/// Those that open, and the names of those among them that were begun anew.
struct Snapshotters {
    opened: Vec<Opened<dyn Snapshotter>>,
    fresh: Vec<InstanceName>,
}

/// The snapshotters. One whose own data is damaged is put aside as a whole when
/// that is asked for, so that the files in it can still be looked at, and begins
/// anew.
fn snapshotters(app: &App, repair: Repair, found: &mut Vec<Finding>) -> Result<Snapshotters> {
    let (mut opened, mut fresh) = (Vec::new(), Vec::new());
    for name in used(app, DriverKind::Snapshotter) {
        let error = match app.drivers.snapshotter(Some(&name)).and_then(readable) {
            Ok(snapshotter) => {
                opened.push(snapshotter);
                continue;
            }
            Err(error) => error,
        };
        let mut finding = of_store(&name, &error);
        if repair == Repair::Yes && error.kind() == ErrorKind::DataLoss {
            match begin_anew(app, &name) {
                Ok(away) => {
                    finding.repaired = Some(format!(
                        "put aside as {}; images are unpacked again, what containers wrote is there",
                        away.display()
                    ));
                    opened.push(app.drivers.snapshotter(Some(&name))?);
                    fresh.push(name);
                }
                Err(error) => {
                    finding.mend = Some(
                        error
                            .hint()
                            .map_or(error.to_string(), |hint| format!("{error}: {hint}")),
                    );
                }
            }
        }
        found.push(finding);
    }
    Ok(Snapshotters { opened, fresh })
}

/// A database may open and be damaged further in.
fn readable(snapshotter: Opened<dyn Snapshotter>) -> Result<Opened<dyn Snapshotter>> {
    let filter = containerkit::snapshot::SnapshotFilter::default();
    all_pages(
        |page| snapshotter.walk(&filter, page),
        |info| info.key.to_string(),
    )?;
    Ok(snapshotter)
}

fn begin_anew(app: &App, name: &InstanceName) -> Result<PathBuf> {
    let containers = containers(app)?;
    let records = containers.records();
    for record in all_pages(|page| records.containers(page), |c| c.id.to_string())? {
        let uses = record
            .snapshotter
            .as_ref()
            .is_some_and(|s| s.instance == *name);
        let live = matches!(
            containers.status(&record)?.name,
            StatusName::Running | StatusName::Paused
        );
        if uses && live {
            return Err(
                Error::precondition(format!("container {} is running on it", record.name))
                    .with_hint(format!(
                        "`containerkit stop {}`, and `containerkit check --repair` again",
                        record.name
                    )),
            );
        }
    }
    let root = app.config.instance_root(DriverKind::Snapshotter, name);
    let away = aside(&root);
    std::fs::rename(&root, &away).io_context(|| format!("put {} aside", root.display()))?;
    Ok(away)
}

/// Every image for this host, into the default snapshotter.
fn unpack_all(app: &App, progress: &Progress) -> Result<()> {
    let records = app.records()?;
    for record in all_pages(|page| records.images(page), |image| image.name.to_string())? {
        let unpacked = (|| {
            let lease = app.lease(&[])?;
            let (store, image) = app.resolve(&record, None)?;
            let snapshotter = app.snapshotter(None)?;
            app.unpack(&*store.driver, &snapshotter, &image, &lease, progress)
        })();
        if let Err(error) = unpacked {
            progress.cancel.check()?;
            log::warn!("unpack image {}: {error}", record.name);
        }
    }
    Ok(())
}
