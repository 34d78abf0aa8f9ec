//! Committed blobs: reading, listing, labelling, deleting.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use containerkit::content::{BlobFilter, BlobInfo, BlobReader};
use containerkit::{
    Algorithm, Digest, Error, ErrorKind, IoContext, LabelChanges, Labels, Page, Result, Timestamp,
    step,
};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::file;
use crate::labels::{self, Sidecar};
use crate::layout::{Layout, Present, open_blob};

fn unknown(digest: &Digest) -> Error {
    Error::not_found(format!("blob {digest}: there is none in this store"))
}

fn damaged(layout: &Layout, digest: &Digest, why: &str) -> Error {
    Error::data_loss(format!(
        "blob {digest} is damaged: {}: {why}",
        layout.blob(digest).display()
    ))
    .with_hint("import, pull or ingest it again: the good bytes replace it")
}

/// The blob's file, or why there is none that could be it.
fn stat(layout: &Layout, digest: &Digest) -> Result<Stat> {
    match layout.present(digest, None)? {
        Present::Yes(stat) => Ok(stat),
        Present::No => Err(unknown(digest)),
        Present::Damaged(why) => Err(damaged(layout, digest, &why)),
    }
}

/// A blob is committed with its modification time set to that moment.
pub(crate) fn describe(digest: Digest, stat: &Stat, sidecar: Option<Sidecar>) -> BlobInfo {
    let created = modified(stat);
    let (labels, updated) = match sidecar {
        Some(sidecar) => (sidecar.labels, sidecar.updated),
        None => (Labels::new(), created),
    };
    BlobInfo {
        digest,
        size: stat.st_size as u64,
        labels,
        created,
        updated,
    }
}

pub(crate) fn modified(stat: &Stat) -> Timestamp {
    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let nanos = (stat.st_mtime as i64)
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec as i64);
    Timestamp::from_unix_nanos(nanos)
}

pub(crate) fn info(layout: &Layout, digest: &Digest) -> Result<BlobInfo> {
    let stat = stat(layout, digest)?;
    let sidecar = labels::read(layout, digest)?;
    Ok(describe(digest.clone(), &stat, sidecar))
}

pub(crate) fn update(layout: &Layout, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
    let _lock = layout.lock(digest)?;
    let stat = stat(layout, digest)?;
    let old = match labels::read(layout, digest) {
        Ok(old) => old,
        // What cannot be read is replaced whole, or not at all.
        Err(error) if changes.replace_all && error.kind() == ErrorKind::DataLoss => None,
        Err(error) => return Err(error),
    };
    // Never backwards and never standing still, whatever the clock does.
    let before = old.as_ref().map_or(modified(&stat), |old| old.updated);
    let after = Timestamp::from_unix_nanos(before.unix_nanos().saturating_add(1));
    let old = old
        .filter(|_| !changes.replace_all)
        .map_or_else(Labels::new, |sidecar| sidecar.labels);
    let new = changes.apply(&old)?;
    let sidecar = labels::write(layout, digest, new, Timestamp::now().max(after))?;
    Ok(describe(digest.clone(), &stat, Some(sidecar)))
}

pub(crate) fn delete(layout: &Layout, digest: &Digest) -> Result<()> {
    let _lock = layout.lock(digest)?;
    let path = layout.blob(digest);
    step("blob.unlink");
    match rustix::fs::unlink(&path) {
        Ok(()) => step("blob.unlinked"),
        Err(Errno::NOENT) => {
            // What a deletion leaves that is killed here.
            labels::remove(layout, digest)?;
            return Err(unknown(digest));
        }
        // A folder stands where the blob was: what is damaged can be deleted too.
        Err(Errno::ISDIR | Errno::PERM) => layout.discard(&path)?,
        Err(errno) => return Err(Error::io(format!("remove {}", path.display()), errno)),
    }
    labels::remove(layout, digest)?;
    step("labels.removed");
    Ok(())
}

