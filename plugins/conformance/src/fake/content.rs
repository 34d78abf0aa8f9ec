//! A content store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerkit::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, ContentStore, Expected, IngestStatus,
    IngestWriter,
};
use containerkit::value::check_labels;
use containerkit::{
    Algorithm, Digest, Error, IngestRef, LabelChanges, Labels, Page, Result, Timestamp,
};

use crate::content::{Factory, Fixture};

/// A content store in memory. It claims no capability: its blobs are no files.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By the digest's text, which is the order of listings.
    blobs: BTreeMap<String, Blob>,
    ingests: BTreeMap<IngestRef, Ingest>,
}

struct Blob {
    info: BlobInfo,
    data: Arc<Vec<u8>>,
}

struct Ingest {
    data: Vec<u8>,
    expected: Expected,
    started: Timestamp,
    updated: Timestamp,
    /// Since when a writer holds it.
    held: Option<Timestamp>,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bytes in as a blob, without an ingest.
    pub fn put(&self, data: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(data);
        self.damage(&digest, data);
        digest
    }

    /// Puts bytes under a digest that may not be theirs.
    pub fn damage(&self, digest: &Digest, data: &[u8]) {
        let info = info(digest, data, &Labels::new());
        let data = Arc::new(data.to_vec());
        self.state()
            .blobs
            .insert(digest.to_string(), Blob { info, data });
    }

    /// The bytes of a blob.
    pub fn data(&self, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        let state = self.state();
        let blob = state.blobs.get(&digest.to_string())?;
        Some(Arc::clone(&blob.data))
    }

    /// How many blobs there are.
    pub fn count(&self) -> usize {
        self.state().blobs.len()
    }
}

fn info(digest: &Digest, data: &[u8], labels: &Labels) -> BlobInfo {
    let now = Timestamp::now();
    BlobInfo {
        digest: digest.clone(),
        size: data.len() as u64,
        labels: labels.clone(),
        created: now,
        updated: now,
    }
}

impl State {
    fn blob(&mut self, digest: &Digest) -> Result<&mut Blob> {
        self.blobs
            .get_mut(&digest.to_string())
            .ok_or_else(|| Error::not_found(format!("blob {digest}")))
    }

    fn ingest(&mut self, name: &IngestRef) -> Result<&mut Ingest> {
        self.ingests
            .get_mut(name)
            .ok_or_else(|| Error::not_found(format!("ingest {name}")))
    }
}

impl Ingest {
    fn status(&self, name: &IngestRef) -> IngestStatus {
        IngestStatus {
            name: name.clone(),
            offset: self.data.len() as u64,
            total: self.expected.size,
            expected: self.expected.digest.clone(),
            started: self.started,
            updated: self.updated,
            holder: self.held.map(|_| std::process::id()),
        }
    }

    fn refuse_held(&self, name: &IngestRef) -> Result<()> {
        match self.held {
            None => Ok(()),
            Some(since) => Err(Error::conflict(format!(
                "ingest {name}: held by process {} for {} s",
                std::process::id(),
                since.age().as_secs()
            ))),
        }
    }
}

impl ContentStore for Memory {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities::default()
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        Ok(self.state().blob(digest)?.info.clone())
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        let mut state = self.state();
        let info = &mut state.blob(digest)?.info;
        info.labels = changes.apply(&info.labels)?;
        info.updated = Timestamp::now();
        Ok(info.clone())
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        let state = self.state();
        let after = page.after.as_deref();
        Ok(state
            .blobs
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .map(|(_, blob)| &blob.info)
            .filter(|info| filter.matches(info))
            .take(page.limit as usize)
            .cloned()
            .collect())
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let mut state = self.state();
        state.blob(digest)?;
        state.blobs.remove(&digest.to_string());
        Ok(())
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        Ok(Box::new(Reader(Arc::clone(
            &self.state().blob(digest)?.data,
        ))))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        let mut state = self.state();
        if let Some(digest) = &expected.digest
            && state.blobs.contains_key(&digest.to_string())
        {
            return Err(Error::already_exists(format!("blob {digest}")));
        }
        let now = Timestamp::now();
        let ingest = state.ingests.entry(name.clone()).or_insert_with(|| Ingest {
            data: Vec::new(),
            expected: Expected::default(),
            started: now,
            updated: now,
            held: None,
        });
        ingest.refuse_held(name)?;
        ingest.held = Some(now);
        ingest.expected = expected.clone();
        Ok(Box::new(Writer {
            store: self.clone(),
            name: name.clone(),
            done: false,
        }))
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        Ok(self.state().ingest(name)?.status(name))
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        let state = self.state();
        let all = state.ingests.iter();
        Ok(all.map(|(name, ingest)| ingest.status(name)).collect())
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        let mut state = self.state();
        state.ingest(name)?.refuse_held(name)?;
        state.ingests.remove(name);
        Ok(())
    }
}

