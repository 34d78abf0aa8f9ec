//! The cgroups of a container, as the kernel told them when it was made: what
//! a runtime with a damaged record cannot remove any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const MOUNT: &str = "/sys/fs/cgroup";

/// The lines of `/proc/PID/cgroup`.
pub(crate) fn of(pid: u32) -> Vec<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map(|text| text.lines().map(str::to_string).collect())
        .unwrap_or_default()
}

/// The existing folders of such lines, the caller's own cgroups left out.
fn folders(lines: &[String]) -> Vec<PathBuf> {
    let own = of(std::process::id());
    let mut folders: Vec<PathBuf> = Vec::new();
    for line in lines.iter().filter(|line| !own.contains(line)) {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            continue;
        }
        let mounts: Vec<String> = match names {
            "" => vec![MOUNT.into(), format!("{MOUNT}/unified")],
            _ => std::iter::once(names)
                .chain(names.split(','))
                .map(|name| format!("{MOUNT}/{}", name.trim_start_matches("name=")))
                .collect(),
        };
        for folder in mounts.iter().map(|mount| Path::new(mount).join(path)) {
            if !folders.contains(&folder) && folder.join("cgroup.procs").exists() {
                folders.push(folder);
            }
        }
    }
    folders
}

/// Kills every process in these cgroups.
pub(crate) fn kill(lines: &[String]) {
    for folder in folders(lines) {
        let procs = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse::<u32>().ok()) {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let Some(Ok(pidfd)) = raw.map(|raw| pidfd_open(raw, PidfdFlags::empty())) else {
                continue;
            };
            // Opened first, compared after: the pid may have been reused.
            if of(pid).iter().any(|line| lines.contains(line)) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
    }
}

/// Removes the folders that no process is in.
pub(crate) fn remove(lines: &[String]) {
    for folder in folders(lines) {
        // A dying process leaves its cgroup a moment after it was reaped.
        for _ in 0..20 {
            match rustix::fs::rmdir(&folder) {
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_and_our_own_are_left_out() {
        let mut lines = vec![
            "1:cpu:/../../../tmp".to_string(),
            "0::/".to_string(),
            "garbage".to_string(),
            "2:memory:".to_string(),
            "3:pids:/no/such/group".to_string(),
        ];
        lines.extend(of(std::process::id()));
        assert_eq!(folders(&lines), Vec::<PathBuf>::new());
    }
}
