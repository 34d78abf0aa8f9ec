//! The `local` driver of containerkit: blobs as files in one folder, shared
//! by any number of processes without a daemon.
//!
//! ```text
//! store.json                        what this is, with its format version
//! blobs/ALG/HEX                     a blob, mode 0400, as in an OCI layout
//! labels/ALG/HEX                    its labels, only where there are some
//! ingest/SHA256(REF)/{lock,meta.json,data}
//! locks/XX                          held for moments: commit, update, delete
//! trash/                            renamed aside, being removed
//! ```
//!
//! Nothing is ever half there: a blob appears by one rename, after its size,
//! its digest and its bytes on disk are certain. A process may be killed at
//! any instruction; what it leaves is resumed by the next writer of the ref,
//! or removed by the next call that meets it. An ingest is one that has a
//! data file; a folder without is a leftover.
//!
//! | module | what lives there |
//! |---|---|
//! | `layout` | folders, versions, locks, putting aside |
//! | `blobs` | reading, listing and deleting blobs |
//! | `listing` | the names of a walk, kept between its pages |
//! | `labels` | the label files |
//! | `ingest` | holding, listing and aborting ingests |
//! | `writer` | writing and committing |
//! | `file` | whole-file and positioned reads and writes |

mod blobs;
mod file;
mod ingest;
mod labels;
mod layout;
mod listing;
mod writer;

use std::sync::Arc;

use containerkit::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, Expected, IngestStatus, IngestWriter,
};
use containerkit::{
    ContentStore, Digest, Driver, DriverContext, DriverInfo, DriverKind, IngestRef, LabelChanges,
    OptionKind, OptionSpec, Page, Result,
};

use layout::Layout;

/// A content store in a folder. Open it with [`Driver::open`]; any number of
/// instances and processes may share the folder.
#[derive(Clone, Debug)]
pub struct Local {
    layout: Arc<Layout>,
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
                "Make a blob durable when it is committed; with false it may be lost or damaged by power loss.",
            )],
        }
    }

    fn open(context: DriverContext) -> Result<Local> {
        context.check_options(&<Local as Driver>::info().options)?;
        let fsync = context.boolean("fsync")?.unwrap_or(true);
        Ok(Local {
            layout: Arc::new(Layout::open(&context.root, fsync)?),
        })
    }
}

impl ContentStore for Local {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities { fd: true }
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        blobs::info(&self.layout, digest)
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        blobs::update(&self.layout, digest, changes)
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        blobs::walk(&self.layout, filter, page)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        blobs::delete(&self.layout, digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        Ok(Box::new(blobs::Reader::open(&self.layout, digest)?))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        Ok(Box::new(writer::Writer::open(
            &self.layout,
            name,
            expected,
        )?))
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        ingest::status(&self.layout, name)
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        ingest::list(&self.layout)
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        ingest::abort(&self.layout, name)
    }
}
