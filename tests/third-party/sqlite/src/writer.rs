//! Writing an ingest and committing it.

use std::sync::Arc;

use containerkit_plugin::content::{BlobInfo, Expected, IngestStatus, IngestWriter};
use containerkit_plugin::value::check_labels;
use containerkit_plugin::{Algorithm, Digest, Error, Hasher, IngestRef, Labels, Result, Timestamp};
use rusqlite::params;

use crate::database::Durability;
use crate::ingest::Hold;
use crate::{Shared, blobs, body, ingest};

/// Bytes of one transaction: so long do others wait for their turn.
const PART: usize = 4 << 20;

/// Holds an ingest. The hash runs along with the writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    body: i64,
    /// As it was told last; without a holder.
    status: IngestStatus,
    hasher: Hasher,
    /// `None` once the ingest has ended.
    hold: Option<Hold>,
}

fn exists(digest: &Digest) -> Error {
    Error::already_exists(format!("blob {digest} exists already"))
}

impl Writer {
    pub(crate) fn open(
        shared: &Arc<Shared>,
        name: &IngestRef,
        expected: &Expected,
    ) -> Result<Writer> {
        let hold = Hold::take(shared, name)?;
        let begun = shared.database.write(Durability::Volatile, |db| {
            if let Some(digest) = &expected.digest
                && blobs::find(db, digest)?.is_some()
            {
                // Bytes that were meant for this blob are not needed any more.
                if let Some(found) = ingest::find(db, name)?
                    && found.status.expected.as_ref() == Some(digest)
                {
                    ingest::end(db, name)?;
                    body::kill(db, found.body)?;
                }
                return Ok(Err(exists(digest)));
            }
            ingest::begin(db, name, expected).map(Ok)
        })?;
        let found = match begun {
            Ok(found) => found,
            Err(error) => {
                body::sweep(&shared.database);
                return Err(error);
            }
        };
        let algorithm = expected
            .digest
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let hasher = body::hash(&shared.database, found.body, found.status.offset, algorithm)
            .map_err(|error| error.context(format!("ingest {name}")))?;
        Ok(Writer {
            shared: Arc::clone(shared),
            body: found.body,
            status: found.status,
            hasher,
            hold: Some(hold),
        })
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("ingest {}", self.status.name))
    }

    fn check_open(&self) -> Result<()> {
        match self.hold {
            Some(_) => Ok(()),
            None => Err(Error::precondition(format!(
                "ingest {}: it has ended; this writer is done",
                self.status.name
            ))),
        }
    }

    /// One transaction: appends `part`, or cuts to `size` without one.
    fn change(&mut self, size: u64, part: Option<&[u8]>) -> Result<()> {
        let now = Timestamp::now();
        let (id, offset, name) = (self.body, self.status.offset, &self.status.name);
        let changed = self.shared.database.write(Durability::Volatile, |db| {
            match part {
                Some(part) => body::append(db, id, offset, part)?,
                None => body::cut(db, id, size)?,
            }
            db.execute(
                "UPDATE ingest SET size = ?3, updated = ?4 WHERE name = ?1 AND body = ?2",
                params![name.as_str(), id, body::number(size)?, now.unix_nanos()],
            )
            .map_err(Into::into)
        });
        match changed.map_err(|error| self.named(error))? {
            0 => Err(self.named(Error::data_loss("its row is gone, and it was held"))),
            _ => {
                self.status.offset = size;
                self.status.updated = now;
                Ok(())
            }
        }
    }

    /// The digest of what is held, by the algorithm that is asked for.
    fn digest(&self, algorithm: Algorithm) -> Result<Digest> {
        if self.hasher.algorithm() == algorithm {
            return Ok(self.hasher.clone().finish());
        }
        let hash = body::hash(
            &self.shared.database,
            self.body,
            self.status.offset,
            algorithm,
        );
        Ok(hash.map_err(|error| self.named(error))?.finish())
    }
}

impl IngestWriter for Writer {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.check_open()?;
        for part in data.chunks(PART) {
            self.change(self.status.offset + part.len() as u64, Some(part))?;
            self.hasher.update(part);
        }
        Ok(())
    }

    fn status(&self) -> Result<IngestStatus> {
        self.check_open()?;
        Ok(IngestStatus {
            holder: Some(std::process::id()),
            ..self.status.clone()
        })
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.check_open()?;
        if size > self.status.offset {
            return Err(self.named(Error::invalid(format!(
                "truncate to {size} bytes: it has only {}",
                self.status.offset
            ))));
        }
        // Hashed first: after a failure nothing has changed.
        let hasher = body::hash(
            &self.shared.database,
            self.body,
            size,
            self.hasher.algorithm(),
        )
        .map_err(|error| self.named(error))?;
        self.change(size, None)?;
        self.hasher = hasher;
        Ok(())
    }

    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        self.check_open()?;
        check_labels(labels).map_err(|error| self.named(error))?;
        let held = self.status.offset;
        let size = expected.size.or(self.status.total);
        if let Some(size) = size.filter(|size| *size != held) {
            return Err(self.named(Error::precondition(format!(
                "it has {held} bytes, expected are {size}"
            ))));
        }
        let wanted = expected.digest.as_ref().or(self.status.expected.as_ref());
        let digest = self.digest(wanted.map_or(self.hasher.algorithm(), Digest::algorithm))?;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != digest) {
            return Err(self.named(Error::precondition(format!(
                "its bytes have the digest {digest}, expected is {wanted}"
            ))));
        }
        let now = Timestamp::now();
        let info = BlobInfo {
            digest,
            size: held,
            labels: labels.clone(),
            created: now,
            updated: now,
        };
        let (id, name) = (self.body, &self.status.name);
        // Synced also when the blob is another's: that one may have died before
        // its own fsync, and ours promises as much.
        let new = self.shared.database.write(self.shared.durability, |db| {
            let new = blobs::find(db, &info.digest)?.is_none();
            ingest::end(db, name)?;
            match new {
                true => blobs::insert(db, id, &info)?,
                false => body::kill(db, id)?,
            }
            Ok(new)
        });
        let new = new.map_err(|error| self.named(error))?;
        self.hold = None;
        if new {
            return Ok(info);
        }
        body::sweep(&self.shared.database);
        Err(exists(&info.digest))
    }
}
