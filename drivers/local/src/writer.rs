//! Writing an ingest and committing it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use containerkit::content::{BlobInfo, Expected, IngestStatus, IngestWriter};
use containerkit::fs::sync_dir;
use containerkit::lock::FileLock;
use containerkit::value::check_labels;
use containerkit::{
    Algorithm, Digest, Error, ErrorKind, Hasher, IngestRef, IoContext, Labels, Result, Timestamp,
    step,
};
use rustix::fs::{FlockOperation, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use crate::layout::{Layout, Present, rename_new};
use crate::{blobs, file, ingest, labels};

/// From this size on a second thread pays for itself.
const PARALLEL: usize = 256 << 10;

/// Holds an ingest. The hash runs along with the writes.
pub(crate) struct Writer {
    layout: Arc<Layout>,
    name: IngestRef,
    expected: Expected,
    hasher: Hasher,
    offset: u64,
    started: Timestamp,
    updated: Timestamp,
    dir: PathBuf,
    data: File,
    /// `None` once the ingest has ended.
    lock: Option<FileLock>,
}

fn exists(digest: &Digest) -> Error {
    Error::already_exists(format!("blob {digest} exists already"))
}

fn algorithm(expected: &Expected) -> Algorithm {
    expected
        .digest
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm)
}

/// Whoever says a size may lie: what cannot fit is refused before it fills the
/// disk.
fn check_room(data: &File, held: u64, name: &IngestRef, expected: &Expected) -> Result<()> {
    let stat = rustix::fs::fstatvfs(data).io_context(|| format!("ingest {name}: statvfs"))?;
    let free = stat.f_bfree.saturating_mul(stat.f_frsize);
    match expected.size {
        // Some file systems do not say what they have.
        Some(size) if stat.f_blocks > 0 && size.saturating_sub(held) > free => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("ingest {name}: {size} bytes are expected, and there is room for {free} more"),
        )),
        _ => Ok(()),
    }
}

impl Writer {
    pub(crate) fn open(
        layout: &Arc<Layout>,
        name: &IngestRef,
        expected: &Expected,
    ) -> Result<Writer> {
        // Hashed: who brings the bytes brings what a damaged blob is mended with.
        if let Some(digest) = &expected.digest
            && let Present::Yes(_) = layout.verified(digest, expected.size)?
        {
            ingest::drop_superfluous(layout, name, expected);
            return Err(exists(digest));
        }
        let held = ingest::hold(layout, name, expected)?;
        check_room(&held.data, held.size, name, expected)?;
        let hasher = file::hash(&held.data, held.size, algorithm(expected).hasher())
            .io_context(|| format!("ingest {name}: hash what is held"))?
            .ok_or_else(|| Error::data_loss(format!("ingest {name}: its data shrank meanwhile")))?;
        Ok(Writer {
            layout: Arc::clone(layout),
            name: name.clone(),
            expected: expected.clone(),
            hasher,
            offset: held.size,
            started: held.started,
            updated: held.updated,
            dir: held.dir,
            data: held.data,
            lock: Some(held.lock),
        })
    }

