//! The JSON that runtimes print, read with distrust.

use std::collections::BTreeMap;
use std::path::PathBuf;

use containerkit::runtime::{ProcessEntry, RuntimeState, RuntimeStatus, Stats};
use containerkit::{Error, Result, quote};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Parses what a command printed; `null` is empty.
pub(crate) fn parse<T: DeserializeOwned + Default>(what: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice::<Option<T>>(data)
        .map(Option::unwrap_or_default)
        .map_err(|error| {
            Error::internal(format!(
                "{what} printed what cannot be understood: {}",
                quote(&String::from_utf8_lossy(&data[..data.len().min(100)]))
            ))
            .with_source(error)
        })
}

/// `state`, and an entry of `list`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct State {
    #[serde(default)]
    id: String,
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    bundle: PathBuf,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl State {
    /// As the contract has it.
    pub(crate) fn into_state(self) -> Result<RuntimeState> {
        let status = match self.status.as_str() {
            "creating" => RuntimeStatus::Creating,
            "created" => RuntimeStatus::Created,
            "running" => RuntimeStatus::Running,
            "paused" | "pausing" => RuntimeStatus::Paused,
            "stopped" => RuntimeStatus::Stopped,
            other => {
                return Err(Error::internal(format!(
                    "the runtime says that container {} is {}, which is no status",
                    quote(&self.id),
                    quote(other)
                )));
            }
        };
        let pid = u32::try_from(self.pid).ok().filter(|pid| *pid != 0);
        Ok(RuntimeState {
            id: self.id.parse()?,
            status,
            pid: pid.filter(|_| status != RuntimeStatus::Stopped),
            bundle: self.bundle,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// `ps --format json`.
pub(crate) fn processes(pids: Vec<i64>) -> Vec<ProcessEntry> {
    pids.into_iter()
        .filter_map(|pid| u32::try_from(pid).ok())
        .map(|pid| ProcessEntry { pid })
        .collect()
}

/// `events --stats` of runc.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    cpu: Cpu,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cpu {
    usage: CpuUsage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    total: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    usage: MemoryUsage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MemoryUsage {
    usage: u64,
    limit: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pids {
    current: u64,
    limit: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Blkio {
    #[serde(rename = "ioServiceBytesRecursive")]
    bytes: Option<Vec<BlkioEntry>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BlkioEntry {
    op: String,
    value: u64,
}

impl Event {
    /// As the contract has it.
    pub(crate) fn into_stats(self) -> Stats {
        let bytes = |op: &str| {
            let entries = self.data.blkio.bytes.iter().flatten();
            entries
                .filter(|entry| entry.op.eq_ignore_ascii_case(op))
                .fold(0u64, |sum, entry| sum.saturating_add(entry.value))
        };
        // Without a limit the kernel's v1 number is just under 2^63; v2's is 2^64-1.
        let limit = self.data.memory.usage.limit;
        Stats {
            cpu_usage_ns: self.data.cpu.usage.total,
            memory_usage: self.data.memory.usage.usage,
            memory_limit: (limit != 0 && limit < 1 << 62).then_some(limit),
            pids: self.data.pids.current,
            pids_limit: (self.data.pids.limit != 0).then_some(self.data.pids.limit),
            block_read: bytes("read"),
            block_written: bytes("write"),
            oom_kills: 0,
        }
    }
}

/// `--version`: name, version and spec.
pub(crate) fn version(text: &str) -> (String, String, Option<String>) {
    let mut lines = text.lines().map(str::trim);
    let mut words = lines.next().unwrap_or_default().split_whitespace();
    let name = words.next().unwrap_or_default().trim_end_matches(':');
    // "runc version 1.1.5", "youki version: 0.5.0"
    let version = words.find(|word| !word.starts_with("version"));
    let spec = lines.find_map(|line| line.strip_prefix("spec:"));
    (
        name.to_string(),
        version.unwrap_or_default().to_string(),
        spec.map(|spec| spec.trim().to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_three_runtimes() {
        let owned = |n: &str, v: &str, s: Option<&str>| (n.into(), v.into(), s.map(str::to_string));
        assert_eq!(
            version("runc version 1.1.5+ds1\ncommit: x\nspec: 1.0.2-dev\n"),
            owned("runc", "1.1.5+ds1", Some("1.0.2-dev"))
        );
        assert_eq!(
            version("crun version 1.8.1\nrundir: /run/crun\nspec: 1.0.0\n+CAP"),
            owned("crun", "1.8.1", Some("1.0.0"))
        );
        assert_eq!(
            version("youki version: 0.5.0\n"),
            owned("youki", "0.5.0", None)
        );
        assert_eq!(version(""), owned("", "", None));
    }

    #[test]
    fn states_are_read_and_nonsense_is_refused() {
        let read =
            |text: &str| parse::<State>("runc state", text.as_bytes()).and_then(State::into_state);
        let state =
            read(r#"{"id":"a","pid":7,"status":"running","bundle":"/b","annotations":null}"#)
                .expect("state");
        assert_eq!((state.pid, state.status), (Some(7), RuntimeStatus::Running));
        let state = read(r#"{"id":"a","pid":7,"status":"stopped","bundle":"/b"}"#).expect("state");
        assert_eq!(state.pid, None);
        for bad in [
            "",
            "{",
            "[]",
            r#"{"id":"../x","status":"running"}"#,
            r#"{"id":"a","status":"x"}"#,
            r#"{"id":"a","pid":"7","status":"running"}"#,
            "null",
        ] {
            let error = read(bad).expect_err(bad);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(
            parse::<Vec<State>>("runc list", b"null")
                .expect("null")
                .is_empty()
        );
    }

    #[test]
    fn no_limit_is_none() {
        let event: Event = parse(
            "runc events",
            br#"{"data":{"memory":{"usage":{"usage":5,"limit":9223372036854771712}},"pids":{"current":2,"limit":9},
            "blkio":{"ioServiceBytesRecursive":[{"op":"Read","value":3},{"op":"Write","value":4},{"op":"Read","value":5}]}}}"#,
        )
        .expect("event");
        let stats = event.into_stats();
        assert_eq!(
            (stats.memory_usage, stats.memory_limit, stats.pids_limit),
            (5, None, Some(9))
        );
        assert_eq!((stats.block_read, stats.block_written), (8, 4));
    }
}
