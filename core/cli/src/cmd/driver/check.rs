//! `driver check`: whether a driver keeps its contract. The driver is loaded
//! and run in a child process only; a case that ends or hangs it is a failed
//! case, and the next one begins in a new child.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerkit::shim::WireError;
use containerkit::{Digest, DriverKind, Error, ErrorKind, InstanceName, Result};
use containerkit_plugin::host::{DROP_PANIC, declaration};
use serde_json::{Map, Value, json};

use super::cases::{Row, plan};
use super::child::{Event, Job, Verdict, Verdicts};
use super::scratch::Scratch;
use super::worker::{Heard, Worker, describe};
use crate::Outcome;
use crate::app::App;
use crate::args::DriverCheckArgs;
use crate::cmd::foreground::Signals;
use crate::output::{self, Format};

/// Kinds that have suites.
const KINDS: [DriverKind; 3] = [
    DriverKind::Runtime,
    DriverKind::Snapshotter,
    DriverKind::Content,
];
/// What this command itself says of every driver.
const ENDS: Row = (
    "DRV-G-17",
    "a process that loaded it ends as usual, and no drop panics",
);
/// Ids that an error line names.
const NAMED: usize = 12;

/// A driver of one kind to be checked.
struct Target {
    library: PathBuf,
    pin: Option<Digest>,
    kind: DriverKind,
    instance: InstanceName,
    options: Map<String, Value>,
}

/// A case that ended.
struct Done {
    row: Row,
    verdict: Verdict,
}

pub(super) fn run(app: &App, args: &DriverCheckArgs) -> Result<Outcome> {
    let options = match &args.options {
        Some(path) => containerkit_config::read_options(path)?,
        None => Map::new(),
    };
    let targets = targets(app, args, &options)?;
    let limit = Duration::from_secs(args.timeout);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| Error::io("become a subreaper", errno))?;
    let signals = Signals::catch()?;
    let scratch = Scratch::new(&app.config)?;
    let mut reports = Vec::new();
    let mut failures = Vec::new();
    for target in &targets {
        let shown = target.library.display().to_string();
        if app.format == Format::Text {
            output::print_line(&format!("{} {shown}", target.kind));
        }
        let checked = Check {
            app,
            target,
            limit,
            scratch: &scratch,
            signals: &signals,
            plan: plan(target.kind),
            done: Vec::new(),
        }
        .all();
        let done = checked.map_err(|error| error.context(format!("check driver {shown}")))?;
        let count = |verdict| done.iter().filter(|d| d.verdict.result == verdict).count();
        let (passed, failed) = (count(Verdicts::Pass), count(Verdicts::Fail));
        if app.format == Format::Text {
            let unsupported = count(Verdicts::Unsupported);
            output::print_line(&format!(
                "{passed} passed, {failed} failed, {unsupported} unsupported"
            ));
        }
        if failed > 0 {
            failures.push(failure(&shown, target.kind, &done));
        }
        reports.push(json!({
            "path": target.library,
            "kind": target.kind,
            "cases": done.iter().map(case).collect::<Vec<_>>(),
            "passed": passed,
            "failed": failed,
        }));
    }
    if app.format == Format::Json {
        match reports.as_slice() {
            [report] => output::print_json(report)?,
            reports => output::print_json(&reports)?,
        }
    }
    if failures.is_empty() {
        return Ok(Outcome::Success);
    }
    Err(Error::precondition(failures.join("; ")))
}

fn case(done: &Done) -> Value {
    json!({
        "id": done.row.0,
        "name": done.row.1,
        "result": done.verdict.result,
        "seconds": done.verdict.seconds,
        "detail": done.verdict.detail,
    })
}

fn failure(library: &str, kind: DriverKind, done: &[Done]) -> String {
    let failed = || {
        let failed = done.iter().filter(|d| d.verdict.result == Verdicts::Fail);
        failed.map(|done| done.row.0)
    };
    let mut ids: Vec<&str> = failed().take(NAMED).collect();
    if failed().count() > NAMED {
        ids.push("…");
    }
    format!(
        "driver {library} ({kind}): {} of {} cases failed: {}",
        failed().count(),
        done.len(),
        ids.join(", ")
    )
}