    fn check_open(&self) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::precondition(format!(
                "ingest {}: it has ended; this writer is done",
                self.name
            ))),
        }
    }

    /// Writes and hashes, large parts on two cores at once: one core alone
    /// would spend a third of its time copying into the page cache. `offset`
    /// and the hash agree afterwards, however much was written.
    fn append(&mut self, data: &[u8]) -> rustix::io::Result<()> {
        let before = self.hasher.clone();
        let start = self.offset;
        let mut result = Ok(());
        let mut done = 0;
        let mut hashed = false;
        if data.len() >= PARALLEL {
            let (file, hasher) = (&self.data, &mut self.hasher);
            std::thread::scope(|scope| {
                let spawned = std::thread::Builder::new()
                    .name("hash".into())
                    .spawn_scoped(scope, || hasher.update(data));
                // No thread to be had: hashed below.
                hashed = spawned.is_ok();
                result = file::write_at(file, data, start, |part| done += part.len());
            });
        } else {
            result = file::write_at(&self.data, data, start, |part| done += part.len());
        }
        if !hashed {
            self.hasher.update(&data[..done]);
        } else if done < data.len() {
            self.hasher = before;
            self.hasher.update(&data[..done]);
        }
        self.offset += done as u64;
        result
    }

    /// The digest of what is held, by the algorithm that is asked for.
    fn digest(&self, algorithm: Algorithm) -> Result<Digest> {
        if self.hasher.algorithm() == algorithm {
            return Ok(self.hasher.clone().finish());
        }
        Ok(self.hash(self.offset, algorithm)?.finish())
    }

    fn hash(&self, size: u64, algorithm: Algorithm) -> Result<Hasher> {
        file::hash(&self.data, size, algorithm.hasher())
            .io_context(|| format!("ingest {}: hash what is held", self.name))?
            .ok_or_else(|| {
                Error::data_loss(format!(
                    "ingest {}: its data file has fewer than the {size} bytes written",
                    self.name
                ))
            })
    }

    /// The bytes, their mode and their time on disk: all of a blob but its name.
    fn seal(&mut self, now: Timestamp) -> Result<()> {
        let name = self.name.clone();
        let named = |what: &str| format!("ingest {name}: {what} its data");
        let length = self.data.metadata().io_context(|| named("stat"))?.len();
        if length != self.offset {
            return Err(Error::data_loss(format!(
                "ingest {}: its data file has {length} bytes, {} were written",
                self.name, self.offset
            )));
        }
        let nanos = now.unix_nanos();
        let time = Timespec {
            tv_sec: nanos / 1_000_000_000,
            // Below a billion: fits every type that this field has.
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&self.data, &times).io_context(|| named("set the time of"))?;
        rustix::fs::fchmod(&self.data, Mode::from_raw_mode(0o400)).io_context(|| named("chmod"))?;
        step("blob.sealed");
        if self.layout.fsync
            && let Err(error) = self.data.sync_all()
        {
            // The kernel forgets what it could not write and would call the
            // next fsync good: these bytes must not become a blob.
            if rustix::fs::ftruncate(&self.data, 0).is_ok() {
                self.offset = 0;
                self.hasher = self.hasher.algorithm().hasher();
            }
            return Err(Error::io(named("fsync"), error)
                .with_hint("its bytes were dropped: give all of the data again"));
        }
        Ok(())
    }

    /// Gives the sealed data its name as a blob. `false` when a good blob has
    /// that name already; `before` is what was found there without the lock.
    fn publish(
        &self,
        digest: &Digest,
        labels: &Labels,
        now: Timestamp,
        before: &Present,
    ) -> Result<bool> {
        let _lock = self.layout.lock(digest)?;
        let blob = self.layout.blob(digest);
        let replace = match self.layout.present(digest, Some(self.offset))? {
            // Bit rot shows in the bytes alone. Should somebody have been faster
            // to mend it, good bytes replace good bytes.
            Present::Yes(_) if matches!(before, Present::Damaged(_)) => true,
            Present::Yes(_) => return Ok(false),
            Present::No => false,
            Present::Damaged(_) => true,
        };
        if let (true, Present::Damaged(why)) = (replace, before) {
            log::warn!("blob {digest} was damaged: {why}; it is replaced");
        }
        // Labels first: whoever sees the blob sees it with them. What a killed
        // commit or deletion left of another blob's life goes; a repair keeps.
        if !labels.is_empty() {
            labels::write(&self.layout, digest, labels.clone(), now)?;
        } else if !replace {
            labels::remove(&self.layout, digest)?;
        }
        let data = self.dir.join("data");
        step("blob.rename");
        let mut renamed = if replace {
            rustix::fs::rename(&data, &blob)
        } else {
            rename_new(&data, &blob)
        };
        if replace && renamed == Err(Errno::ISDIR) {
            self.layout.discard(&blob)?;
            renamed = rustix::fs::rename(&data, &blob);
        }
        step("blob.renamed");
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if !replace => Ok(false),
            Err(errno) => {
                if !replace {
                    let _ = labels::remove(&self.layout, digest);
                }
                Err(Error::io(
                    format!(
                        "ingest {}: rename its data to {}",
                        self.name,
                        blob.display()
                    ),
                    errno,
                ))
            }
        }
    }

    /// Also for a blob that another process committed: it may have died before
    /// its own fsync, and ours promises as much.
    fn sync_blobs(&self, digest: &Digest) -> Result<()> {
        if self.layout.fsync {
            sync_dir(&self.layout.blobs(digest.algorithm()))?;
        }
        step("blob.durable");
        Ok(())
    }

    /// The blob is safe by now; what cannot be removed of the ingest is a
    /// leftover that the next call cleans.
    fn end(&mut self) {
        if let Err(error) = self.layout.discard(&self.dir) {
            log::warn!("ingest {}: {error}", self.name);
        }
        self.release();
    }

    /// Unlocked explicitly: a child that is being forked elsewhere in this
    /// process holds a copy of the descriptor until it executes.
    fn release(&mut self) {
        if let Some(lock) = self.lock.take() {
            let _ = rustix::fs::flock(lock.as_file(), FlockOperation::Unlock);
        }
    }
}

