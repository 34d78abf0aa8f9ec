//! `sqlite`: a content store that keeps everything in one SQLite file.
//!
//! It shows that a content store need not be a folder of files: blobs lie in
//! pieces in a database, which many processes share. It is slower than files
//! and has no descriptor to offer (`FD`), but one file is easy to back up and
//! holds any number of small blobs without an inode each.
//!
//! ```text
//! ROOT/content.db    body(id, dead)  chunk(body, start, data)
//!                    blob(digest -> body)  ingest(ref -> body)
//! ROOT/locks/HASH    held by the writer of the ref with that SHA-256
//! ```
//!
//! - **Bytes never move.** A writer appends chunks to the body of its ingest;
//!   the commit is one small transaction that makes that body a blob's. A
//!   process killed at any instruction leaves an ingest that the next writer
//!   resumes, or a blob.
//! - **Memory is bounded**: a chunk has at most 256 KiB, and nothing holds
//!   more than one of them. So are transactions, at 4 MiB.
//! - **Writers take turns** (`BEGIN IMMEDIATE` and a busy handler) for the
//!   milliseconds of a transaction; readers never wait (WAL). A ref is held
//!   by a lock on a file, which the kernel frees when its holder dies.
//! - **A deleted blob's body is marked dead** and its chunks go batch by
//!   batch, so that no deletion keeps others waiting; what a killed process
//!   left is swept by the next opening. A reader is a read transaction and so
//!   sees its blob to the end, deleted or not.
//! - **A commit is fsynced** unless the option `fsync` says otherwise; other
//!   transactions are whole or absent after a power cut.
//!
//! Space of deleted blobs is used again; the file itself does not shrink.

mod blobs;
mod body;
mod database;
mod ingest;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerkit_plugin::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, ContentStore, Expected, IngestStatus,
    IngestWriter,
};
use containerkit_plugin::fs::ensure_dir;
use containerkit_plugin::{
    Digest, Driver, DriverContext, DriverInfo, DriverKind, Error, IngestRef, LabelChanges,
    OptionKind, OptionSpec, Page, Result,
};

use database::{Database, Durability};

// The line that makes the crate loadable.
containerkit_plugin::export_driver!(content: Sqlite);

/// A content store in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

/// What the store and its writers have in common.
#[derive(Debug)]
struct Shared {
    database: Database,
    /// Folder of the locks of refs.
    locks: PathBuf,
    /// Of a commit.
    durability: Durability,
}

fn options() -> Vec<OptionSpec> {
    vec![
        OptionSpec::new(
            "fsync",
            OptionKind::Boolean,
            "true",
            "Whether a committed blob survives a power cut.",
        ),
        OptionSpec::new(
            "wait_seconds",
            OptionKind::Integer,
            "30",
            "How long a call waits for other writers, 1 to 3600.",
        ),
    ]
}

impl Driver for Sqlite {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "sqlite".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Content,
            options: options(),
        }
    }

    fn open(context: DriverContext) -> Result<Sqlite> {
        context.check_options(&options())?;
        let wait = context.integer("wait_seconds")?.unwrap_or(30);
        if !(1..=3600).contains(&wait) {
            return Err(Error::invalid(format!(
                "driver instance {}: option wait_seconds: {wait}: want 1 to 3600",
                context.instance
            )));
        }
        let locks = context.root.join("locks");
        ensure_dir(&locks, 0o700)?;
        let wait = Duration::from_secs(wait.unsigned_abs());
        let database = Database::open(&context.root.join("content.db"), wait)?;
        let durability = match context.boolean("fsync")?.unwrap_or(true) {
            true => Durability::Synced,
            false => Durability::Volatile,
        };
        body::sweep(&database);
        let shared = Shared {
            database,
            locks,
            durability,
        };
        Ok(Sqlite {
            shared: Arc::new(shared),
        })
    }
}

impl ContentStore for Sqlite {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities::default()
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        blobs::info(&self.shared.database, digest)
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        blobs::update(&self.shared.database, digest, changes)
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        blobs::walk(&self.shared.database, filter, page)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        blobs::delete(&self.shared.database, digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        Ok(Box::new(blobs::Reader::open(
            &self.shared.database,
            digest,
        )?))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        let writer = writer::Writer::open(&self.shared, name, expected)?;
        Ok(Box::new(writer))
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        ingest::status(&self.shared, name)
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        ingest::list(&self.shared)
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        ingest::abort(&self.shared, name)
    }
}
