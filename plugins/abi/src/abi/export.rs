//! The driver's side: a contract trait behind a mirror trait, each method,
//! constructor and drop in a guard.

use std::mem::ManuallyDrop;

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RErr, ROption, RSlice, RSliceMut, RStr, RString, RVec};
use containerkit::content::{BlobReader, IngestWriter};
use containerkit::runtime::{DeleteMode, KillScope};
use containerkit::{
    ContainerId, ContentStore, Digest, Driver, DriverContext, DriverKind, Error, IngestRef, Result,
    Runtime, SnapshotKey, Snapshotter,
};

use super::convert::*;
use super::fd;
use super::guard::{guard, guard_drop};
use super::mirror::*;
use super::value::*;

/// A driver's value, dropped in a guard.
pub struct Export<T>(ManuallyDrop<T>);

impl<T> Export<T> {
    pub fn new(value: T) -> Export<T> {
        Export(ManuallyDrop::new(value))
    }
}

impl<T> Drop for Export<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: dropped here and nowhere else; `self` is not used after.
        guard_drop("value", || unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

fn context(host: &FHostArc) -> Result<DriverContext> {
    Ok(DriverContext::new(
        parse_arg(host.instance())?,
        path_arg(host.root().as_slice()),
        path_arg(host.state().as_slice()),
    )
    .with_options(json_arg(host.options_json())?))
}

fn open<T: Driver>(host: &FHostArc) -> FResult<T> {
    guard("open", || T::open(context(host)?))
}

pub extern "C" fn open_runtime<T: Driver + Runtime>(host: FHostArc) -> FResult<FRuntimeBox> {
    open::<T>(&host).map(|driver| FRuntime_TO::from_value(Export::new(driver), TD_Opaque))
}

pub extern "C" fn open_snapshotter<T: Driver + Snapshotter>(
    host: FHostArc,
) -> FResult<FSnapshotterBox> {
    open::<T>(&host).map(|driver| FSnapshotter_TO::from_value(Export::new(driver), TD_Opaque))
}

pub extern "C" fn open_content<T: Driver + ContentStore>(host: FHostArc) -> FResult<FContentBox> {
    open::<T>(&host).map(|driver| FContent_TO::from_value(Export::new(driver), TD_Opaque))
}

/// The JSON of a driver's `DriverInfo`, with the kind it is exported as.
pub fn info<T: Driver>(kind: DriverKind) -> FResult<RString> {
    guard("info", || {
        let info = T::info();
        if info.kind != kind {
            return Err(Error::internal(format!(
                "it is exported as a {kind} and says that it is a {}",
                info.kind
            )));
        }
        json_out(&info)
    })
}

/// The answer for a kind that is not exported.
pub fn no_info() -> FResult<RString> {
    RErr(error_out(Error::not_found(
        "this shared object has no driver of that kind",
    )))
}

fn id(text: RStr<'_>) -> Result<ContainerId> {
    parse_arg(text)
}

fn key(text: RStr<'_>) -> Result<SnapshotKey> {
    parse_arg(text)
}

fn digest(text: RStr<'_>) -> Result<Digest> {
    parse_arg(text)
}

fn ingest(text: RStr<'_>) -> Result<IngestRef> {
    parse_arg(text)
}

impl<T: Snapshotter + 'static> FSnapshotter for Export<T> {
    fn capabilities(&self) -> FResult<u64> {
        guard("capabilities", || Ok(self.0.capabilities().bits()))
    }
    fn stat(&self, name: RStr<'_>) -> FResult<FSnapshotInfo> {
        guard("stat", || self.0.stat(&key(name)?).map(snapshot_out))
    }
    fn update(&self, name: RStr<'_>, changes: FLabelChanges) -> FResult<FSnapshotInfo> {
        guard("update", || {
            let info = self.0.update(&key(name)?, &changes_in(changes))?;
            Ok(snapshot_out(info))
        })
    }
    fn usage(&self, name: RStr<'_>) -> FResult<FUsage> {
        guard("usage", || self.0.usage(&key(name)?).map(usage_out))
    }
    fn mounts(&self, name: RStr<'_>) -> FResult<RVec<FMount>> {
        guard("mounts", || self.0.mounts(&key(name)?).map(mounts_out))
    }
    fn prepare(
        &self,
        name: RStr<'_>,
        parent: ROption<RStr<'_>>,
        labels: FLabels,
    ) -> FResult<RVec<FMount>> {
        guard("prepare", || {
            let parent = parse_optional_arg(parent)?;
            let mounts = self
                .0
                .prepare(&key(name)?, parent.as_ref(), &labels_in(labels))?;
            Ok(mounts_out(mounts))
        })
    }
    fn view(
        &self,
        name: RStr<'_>,
        parent: ROption<RStr<'_>>,
        labels: FLabels,
    ) -> FResult<RVec<FMount>> {
        guard("view", || {
            let parent = parse_optional_arg(parent)?;
            let mounts = self
                .0
                .view(&key(name)?, parent.as_ref(), &labels_in(labels))?;
            Ok(mounts_out(mounts))
        })
    }
    fn commit(
        &self,
        name: RStr<'_>,
        active: RStr<'_>,
        options: FCommitOptions,
    ) -> FResult<FSnapshotInfo> {
        guard("commit", || {
            let info = self
                .0
                .commit(&key(name)?, &key(active)?, &commit_in(options)?)?;
            Ok(snapshot_out(info))
        })
    }
    fn remove(&self, name: RStr<'_>) -> FResult<()> {
        guard("remove", || self.0.remove(&key(name)?))
    }
    fn walk(&self, filter: FSnapshotFilter, page: FPage) -> FResult<RVec<FSnapshotInfo>> {
        guard("walk", || {
            let found = self.0.walk(&snapshot_filter_in(filter)?, &page_in(page))?;
            Ok(found.into_iter().map(snapshot_out).collect())
        })
    }
    fn cleanup(&self) -> FResult<FUsage> {
        guard("cleanup", || self.0.cleanup().map(usage_out))
    }
    fn upper(&self, name: RStr<'_>) -> FResult<RVec<u8>> {
        guard("upper", || self.0.upper(&key(name)?).map(|p| path_out(&p)))
    }
}

