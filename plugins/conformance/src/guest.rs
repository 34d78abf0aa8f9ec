//! A driver is a guest in its process (DRV-G-06, DRV-G-08): what a whole life
//! of its objects must leave as it was.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use containerkit::{IoContext, Result};

use crate::{ensure, equal};

/// Lives after the first: more than what others of the process open meanwhile.
const LIVES: u32 = 12;

/// What belongs to the process and not to a driver.
#[derive(Debug, PartialEq)]
struct Surroundings {
    folder: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    /// Umask, and the signals that are ignored and handled.
    status: Vec<String>,
}

impl Surroundings {
    fn now() -> Result<Surroundings> {
        let status = std::fs::read_to_string("/proc/self/status").io_context(|| "own status")?;
        let wanted = ["Umask:", "SigIgn:", "SigCgt:"];
        Ok(Surroundings {
            folder: std::env::current_dir().io_context(|| "own folder")?,
            environment: std::env::vars_os().collect(),
            status: status
                .lines()
                .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect(),
        })
    }
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
    let before = Surroundings::now()?;
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
    equal(Surroundings::now()?, before, "the process afterwards")
}
