//! The label file of a blob: there only where labels were ever set, so that
//! a store without labels costs nothing, and a walk by label reads no more
//! than the blobs that have some.

use std::path::PathBuf;

use containerkit::{Context, Digest, Error, Labels, Result, Timestamp};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::file::{self, VERSION};
use crate::layout::{Layout, Present};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    version: u32,
    pub(crate) updated: Timestamp,
    pub(crate) labels: Labels,
}

fn path(layout: &Layout, digest: &Digest) -> PathBuf {
    layout.labels(digest.algorithm()).join(digest.hex())
}

pub(crate) fn read(layout: &Layout, digest: &Digest) -> Result<Option<Sidecar>> {
    file::load(&path(layout, digest)).map_err(|error| {
        let hint = format!(
            "`rm {}` drops the labels of this blob",
            path(layout, digest).display()
        );
        let error = error.context(format!("labels of blob {digest}"));
        if error.hint().is_none() {
            error.with_hint(hint)
        } else {
            error
        }
    })
}

/// The caller holds the lock of `digest`.
pub(crate) fn write(
    layout: &Layout,
    digest: &Digest,
    labels: Labels,
    updated: Timestamp,
) -> Result<Sidecar> {
    let sidecar = Sidecar {
        version: VERSION,
        updated,
        labels,
    };
    let dir = layout.labels(digest.algorithm());
    file::replace(&dir, digest.hex(), &sidecar, layout.fsync)
        .context(|| format!("labels of blob {digest}"))?;
    Ok(sidecar)
}

/// The caller holds the lock of `digest`. What is not there is success.
pub(crate) fn remove(layout: &Layout, digest: &Digest) -> Result<()> {
    let path = path(layout, digest);
    let unfinished = file::temporary(&layout.labels(digest.algorithm()), digest.hex());
    for path in [path, unfinished] {
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io(format!("remove {}", path.display()), errno)),
        }
    }
    Ok(())
}

/// Removes labels that a killed commit or deletion left without a blob. Best
/// effort, by who meets them: they do no harm.
pub(crate) fn remove_stale(layout: &Layout, digest: &Digest) {
    if rustix::fs::lstat(path(layout, digest)).is_err() {
        return;
    }
    // A commit that has written the labels and not yet the blob holds it.
    let Ok(_lock) = layout.lock(digest) else {
        return;
    };
    if matches!(layout.present(digest, None), Ok(Present::No))
        && let Err(error) = remove(layout, digest)
    {
        log::debug!("{error}");
    }
}
