//! `stats`: counters of running containers, once or every second.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use containerkit::container::{Containers, Status};
use containerkit::kit::Drivers;
use containerkit::record::ContainerRecord;
use containerkit::runtime::Stats;
use containerkit::shim::read_init;
use containerkit::stats::{Traffic, cgroup_stats, host_memory, traffic};
use containerkit::{Error, Result, Timestamp};
use rustix::event::{Timespec, poll};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::args::container::StatsArgs;
use crate::cmd::container::looked_at;
use crate::cmd::foreground::Signals;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format, human_size};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// The same for one who wants a single answer.
const SHORT: Duration = Duration::from_millis(400);

/// One look at a container.
struct Sample {
    at: Instant,
    stats: Stats,
    traffic: Option<Traffic>,
}

pub(crate) fn stats(app: &App, args: StatsArgs) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let mut before = BTreeMap::new();
    let mut first = true;
    let live = args.ids.is_empty();
    loop {
        let chosen = choose(&containers, &args.ids, first)?;
        if chosen.is_empty() && !live {
            return Ok(Outcome::Success);
        }
        let mut now = BTreeMap::new();
        for (record, status) in &chosen {
            match sample(app, &containers, record, status) {
                Ok(sample) => drop(now.insert(record.id.clone(), sample)),
                // It may have ended between two looks.
                Err(error) if containers.status(record).is_ok_and(|s| s.is_live()) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        if !first {
            let rows: Vec<(&ContainerRecord, &Sample, f64)> = chosen
                .iter()
                .filter_map(|(record, _)| {
                    let sample = now.get(&record.id)?;
                    Some((record, sample, percent(before.get(&record.id), sample)))
                })
                .collect();
            print(app.format, &args, &rows)?;
            if args.no_stream {
                return Ok(Outcome::Success);
            }
        }
        before = now;
        let period = if first { SHORT } else { PERIOD };
        first = false;
        if pause(&signals, period)? || output::reader_gone() {
            return Ok(Outcome::Success);
        }
    }
}

/// Those that are named, or all that run.
fn choose(
    containers: &Containers,
    ids: &[String],
    first: bool,
) -> Result<Vec<(ContainerRecord, Status)>> {
    if ids.is_empty() {
        let mut all = looked_at(containers)?;
        all.retain(|(_, status)| status.is_live());
        return Ok(all);
    }
    let mut found = Vec::new();
    for id in ids {
        let known =
            find(containers, id).and_then(|record| Ok((containers.status(&record)?, record)));
        match known {
            Ok((status, record)) if status.is_live() => found.push((record, status)),
            Ok((status, record)) if first => {
                return Err(Error::precondition(format!(
                    "container {} is {}, not running",
                    record.name,
                    status.name.name()
                )));
            }
            Err(error) if first => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

fn sample(
    app: &App,
    containers: &Containers,
    record: &ContainerRecord,
    status: &Status,
) -> Result<Sample> {
    let init = read_init(&containers.state_dir(&record.id))?;
    let cgroups = init.map(|init| init.cgroups).unwrap_or_default();
    let stats = if cgroups.is_empty() {
        // A runtime without cgroups of its own may still count.
        app.drivers
            .runtime(Some(&record.runtime.instance))?
            .stats(&record.id)?
    } else {
        cgroup_stats(&cgroups)
    };
    let pid = status.init.as_ref().map(|init| init.pid);
    Ok(Sample {
        at: Instant::now(),
        stats,
        traffic: pid.and_then(|pid| traffic(pid).ok().flatten()),
    })
}

/// Of one CPU, since the look before.
fn percent(before: Option<&Sample>, now: &Sample) -> f64 {
    let Some(before) = before else { return 0.0 };
    let used = now
        .stats
        .cpu_usage_ns
        .saturating_sub(before.stats.cpu_usage_ns);
    let time = now.at.duration_since(before.at).as_nanos().max(1);
    used as f64 * 100.0 / time as f64
}

fn print(
    format: Format,
    args: &StatsArgs,
    rows: &[(&ContainerRecord, &Sample, f64)],
) -> Result<()> {
    if format == Format::Json {
        let documents: Vec<Value> = rows
            .iter()
            .map(|(record, sample, cpu)| document(record, sample, *cpu))
            .collect();
        if args.no_stream {
            return output::print_json(&documents);
        }
        return documents.iter().try_for_each(output::print_json_line);
    }
    if !args.no_stream && std::io::stdout().is_terminal() {
        // Home, and nothing below.
        output::print_text("\u{1b}[H\u{1b}[J");
    }
    let heads = [
        "ID",
        "NAME",
        "CPU %",
        "MEMORY / LIMIT",
        "MEM %",
        "NET RX / TX",
        "BLOCK R / W",
        "PIDS",
        "OOM",
    ];
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|(record, sample, cpu)| row(record, sample, *cpu))
        .collect();
    output::print_table(&heads, &table);
    Ok(())
}

fn row(record: &ContainerRecord, sample: &Sample, cpu: f64) -> Vec<String> {
    let stats = &sample.stats;
    let limit = limit(stats);
    let size = |bytes: Option<u64>| bytes.map_or("-".into(), human_size);
    vec![
        record.id.short().to_string(),
        record.name.to_string(),
        format!("{cpu:.2}"),
        format!("{} / {}", human_size(stats.memory_usage), size(limit)),
        memory_percent(stats).map_or("-".into(), |percent| format!("{percent:.2}")),
        match sample.traffic {
            Some(t) => format!("{} / {}", human_size(t.received), human_size(t.sent)),
            None => "-".into(),
        },
        format!(
            "{} / {}",
            human_size(stats.block_read),
            human_size(stats.block_written)
        ),
        stats.pids.to_string(),
        stats.oom_kills.to_string(),
    ]
}

fn limit(stats: &Stats) -> Option<u64> {
    match (stats.memory_limit, host_memory()) {
        (Some(limit), Some(host)) => Some(limit.min(host)),
        (limit, host) => limit.or(host),
    }
}

fn memory_percent(stats: &Stats) -> Option<f64> {
    let limit = limit(stats).filter(|limit| *limit > 0)?;
    Some(stats.memory_usage as f64 * 100.0 / limit as f64)
}

fn document(record: &ContainerRecord, sample: &Sample, cpu: f64) -> Value {
    let stats = &sample.stats;
    json!({
        "time": Timestamp::now(),
        "type": "stats",
        "id": record.id,
        "name": record.name,
        "cpu_percent": cpu,
        "cpu_usage_ns": stats.cpu_usage_ns,
        "memory_usage": stats.memory_usage,
        "memory_limit": stats.memory_limit,
        "memory_percent": memory_percent(stats),
        "pids": stats.pids,
        "pids_limit": stats.pids_limit,
        "block_read": stats.block_read,
        "block_written": stats.block_written,
        "network_received": sample.traffic.map(|traffic| traffic.received),
        "network_sent": sample.traffic.map(|traffic| traffic.sent),
        "oom_kills": stats.oom_kills,
    })
}

/// Whether it was interrupted.
fn pause(signals: &Signals, time: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(time).map_err(|_| Error::internal("a short time"))?;
    let mut fds = Vec::new();
    signals.add_to(&mut fds);
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(signals.interrupted()),
        Err(errno) => Err(Error::io("wait", errno)),
    }
}
