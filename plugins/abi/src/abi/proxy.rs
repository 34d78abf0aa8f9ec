//! The host's side: a mirror trait behind a contract trait. Names instance
//! and method in every error, and refuses what breaks the contract before
//! anything above sees it.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use abi_stable::std_types::{RSlice, RSliceMut};
use containerkit::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, Expected, IngestStatus, IngestWriter,
};
use containerkit::oci_spec::runtime::LinuxResources;
use containerkit::runtime::{
    CheckpointRequest, CreateRequest, DeleteMode, ExecRequest, KillScope, ProcessEntry,
    RuntimeCapabilities, RuntimeInfo, RuntimeState, StartedProcess, Stats,
};
use containerkit::snapshot::{
    CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotterCapabilities,
};
use containerkit::value::LISTING_LIMIT;
use containerkit::{
    ContainerId, ContentStore, Digest, IngestRef, LabelChanges, Labels, Mount, Page, Result,
    Runtime, SnapshotKey, Snapshotter, Usage,
};

use super::call::{Claim, Handle, in_order, same, within};
use super::check::*;
use super::convert::*;
use super::mirror::*;
use super::value::*;
use super::watch::Subject;

/// An instance and what is the same for all its calls.
pub struct Proxy<T> {
    driver: Handle<T>,
    capabilities: u64,
    /// Entries since a walk last began: whoever pages through names that are
    /// made up is told by whom.
    walked: AtomicUsize,
    /// After the driver: fields drop in order.
    _claim: Claim,
}

impl<T> Proxy<T> {
    /// The instance's capabilities are asked once: they are fixed while it is
    /// open.
    pub fn new(
        driver: T,
        subject: &'static Subject,
        capabilities: impl FnOnce(&T) -> FResult<u64>,
        claim: Claim,
    ) -> Result<Proxy<T>> {
        let driver = Handle::new(driver, subject);
        let capabilities = driver.call(&"capabilities", capabilities, Ok)?;
        Ok(Proxy {
            driver,
            capabilities,
            walked: AtomicUsize::new(0),
            _claim: claim,
        })
    }

    fn ends(&self, page: &Page, found: usize) -> Result<()> {
        if page.after.is_none() {
            self.walked.store(0, Relaxed);
        }
        let walked = self.walked.fetch_add(found, Relaxed) + found;
        few(walked, LISTING_LIMIT, "entries of its listing")
    }

    #[inline]
    fn call<V, U>(
        &self,
        operation: &'static &'static str,
        call: impl FnOnce(&T) -> FResult<V>,
        convert: impl FnOnce(V) -> Result<U>,
    ) -> Result<U> {
        self.driver.call(operation, call, convert)
    }
}

impl Snapshotter for Proxy<FSnapshotterBox> {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::from_bits(self.capabilities)
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.call(
            &"stat",
            |d| d.stat(key.as_str().into()),
            |info| {
                let info = snapshot_in(info)?;
                same(key, &info.key)?;
                Ok(info)
            },
        )
    }

    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        self.call(
            &"update",
            |d| d.update(key.as_str().into(), changes_out(changes)),
            |info| {
                let info = snapshot_in(info)?;
                same(key, &info.key)?;
                Ok(info)
            },
        )
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        self.call(&"usage", |d| d.usage(key.as_str().into()), usage_in)
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        self.call(&"mounts", |d| d.mounts(key.as_str().into()), mounts_in)
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.call(
            &"prepare",
            |d| d.prepare(key.as_str().into(), name_out(parent), labels_out(labels)),
            mounts_in,
        )
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.call(
            &"view",
            |d| d.view(key.as_str().into(), name_out(parent), labels_out(labels)),
            mounts_in,
        )
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        self.call(
            &"commit",
            |d| {
                d.commit(
                    name.as_str().into(),
                    active.as_str().into(),
                    commit_out(options),
                )
            },
            |info| {
                let info = snapshot_in(info)?;
                same(name, &info.key)?;
                Ok(info)
            },
        )
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        self.call(&"remove", |d| d.remove(key.as_str().into()), Ok)
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        self.call(
            &"walk",
            |d| d.walk(snapshot_filter_out(filter), page_out(page)),
            |found| {
                within(page, &found)?;
                self.ends(page, found.len())?;
                let found: Vec<_> = found.into_iter().map(snapshot_in).collect::<Result<_>>()?;
                in_order(page, &found, |info| info.key.to_string())?;
                Ok(found)
            },
        )
    }

    fn cleanup(&self) -> Result<Usage> {
        self.call(&"cleanup", |d| d.cleanup(), usage_in)
    }

    fn upper(&self, key: &SnapshotKey) -> Result<PathBuf> {
        self.call(
            &"upper",
            |d| d.upper(key.as_str().into()),
            |bytes| {
                let path = path_in(bytes);
                if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
                    return Err(broken("its upper folder is not an absolute path"));
                }
                Ok(path)
            },
        )
    }
}

