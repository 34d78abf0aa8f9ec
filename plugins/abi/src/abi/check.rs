//! What a driver answered, checked: a name is a name only by its parser, a
//! time is one that a clock shows, a list is as long as something real. What
//! is none of that breaks the contract, and nothing above sees it.

use std::os::fd::OwnedFd;
use std::str::FromStr;

use abi_stable::std_types::{ROption, RString, RVec};
use containerkit::content::{BlobInfo, IngestStatus};
use containerkit::runtime::{RuntimeInfo, RuntimeState, StartedProcess};
use containerkit::snapshot::{SnapshotInfo, SnapshotKind};
use containerkit::value::check_labels;
use containerkit::{DriverInfo, Error, Labels, Mount, Result, Timestamp, Usage, quote};

use super::convert::{broken, labels_in, text_in};
use super::fd;
use super::value::*;

/// More entries than an unpaged listing can have.
pub const LIST_LIMIT: usize = 1 << 20;
const LABEL_LIMIT: usize = 4096;
const MOUNT_LIMIT: usize = 1000;
const MOUNT_OPTION_LIMIT: usize = 4096;
/// A path, with room for the option it is part of.
const MOUNT_TEXT_LIMIT: usize = 16 << 10;
/// The longest name that any parser takes, and more.
const NAME_LIMIT: usize = 16 << 10;
const OPTION_LIMIT: usize = 1000;
const SIZE_LIMIT: u64 = i64::MAX as u64;

/// Refuses a list that cannot be meant.
pub fn few(found: usize, limit: usize, what: &str) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(broken(format!("it returned {found} {what}")))
}

fn name_in<T: FromStr<Err = Error>>(text: RString) -> Result<T> {
    if text.len() > NAME_LIMIT {
        return Err(broken(format!("a name of {} bytes", text.len())));
    }
    text_in(text).parse().map_err(broken)
}

fn optional_name_in<T: FromStr<Err = Error>>(text: ROption<RString>) -> Result<Option<T>> {
    text.into_option().map(name_in).transpose()
}

fn time_in(nanos: i64) -> Result<Timestamp> {
    if nanos < 0 {
        return Err(broken(format!("a time of {nanos} ns, before 1970")));
    }
    Ok(Timestamp::from_unix_nanos(nanos))
}

/// The bytes of a blob.
pub fn size_in(size: u64) -> Result<u64> {
    if size <= SIZE_LIMIT {
        return Ok(size);
    }
    Err(broken(format!("a size of {size} bytes")))
}

fn checked_labels(labels: FLabels) -> Result<Labels> {
    few(labels.len(), LABEL_LIMIT, "labels of one object")?;
    let labels = labels_in(labels);
    check_labels(&labels).map_err(broken)?;
    Ok(labels)
}

/// A pid that a process can have.
pub fn pid_in(pid: u32) -> Result<()> {
    if pid == 0 || i32::try_from(pid).is_err() {
        return Err(broken(format!("it returned pid {pid}")));
    }
    Ok(())
}

/// A descriptor, -1 for none.
pub fn fd_in(number: i32) -> Result<Option<OwnedFd>> {
    match number {
        -1 => Ok(None),
        0..=2 => Err(broken(format!(
            "it returned descriptor {number}, a standard stream"
        ))),
        number => fd::take_checked(number).map(Some).ok_or_else(|| {
            broken(format!(
                "it returned descriptor {number}, which is not open"
            ))
        }),
    }
}

pub fn usage_in(usage: FUsage) -> Result<Usage> {
    Ok(Usage {
        size: size_in(usage.size)?,
        inodes: usage.inodes,
    })
}

pub fn mounts_in(mounts: RVec<FMount>) -> Result<Vec<Mount>> {
    few(mounts.len(), MOUNT_LIMIT, "mounts")?;
    mounts.into_iter().map(mount_in).collect()
}

