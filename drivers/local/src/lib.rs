//! The `local` driver of containerkit: blobs as files in one folder.

use containerkit::content::*;
use containerkit::{
    ContentStore, Digest, Driver, DriverContext, DriverInfo, DriverKind, Error, IngestRef,
    LabelChanges, OptionKind, OptionSpec, Page, Result,
};

/// A content store in a folder.
#[derive(Debug)]
pub struct Local {
    _context: DriverContext,
}

impl Driver for Local {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "local".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Content,
            options: vec![OptionSpec::new(
                "fsync",
                OptionKind::Boolean,
                "true",
                "Make blobs durable when they are committed; false leaves that to the caller.",
            )],
        }
    }

    fn open(context: DriverContext) -> Result<Local> {
        context.check_options(&<Local as Driver>::info().options)?;
        Ok(Local { _context: context })
    }
}

impl ContentStore for Local {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities { fd: true }
    }
    fn info(&self, _digest: &Digest) -> Result<BlobInfo> {
        Err(Error::unimplemented("info"))
    }
    fn update(&self, _digest: &Digest, _changes: &LabelChanges) -> Result<BlobInfo> {
        Err(Error::unimplemented("update"))
    }
    fn walk(&self, _filter: &BlobFilter, _page: &Page) -> Result<Vec<BlobInfo>> {
        Err(Error::unimplemented("walk"))
    }
    fn delete(&self, _digest: &Digest) -> Result<()> {
        Err(Error::unimplemented("delete"))
    }
    fn reader(&self, _digest: &Digest) -> Result<Box<dyn BlobReader>> {
        Err(Error::unimplemented("reader"))
    }
    fn writer(&self, _name: &IngestRef, _expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        Err(Error::unimplemented("writer"))
    }
    fn status(&self, _name: &IngestRef) -> Result<IngestStatus> {
        Err(Error::unimplemented("status"))
    }
    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        Err(Error::unimplemented("list_statuses"))
    }
    fn abort(&self, _name: &IngestRef) -> Result<()> {
        Err(Error::unimplemented("abort"))
    }
}