impl<T: ContentStore + 'static> FContent for Export<T> {
    fn capabilities(&self) -> FResult<u64> {
        guard("capabilities", || Ok(self.0.capabilities().bits()))
    }
    fn info(&self, name: RStr<'_>) -> FResult<FBlobInfo> {
        guard("info", || self.0.info(&digest(name)?).map(blob_out))
    }
    fn update(&self, name: RStr<'_>, changes: FLabelChanges) -> FResult<FBlobInfo> {
        guard("update", || {
            let info = self.0.update(&digest(name)?, &changes_in(changes))?;
            Ok(blob_out(info))
        })
    }
    fn walk(&self, filter: FBlobFilter, page: FPage) -> FResult<RVec<FBlobInfo>> {
        guard("walk", || {
            let found = self.0.walk(&blob_filter_in(filter), &page_in(page))?;
            Ok(found.into_iter().map(blob_out).collect())
        })
    }
    fn delete(&self, name: RStr<'_>) -> FResult<()> {
        guard("delete", || self.0.delete(&digest(name)?))
    }
    fn reader(&self, name: RStr<'_>) -> FResult<FReaderBox> {
        guard("reader", || self.0.reader(&digest(name)?))
            .map(|reader| FReader_TO::from_value(Export::new(reader), TD_Opaque))
    }
    fn writer(&self, name: RStr<'_>, expected: FExpected) -> FResult<FWriterBox> {
        guard("writer", || {
            self.0.writer(&ingest(name)?, &expected_in(expected)?)
        })
        .map(|writer| FWriter_TO::from_value(Export::new(writer), TD_Opaque))
    }
    fn status(&self, name: RStr<'_>) -> FResult<FIngestStatus> {
        guard("status", || self.0.status(&ingest(name)?).map(status_out))
    }
    fn list_statuses(&self) -> FResult<RVec<FIngestStatus>> {
        guard("list_statuses", || {
            let found = self.0.list_statuses()?;
            Ok(found.into_iter().map(status_out).collect())
        })
    }
    fn abort(&self, name: RStr<'_>) -> FResult<()> {
        guard("abort", || self.0.abort(&ingest(name)?))
    }
}

impl FReader for Export<Box<dyn BlobReader>> {
    fn size(&self) -> FResult<u64> {
        guard("size", || Ok(self.0.size()))
    }
    fn read_at(&self, mut buf: RSliceMut<'_, u8>, offset: u64) -> FResult<u64> {
        guard("read_at", || {
            self.0
                .read_at(buf.as_mut_slice(), offset)
                .map(|read| read as u64)
        })
    }
    fn as_fd(&self) -> FResult<i32> {
        guard("as_fd", || Ok(self.0.as_fd()?.map_or(-1, fd::give)))
    }
}

