//! One flight per chain ID across processes: locks, and what the killed leave.

use std::path::PathBuf;

use containerkit::lock::{FileLock, Wait};
use containerkit::process::ProcessIdentity;
use containerkit::snapshot::{SnapshotFilter, SnapshotInfo};
use containerkit::value::all_pages;
use containerkit::{
    Digest, Error, ErrorKind, IoContext, Labels, Result, SnapshotKey, Snapshotter, lock,
};

use super::{CHAIN_LABEL, PROCESS_LABEL, UnpackOptions};

fn path(chain: &Digest, options: &UnpackOptions<'_>) -> PathBuf {
    options
        .locks
        .join(format!("unpack-{}-{}", chain.algorithm(), chain.hex()))
}

/// Takes a chain ID for this process; `Conflict` while another has it.
pub(crate) fn take(chain: &Digest, options: &UnpackOptions<'_>, wait: Wait) -> Result<FileLock> {
    FileLock::acquire(
        &path(chain, options),
        &format!("unpacking of chain {chain}"),
        wait,
    )
}

/// Takes a chain ID if nobody has it.
pub(super) fn try_take(chain: &Digest, options: &UnpackOptions<'_>) -> Result<Option<FileLock>> {
    if lock::is_held(&path(chain, options))? {
        return Ok(None);
    }
    match take(chain, options, Wait::No) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process that has it, as far as it is known.
pub(super) fn holder(chain: &Digest, options: &UnpackOptions<'_>) -> Option<u32> {
    lock::holder(&path(chain, options)).map(|holder| holder.pid)
}

/// The labels of what this process makes for a chain ID.
pub(crate) fn labels(chain: &SnapshotKey) -> Result<Labels> {
    let identity = ProcessIdentity::of(std::process::id())?;
    let identity = serde_json::to_string(&identity)
        .map_err(|error| Error::internal("write a label").with_source(error))?;
    Ok(Labels::from([
        (CHAIN_LABEL.to_string(), chain.to_string()),
        (PROCESS_LABEL.to_string(), identity),
    ]))
}

/// A key that nobody else has, for what is written for a chain ID.
pub(super) fn active_key(key: &SnapshotKey) -> Result<SnapshotKey> {
    format!("{}-{key}", temporary_key("extract")?).parse()
}

/// A key that nobody else has.
pub(crate) fn temporary_key(what: &str) -> Result<SnapshotKey> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .io_context(|| "get random bytes")?;
    format!("{what}-{:016x}", u64::from_ne_bytes(bytes)).parse()
}

/// Removes what killed processes left of a chain ID, whose lock is held.
pub(crate) fn drop_abandoned(snapshotter: &dyn Snapshotter, chain: &SnapshotKey) -> Result<()> {
    remove_stale(snapshotter, (CHAIN_LABEL, Some(chain)))
}

/// Removes what killed processes left, by a label of theirs. What a living
/// process writes is left alone.
pub(crate) fn remove_stale(
    snapshotter: &dyn Snapshotter,
    (label, value): (&str, Option<&SnapshotKey>),
) -> Result<()> {
    let filter = SnapshotFilter {
        labels: vec![(label.to_string(), value.map(SnapshotKey::to_string))],
        ..SnapshotFilter::default()
    };
    let found = all_pages(
        |page| snapshotter.walk(&filter, page),
        |info| info.key.to_string(),
    )?;
    for info in found {
        if is_abandoned(&info)? {
            match snapshotter.remove(&info.key) {
                Ok(()) => log::info!("removed {}, left by a killed process", info.key),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It costs space and nothing else.
                Err(error) => log::warn!("remove {}, left by a killed process: {error}", info.key),
            }
        }
    }
    Ok(())
}

pub(super) fn is_abandoned(info: &SnapshotInfo) -> Result<bool> {
    let Some(identity) = info.labels.get(PROCESS_LABEL) else {
        return Ok(false);
    };
    match serde_json::from_str::<ProcessIdentity>(identity) {
        Ok(identity) => Ok(identity.open()?.is_none()),
        Err(_) => Ok(false),
    }
}