/// What is to be checked: a path, in every kind that it declares, or the
/// instances of a name.
fn targets(app: &App, args: &DriverCheckArgs, options: &Map<String, Value>) -> Result<Vec<Target>> {
    let wanted = |kind: &DriverKind| args.kind.is_none_or(|wanted| wanted == *kind);
    let found: Vec<Target> = if args.target.contains('/') {
        let path = std::path::absolute(Path::new(&args.target))
            .map_err(|error| Error::io("find the current folder", error))?;
        let kinds = declaration(&path)?.kinds;
        let has: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        if let Some(kind) = args.kind.filter(|kind| !kinds.contains(kind)) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "driver {}: checked as a {kind}, it is a driver of {}",
                    path.display(),
                    has.join(" and ")
                ),
            ));
        }
        let instance: InstanceName = "check".parse()?;
        let kinds = KINDS.into_iter().filter(|kind| kinds.contains(kind));
        let target = |kind| Target {
            library: path.clone(),
            pin: None,
            kind,
            instance: instance.clone(),
            options: options.clone(),
        };
        kinds.filter(wanted).map(target).collect()
    } else {
        let name: InstanceName = args.target.parse()?;
        let keys = app.config.instances.keys();
        let keys = keys.filter(|(kind, of)| *of == name && wanted(kind));
        keys.map(|(kind, name)| {
            let resolved = app.drivers.resolve(*kind, name)?;
            let mut all = resolved.context.options;
            all.extend(options.clone());
            Ok(Target {
                library: resolved.path,
                pin: resolved.pin,
                kind: *kind,
                instance: name.clone(),
                options: all,
            })
        })
        .collect::<Result<_>>()?
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let kind = args.kind.map(|kind| format!("{kind} ")).unwrap_or_default();
    Err(match args.target.contains('/') {
        true => Error::new(
            ErrorKind::Unimplemented,
            format!("driver {}: there is no suite of its kind", args.target),
        ),
        false => super::show::not_configured(app, &format!("{kind}{}", args.target)),
    })
}

struct Check<'a> {
    app: &'a App,
    target: &'a Target,
    limit: Duration,
    scratch: &'a Scratch,
    signals: &'a Signals,
    plan: Vec<Row>,
    done: Vec<Done>,
}

/// How a child's turn ended.
enum Turn {
    /// All cases ran, and the process ended like this.
    All(Result<(), String>),
    /// The case with this number was its last.
    Case(usize),
    /// Nothing can run.
    Never(String),
}