impl IngestWriter for Writer {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.check_open()?;
        if data.is_empty() {
            return Ok(());
        }
        step("ingest.write");
        let result = self.append(data);
        step("ingest.written");
        self.updated = Timestamp::now();
        result.map_err(|errno| {
            let at = self.offset;
            Error::io(format!("ingest {}: write at byte {at}", self.name), errno).with_hint(
                "what was written is kept; make room and give the same data again to go on",
            )
        })
    }

    fn status(&self) -> Result<IngestStatus> {
        self.check_open()?;
        Ok(IngestStatus {
            name: self.name.clone(),
            offset: self.offset,
            total: self.expected.size,
            expected: self.expected.digest.clone(),
            started: self.started,
            updated: self.updated,
            holder: Some(std::process::id()),
        })
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.check_open()?;
        if size > self.offset {
            return Err(Error::invalid(format!(
                "ingest {}: truncate to {size} bytes: it has only {}",
                self.name, self.offset
            )));
        }
        // Hashed first: after a failure nothing has changed.
        let hasher = self.hash(size, self.hasher.algorithm())?;
        rustix::fs::ftruncate(&self.data, size)
            .io_context(|| format!("ingest {}: truncate to {size} bytes", self.name))?;
        self.hasher = hasher;
        self.offset = size;
        self.updated = Timestamp::now();
        Ok(())
    }

    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        self.check_open()?;
        check_labels(labels).map_err(|error| error.context(format!("ingest {}", self.name)))?;
        let size = expected.size.or(self.expected.size);
        if let Some(size) = size.filter(|size| *size != self.offset) {
            return Err(Error::precondition(format!(
                "ingest {}: it has {} bytes, expected are {size}",
                self.name, self.offset
            )));
        }
        let wanted = expected.digest.as_ref().or(self.expected.digest.as_ref());
        let digest = self.digest(wanted.map_or(self.hasher.algorithm(), Digest::algorithm))?;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != digest) {
            return Err(Error::precondition(format!(
                "ingest {}: its bytes have the digest {digest}, expected is {wanted}",
                self.name
            )));
        }
        let now = Timestamp::now();
        // Without the lock, to save the fsync; `publish` looks again.
        let new = match self.layout.verified(&digest, Some(self.offset))? {
            Present::Yes(_) => false,
            found => {
                let published = self
                    .seal(now)
                    .and_then(|()| self.publish(&digest, labels, now, &found));
                if published.is_err() {
                    let _ = rustix::fs::fchmod(&self.data, Mode::from_raw_mode(0o600));
                }
                published?
            }
        };
        let synced = self.sync_blobs(&digest);
        self.end();
        synced?;
        if !new {
            return Err(exists(&digest));
        }
        blobs::info(&self.layout, &digest).or_else(|error| match error.kind() {
            // Deleted by somebody in this instant: the commit was good all the same.
            ErrorKind::NotFound => Ok(BlobInfo {
                digest,
                size: self.offset,
                labels: labels.clone(),
                created: now,
                updated: now,
            }),
            _ => Err(error),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.release();
    }
}
