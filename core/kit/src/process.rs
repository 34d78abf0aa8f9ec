//! Identity of processes: pid, start time and boot, so that a reused pid or a
//! reboot cannot deceive.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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

/// Waits until a process has executed a program or has ended, for no longer
/// than `limit`. A signal that comes before meets handlers that the program
/// does not have, and is lost.
pub fn wait_for_exec(pid: u32, limit: Duration) {
    let deadline = Instant::now() + limit;
    while let Ok(stat) = Stat::read(pid)
        && !stat.has_executed()
        && !stat.has_ended()
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What `/proc/PID/stat` says of a process, in the reader's pid namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its pid.
    pub pid: u32,
    /// Its name, at most 15 bytes of its own choice.
    pub name: String,
    /// One letter: `R`, `S`, `D`, `Z`, …
    pub state: char,
    /// Its parent's pid; 0 when that is outside the pid namespace.
    pub parent: u32,
    /// Its process group; 0 when that was begun outside.
    pub group: u32,
    /// Its session; 0 when that was begun outside, where getsid(2) has no
    /// number at all.
    pub session: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// The fields from the third on.
    rest: String,
}

impl Stat {
    /// Of a process; `NotFound` when there is none.
    pub fn read(pid: u32) -> Result<Stat> {
        let path = format!("/proc/{pid}/stat");
        // Read as the process ends, it is ESRCH.
        let stat = std::fs::read(&path).map_err(|error| {
            match error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) {
                true => Error::not_found(format!("read {path}: the process has ended")),
                false => Error::io(format!("read {path}"), error),
            }
        })?;
        Stat::parse(pid, &stat)
            .ok_or_else(|| Error::internal(format!("{path} cannot be understood")))
    }

    /// Of every process that this one sees.
    pub fn all() -> impl Iterator<Item = Stat> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            // `self` is among them.
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Stat::read(pid).ok()
        })
    }

    /// Of the children of this process.
    pub fn children() -> impl Iterator<Item = Stat> {
        let me = std::process::id();
        Stat::all().filter(move |stat| stat.parent == me)
    }

    /// Whether it runs no more, reaped or not.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it runs a program of its own: a process that was forked has the
    /// code and the signal handlers of who forked it until it executes one.
    pub fn has_executed(&self) -> bool {
        const PF_FORKNOEXEC: u64 = 0x40;
        self.field(9)
            .and_then(|flags| flags.parse::<u64>().ok())
            .is_none_or(|flags| flags & PF_FORKNOEXEC == 0)
    }

    /// A field by its number in proc(5), 3 and above.
    pub fn field(&self, number: usize) -> Option<&str> {
        let index = number.checked_sub(3)?;
        self.rest.split_ascii_whitespace().nth(index)
    }

    /// The name may hold spaces and `)`: fields are counted from the last `)`.
    fn parse(pid: u32, stat: &[u8]) -> Option<Stat> {
        let begin = stat.iter().position(|byte| *byte == b'(')?;
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Stat {
            pid,
            name: String::from_utf8_lossy(stat.get(begin + 1..end)?).into_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
            // Of the fields from the seventh on, the 22nd.
            start_time: fields.nth(22 - 7)?.parse().ok()?,
            rest: rest.to_owned(),
        })
    }
}

/// Field 22 of `/proc/PID/stat`.
pub fn start_time(pid: u32) -> Result<u64> {
    Stat::read(pid).map(|stat| stat.start_time)
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
        let stat = Stat::parse(7, stat.as_bytes()).expect("parse");
        assert_eq!(stat.name, "a) b (c");
        assert_eq!((stat.state, stat.parent, stat.group), ('S', 4, 5));
        assert_eq!((stat.session, stat.start_time), (6, 22));
        assert_eq!(stat.field(3), Some("S"));
        assert_eq!(stat.field(52), Some("52"));
        assert_eq!((stat.field(2), stat.field(53)), (None, None));
        assert_eq!(Stat::parse(7, b"7 (a"), None);
        assert_eq!(Stat::parse(7, b"7 )a("), None);
        assert_eq!(Stat::parse(7, b""), None);
    }

    #[test]
    fn a_process_and_its_children_are_read() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .expect("spawn");
        let stat = Stat::read(child.id()).expect("read");
        assert_eq!(stat.parent, std::process::id());
        assert!(!stat.has_ended());
        assert!(Stat::children().any(|stat| stat.pid == child.id()));
        child.kill().expect("kill");
        child.wait().expect("wait");
        let error = Stat::read(child.id()).expect_err("gone");
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
    }

    #[test]
    fn a_forked_process_is_told_from_one_that_executes() {
        use std::io::{BufRead, BufReader};
        let mut shell = std::process::Command::new("sh")
            .args([
                "-c",
                "exec 3<&0; (read x <&3; exec sleep 100) & echo $!; wait",
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("read");
        let pid: u32 = line.trim().parse().expect("pid");
        assert!(Stat::read(shell.id()).expect("shell").has_executed());
        assert!(!Stat::read(pid).expect("fork").has_executed());
        wait_for_exec(pid, Duration::ZERO);
        assert!(!Stat::read(pid).expect("fork").has_executed());

        drop(shell.stdin.take());
        wait_for_exec(pid, Duration::from_secs(60));
        assert!(Stat::read(pid).expect("sleep").has_executed());
        let sleep = ProcessIdentity::of(pid).expect("identity");
        assert!(sleep.signal(Signal::KILL).expect("kill"));
        shell.wait().expect("wait");
        wait_for_exec(pid, Duration::from_secs(60));
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
