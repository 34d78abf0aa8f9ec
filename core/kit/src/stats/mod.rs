//! Counters of a running container, read from its cgroups' files and from its
//! network namespace; and the processes in it.
//!
//! Which version of cgroups a folder is of, and which controllers it has, is
//! told by the files in it: so version 1, version 2 and both at once
//! ("hybrid") are read in one way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};
use crate::runtime::Stats;

/// Bytes that went through the interfaces of a network namespace, `lo` left
/// out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// The counters of a container's own cgroup folders, one a hierarchy. What no
/// folder tells is 0, or `None` for a limit.
pub fn cgroup_stats(cgroups: &[PathBuf]) -> Stats {
    let number = |names: &[&str]| first(cgroups, names).and_then(|text| text.trim().parse().ok());
    let limit = |names: &[&str]| {
        let limit: u64 = number(names)?;
        // Version 1 has no word for "none" but the largest multiple of a page.
        (limit < 1 << 62).then_some(limit)
    };
    let field = |file: &str, key: &str| first(cgroups, &[file]).and_then(|text| entry(&text, key));
    let (block_read, block_written) = block(cgroups);
    Stats {
        cpu_usage_ns: field("cpu.stat", "usage_usec")
            .map(|micros| micros.saturating_mul(1000))
            .or_else(|| number(&["cpuacct.usage"]))
            .unwrap_or(0),
        memory_usage: number(&["memory.current", "memory.usage_in_bytes"]).unwrap_or(0),
        memory_limit: limit(&["memory.max", "memory.limit_in_bytes"]),
        pids: number(&["pids.current"]).unwrap_or_else(|| processes(cgroups).len() as u64),
        pids_limit: limit(&["pids.max"]),
        block_read,
        block_written,
        oom_kills: oom_kills(cgroups),
    }
}

/// How many processes in these cgroups the kernel has killed for lack of
/// memory.
pub fn oom_kills(cgroups: &[PathBuf]) -> u64 {
    ["memory.events", "memory.oom_control"]
        .iter()
        .find_map(|file| first(cgroups, &[file]).and_then(|text| entry(&text, "oom_kill")))
        .unwrap_or(0)
}

/// The processes in these cgroups and beneath them, by pid.
pub fn processes(cgroups: &[PathBuf]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = cgroups.to_vec();
    while let Some(folder) = folders.pop() {
        let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// The traffic of a process's network namespace; `None` when it is this
/// process's own, whose traffic is the host's.
pub fn traffic(pid: u32) -> Result<Option<Traffic>> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    let theirs = namespace(&pid.to_string()).io_context(|| format!("look at process {pid}"))?;
    if namespace("self").is_ok_and(|mine| mine == theirs) {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/net/dev");
    let text = std::fs::read_to_string(&path).io_context(|| format!("read {path}"))?;
    Ok(Some(sum(&text)))
}

/// `/proc/net/dev`: two lines of heads, then `NAME: received … sent …`.
fn sum(text: &str) -> Traffic {
    let mut total = Traffic::default();
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.rsplit_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map(|number| number.parse().unwrap_or(0))
            .collect();
        total.received += numbers.first().copied().unwrap_or(0);
        total.sent += numbers.get(8).copied().unwrap_or(0);
    }
    total
}

/// The first of these files that is in any of the folders.
fn first(cgroups: &[PathBuf], names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        cgroups
            .iter()
            .find_map(|folder| std::fs::read_to_string(folder.join(name)).ok())
    })
}

/// The number after a word at the beginning of a line.
fn entry(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (word, value) = line.split_once(' ')?;
        (word == key).then(|| value.trim().parse().ok())?
    })
}

/// Bytes read and written.
fn block(cgroups: &[PathBuf]) -> (u64, u64) {
    if let Some(text) = first(cgroups, &["io.stat"]) {
        // `8:0 rbytes=1 wbytes=2 rios=…`
        let sum = |key: &str| {
            text.split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
                .sum()
        };
        return (sum("rbytes="), sum("wbytes="));
    }
    // `8:0 Read 1`, `Total 3`
    let text = first(
        cgroups,
        &[
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ],
    )
    .unwrap_or_default();
    let sum = |kind: &str| {
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace().skip(1);
                (words.next() == Some(kind)).then(|| words.next()?.parse::<u64>().ok())?
            })
            .sum()
    };
    (sum("Read"), sum("Write"))
}

/// The memory of this machine in bytes: the limit where there is none.
pub fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder).expect("mkdir");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("write");
        }
        folder
    }

    #[test]
    fn both_versions_are_read_and_hybrid_too() {
        let dir = tempfile::tempdir().expect("tempdir");
        let one = |name: &str, files: &[(&str, &str)]| folder(dir.path(), name, files);
        let version1 = [
            one(
                "cpu",
                &[("cpuacct.usage", "5000\n"), ("cpu.stat", "nr_periods 0\n")],
            ),
            one(
                "memory",
                &[
                    ("memory.usage_in_bytes", "4096\n"),
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    (
                        "memory.oom_control",
                        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                    ),
                ],
            ),
            one("pids", &[("pids.current", "2\n"), ("pids.max", "max\n")]),
            one(
                "blkio",
                &[(
                    "blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\n8:0 Total 30\nTotal 31\n",
                )],
            ),
            one("unified", &[("cgroup.procs", "7\n")]),
        ];
        let expected = Stats {
            cpu_usage_ns: 5000,
            memory_usage: 4096,
            memory_limit: None,
            pids: 2,
            pids_limit: None,
            block_read: 11,
            block_written: 20,
            oom_kills: 3,
        };
        assert_eq!(cgroup_stats(&version1), expected);
        let version2 = [one(
            "two",
            &[
                ("cpu.stat", "usage_usec 5\nuser_usec 1\n"),
                ("memory.current", "4096\n"),
                ("memory.max", "8192\n"),
                ("memory.events", "low 0\noom 4\noom_kill 3\n"),
                ("pids.current", "2\n"),
                ("pids.max", "10\n"),
                (
                    "io.stat",
                    "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=0\n",
                ),
            ],
        )];
        let expected = Stats {
            memory_limit: Some(8192),
            pids_limit: Some(10),
            ..expected
        };
        assert_eq!(cgroup_stats(&version2), expected);
        assert_eq!(cgroup_stats(&[]), Stats::default());
    }

    #[test]
    fn processes_of_nested_groups_count_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let top = folder(dir.path(), "a", &[("cgroup.procs", "5\n6\n")]);
        folder(&top, "b", &[("cgroup.procs", "6\n7\n")]);
        let found = processes(&[top.clone(), top, dir.path().join("none")]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [5, 6, 7]);
    }

    #[test]
    fn traffic_leaves_out_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n\
            lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
            eth0: 100 1 0 0 0 0 0 0 50 1 0 0 0 0 0 0\n\
            eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        let found = sum(text);
        assert_eq!((found.received, found.sent), (101, 52));
        assert_eq!(traffic(std::process::id()), Ok(None));
        assert!(host_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