impl ContentStore for Proxy<FContentBox> {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities::from_bits(self.capabilities)
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        let text = digest.to_string();
        self.call(
            &"info",
            |d| d.info(text.as_str().into()),
            |info| {
                let info = blob_in(info)?;
                same(digest, &info.digest)?;
                Ok(info)
            },
        )
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        let text = digest.to_string();
        self.call(
            &"update",
            |d| d.update(text.as_str().into(), changes_out(changes)),
            |info| {
                let info = blob_in(info)?;
                same(digest, &info.digest)?;
                Ok(info)
            },
        )
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        self.call(
            &"walk",
            |d| d.walk(blob_filter_out(filter), page_out(page)),
            |found| {
                within(page, &found)?;
                self.ends(page, found.len())?;
                let found: Vec<_> = found.into_iter().map(blob_in).collect::<Result<_>>()?;
                in_order(page, &found, |info| info.digest.to_string())?;
                Ok(found)
            },
        )
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let text = digest.to_string();
        self.call(&"delete", |d| d.delete(text.as_str().into()), Ok)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        let text = digest.to_string();
        let reader = self.call(&"reader", |d| d.reader(text.as_str().into()), Ok)?;
        let reader = Handle::new(reader, self.driver.subject);
        let size = reader.call(&"size", |r| r.size(), size_in)?;
        Ok(Box::new(ReaderProxy { reader, size }))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        let writer = self.call(
            &"writer",
            |d| d.writer(name.as_str().into(), expected_out(expected)),
            Ok,
        )?;
        let writer = Handle::new(writer, self.driver.subject);
        Ok(Box::new(WriterProxy { writer }))
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        self.call(
            &"status",
            |d| d.status(name.as_str().into()),
            |status| {
                let status = status_in(status)?;
                same(name, &status.name)?;
                Ok(status)
            },
        )
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        self.call(
            &"list_statuses",
            |d| d.list_statuses(),
            |found| {
                few(found.len(), LIST_LIMIT, "ingests")?;
                found.into_iter().map(status_in).collect()
            },
        )
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        self.call(&"abort", |d| d.abort(name.as_str().into()), Ok)
    }
}

struct ReaderProxy {
    reader: Handle<FReaderBox>,
    size: u64,
}

impl BlobReader for ReaderProxy {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let asked = buf.len();
        self.reader.call(
            &"read_at",
            |r| r.read_at(RSliceMut::from_mut_slice(buf), offset),
            |read| match usize::try_from(read) {
                Ok(read) if read > asked => Err(broken(format!(
                    "asked for {asked} bytes, it claims to have read {read}"
                ))),
                Ok(read) if read as u64 <= self.size.saturating_sub(offset) => Ok(read),
                _ => Err(broken(format!(
                    "the blob has {} bytes, it claims to have read {read} at {offset}",
                    self.size
                ))),
            },
        )
    }

    fn as_fd(&self) -> Result<Option<OwnedFd>> {
        self.reader.call(&"as_fd", |r| r.as_fd(), fd_in)
    }
}