struct Reader(Arc<Vec<u8>>);

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(offset..).unwrap_or_default();
        let part = rest.len().min(buf.len());
        buf[..part].copy_from_slice(&rest[..part]);
        Ok(part)
    }
}

struct Writer {
    store: Memory,
    name: IngestRef,
    /// The ingest has ended, and its ref may be another's.
    done: bool,
}

impl Writer {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        if self.done {
            return Err(Error::precondition(format!(
                "ingest {}: its writer is done",
                self.name
            )));
        }
        work(&mut self.store.state())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.with(|state| {
            state.ingest(&self.name)?.held = None;
            Ok(())
        });
    }
}

impl IngestWriter for Writer {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.with(|state| {
            let ingest = state.ingest(&self.name)?;
            ingest.data.extend_from_slice(data);
            ingest.updated = Timestamp::now();
            Ok(())
        })
    }

    fn status(&self) -> Result<IngestStatus> {
        self.with(|state| Ok(state.ingest(&self.name)?.status(&self.name)))
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.with(|state| {
            let ingest = state.ingest(&self.name)?;
            let held = ingest.data.len() as u64;
            if size > held {
                return Err(Error::invalid(format!(
                    "ingest {}: cut to {size} of {held} bytes",
                    self.name
                )));
            }
            // At most what a vector holds.
            ingest.data.truncate(size as usize);
            ingest.updated = Timestamp::now();
            Ok(())
        })
    }

    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        let name = self.name.clone();
        let result = self.with(|state| {
            check_labels(labels)?;
            let ingest = state.ingest(&name)?;
            let size = expected.size.or(ingest.expected.size);
            let wanted = expected.digest.as_ref();
            let wanted = wanted.or(ingest.expected.digest.as_ref());
            let algorithm = wanted.map_or(Algorithm::Sha256, Digest::algorithm);
            let digest = algorithm.digest(&ingest.data);
            let held = ingest.data.len() as u64;
            if size.is_some_and(|size| size != held) || wanted.is_some_and(|d| *d != digest) {
                return Err(Error::precondition(format!(
                    "ingest {name}: {held} bytes with the digest {digest} are not what is expected"
                )));
            }
            let ingest = state.ingests.remove(&name);
            let data = ingest.map(|ingest| ingest.data).unwrap_or_default();
            if state.blobs.contains_key(&digest.to_string()) {
                return Err(Error::already_exists(format!("blob {digest}")));
            }
            let info = info(&digest, &data, labels);
            let blob = Blob {
                info: info.clone(),
                data: Arc::new(data),
            };
            state.blobs.insert(digest.to_string(), blob);
            Ok(info)
        });
        self.done |= match &result {
            Ok(_) => true,
            Err(error) => error.kind() == containerkit::ErrorKind::AlreadyExists,
        };
        result
    }
}

/// Fresh stores for the suite.
pub fn memories() -> impl Factory {
    Memories
}

struct Memories;

impl Factory for Memories {
    fn fixture(&self) -> Result<Box<dyn Fixture>> {
        Ok(Box::new(Memory::default()))
    }
}

impl Fixture for Memory {
    fn open(&self) -> Result<Arc<dyn ContentStore>> {
        Ok(Arc::new(self.clone()))
    }
}
