//! Identity of processes: pid, start time and boot, so that a reused pid or a
//! reboot cannot deceive.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};

/// A process that can be recognized later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot.
    pub start_time: u64,
    /// The boot it lives in.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of a living process.
    pub fn of(pid: u32) -> Result<ProcessIdentity> {
        Ok(ProcessIdentity {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id()?,
        })
    }

    /// A pidfd of just this process, or `None` when it is gone. A zombie
    /// still counts as there.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(Error::io(format!("open process {pid:?}"), errno)),
        };
        // Opened first, compared after: the pid cannot be reused in between
        // without the start time telling.
        match start_time(self.pid) {
            Ok(start) if start == self.start_time => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    /// Sends a signal to just this process; `false` when it is gone.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        let Some(fd) = self.open()? else {
            return Ok(false);
        };
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(Error::io(format!("signal process {}", self.pid), errno)),
        }
    }
}

/// Field 22 of `/proc/PID/stat`.
pub fn start_time(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read(&path).io_context(|| format!("read {path}"))?;
    parse_start_time(&stat).ok_or_else(|| Error::internal(format!("{path} cannot be understood")))
}

/// The command's name may hold spaces and `)`: fields are counted from the last `)`.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // Field 3 (state) is the first after the name.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The id of this boot.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).io_context(|| format!("read {PATH}"))?;
    Ok(text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_fields() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b (c) S {}\n", fields.join(" "));
        assert_eq!(parse_start_time(stat.as_bytes()), Some(22));
        assert_eq!(parse_start_time(b"7 (a"), None);
        assert_eq!(parse_start_time(b""), None);
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = ProcessIdentity::of(std::process::id()).expect("identity");
        assert!(me.open().expect("open").is_some());
        let other = ProcessIdentity {
            start_time: me.start_time + 1,
            ..me.clone()
        };
        assert!(other.open().expect("open").is_none());
        let reboot = ProcessIdentity {
            boot_id: "x".into(),
            ..me
        };
        assert!(reboot.open().expect("open").is_none());
    }
}