struct WriterProxy {
    writer: Handle<FWriterBox>,
}

impl IngestWriter for WriterProxy {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.writer
            .call_mut(&"write", |w| w.write(RSlice::from_slice(data)), Ok)
    }

    fn status(&self) -> Result<IngestStatus> {
        self.writer.call(&"status", |w| w.status(), status_in)
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.writer.call_mut(&"truncate", |w| w.truncate(size), Ok)
    }

    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        self.writer.call_mut(
            &"commit",
            |w| w.commit(expected_out(expected), labels_out(labels)),
            |info| {
                let info = blob_in(info)?;
                if let Some(digest) = &expected.digest {
                    same(digest, &info.digest)?;
                }
                if let Some(size) = expected.size {
                    same(&size, &info.size)?;
                }
                Ok(info)
            },
        )
    }
}

impl Runtime for Proxy<FRuntimeBox> {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::from_bits(self.capabilities)
    }

    fn info(&self) -> Result<RuntimeInfo> {
        self.call(&"info", |d| d.info(), |text| runtime_in(json_in(text)?))
    }

    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let request = create_out(request);
        self.call(
            &"create",
            |d| d.create(id.as_str().into(), request),
            started_in,
        )
    }

    fn start(&self, id: &ContainerId) -> Result<()> {
        self.call(&"start", |d| d.start(id.as_str().into()), Ok)
    }

    fn run(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let request = create_out(request);
        self.call(&"run", |d| d.run(id.as_str().into(), request), started_in)
    }

    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()> {
        let all = scope == KillScope::All;
        self.call(&"kill", |d| d.kill(id.as_str().into(), signal, all), Ok)
    }

    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()> {
        let force = mode == DeleteMode::Force;
        self.call(&"delete", |d| d.delete(id.as_str().into(), force), Ok)
    }

    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess> {
        let request = exec_out(request)?;
        self.call(&"exec", |d| d.exec(id.as_str().into(), request), started_in)
    }

    fn state(&self, id: &ContainerId) -> Result<RuntimeState> {
        self.call(
            &"state",
            |d| d.state(id.as_str().into()),
            |text| {
                let state = state_in(json_in(text)?)?;
                same(id, &state.id)?;
                Ok(state)
            },
        )
    }

    fn list(&self) -> Result<Vec<RuntimeState>> {
        self.call(
            &"list",
            |d| d.list(),
            |text| {
                let all: Vec<RuntimeState> = json_in(text)?;
                all.into_iter().map(state_in).collect()
            },
        )
    }

    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        self.call(
            &"ps",
            |d| d.ps(id.as_str().into()),
            |text| {
                let all: Vec<ProcessEntry> = json_in(text)?;
                all.iter().try_for_each(|entry| pid_in(entry.pid))?;
                Ok(all)
            },
        )
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        self.call(&"pause", |d| d.pause(id.as_str().into()), Ok)
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        self.call(&"resume", |d| d.resume(id.as_str().into()), Ok)
    }

    fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        let json = json_out(resources)?;
        self.call(
            &"update",
            |d| d.update(id.as_str().into(), json.as_rstr()),
            Ok,
        )
    }

    fn stats(&self, id: &ContainerId) -> Result<Stats> {
        self.call(&"stats", |d| d.stats(id.as_str().into()), json_in)
    }

    fn checkpoint(&self, id: &ContainerId, request: &CheckpointRequest) -> Result<()> {
        let json = json_out(request)?;
        self.call(
            &"checkpoint",
            |d| d.checkpoint(id.as_str().into(), json.as_rstr()),
            Ok,
        )
    }

    fn restore(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        checkpoint: &CheckpointRequest,
    ) -> Result<StartedProcess> {
        let json = json_out(checkpoint)?;
        let request = create_out(request);
        self.call(
            &"restore",
            |d| d.restore(id.as_str().into(), request, json.as_rstr()),
            started_in,
        )
    }
}
