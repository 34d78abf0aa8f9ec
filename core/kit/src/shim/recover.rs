//! Ending a container whose supervisor is dead.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use super::cgroup::{kill_cgroups, remove_cgroups};
use super::execs::end_execs;
use super::state::{ExitRecord, InitRecord, Intent, read_exit, read_init, read_intent, write_exit};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::process::Stat;
use crate::stats::oom_kills;

/// SIGKILL is quick; what outlives this hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the death of a whole shim, guard included, left behind, put in order
/// by the next command: the container's processes are killed and its exit is
/// recorded, 137 when its init was still there and 255 when nobody knows.
/// `None` when there was no init. The runtime's own state is not touched.
///
/// The caller holds the container's lock, so that there is no shim.
pub fn recover(state_dir: &Path) -> Result<Option<ExitRecord>> {
    let init = read_init(state_dir)?;
    let (mut was_alive, mut oom_killed) = (false, false);
    if let Some(init) = &init {
        oom_killed = oom_kills(&init.cgroups) > 0;
        was_alive = kill_remains(init)?;
        remove_cgroups(&init.cgroups);
    }
    if let Some(intent) = read_intent(state_dir)? {
        await_commands(&intent)?;
    }
    end_execs(state_dir)?;
    if let Some(exit) = read_exit(state_dir)? {
        return Ok(Some(exit));
    }
    // An init of another boot is not given by `read_init`, yet there was one.
    if init.is_none() && !state_dir.join("init.json").exists() {
        return Ok(None);
    }
    let mut exit = match was_alive {
        true => ExitRecord::inferred(),
        false => ExitRecord::unknown(),
    };
    exit.oom_killed = oom_killed;
    write_exit(state_dir, exit).map(Some)
}

/// Kills an init and everything in its cgroups, and waits for their end.
/// Whether the init was still alive.
pub fn kill_remains(init: &InitRecord) -> Result<bool> {
    let mut was_alive = false;
    let pidfd = init.process.open()?;
    if let Some(pidfd) = &pidfd {
        was_alive = !ends_within(pidfd, Duration::ZERO)?;
        if was_alive {
            match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => {
                    return Err(errno).io_context(|| format!("kill process {}", init.process.pid));
                }
            }
        }
    }
    kill_cgroups(&init.cgroups, PATIENCE)?;
    if let Some(pidfd) = &pidfd
        && !ends_within(pidfd, PATIENCE)?
    {
        return Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "process {} does not die within {} s",
                init.process.pid,
                PATIENCE.as_secs()
            ),
        ));
    }
    Ok(was_alive)
}

/// Waits for the runtime's commands: they die with their supervisor, but a
/// moment after its lock is free, and until then they make new things. They are
/// known by their session, whose number may by now be another's: so nothing is
/// killed here.
fn await_commands(intent: &Intent) -> Result<()> {
    // This may be the cleanup that the shim became.
    if intent.shim.pid != std::process::id()
        && let Some(pidfd) = intent.shim.open()?
    {
        ends_within(&pidfd, PATIENCE)?;
    }
    let end = Instant::now() + Duration::from_secs(2);
    let mut pause = Duration::from_micros(500);
    while Instant::now() < end && has_members(intent.session) {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether a process of this session is alive, other than this one: the shim's
/// cleanup is a member. A session without a number has none that are known.
fn has_members(session: u32) -> bool {
    let me = std::process::id();
    session != 0
        && Stat::all().any(|stat| stat.session == session && stat.pid != me && !stat.has_ended())
}

fn ends_within(pidfd: &std::os::fd::OwnedFd, time: Duration) -> Result<bool> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout =
            Timespec::try_from(left).map_err(|_| Error::internal("a wait is too long"))?;
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).io_context(|| "wait for a process's end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{ExitSource, write_init};
    use super::*;
    use crate::process::ProcessIdentity;
    use crate::value::Timestamp;

    fn record(pid: u32) -> InitRecord {
        InitRecord {
            version: super::super::PROTOCOL,
            process: ProcessIdentity::of(pid).expect("identity"),
            cgroups: Vec::new(),
            at: Timestamp::now(),
        }
    }

    #[test]
    fn an_orphan_is_killed_and_every_wait_gives_the_same() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(recover(dir.path()), Ok(None));
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .expect("spawn");
        write_init(dir.path(), &record(child.id())).expect("write");
        let exit = recover(dir.path()).expect("recover").expect("record");
        assert_eq!((exit.status(), exit.source), (137, ExitSource::Inferred));
        child.wait().expect("wait");
        assert_eq!(recover(dir.path()), Ok(Some(exit)));
    }

    #[test]
    fn a_session_is_seen_while_it_has_a_living_member() {
        let mut child = std::process::Command::new("setsid")
            .args(["sleep", "100"])
            .spawn()
            .expect("spawn");
        let end = Instant::now() + Duration::from_secs(10);
        while !has_members(child.id()) {
            assert!(Instant::now() < end, "no such session");
        }
        child.kill().expect("kill");
        while has_members(child.id()) {
            assert!(Instant::now() < end, "a zombie counts");
        }
        child.wait().expect("wait");
        assert!(!has_members(0), "a session that was begun elsewhere");
    }

    #[test]
    fn what_ran_before_a_reboot_has_ended_unseen() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut init = record(std::process::id());
        init.process.boot_id = "another boot".into();
        write_init(dir.path(), &init).expect("write");
        let exit = recover(dir.path()).expect("recover").expect("record");
        assert_eq!((exit.status(), exit.source), (255, ExitSource::Unknown));
    }

    #[test]
    fn a_reused_pid_is_not_killed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut init = record(std::process::id());
        init.process.start_time += 1;
        write_init(dir.path(), &init).expect("write");
        // Were it fooled, this test would be killed here.
        let exit = recover(dir.path()).expect("recover").expect("record");
        assert_eq!((exit.status(), exit.source), (255, ExitSource::Unknown));
    }
}
