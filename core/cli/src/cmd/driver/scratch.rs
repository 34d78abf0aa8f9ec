//! The folder of a check, and the end of everything in it: processes, mounts,
//! cgroups, files. Whoever is killed before that leaves a folder whose lock is
//! free, and the next check removes it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerkit::fs::{ensure_dir, remove_tree_path, unique_name};
use containerkit::lock::{FileLock, Wait};
use containerkit::process::Stat;
use containerkit::shim::{cgroups_at, kill_cgroups, remove_cgroups};
use containerkit::{Result, mounter};
use containerkit_config::{Config, Origin};
use rustix::process::{Pid, Signal, WaitOptions};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const LOCK: &str = "lock";
const PREFIX: &str = "containerkit-check";

/// A check's own folder.
pub(super) struct Scratch {
    dir: PathBuf,
    _lock: FileLock,
}

impl Scratch {
    /// Below the configured state folder; when nobody configured one, below
    /// the folder of temporary files. Removes what killed checks left.
    pub(super) fn new(config: &Config) -> Result<Scratch> {
        let own = !matches!(config.origin("state"), Some(Origin::BuiltIn { .. }) | None);
        let top = match own {
            true => {
                ensure_dir(&config.state, 0o711)?;
                let top = config.state.join("checks");
                ensure_dir(&top, 0o711)?;
                top
            }
            false => std::env::temp_dir(),
        };
        for entry in std::fs::read_dir(&top).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                remove_stale(&entry.path());
            }
        }
        let dir = top.join(unique_name(PREFIX));
        ensure_dir(&dir, 0o711)?;
        let lock = FileLock::acquire(&dir.join(LOCK), "the check's folder", Wait::No)?;
        // The folders of a child that a careless driver writes to.
        for name in ["tmp", "home", "work"] {
            ensure_dir(&dir.join(name), 0o711)?;
        }
        Ok(Scratch { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Ends what a child left: its processes, which are this one's now, its
    /// mounts and cgroups.
    pub(super) fn tidy(&self, child: u32) {
        end_children();
        let folders = conformance_cgroups(child);
        if let Err(error) = kill_cgroups(&folders, PATIENCE) {
            log::warn!("{error}");
        }
        remove_cgroups(&folders);
        unmount_below(&self.dir);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount_below(&self.dir);
        if let Err(error) = remove_tree_path(&self.dir) {
            log::warn!("{error}");
        }
    }
}

/// Removes the folder of a check that is gone.
fn remove_stale(dir: &Path) {
    let lock = dir.join(LOCK);
    // One that is being made has no lock yet: it is left alone.
    if !lock.exists() {
        return;
    }
    if let Ok(_lock) = FileLock::acquire(&lock, "the check's folder", Wait::No) {
        unmount_below(dir);
        if let Err(error) = remove_tree_path(dir) {
            log::debug!("{error}");
        }
    }
}

/// Kills and reaps every child of this process until there is none: what a
/// killed one started falls to this process, a subreaper.
pub(super) fn end_children() {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    while Instant::now() < end {
        for child in Stat::children() {
            if let Some(pid) = Pid::from_raw(child.pid as i32) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    log::warn!("processes that the driver started do not die");
}

/// The cgroups that the suite's containers had in one child.
fn conformance_cgroups(child: u32) -> Vec<PathBuf> {
    let prefix = format!("conformance.{child}.");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut names: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .flat_map(|point| std::fs::read_dir(point).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    names.sort();
    names.dedup();
    let found = names
        .iter()
        .filter_map(|name| cgroups_at(&format!("/{name}")).ok());
    found.flatten().collect()
}

fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    // The innermost first.
    points.sort();
    for point in points.iter().rev() {
        if let Err(error) = mounter::unmount(point) {
            log::debug!("{error}");
        }
    }
}
