//! A driver is a guest in its process (DRV-G-06, DRV-G-08): what it must leave
//! as it was found.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use containerkit::{IoContext, Result};

use crate::ensure;

/// Lives after the first: more than what others of the process open meanwhile.
const LIVES: u32 = 12;

/// Remembers the process as it is now: its folder, umask, environment and
/// signals, and which folders a careless driver writes to are empty. Cases
/// compare with it, so that what is changed once, by the first call of all,
/// is seen as well. Call it before a driver is loaded; the first case does it
/// otherwise. Only the first call counts.
pub fn remember() {
    FOUND.get_or_init(|| Found {
        process: Process::now(),
        empty: elsewhere().filter(|folder| is_empty(folder)).collect(),
    });
}

static FOUND: OnceLock<Found> = OnceLock::new();

struct Found {
    process: Process,
    empty: BTreeSet<PathBuf>,
}

fn found() -> &'static Found {
    remember();
    FOUND.wait()
}

/// Folders that a careless driver writes to.
pub(crate) fn elsewhere() -> impl Iterator<Item = PathBuf> {
    let folder = std::env::current_dir().ok();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let temporary = std::env::temp_dir();
    let common = COMMON.into_iter().chain(SYSTEM).map(PathBuf::from);
    let own = [folder, home, Some(temporary)].into_iter().flatten();
    own.chain(common)
}

/// Where everybody writes: DRV-G-05 judges what is there in a process that found
/// them empty.
pub const COMMON: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// Where hardly anything is made while a case runs.
const SYSTEM: [&str; 5] = ["/", "/etc", "/run", "/var/lib", "/var/cache"];

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// The folders that were empty before anything was done with the driver: what
/// is there now is its doing.
pub(crate) fn found_empty() -> &'static BTreeSet<PathBuf> {
    &found().empty
}

/// What belongs to the process and not to a driver.
#[derive(PartialEq)]
struct Process {
    folder: Option<PathBuf>,
    environment: BTreeMap<OsString, OsString>,
    /// Umask, and the signals that are blocked, ignored and handled.
    status: BTreeMap<String, String>,
}

impl Process {
    fn now() -> Process {
        const FIELDS: [&str; 4] = ["Umask", "SigBlk", "SigIgn", "SigCgt"];
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let status = status.lines().filter_map(|line| line.split_once(':'));
        Process {
            folder: std::env::current_dir().ok(),
            environment: std::env::vars_os().collect(),
            status: status
                .filter(|(name, _)| FIELDS.contains(name))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        }
    }
}

/// Fails when the process is not as it was found.
pub(crate) fn unchanged() -> Result<()> {
    let (before, now) = (&found().process, Process::now());
    ensure(now.folder == before.folder, || {
        format!("it changed the current folder to {:?}", now.folder)
    })?;
    ensure(now.environment == before.environment, || {
        let mut names = before.environment.keys().chain(now.environment.keys());
        let other = names.find(|name| now.environment.get(*name) != before.environment.get(*name));
        format!("it changed the environment variable {other:?}")
    })?;
    for (name, before) in &before.status {
        let now = now.status.get(name);
        ensure(now == Some(before), || {
            format!("it changed {name} from {before} to {now:?}")
        })?;
    }
    Ok(())
}

fn descriptors() -> Result<Vec<String>> {
    let folder = std::fs::read_dir("/proc/self/fd").io_context(|| "own descriptors")?;
    Ok(folder
        .flatten()
        .map(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            format!("{:?} {}", entry.file_name(), target.display())
        })
        .collect())
}

/// Lives `life` again and again, each time with another number, and fails when
/// folder, umask, environment or signal handlers of the process change, or
/// when each life leaves descriptors.
pub(crate) fn behaves(mut life: impl FnMut(u32) -> Result<()>) -> Result<()> {
    life(0)?;
    let first = descriptors()?;
    for number in 1..=LIVES {
        life(number)?;
    }
    let last = descriptors()?;
    let more = last.len().saturating_sub(first.len());
    ensure(more < LIVES as usize, || {
        format!("{LIVES} lives leave {more} descriptors: {last:?}")
    })?;
    unchanged()
}
