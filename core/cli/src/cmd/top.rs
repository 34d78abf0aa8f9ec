//! `top`: the processes of a container.

use std::collections::BTreeMap;

use containerkit::kit::Drivers;
use containerkit::process::Stat;
use containerkit::shim::read_init;
use containerkit::stats::processes;
use containerkit::{Error, Result, quote};
use serde_json::{Map, Value};

use crate::Outcome;
use crate::app::App;
use crate::args::container::TopArgs;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::output::{self, Format};

/// A column: what ps(1) calls it, its head, what of a process it shows.
struct Column {
    name: &'static str,
    head: &'static str,
    show: fn(&Process) -> String,
}

const COLUMNS: [Column; 17] = [
    Column {
        name: "uid",
        head: "UID",
        show: |p| p.status("Uid", 1),
    },
    Column {
        name: "gid",
        head: "GID",
        show: |p| p.status("Gid", 1),
    },
    Column {
        name: "user",
        head: "USER",
        show: |p| p.user(p.status("Uid", 1)),
    },
    Column {
        name: "pid",
        head: "PID",
        show: |p| p.pid.to_string(),
    },
    Column {
        name: "ppid",
        head: "PPID",
        show: |p| p.field(4),
    },
    Column {
        name: "pgid",
        head: "PGID",
        show: |p| p.field(5),
    },
    Column {
        name: "sid",
        head: "SID",
        show: |p| p.field(6),
    },
    Column {
        name: "nspid",
        head: "NSPID",
        show: |p| p.last_status("NSpid"),
    },
    Column {
        name: "stat",
        head: "S",
        show: |p| p.field(3),
    },
    Column {
        name: "nice",
        head: "NI",
        show: |p| p.field(19),
    },
    Column {
        name: "nlwp",
        head: "NLWP",
        show: |p| p.field(20),
    },
    Column {
        name: "vsz",
        head: "VSZ",
        show: |p| p.status("VmSize", 0),
    },
    Column {
        name: "rss",
        head: "RSS",
        show: |p| p.status("VmRSS", 0),
    },
    Column {
        name: "tty",
        head: "TTY",
        show: |p| p.tty(),
    },
    Column {
        name: "time",
        head: "TIME",
        show: |p| p.time(),
    },
    Column {
        name: "comm",
        head: "COMMAND",
        show: |p| p.stat.name.clone(),
    },
    Column {
        name: "args",
        head: "CMD",
        show: |p| p.args(),
    },
];

/// A second has so many ticks wherever Linux tells them to programs.
const TICKS: u64 = 100;

const DEFAULT: &str = "uid,pid,ppid,tty,time,args";
const LONG: &str = "user,pid,ppid,vsz,rss,tty,stat,time,args";

pub(crate) fn top(app: &App, args: TopArgs) -> Result<Outcome> {
    let columns = columns(&args.options)?;
    let containers = containers(app)?;
    let record = find(&containers, &args.id)?;
    let status = containers.status(&record)?;
    if !status.is_live() {
        return Err(Error::precondition(format!(
            "container {} is {}, not running",
            record.name,
            status.name.name()
        )));
    }
    let init = read_init(&containers.state_dir(&record.id))?;
    let mut pids = processes(&init.map(|init| init.cgroups).unwrap_or_default());
    if pids.is_empty() {
        let entries = app
            .drivers
            .runtime(Some(&record.runtime.instance))?
            .ps(&record.id)?;
        pids.extend(entries.iter().map(|entry| entry.pid));
    }
    let users = users(status.init.as_ref().map(|init| init.pid));
    // One that ends meanwhile is not there any more.
    let rows: Vec<Vec<String>> = pids
        .into_iter()
        .filter_map(|pid| Process::read(pid, &users))
        .map(|process| {
            columns
                .iter()
                .map(|column| (column.show)(&process))
                .collect()
        })
        .collect();
    if app.format == Format::Json {
        let documents: Vec<Value> = rows
            .into_iter()
            .map(|row| {
                let names = columns.iter().map(|column| column.name.to_owned());
                let values = row.into_iter().map(|text| match text.parse::<u64>() {
                    Ok(number) => Value::from(number),
                    Err(_) => Value::from(text),
                });
                Value::Object(names.zip(values).collect::<Map<_, _>>())
            })
            .collect();
        output::print_json(&documents)?;
    } else {
        let heads: Vec<&str> = columns.iter().map(|column| column.head).collect();
        output::print_table(&heads, &rows);
    }
    Ok(Outcome::Success)
}

