//! The host's side: a mirror trait behind a contract trait. Names instance
//! and method in every error, and refuses what breaks the contract before
//! anything above sees it.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use abi_stable::std_types::{RResult, RSlice, RSliceMut};
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
use containerkit::{
    ContainerId, ContentStore, Digest, IngestRef, InstanceName, LabelChanges, Labels, Mount, Page,
    Result, Runtime, SnapshotKey, Snapshotter, Usage,
};

use super::convert::*;
use super::fd;
use super::mirror::*;
use super::value::*;

/// What stays while an instance lives: its claim on its root.
pub type Claim = Box<dyn Send + Sync>;

/// An instance's trait object and what is the same for all its calls.
pub struct Proxy<T> {
    driver: T,
    instance: Arc<str>,
    capabilities: u64,
    /// After the driver: fields drop in order.
    _claim: Option<Claim>,
}

/// A driver's answer. Not guarded: the driver's side is, and a method that an
/// older driver does not have has a default body here.
#[inline]
fn answer<T, U>(
    instance: &str,
    operation: &str,
    call: impl FnOnce() -> Result<FResult<T>>,
    convert: impl FnOnce(T) -> Result<U>,
) -> Result<U> {
    let result = match call() {
        Ok(RResult::ROk(value)) => convert(value),
        Ok(RResult::RErr(error)) => Err(error_in(error)),
        Err(error) => Err(error),
    };
    result.map_err(|error| error.in_driver(instance, operation))
}

/// Refuses an answer about something else than what was asked.
fn same<T: PartialEq + Display>(asked: &T, told: &T) -> Result<()> {
    if asked == told {
        return Ok(());
    }
    Err(broken(format!("asked for {asked}, it answered for {told}")))
}

/// Refuses a page that is longer than asked.
fn within<T>(page: &Page, found: &[T]) -> Result<()> {
    if found.len() <= page.limit as usize {
        return Ok(());
    }
    Err(broken(format!(
        "asked for at most {}, it returned {}",
        page.limit,
        found.len()
    )))
}

impl<T> Proxy<T> {
    /// The instance's capabilities are asked once: they are fixed while it is
    /// open.
    pub fn new(
        driver: T,
        instance: &InstanceName,
        capabilities: impl FnOnce(&T) -> FResult<u64>,
        claim: Option<Claim>,
    ) -> Result<Proxy<T>> {
        let instance: Arc<str> = instance.as_str().into();
        let bits = answer(&instance, "capabilities", || Ok(capabilities(&driver)), Ok)?;
        Ok(Proxy {
            driver,
            instance,
            capabilities: bits,
            _claim: claim,
        })
    }

    fn call<V, U>(
        &self,
        operation: &str,
        call: impl FnOnce(&T) -> FResult<V>,
        convert: impl FnOnce(V) -> Result<U>,
    ) -> Result<U> {
        answer(
            &self.instance,
            operation,
            || Ok(call(&self.driver)),
            convert,
        )
    }
}

impl Snapshotter for Proxy<FSnapshotterBox> {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::from_bits(self.capabilities)
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.call(
            "stat",
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
            "update",
            |d| d.update(key.as_str().into(), changes_out(changes)),
            |info| {
                let info = snapshot_in(info)?;
                same(key, &info.key)?;
                Ok(info)
            },
        )
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        self.call(
            "usage",
            |d| d.usage(key.as_str().into()),
            |u| Ok(usage_in(u)),
        )
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        self.call("mounts", |d| d.mounts(key.as_str().into()), mounts_in)
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.call(
            "prepare",
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
            "view",
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
            "commit",
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
        self.call("remove", |d| d.remove(key.as_str().into()), Ok)
    }

    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        self.call(
            "walk",
            |d| d.walk(snapshot_filter_out(filter), page_out(page)),
            |found| {
                within(page, &found)?;
                found.into_iter().map(snapshot_in).collect()
            },
        )
    }

    fn cleanup(&self) -> Result<Usage> {
        self.call("cleanup", |d| d.cleanup(), |usage| Ok(usage_in(usage)))
    }

    fn upper(&self, key: &SnapshotKey) -> Result<PathBuf> {
        self.call(
            "upper",
            |d| d.upper(key.as_str().into()),
            |bytes| {
                let path = path_in(bytes);
                if !path.is_absolute() {
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
            "info",
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
            "update",
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
            "walk",
            |d| d.walk(blob_filter_out(filter), page_out(page)),
            |found| {
                within(page, &found)?;
                found.into_iter().map(blob_in).collect()
            },
        )
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let text = digest.to_string();
        self.call("delete", |d| d.delete(text.as_str().into()), Ok)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        let text = digest.to_string();
        let reader = self.call("reader", |d| d.reader(text.as_str().into()), Ok)?;
        let size = answer(&self.instance, "size", || Ok(reader.size()), Ok)?;
        Ok(Box::new(ReaderProxy {
            reader,
            size,
            instance: Arc::clone(&self.instance),
        }))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        let writer = self.call(
            "writer",
            |d| d.writer(name.as_str().into(), expected_out(expected)),
            Ok,
        )?;
        Ok(Box::new(WriterProxy {
            writer,
            instance: Arc::clone(&self.instance),
        }))
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        self.call(
            "status",
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
            "list_statuses",
            |d| d.list_statuses(),
            |found| found.into_iter().map(status_in).collect(),
        )
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        self.call("abort", |d| d.abort(name.as_str().into()), Ok)
    }
}

struct ReaderProxy {
    reader: FReaderBox,
    size: u64,
    instance: Arc<str>,
}

impl BlobReader for ReaderProxy {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let asked = buf.len();
        answer(
            &self.instance,
            "read_at",
            || Ok(self.reader.read_at(RSliceMut::from_mut_slice(buf), offset)),
            |read| match usize::try_from(read) {
                Ok(read) if read <= asked => Ok(read),
                _ => Err(broken(format!(
                    "asked for {asked} bytes, it claims to have read {read}"
                ))),
            },
        )
    }

    fn as_fd(&self) -> Result<Option<OwnedFd>> {
        answer(
            &self.instance,
            "as_fd",
            || Ok(self.reader.as_fd()),
            |number| match number {
                -1 => Ok(None),
                number => fd::take_checked(number).map(Some).ok_or_else(|| {
                    broken(format!(
                        "it returned descriptor {number}, which is not open"
                    ))
                }),
            },
        )
    }
}