/// Damaged blobs are in the listing, so that whoever verifies or repairs the
/// store meets them; their labels count as none.
pub(crate) fn walk(layout: &Layout, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
    let limit = page.limit.max(1) as usize;
    let after = page.after.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        // Only what has a label file can have a label.
        let dir = if filter.labels.is_empty() {
            layout.blobs(algorithm)
        } else {
            layout.labels(algorithm)
        };
        let Some(start) = Start::of(algorithm, after) else {
            continue;
        };
        let names = layout.listing.names(&dir, algorithm)?;
        let first = match start {
            Start::First => 0,
            Start::After(hex) => names.partition_point(|name| **name <= *hex),
        };
        for name in &names[first..] {
            // Names that are no digest are temporary files, or not ours.
            let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
                continue;
            };
            if let Some(info) = listed(layout, &digest)?.filter(|info| filter.matches(info)) {
                found.push(info);
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
    layout.listing.forget();
    Ok(found)
}

/// One row of a listing; `None` when it is no longer there.
fn listed(layout: &Layout, digest: &Digest) -> Result<Option<BlobInfo>> {
    let path = layout.blob(digest);
    let mut stat = match rustix::fs::lstat(&path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => {
            labels::remove_stale(layout, digest);
            return Ok(None);
        }
        Err(errno) => return Err(Error::io(format!("stat {}", path.display()), errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        stat.st_size = 0;
    }
    let sidecar = labels::read(layout, digest).unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    Ok(Some(describe(digest.clone(), &stat, sidecar)))
}

/// Where a page begins among the digests of one algorithm.
enum Start<'a> {
    First,
    After(&'a str),
}

impl Start<'_> {
    /// `None` when `after`, any text, is behind all of them.
    fn of(algorithm: Algorithm, after: &str) -> Option<Start<'_>> {
        let prefix = format!("{algorithm}:");
        match after.strip_prefix(&prefix) {
            Some(hex) => Some(Start::After(hex)),
            None if after < prefix.as_str() => Some(Start::First),
            None => None,
        }
    }
}

/// An open blob.
pub(crate) struct Reader {
    digest: Digest,
    path: PathBuf,
    fd: OwnedFd,
    size: u64,
}

impl Reader {
    pub(crate) fn open(layout: &Layout, digest: &Digest) -> Result<Reader> {
        let path = layout.blob(digest);
        let fd = match open_blob(&path) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(unknown(digest)),
            Err(Errno::LOOP | Errno::NXIO) => {
                return Err(damaged(layout, digest, "it is not a regular file"));
            }
            Err(errno) => return Err(Error::io(format!("open {}", path.display()), errno)),
        };
        let stat = rustix::fs::fstat(&fd).io_context(|| format!("stat {}", path.display()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(damaged(layout, digest, "it is not a regular file"));
        }
        let size = stat.st_size as u64;
        if size == 0 && *digest != digest.algorithm().digest(b"") {
            return Err(damaged(layout, digest, "it is empty"));
        }
        Ok(Reader {
            digest: digest.clone(),
            path,
            fd,
            size,
        })
    }
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        // The kernel refuses offsets near the largest that there is.
        if offset >= self.size {
            return Ok(0);
        }
        file::read_at(&self.fd, buf, offset)
            .io_context(|| format!("read blob {} at byte {offset}", self.digest))
    }

    fn as_fd(&self) -> Result<Option<OwnedFd>> {
        // By descriptor first: the blob may be deleted by now. By path only
        // where there is no /proc, and only if it is still the same file.
        let by_fd = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::open(&by_fd, flags, Mode::empty()) {
            return Ok(Some(fd));
        }
        let same = |fd: &OwnedFd| match (rustix::fs::fstat(fd), rustix::fs::fstat(&self.fd)) {
            (Ok(a), Ok(b)) => a.st_dev == b.st_dev && a.st_ino == b.st_ino,
            _ => false,
        };
        match open_blob(&self.path) {
            Ok(fd) if same(&fd) => Ok(Some(fd)),
            Ok(_) | Err(Errno::NOENT) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("blob {}: it was deleted, and /proc is missing", self.digest),
            )),
            Err(errno) => Err(Error::io(format!("open blob {}", self.digest), errno)),
        }
    }
}
