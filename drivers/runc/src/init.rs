//! Processes that the runtime started: the pid file, and who a container's
//! init is, remembered in `state` so that `delete` can be sure of its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit::fs::{Durability, write_atomic};
use containerkit::process::{ProcessIdentity, boot_id, start_time};
use containerkit::runtime::StartedProcess;
use containerkit::{ContainerId, Error, ErrorKind, IoContext, Result, fs, quote};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::command::ends_within;

/// How long a killed init may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Reads a pid file and opens its process, which must be younger than the
/// command that wrote it: `command_start` in clock ticks since boot.
pub(crate) fn started(pid_file: &Path, command_start: u64) -> Result<StartedProcess> {
    let pid = read_pid(pid_file)?;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::internal(format!("pid {pid}")))?;
    let gone = StartedProcess {
        pid,
        pidfd: None,
        start_time: 0,
    };
    let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH | Errno::INVAL) => return Ok(gone),
        Err(errno) => return Err(Error::io(format!("open process {pid}"), errno)),
    };
    let Ok(start_time) = start_time(pid) else {
        return Ok(gone);
    };
    if start_time < command_start || pid == std::process::id() {
        return Err(Error::internal(format!(
            "the runtime's pid file names process {pid}, which the runtime did not start"
        ))
        .with_hint("check the runtime's program: `binary` in its options"));
    }
    Ok(StartedProcess {
        pid,
        pidfd: Some(pidfd),
        start_time,
    })
}

fn read_pid(path: &Path) -> Result<u32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => Error::internal("the runtime succeeded and wrote no pid file"),
        errno => Error::io("open the runtime's pid file", errno),
    })?;
    let stat = rustix::fs::fstat(&file).io_context(|| "stat the runtime's pid file")?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Error::internal("the runtime's pid file is not a file"));
    }
    let data = fs::read_limited(&file, "the runtime's pid file", 64)
        .map_err(|error| error.with_kind(ErrorKind::Internal))?;
    parse_pid(&data).ok_or_else(|| {
        Error::internal(format!(
            "the runtime's pid file holds {}, which is not a pid",
            quote(&String::from_utf8_lossy(&data))
        ))
    })
}

/// Digits alone, of a pid that can be a container's.
fn parse_pid(data: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(data).ok()?.trim_ascii();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // 2^22 is the kernel's PID_MAX_LIMIT.
    text.parse().ok().filter(|pid| (2..=1 << 22).contains(pid))
}

/// The format of a record.
const VERSION: u32 = 1;

/// What is remembered of a container.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    init: ProcessIdentity,
    /// The lines of the init's `/proc/PID/cgroup`.
    cgroups: Vec<String>,
}

/// The memory of containers' inits: one file each.
pub(crate) struct Inits {
    folder: PathBuf,
}

impl Inits {
    /// In this folder of the instance's state.
    pub(crate) fn new(folder: PathBuf) -> Inits {
        Inits { folder }
    }

    fn path(&self, id: &ContainerId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Remembers the init of a new container.
    pub(crate) fn remember(&self, id: &ContainerId, process: &StartedProcess) -> Result<()> {
        fs::ensure_dir(&self.folder, 0o700)?;
        let record = Record {
            version: VERSION,
            init: ProcessIdentity {
                pid: process.pid,
                start_time: process.start_time,
                boot_id: boot_id()?,
            },
            cgroups: cgroup::of(process.pid),
        };
        let data = serde_json::to_vec(&record)
            .map_err(|e| Error::internal("write an init's record").with_source(e))?;
        write_atomic(&self.path(id), &data, 0o600, Durability::Volatile)
    }

    /// A record that a newer driver wrote is left to that driver.
    fn read(&self, id: &ContainerId) -> Option<Record> {
        let data = std::fs::read(self.path(id)).ok()?;
        let record: Record = serde_json::from_slice(&data).ok()?;
        (record.version == VERSION).then_some(record)
    }

    /// Whether a container's init is remembered.
    pub(crate) fn knows(&self, id: &ContainerId) -> bool {
        self.path(id).exists()
    }

    /// A container's init, when it is known and has ended.
    pub(crate) fn ended(&self, id: &ContainerId) -> Option<ProcessIdentity> {
        let init = self.read(id)?.init;
        match init.open().ok()? {
            Some(pidfd) if !ends_within(&pidfd, Duration::ZERO) => None,
            _ => Some(init),
        }
    }

    /// Kills all that is left of a container whose runtime lost its record.
    pub(crate) fn end_all(&self, id: &ContainerId) -> Result<()> {
        self.end(id)?;
        if let Some(record) = self.read(id) {
            cgroup::kill(&record.cgroups);
        }
        Ok(())
    }

    /// Makes sure that a container's init has ended.
    pub(crate) fn end(&self, id: &ContainerId) -> Result<()> {
        let record = self.read(id);
        let Some(init) = record.and_then(|record| record.init.open().ok().flatten()) else {
            return Ok(());
        };
        if ends_within(&init, Duration::ZERO) {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&init, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(Error::io(format!("kill container {id}"), errno)),
        }
        if ends_within(&init, GRACE) {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "container {id}: its init does not end after SIGKILL"
        ))
        .with_hint("a process of it may be frozen, or an ended one not reaped yet"))
    }

    /// Forgets a container that is gone, with the cgroups it may have left.
    pub(crate) fn forget(&self, id: &ContainerId) {
        if let Some(record) = self.read(id) {
            cgroup::remove(&record.cgroups);
        }
        let _ = std::fs::remove_file(self.path(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_digits_alone() {
        assert_eq!(parse_pid(b"42"), Some(42));
        assert_eq!(parse_pid(b" 42\n"), Some(42));
        for bad in [
            &b""[..],
            b"0",
            b"1",
            b"-5",
            b"+5",
            b"4 2",
            b"0x10",
            b"99999999999999999999",
            b"4294967297",
            b"4194305",
            b"\xff",
        ] {
            assert_eq!(parse_pid(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_older_process_is_not_believed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("pid");
        let mut child = std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .expect("spawn");
        std::fs::write(&file, child.id().to_string()).expect("write");
        let start = start_time(child.id()).expect("start");
        assert!(started(&file, start).expect("young").pidfd.is_some());
        assert!(started(&file, start + 1).is_err());
        child.kill().expect("kill");
        child.wait().expect("wait");
        let gone = started(&file, start).expect("gone");
        assert!(gone.pidfd.is_none() && gone.start_time == 0);
    }
}
