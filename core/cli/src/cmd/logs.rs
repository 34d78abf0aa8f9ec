//! `logs`.

use std::os::fd::AsFd;

use containerkit::container::{Containers, StatusName};
use containerkit::logs::{Entry, Stream};
use containerkit::record::{ContainerRecord, Lifetime};
use containerkit::spec::LogDriver;
use containerkit::{Error, ErrorKind, Result, Timestamp, quote};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::container::LogsArgs;
use crate::cmd::foreground::Signals;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::terminal::write_all;
use crate::time::parse_time;

pub(crate) fn logs(app: &App, args: LogsArgs) -> Result<Outcome> {
    let tail = parse_tail(&args.tail)?;
    let mut printer = Printer {
        format: app.format,
        timestamps: args.timestamps,
        since: args.since.as_deref().map(parse_time).transpose()?,
        until: args.until.as_deref().map(parse_time).transpose()?,
        within: [false; 2],
    };
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let record = find(&containers, &args.id)?;
    check(&containers, &record)?;
    let mut reader = containers.logs(&record);
    let state_dir = containers.state_dir(&record.id);
    match args.follow {
        true => reader.watch(&state_dir)?,
        false => reader.until_now(),
    }
    if let Some(count) = tail {
        printer.print(&reader.tail(count)?)?;
    }
    let mut ended = !args.follow;
    loop {
        let entries = reader.next_entries()?;
        printer.print(&entries)?;
        if printer.reader_gone() || signals.interrupted() || printer.is_over() {
            return Ok(Outcome::Success);
        }
        if !entries.is_empty() {
            continue;
        }
        if ended {
            return Ok(Outcome::Success);
        }
        // What was written before the end is read once more after it.
        ended = has_ended(&containers, &record)?;
        if ended {
            continue;
        }
        reader.watch(&state_dir)?;
        signals.wait(reader.notify_fd())?;
    }
}

/// `None` for all.
fn parse_tail(text: &str) -> Result<Option<usize>> {
    match text {
        "all" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            Error::invalid(format!(
                "--tail {}: want a number of lines, or all",
                quote(text)
            ))
        }),
    }
}

/// Refuses what has no log.
fn check(containers: &Containers, record: &ContainerRecord) -> Result<()> {
    if containers.log_dir(&record.id).exists() {
        return Ok(());
    }
    let none = |why: &str| {
        Err(Error::precondition(format!(
            "container {} has no log: {why}",
            record.name
        )))
    };
    if containers.settings(&record.id)?.log.driver == LogDriver::None {
        return none("it was made with --log-opt driver=none");
    }
    match record.lifetime {
        Lifetime::Ephemeral => none("its output is that of the command that runs it"),
        Lifetime::Durable => Ok(()),
    }
}

fn has_ended(containers: &Containers, record: &ContainerRecord) -> Result<bool> {
    // Removed meanwhile.
    match containers.records().container(&record.id) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let status = containers.status(record)?;
    Ok(matches!(
        status.name,
        StatusName::Stopped | StatusName::Unknown
    ))
}

struct Printer {
    format: Format,
    timestamps: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Whether a line of standard output, of standard error has begun.
    within: [bool; 2],
}

impl Printer {
    fn print(&mut self, entries: &[Entry]) -> Result<()> {
        let mut text: Vec<u8> = Vec::new();
        let mut last = None;
        for entry in entries {
            let early = self.since.is_some_and(|since| entry.time < since);
            let late = self.until.is_some_and(|until| entry.time > until);
            if early || late {
                continue;
            }
            if self.format == Format::Json {
                output::print_json_line(&json!({
                    "time": entry.time,
                    "type": entry.stream.name(),
                    "text": String::from_utf8_lossy(&entry.text),
                    "partial": !entry.whole,
                }))?;
                continue;
            }
            // Both may lead to one place, where their order counts.
            if last.is_some_and(|last| last != entry.stream) {
                write(last, &text)?;
                text.clear();
            }
            last = Some(entry.stream);
            let within = &mut self.within[entry.stream as usize];
            if self.timestamps && !*within {
                text.extend_from_slice(format!("{} ", entry.time).as_bytes());
            }
            *within = !entry.whole;
            text.extend_from_slice(&entry.text);
            if entry.whole {
                text.push(b'\n');
            }
        }
        write(last, &text)
    }

    /// Whether nothing that comes is wanted.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Timestamp::now() > until)
    }

    fn reader_gone(&self) -> bool {
        output::reader_gone()
    }
}

fn write(stream: Option<Stream>, text: &[u8]) -> Result<()> {
    match stream {
        None => Ok(()),
        Some(Stream::Stdout) => {
            output::print_bytes(text);
            Ok(())
        }
        Some(Stream::Stderr) => write_all(std::io::stderr().as_fd(), text),
    }
}