/// The columns that words as for ps(1) ask for.
fn columns(words: &[String]) -> Result<Vec<&'static Column>> {
    let mut wanted = DEFAULT.to_owned();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-o" | "o" | "--format" => {
                wanted = words
                    .next()
                    .ok_or_else(|| Error::invalid("-o: want a list of columns"))?
                    .clone();
            }
            "aux" | "-aux" | "-F" | "-l" => wanted = LONG.to_owned(),
            "-e" | "-ef" | "-f" | "-A" | "ax" | "-ax" => {}
            _ => match word.strip_prefix("-o").or_else(|| word.strip_prefix("-eo")) {
                Some("") => {
                    wanted = words.next().cloned().unwrap_or_default();
                }
                Some(list) => wanted = list.trim_start_matches('=').to_owned(),
                None => {
                    return Err(Error::invalid(format!("option {} of top", quote(word)))
                        .with_source_text("want -o COLUMNS, -ef or aux"));
                }
            },
        }
    }
    wanted
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = name.to_ascii_lowercase();
            let name = match name.as_str() {
                "cmd" | "command" => "args",
                "s" | "state" => "stat",
                "tt" | "tname" => "tty",
                "hpid" => "pid",
                "uname" | "euser" => "user",
                other => other,
            };
            COLUMNS
                .iter()
                .find(|column| column.name == name)
                .ok_or_else(|| {
                    let known: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
                    Error::invalid(format!(
                        "column {}: want one of {}",
                        quote(name),
                        known.join(", ")
                    ))
                })
        })
        .collect()
}

/// A look at a process.
struct Process<'a> {
    pid: u32,
    stat: Stat,
    status: String,
    users: &'a BTreeMap<String, String>,
}

impl<'a> Process<'a> {
    fn read(pid: u32, users: &'a BTreeMap<String, String>) -> Option<Process<'a>> {
        Some(Process {
            pid,
            stat: Stat::read(pid).ok()?,
            status: std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
            users,
        })
    }

    /// A field of `stat` by its number in proc(5).
    fn field(&self, number: usize) -> String {
        self.stat.field(number).unwrap_or_default().to_owned()
    }

    fn line(&self, key: &str) -> Option<&str> {
        self.status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
    }

    fn status(&self, key: &str, index: usize) -> String {
        let line = self.line(key).unwrap_or("0");
        line.split_ascii_whitespace()
            .nth(index)
            .unwrap_or("0")
            .to_owned()
    }

    fn last_status(&self, key: &str) -> String {
        let line = self.line(key).unwrap_or_default();
        line.split_ascii_whitespace()
            .last()
            .unwrap_or("0")
            .to_owned()
    }

    fn user(&self, uid: String) -> String {
        self.users.get(&uid).cloned().unwrap_or(uid)
    }

    fn tty(&self) -> String {
        let number: u64 = self.field(7).parse().unwrap_or(0);
        let minor = (number & 0xff) | ((number >> 12) & 0xfff00);
        match (number >> 8) & 0xfff {
            136..=143 => format!("pts/{}", minor),
            4 if minor < 64 => format!("tty{minor}"),
            _ => "?".into(),
        }
    }

    fn time(&self) -> String {
        let ticks = |number| self.field(number).parse::<u64>().unwrap_or(0);
        let seconds = (ticks(14) + ticks(15)) / TICKS;
        format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    }

    fn args(&self) -> String {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        match words.is_empty() {
            true => format!("[{}]", self.stat.name),
            false => words.join(" "),
        }
    }
}

/// Names of users as the container has them.
fn users(pid: Option<u32>) -> BTreeMap<String, String> {
    let read = |pid: u32| {
        let root = containerkit::fs::Root::open(format!("/proc/{pid}/root").as_ref())?;
        root.read("etc/passwd", 1 << 20)
    };
    let data = pid.and_then(|pid| read(pid).ok()).unwrap_or_default();
    String::from_utf8_lossy(&data)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?);
            Some((uid.to_owned(), name.to_owned()))
        })
        .collect()
}
