//! Killing by cgroup: what a container's own cgroups are, and how everything
//! in them ends, on either version of cgroups and on both at once.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// A mounted hierarchy.
struct Hierarchy {
    /// Its controllers as `/proc/PID/cgroup` has them; empty for version 2.
    controllers: BTreeSet<String>,
    root: PathBuf,
    point: PathBuf,
}

/// The cgroup folders that a process is in and this process is not. A cgroup
/// that this one is in, or beneath, is shared with strangers and never the
/// container's own.
pub fn own_cgroups(pid: u32) -> Result<Vec<PathBuf>> {
    let read = |path: String| std::fs::read_to_string(&path).io_context(|| format!("read {path}"));
    Ok(own(
        &read(format!("/proc/{pid}/cgroup"))?,
        &read("/proc/self/cgroup".into())?,
        &read("/proc/self/mountinfo".into())?,
    ))
}

fn own(theirs: &str, mine: &str, mountinfo: &str) -> Vec<PathBuf> {
    let hierarchies: Vec<Hierarchy> = mountinfo.lines().filter_map(hierarchy).collect();
    let mine: Vec<(BTreeSet<String>, &Path)> = mine.lines().filter_map(membership).collect();
    let mut found = Vec::new();
    for (controllers, path) in theirs.lines().filter_map(membership) {
        let shared = path == Path::new("/")
            || path.components().any(|part| part == Component::ParentDir)
            || mine.iter().all(|(other, _)| *other != controllers)
            || mine
                .iter()
                .any(|(other, my_path)| *other == controllers && my_path.starts_with(path));
        if shared {
            continue;
        }
        let mut places = places(&hierarchies, &controllers, path);
        let folder = places
            .find(|(_, rest)| *rest != Path::new(""))
            .map(|(point, rest)| point.join(rest));
        found.extend(folder);
    }
    // Version 2 kills at once; the freezer of version 1 stops forks. The rest
    // holds the same processes and serves only where these two are missing.
    found.sort_by_cached_key(|folder| {
        if folder.join("cgroup.kill").exists() {
            0
        } else if folder.join("freezer.state").exists() {
            1
        } else {
            2
        }
    });
    found.dedup();
    found
}

/// The existing folders of a spec's `linux.cgroupsPath` in every hierarchy,
/// for when nobody knows in which of them a runtime that was killed had got
/// to. Only an absolute path has a place that does not depend on who runs the
/// runtime.
pub fn cgroups_at(path: &str) -> Result<Vec<PathBuf>> {
    let Some(rest) = path.strip_prefix('/').map(Path::new) else {
        return Ok(Vec::new());
    };
    if rest.as_os_str().is_empty()
        || !rest
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(Vec::new());
    }
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")
        .io_context(|| "read /proc/self/mountinfo")?;
    Ok(mountinfo
        .lines()
        .filter_map(hierarchy)
        .map(|hierarchy| hierarchy.point.join(rest))
        .filter(|folder| folder.is_dir())
        .collect())
}

/// A cgroup that this process is in, in any hierarchy; `None` without one that
/// is mounted here.
pub fn joined_cgroup() -> Option<PathBuf> {
    let mine = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    joined(&mine, &mountinfo)
}

fn joined(mine: &str, mountinfo: &str) -> Option<PathBuf> {
    let hierarchies: Vec<Hierarchy> = mountinfo.lines().filter_map(hierarchy).collect();
    let inside = |path: &Path| !path.components().any(|part| part == Component::ParentDir);
    mine.lines()
        .filter_map(membership)
        .filter(|(_, path)| inside(path))
        .find_map(|(controllers, path)| {
            let (point, rest) = places(&hierarchies, &controllers, path).next()?;
            Some(point.join(rest))
        })
}

/// Where a cgroup is mounted: the mount point, and the way from there.
fn places<'a>(
    hierarchies: &'a [Hierarchy],
    controllers: &'a BTreeSet<String>,
    path: &'a Path,
) -> impl Iterator<Item = (&'a Path, &'a Path)> {
    let same = hierarchies
        .iter()
        .filter(move |hierarchy| hierarchy.controllers == *controllers);
    same.filter_map(move |hierarchy| {
        let rest = path.strip_prefix(&hierarchy.root).ok()?;
        Some((hierarchy.point.as_path(), rest))
    })
}