impl Check<'_> {
    fn all(mut self) -> Result<Vec<Done>> {
        let mut first = 0;
        loop {
            match self.turn(first)? {
                Turn::All(ended) => {
                    let (result, detail) = match ended {
                        Ok(()) => (Verdicts::Pass, String::new()),
                        Err(why) => (Verdicts::Fail, why),
                    };
                    self.end(ENDS, verdict(result, Duration::ZERO, detail));
                    return Ok(self.done);
                }
                Turn::Case(number) => first = number + 1,
                Turn::Never(why) => {
                    let mut why = format!("not run: {why}");
                    for row in std::mem::take(&mut self.plan) {
                        self.end(row, verdict(Verdicts::Fail, Duration::ZERO, why));
                        why = "not run".into();
                    }
                    return Ok(self.done);
                }
            }
        }
    }

    /// One child, from case `first` on.
    fn turn(&mut self, first: usize) -> Result<Turn> {
        let job = Job {
            library: self.target.library.clone(),
            pin: self.target.pin.clone(),
            kind: self.target.kind,
            instance: self.target.instance.clone(),
            options: self.target.options.clone(),
            // A call that hangs is told by its name before the case is late.
            limit: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX) / 2,
            scratch: self.scratch.path().to_path_buf(),
            first,
        };
        let mut worker = Worker::start(self.scratch, &job)?;
        let mut began = Instant::now();
        let mut stage = Stage::Load;
        let mut hang = None;
        loop {
            let heard = worker.hear(began + self.limit, self.signals)?;
            let why = match heard {
                Heard::Event(event) => {
                    match event {
                        Event::Loaded => stage = Stage::Open,
                        Event::Opened => stage = Stage::Between(first),
                        Event::Begin(number) => stage = Stage::Case(number),
                        Event::End(number, verdict) => {
                            self.end(self.row(number), verdict);
                            stage = Stage::Between(number + 1);
                        }
                        Event::Hangs(error) => {
                            hang = Some(Error::from(error));
                            continue;
                        }
                        Event::Done => stage = Stage::End,
                        Event::Refused(error) => return refused(error, &stage),
                    }
                    began = Instant::now();
                    continue;
                }
                Heard::End(status) => match hang {
                    Some(error) => error.to_string(),
                    None if status.success() && stage == Stage::End => {
                        let panicked = worker.wrote(DROP_PANIC);
                        return Ok(Turn::All(panicked.map_or(Ok(()), Err)));
                    }
                    None => format!(
                        "the driver {}{}{}",
                        describe(status),
                        stage.words(),
                        worker.last_words()
                    ),
                },
                Heard::Late => format!(
                    "it did not end within {} s{}",
                    self.limit.as_secs(),
                    stage.words()
                ),
            };
            drop(worker);
            let number = match stage {
                Stage::Load => {
                    return Err(Error::new(ErrorKind::Unavailable, why).with_hint(
                        "a damaged file does that: install the driver again, or tell its author",
                    ));
                }
                Stage::Open if first == 0 => return Ok(Turn::Never(why)),
                Stage::Open => first,
                Stage::Case(number) | Stage::Between(number) => number,
                Stage::End => return Ok(Turn::All(Err(why))),
            };
            let Some(row) = self.plan.get(number).copied() else {
                return Ok(Turn::All(Err(why)));
            };
            self.end(row, verdict(Verdicts::Fail, began.elapsed(), why));
            return Ok(Turn::Case(number));
        }
    }

    fn row(&self, number: usize) -> Row {
        self.plan.get(number).copied().unwrap_or(ENDS)
    }

    /// A case ended: a line of the table.
    fn end(&mut self, row: Row, verdict: Verdict) {
        if self.app.format == Format::Text {
            let mut line = format!(
                "{:<9} {:<11} {:>7.3}  {}",
                row.0,
                verdict.result.name(),
                verdict.seconds,
                row.1
            );
            if !verdict.detail.is_empty() {
                line.push_str(&format!(": {}", verdict.detail));
            }
            output::print_line(&line);
        }
        self.done.push(Done { row, verdict });
    }
}

/// Where a child is.
#[derive(PartialEq)]
enum Stage {
    Load,
    Open,
    Case(usize),
    /// Before this case: what happens here is laid to it.
    Between(usize),
    End,
}

impl Stage {
    fn words(&self) -> &'static str {
        match self {
            Stage::Load => " while it was loaded",
            Stage::Open => " while it was opened",
            Stage::Case(_) => "",
            Stage::Between(_) => " between two cases",
            Stage::End => " at its end",
        }
    }
}

fn verdict(result: Verdicts, time: Duration, detail: String) -> Verdict {
    Verdict {
        result,
        seconds: time.as_secs_f64(),
        detail,
    }
}

/// A driver that says why it cannot serve is an error of the surroundings; one
/// that breaks its contract fails its cases.
fn refused(error: WireError, stage: &Stage) -> Result<Turn> {
    let error = Error::from(error);
    let broken = error.kind() == ErrorKind::Internal && *stage == Stage::Open;
    if broken {
        return Ok(Turn::Never(format!("it cannot be opened: {error}")));
    }
    Err(error)
}