impl FWriter for Export<Box<dyn IngestWriter>> {
    fn write(&mut self, data: RSlice<'_, u8>) -> FResult<()> {
        guard("write", || self.0.write(data.as_slice()))
    }
    fn status(&self) -> FResult<FIngestStatus> {
        guard("status", || self.0.status().map(status_out))
    }
    fn truncate(&mut self, size: u64) -> FResult<()> {
        guard("truncate", || self.0.truncate(size))
    }
    fn commit(&mut self, expected: FExpected, labels: FLabels) -> FResult<FBlobInfo> {
        guard("commit", || {
            let info = self.0.commit(&expected_in(expected)?, &labels_in(labels))?;
            Ok(blob_out(info))
        })
    }
}

impl<T: Runtime + 'static> FRuntime for Export<T> {
    fn capabilities(&self) -> FResult<u64> {
        guard("capabilities", || Ok(self.0.capabilities().bits()))
    }
    fn info(&self) -> FResult<RString> {
        guard("info", || json_out(&self.0.info()?))
    }
    fn create(&self, name: RStr<'_>, request: FCreateRequest) -> FResult<FStarted> {
        guard("create", || {
            let request = create_in(request)?;
            self.0.create(&id(name)?, request).map(started_out)
        })
    }
    fn start(&self, name: RStr<'_>) -> FResult<()> {
        guard("start", || self.0.start(&id(name)?))
    }
    fn run(&self, name: RStr<'_>, request: FCreateRequest) -> FResult<FStarted> {
        guard("run", || {
            let request = create_in(request)?;
            self.0.run(&id(name)?, request).map(started_out)
        })
    }
    fn kill(&self, name: RStr<'_>, signal: i32, all: bool) -> FResult<()> {
        let scope = if all { KillScope::All } else { KillScope::Init };
        guard("kill", || self.0.kill(&id(name)?, signal, scope))
    }
    fn delete(&self, name: RStr<'_>, force: bool) -> FResult<()> {
        let mode = if force {
            DeleteMode::Force
        } else {
            DeleteMode::Stopped
        };
        guard("delete", || self.0.delete(&id(name)?, mode))
    }
    fn exec(&self, name: RStr<'_>, request: FExecRequest) -> FResult<FStarted> {
        guard("exec", || {
            let request = exec_in(request)?;
            self.0.exec(&id(name)?, request).map(started_out)
        })
    }
    fn state(&self, name: RStr<'_>) -> FResult<RString> {
        guard("state", || json_out(&self.0.state(&id(name)?)?))
    }
    fn list(&self) -> FResult<RString> {
        guard("list", || json_out(&self.0.list()?))
    }
    fn ps(&self, name: RStr<'_>) -> FResult<RString> {
        guard("ps", || json_out(&self.0.ps(&id(name)?)?))
    }
    fn pause(&self, name: RStr<'_>) -> FResult<()> {
        guard("pause", || self.0.pause(&id(name)?))
    }
    fn resume(&self, name: RStr<'_>) -> FResult<()> {
        guard("resume", || self.0.resume(&id(name)?))
    }
    fn update(&self, name: RStr<'_>, resources_json: RStr<'_>) -> FResult<()> {
        guard("update", || {
            self.0.update(&id(name)?, &json_arg(resources_json)?)
        })
    }
    fn stats(&self, name: RStr<'_>) -> FResult<RString> {
        guard("stats", || json_out(&self.0.stats(&id(name)?)?))
    }
    fn checkpoint(&self, name: RStr<'_>, request_json: RStr<'_>) -> FResult<()> {
        guard("checkpoint", || {
            self.0.checkpoint(&id(name)?, &json_arg(request_json)?)
        })
    }
    fn restore(
        &self,
        name: RStr<'_>,
        request: FCreateRequest,
        checkpoint_json: RStr<'_>,
    ) -> FResult<FStarted> {
        guard("restore", || {
            let request = create_in(request)?;
            let checkpoint = json_arg(checkpoint_json)?;
            self.0
                .restore(&id(name)?, request, &checkpoint)
                .map(started_out)
        })
    }
}