/// `6:freezer:/a/b`, `1:name=systemd:/a`, `0::/a`.
fn membership(line: &str) -> Option<(BTreeSet<String>, &Path)> {
    let mut fields = line.splitn(3, ':');
    fields.next()?;
    let controllers = set(fields.next()?);
    Some((controllers, Path::new(fields.next()?)))
}

fn set(list: &str) -> BTreeSet<String> {
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A cgroup line of `/proc/self/mountinfo`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (unescape(place.next()?), unescape(place.next()?));
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => BTreeSet::new(),
        "cgroup" => {
            const GENERIC: [&str; 6] = [
                "rw",
                "ro",
                "xattr",
                "noprefix",
                "clone_children",
                "release_agent",
            ];
            let mut controllers = set(kind.nth(1)?);
            controllers.retain(|option| {
                !GENERIC.contains(
                    &option
                        .split_once('=')
                        .map_or(option.as_str(), |(key, _)| key),
                )
            });
            controllers
        }
        _ => return None,
    };
    Some(Hierarchy {
        controllers,
        root,
        point,
    })
}

/// `\040` and its like, as the kernel writes blanks in mountinfo.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = (byte == b'\\')
            .then(|| bytes.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(octal) => {
                out.push(octal);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Kills every process in these cgroups and beneath them, and waits until
/// they are empty. Missing cgroups are empty. A frozen cgroup is thawed, as
/// nothing dies in it otherwise.
pub fn kill_cgroups(cgroups: &[PathBuf], deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(200);
    // All in each round: what one of them kills, another may have frozen.
    while let Some(folder) = cgroups.iter().find(|folder| !is_empty(folder)) {
        cgroups.iter().for_each(|folder| kill_once(folder));
        if Instant::now() >= end {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "processes of cgroup {} do not die within {} s",
                    folder.display(),
                    deadline.as_secs()
                ),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes cgroups that are empty.
pub fn remove_cgroups(cgroups: &[PathBuf]) {
    for folder in cgroups {
        for child in folders(folder).iter().rev() {
            // A dead process is off the list a moment before its cgroup is
            // free of it.
            for _ in 0..20 {
                match rustix::fs::rmdir(child) {
                    Err(rustix::io::Errno::BUSY) if is_empty(child) => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Whether the processes of a container's own cgroups, as [`own_cgroups`] lists
/// them, are frozen, on either version. One without a cgroup that can freeze
/// never is.
pub fn is_frozen(cgroups: &[PathBuf]) -> bool {
    for folder in cgroups {
        let read = |file| std::fs::read_to_string(folder.join(file));
        if read("cgroup.events").is_ok_and(|text| text.lines().any(|line| line == "frozen 1")) {
            return true;
        }
        // Those that freeze come first: behind this one is none.
        if let Ok(state) = read("freezer.state") {
            return matches!(state.trim(), "FROZEN" | "FREEZING");
        }
    }
    false
}

fn kill_once(folder: &Path) {
    if std::fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let freezer = folder.join("freezer.state");
    let freezes = freezer.exists();
    if freezes {
        let _ = std::fs::write(&freezer, "FROZEN");
    }
    let before = pids(folder);
    let open: Vec<_> = before
        .iter()
        .filter_map(|pid| {
            let fd = rustix::process::pidfd_open(*pid, PidfdFlags::empty()).ok()?;
            Some((*pid, fd))
        })
        .collect();
    // Still a member after its descriptor was opened: the descriptor is that
    // of the member and not of a process that got its number.
    let after = pids(folder);
    for (pid, fd) in &open {
        if after.contains(pid) {
            let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
        }
    }
    if freezes {
        let _ = std::fs::write(&freezer, "THAWED");
    }
}

fn is_empty(folder: &Path) -> bool {
    pids(folder).is_empty()
}

fn pids(folder: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for folder in folders(folder) {
        let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            text.lines()
                .filter_map(|line| line.parse().ok().and_then(Pid::from_raw)),
        );
    }
    found
}

/// The folder and those beneath it, parents first.
fn folders(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_path_buf()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        next += 1;
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        all.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:25 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:26 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:27 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
35 30 0:30 /part /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:31 / /sys/fs/cgroup/freezer rw shared:16 - cgroup cgroup rw,freezer
37 30 8:1 / /data rw - ext4 /dev/sda1 rw
";

    fn folders_of(theirs: &str, mine: &str) -> Vec<String> {
        let mut found: Vec<String> = own(theirs, mine, MOUNTS)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn own_cgroups_are_found_in_every_hierarchy() {
        let mine = "3:cpu,cpuacct:/part\n2:freezer:/\n1:name=systemd:/\n0::/user\n";
        assert_eq!(
            folders_of(
                "3:cpuacct,cpu:/part/c\n2:freezer:/c\n1:name=systemd:/c\n0::/c:x\n",
                mine
            ),
            [
                "/sys/fs/cgroup/cpu,cpuacct/c",
                "/sys/fs/cgroup/freezer/c",
                "/sys/fs/cgroup/systemd/c",
                "/sys/fs/cgroup/uni fied/c:x",
            ]
        );
    }

    #[test]
    fn a_joined_cgroup_is_one_that_is_mounted_here() {
        let joined = |mine| joined(mine, MOUNTS).map(|path| path.display().to_string());
        for (mine, path) in [
            (
                "9:memory:/c\n2:freezer:/a\n",
                Some("/sys/fs/cgroup/freezer/a"),
            ),
            ("3:cpu,cpuacct:/part\n", Some("/sys/fs/cgroup/cpu,cpuacct/")),
            ("0::/\n", Some("/sys/fs/cgroup/uni fied/")),
            ("3:cpu,cpuacct:/other\n9:memory:/c\n", None),
            ("0::/../other\n", None),
            ("", None),
        ] {
            assert_eq!(joined(mine).as_deref(), path, "{mine}");
        }
    }

    #[test]
    fn a_cgroup_with_strangers_in_it_is_never_the_containers() {
        let mine = "2:freezer:/a/b/shim\n0::/user\n";
        for theirs in [
            "2:freezer:/\n0::/\n",
            "2:freezer:/a\n",
            "2:freezer:/a/b/shim\n",
            "0::/user\n",
            "0::/../other\n",
            "3:cpu,cpuacct:/part/c\n",
            "9:memory:/c\n",
            "garbage\n\n::\n",
        ] {
            assert!(folders_of(theirs, mine).is_empty(), "{theirs}");
        }
        // A sibling is.
        assert_eq!(folders_of("0::/user2\n", mine).len(), 1);
    }

    #[test]
    fn either_version_says_that_it_is_frozen() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = |name: &str, file: &str, text: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).expect("mkdir");
            std::fs::write(folder.join(file), text).expect("write");
            folder
        };
        let two = folder("two", "cgroup.events", "populated 1\nfrozen 1\n");
        let thawed = folder("thawed", "cgroup.events", "populated 1\nfrozen 0\n");
        let one = folder("one", "freezer.state", "FREEZING\n");
        let free = folder("free", "freezer.state", "THAWED\n");
        let other = folder("other", "cpu.stat", "");
        for (cgroups, frozen) in [
            (vec![], false),
            (vec![&two], true),
            (vec![&thawed], false),
            (vec![&thawed, &one, &other], true),
            (vec![&thawed, &free, &other], false),
            (vec![&other], false),
        ] {
            let cgroups: Vec<PathBuf> = cgroups.into_iter().cloned().collect();
            assert_eq!(is_frozen(&cgroups), frozen, "{cgroups:?}");
        }
    }

    #[test]
    fn a_missing_cgroup_is_empty() {
        let gone = [PathBuf::from("/sys/fs/cgroup/no such cgroup")];
        kill_cgroups(&gone, Duration::from_secs(1)).expect("kill");
        remove_cgroups(&gone);
        for path in ["", "/", "relative", "/../x", "/a/../b", "/no such cgroup"] {
            assert!(cgroups_at(path).expect(path).is_empty(), "{path}");
        }
    }
}