struct WriterProxy {
    writer: FWriterBox,
    instance: Arc<str>,
}

impl IngestWriter for WriterProxy {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        let writer = &mut self.writer;
        answer(
            &self.instance,
            "write",
            || Ok(writer.write(RSlice::from_slice(data))),
            Ok,
        )
    }

    fn status(&self) -> Result<IngestStatus> {
        answer(
            &self.instance,
            "status",
            || Ok(self.writer.status()),
            status_in,
        )
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        let writer = &mut self.writer;
        answer(&self.instance, "truncate", || Ok(writer.truncate(size)), Ok)
    }

    fn commit(&mut self, expected: &Expected, labels: &Labels) -> Result<BlobInfo> {
        let writer = &mut self.writer;
        answer(
            &self.instance,
            "commit",
            || Ok(writer.commit(expected_out(expected), labels_out(labels))),
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
        self.call("info", |d| d.info(), json_in)
    }

    fn create(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let request = create_out(request);
        self.call(
            "create",
            |d| d.create(id.as_str().into(), request),
            started_in,
        )
    }

    fn start(&self, id: &ContainerId) -> Result<()> {
        self.call("start", |d| d.start(id.as_str().into()), Ok)
    }

    fn run(&self, id: &ContainerId, request: CreateRequest) -> Result<StartedProcess> {
        let request = create_out(request);
        self.call("run", |d| d.run(id.as_str().into(), request), started_in)
    }

    fn kill(&self, id: &ContainerId, signal: i32, scope: KillScope) -> Result<()> {
        let all = scope == KillScope::All;
        self.call("kill", |d| d.kill(id.as_str().into(), signal, all), Ok)
    }

    fn delete(&self, id: &ContainerId, mode: DeleteMode) -> Result<()> {
        let force = mode == DeleteMode::Force;
        self.call("delete", |d| d.delete(id.as_str().into(), force), Ok)
    }

    fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<StartedProcess> {
        answer(
            &self.instance,
            "exec",
            || Ok(self.driver.exec(id.as_str().into(), exec_out(request)?)),
            started_in,
        )
    }

    fn state(&self, id: &ContainerId) -> Result<RuntimeState> {
        self.call(
            "state",
            |d| d.state(id.as_str().into()),
            |text| {
                let state: RuntimeState = json_in(text)?;
                same(id, &state.id)?;
                Ok(state)
            },
        )
    }

    fn list(&self) -> Result<Vec<RuntimeState>> {
        self.call("list", |d| d.list(), json_in)
    }

    fn ps(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>> {
        self.call("ps", |d| d.ps(id.as_str().into()), json_in)
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        self.call("pause", |d| d.pause(id.as_str().into()), Ok)
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        self.call("resume", |d| d.resume(id.as_str().into()), Ok)
    }

    fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        answer(
            &self.instance,
            "update",
            || {
                let json = json_out(resources)?;
                Ok(self.driver.update(id.as_str().into(), json.as_rstr()))
            },
            Ok,
        )
    }

    fn stats(&self, id: &ContainerId) -> Result<Stats> {
        self.call("stats", |d| d.stats(id.as_str().into()), json_in)
    }

    fn checkpoint(&self, id: &ContainerId, request: &CheckpointRequest) -> Result<()> {
        answer(
            &self.instance,
            "checkpoint",
            || {
                let json = json_out(request)?;
                Ok(self.driver.checkpoint(id.as_str().into(), json.as_rstr()))
            },
            Ok,
        )
    }

    fn restore(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        checkpoint: &CheckpointRequest,
    ) -> Result<StartedProcess> {
        answer(
            &self.instance,
            "restore",
            || {
                let json = json_out(checkpoint)?;
                let request = create_out(request);
                Ok(self
                    .driver
                    .restore(id.as_str().into(), request, json.as_rstr()))
            },
            started_in,
        )
    }
}