fn mount_in(mount: FMount) -> Result<Mount> {
    few(
        mount.options.len(),
        MOUNT_OPTION_LIMIT,
        "options of a mount",
    )?;
    let text = |text: RString| {
        if text.len() > MOUNT_TEXT_LIMIT {
            return Err(broken(format!(
                "a mount with a text of {} bytes",
                text.len()
            )));
        }
        let text = text_in(text);
        if text.contains('\0') {
            return Err(broken(format!("a mount holds a NUL: {}", quote(&text))));
        }
        Ok(text)
    };
    let mount = Mount {
        fstype: text(mount.fstype)?,
        source: text(mount.source)?,
        target: text(mount.target)?,
        options: mount.options.into_iter().map(text).collect::<Result<_>>()?,
    };
    if mount.fstype.is_empty() {
        return Err(broken("a mount without a type"));
    }
    if mount.fstype == "bind" && !mount.source.starts_with('/') {
        return Err(relative("a bind mount's source", &mount.source));
    }
    for option in &mount.options {
        let layer = ["lowerdir+=", "upperdir=", "workdir="]
            .into_iter()
            .find_map(|name| option.strip_prefix(name));
        if let Some(path) = layer.filter(|path| !path.starts_with('/')) {
            return Err(relative("an overlay's layer", path));
        }
    }
    if mount.target.split('/').any(|part| part == "..") {
        return Err(broken(format!(
            "a mount's target leads out: {}",
            quote(&mount.target)
        )));
    }
    Ok(mount)
}

fn relative(what: &str, path: &str) -> Error {
    broken(format!("{what} is no absolute path: {}", quote(path)))
}

pub fn snapshot_in(info: FSnapshotInfo) -> Result<SnapshotInfo> {
    Ok(SnapshotInfo {
        key: name_in(info.key)?,
        kind: SnapshotKind::from_code(info.kind)
            .ok_or_else(|| broken(format!("snapshot kind {}", info.kind)))?,
        parent: optional_name_in(info.parent)?,
        labels: checked_labels(info.labels)?,
        created: time_in(info.created)?,
        updated: time_in(info.updated)?,
    })
}

pub fn blob_in(info: FBlobInfo) -> Result<BlobInfo> {
    Ok(BlobInfo {
        digest: name_in(info.digest)?,
        size: size_in(info.size)?,
        labels: checked_labels(info.labels)?,
        created: time_in(info.created)?,
        updated: time_in(info.updated)?,
    })
}

pub fn status_in(status: FIngestStatus) -> Result<IngestStatus> {
    let holder = status.holder.into_option();
    holder.map(pid_in).transpose()?;
    Ok(IngestStatus {
        name: name_in(status.name)?,
        offset: size_in(status.offset)?,
        total: status.total.into_option(),
        expected: optional_name_in(status.expected)?,
        started: time_in(status.started)?,
        updated: time_in(status.updated)?,
        holder,
    })
}

pub fn started_in(process: FStarted) -> Result<StartedProcess> {
    // Taken first, so that it is closed whatever comes.
    let pidfd = fd_in(process.pidfd)?;
    pid_in(process.pid)?;
    Ok(StartedProcess {
        pid: process.pid,
        pidfd,
        start_time: process.start_time,
    })
}

pub fn state_in(state: RuntimeState) -> Result<RuntimeState> {
    state.pid.map(pid_in).transpose()?;
    Ok(state)
}

pub fn runtime_in(info: RuntimeInfo) -> Result<RuntimeInfo> {
    words("its runtime's name", &info.name)?;
    words("its runtime's version", &info.version)?;
    Ok(info)
}

pub fn driver_in(info: DriverInfo) -> Result<DriverInfo> {
    words("its name", &info.name)?;
    words("its version", &info.version)?;
    few(info.options.len(), OPTION_LIMIT, "options")?;
    info.options
        .iter()
        .try_for_each(|option| words("an option's name", &option.name))?;
    Ok(info)
}

/// A few words on one line.
fn words(what: &str, text: &str) -> Result<()> {
    let good = !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    Err(broken(format!("{what} is {}", quote(text))))
}
