//! [`Overlay`]: the contract, method by method.

use containerkit::snapshot::*;
use containerkit::{
    Driver, DriverContext, DriverInfo, DriverKind, Error, LabelChanges, Labels, Mount, Page,
    Result, SnapshotKey, Usage,
};

/// A snapshotter on the kernel's overlay file system.
#[derive(Debug)]
pub struct Overlay {
    _context: DriverContext,
}

impl Driver for Overlay {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "overlay".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Snapshotter,
            options: Vec::new(),
        }
    }

    fn open(context: DriverContext) -> Result<Overlay> {
        context.check_options(&Overlay::info().options)?;
        Ok(Overlay { _context: context })
    }
}

impl Snapshotter for Overlay {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities {
            rebase: true,
            direct_upper: true,
            ..SnapshotterCapabilities::default()
        }
    }
    fn stat(&self, _key: &SnapshotKey) -> Result<SnapshotInfo> {
        Err(Error::unimplemented("stat"))
    }
    fn update(&self, _key: &SnapshotKey, _changes: &LabelChanges) -> Result<SnapshotInfo> {
        Err(Error::unimplemented("update"))
    }
    fn usage(&self, _key: &SnapshotKey) -> Result<Usage> {
        Err(Error::unimplemented("usage"))
    }
    fn mounts(&self, _key: &SnapshotKey) -> Result<Vec<Mount>> {
        Err(Error::unimplemented("mounts"))
    }
    fn prepare(
        &self,
        _key: &SnapshotKey,
        _parent: Option<&SnapshotKey>,
        _labels: &Labels,
    ) -> Result<Vec<Mount>> {
        Err(Error::unimplemented("prepare"))
    }
    fn view(
        &self,
        _key: &SnapshotKey,
        _parent: Option<&SnapshotKey>,
        _labels: &Labels,
    ) -> Result<Vec<Mount>> {
        Err(Error::unimplemented("view"))
    }
    fn commit(
        &self,
        _name: &SnapshotKey,
        _active: &SnapshotKey,
        _options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        Err(Error::unimplemented("commit"))
    }
    fn remove(&self, _key: &SnapshotKey) -> Result<()> {
        Err(Error::unimplemented("remove"))
    }
    fn walk(&self, _filter: &SnapshotFilter, _page: &Page) -> Result<Vec<SnapshotInfo>> {
        Err(Error::unimplemented("walk"))
    }
    fn cleanup(&self) -> Result<Usage> {
        Err(Error::unimplemented("cleanup"))
    }
}
