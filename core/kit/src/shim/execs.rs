//! The records of further processes, `exec/N.json` in the container's folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::request::PROTOCOL;
use super::state::{ExitRecord, read, write};
use crate::error::Result;
use crate::process::ProcessIdentity;
use crate::value::Timestamp;

/// The folder's name.
pub(super) const FOLDER: &str = "exec";

/// A further process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// [`PROTOCOL`].
    pub version: u32,
    /// Its number since the container's start, from 1.
    pub exec: u32,
    /// When it was asked for.
    pub at: Timestamp,
    /// The process, once there is one.
    pub process: Option<ProcessIdentity>,
    /// How it ended.
    pub exit: Option<ExitRecord>,
}

impl ExecRecord {
    /// One that is about to be started.
    pub fn new(exec: u32) -> ExecRecord {
        ExecRecord {
            version: PROTOCOL,
            exec,
            at: Timestamp::now(),
            process: None,
            exit: None,
        }
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

fn name(exec: u32) -> String {
    format!("{exec}.json")
}

/// Writes a record, whole or not at all.
pub fn write_exec(state_dir: &Path, record: &ExecRecord) -> Result<()> {
    let folder = folder(state_dir);
    crate::fs::ensure_dir(&folder, 0o700)?;
    write(&folder, &name(record.exec), record)
}

/// Reads one; `None` when it is not kept.
pub fn read_exec(state_dir: &Path, exec: u32) -> Result<Option<ExecRecord>> {
    read(&folder(state_dir), &name(exec))
}

/// Forgets one.
pub fn remove_exec(state_dir: &Path, exec: u32) {
    let _ = std::fs::remove_file(folder(state_dir).join(name(exec)));
}

/// All that are kept, in order.
pub fn read_execs(state_dir: &Path) -> Result<Vec<ExecRecord>> {
    let folder = folder(state_dir);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_record = name
            .to_str()
            .and_then(|name| name.strip_suffix(".json")?.parse::<u32>().ok())
            .is_some();
        if is_record && let Some(record) = read(&folder, &name.to_string_lossy())? {
            found.push(record);
        }
    }
    found.sort_by_key(|record: &ExecRecord| record.exec);
    Ok(found)
}

/// Gives an exit to every record without one, when the container's processes
/// are dead and nobody saw theirs: 137 inferred for one that ran, none for one
/// that never came to a process, whose record goes.
pub fn end_execs(state_dir: &Path) -> Result<()> {
    for mut record in read_execs(state_dir)? {
        if record.exit.is_some() {
            continue;
        }
        if record.process.is_none() {
            remove_exec(state_dir, record.exec);
            continue;
        }
        record.exit = Some(ExitRecord::inferred());
        write_exec(state_dir, &record)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exec_that_ran_gets_an_exit_and_keeps_its_first() {
        let dir = tempfile::tempdir().expect("tempdir");
        let process = ProcessIdentity::of(std::process::id()).expect("identity");
        let mut ran = ExecRecord::new(1);
        ran.process = Some(process);
        let mut ended = ran.clone();
        ended.exec = 2;
        ended.exit = Some(ExitRecord::exited(3));
        for record in [&ran, &ended, &ExecRecord::new(3)] {
            write_exec(dir.path(), record).expect("write");
        }
        end_execs(dir.path()).expect("end");
        let left = read_execs(dir.path()).expect("read");
        let statuses: Vec<_> = left
            .iter()
            .map(|record| (record.exec, record.exit.as_ref().map(ExitRecord::status)))
            .collect();
        assert_eq!(statuses, [(1, Some(137)), (2, Some(3))]);
        assert_eq!(read_exec(dir.path(), 2), Ok(Some(ended)));
        remove_exec(dir.path(), 2);
        assert_eq!(read_exec(dir.path(), 2), Ok(None));
    }
}
