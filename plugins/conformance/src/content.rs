//! What every [`ContentStore`] promises, as cases DRV-C-01 and on.
//!
//! A [`Factory`] makes a [`Fixture`], a fresh empty store, for each case;
//! [`Fixture::open`] opens that store again, as another process would.
//! [`Folders`] is both, for every driver that is opened from a
//! [`DriverContext`], and [`conforms`] a driver's whole test:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use containerkit::{ContentStore, DriverContext, Result};
//! # fn open(context: DriverContext) -> Result<Arc<dyn ContentStore>> { unimplemented!() }
//! use containerkit_conformance::{assert_conforms, content};
//! content::conforms(open, &[]);
//! // The same, in this process and in a folder of the caller's:
//! let folder = std::path::Path::new("/some/scratch");
//! assert_conforms(&content::run(&content::Folders::new(folder, open)), &[]);
//! ```

mod blob;
mod ingest;
mod shared;

use std::sync::Arc;

use containerkit::content::{BlobInfo, ContentStore, Expected, IngestWriter};
use containerkit::{Algorithm, Digest, DriverContext, Error, ErrorKind, IngestRef, Labels, Result};

use crate::apart::apart;
use crate::folders::{Folder, Scratch};
use crate::{Case, CaseResult, ensure, equal};

/// One store, empty at first, that can be opened more than once.
pub trait Fixture {
    /// Opens the store. Called again while the first is open, it gives what
    /// another process would have; a fixture that cannot open one store twice
    /// in a process may give the same again.
    fn open(&self) -> Result<Arc<dyn ContentStore>>;
}

/// Makes a fresh store for each case.
pub trait Factory {
    /// A store of its own, removed when the fixture is dropped.
    fn fixture(&self) -> Result<Box<dyn Fixture>>;
}

/// Stores in folders of their own, each opened by one function.
pub type Folders = crate::Folders<dyn ContentStore>;

impl Factory for Folders {
    fn fixture(&self) -> Result<Box<dyn Fixture>> {
        Ok(Box::new(self.fresh()?))
    }
}

impl Fixture for Folder<dyn ContentStore> {
    fn open(&self) -> Result<Arc<dyn ContentStore>> {
        Folder::open(self)
    }
}

/// A driver's whole test: the suite in a process of its own, on stores in a
/// scratch folder. `unsupported` are the ids of the cases that the driver
/// declares it cannot do.
///
/// # Panics
/// With a table of the cases that did not pass.
pub fn conforms(
    open: impl Fn(DriverContext) -> Result<Arc<dyn ContentStore>> + 'static,
    unsupported: &[&str],
) {
    crate::assert_conforms(&apart(|| suite(open)), unsupported);
}

/// Runs every case, in this process, on instances in a scratch folder.
///
/// # Panics
/// When the scratch folder cannot be made.
pub fn suite(
    open: impl Fn(DriverContext) -> Result<Arc<dyn ContentStore>> + 'static,
) -> Vec<CaseResult> {
    let scratch = Scratch::new().unwrap_or_else(|error| panic!("{error}"));
    run(&Folders::new(scratch.path(), open))
}

/// A store with the fixture that must outlive it.
struct Kept {
    store: Arc<dyn ContentStore>,
    _fixture: Box<dyn Fixture>,
}

impl std::ops::Deref for Kept {
    type Target = dyn ContentStore;
    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// For the cases that open their store once.
fn fresh(factory: &dyn Factory) -> Result<Kept> {
    let fixture = factory.fixture()?;
    Ok(Kept {
        store: fixture.open()?,
        _fixture: fixture,
    })
}

/// Runs every case on a store of its own.
pub fn run(factory: &(dyn Factory + 'static)) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}

macro_rules! table {
    ($($id:literal $name:literal $run:path;)*) => {
        vec![$(Case { id: $id, name: $name, run: $run }),*]
    };
}

/// The cases, in the order of their ids.
pub fn cases() -> Vec<Case<dyn Factory>> {
    table! {
        "DRV-C-01" "an empty store has nothing and says so" blob::empty_store;
        "DRV-C-02" "half a blob, a crash, the rest, and reading it back" ingest::story;
        "DRV-C-03" "five ingests at once become five blobs" ingest::writers;
        "DRV-C-04" "the status follows the writer" ingest::status_follows;
        "DRV-C-05" "committing what exists is AlreadyExists and ends the ingest" ingest::commit_exists;
        "DRV-C-06" "a writer for what exists is AlreadyExists and begins nothing" ingest::writer_exists;
        "DRV-C-07" "resuming keeps offset, expectation and times" ingest::resume;
        "DRV-C-08" "an ingest resumes from every cut in three ways" ingest::resume_cuts;
        "DRV-C-09" "truncate cuts, and refuses to grow" ingest::truncate;
        "DRV-C-10" "a wrong size or digest leaves the ingest usable" ingest::error_state;
        "DRV-C-11" "a writer that is done refuses every call" ingest::done;
        "DRV-C-12" "a later expectation replaces the earlier one" ingest::expectation_replaced;
        "DRV-C-13" "parts of any size give the same blob" ingest::parts;
        "DRV-C-14" "sha512 blobs, also decided at commit" ingest::sha512;
        "DRV-C-15" "an empty blob and a small one read as they are" blob::small;
        "DRV-C-16" "reading at, across and far beyond the end" blob::bounds;
        "DRV-C-17" "as_fd agrees with the capability FD" blob::descriptor;
        "DRV-C-18" "labels at commit and by update" blob::labels;
        "DRV-C-19" "labels outside the limits are refused and change nothing" blob::bad_labels;
        "DRV-C-20" "created and updated are the times of the calls" blob::times;
        "DRV-C-21" "a deleted blob is gone, its open readers go on" blob::delete;
        "DRV-C-22" "walk is in digest order, page by page" blob::pages;
        "DRV-C-23" "walk filters by label key and value" blob::filters;
        "DRV-C-24" "a held ref is Conflict, naming the holder" shared::held;
        "DRV-C-25" "abort drops a free ingest and refuses a held one" shared::abort;
        "DRV-C-26" "statuses are listed in ref order with their holders" shared::list;
        "DRV-C-27" "refs of every form stay apart" shared::refs;
        "DRV-C-28" "everything is there when the store is opened again" shared::reopen;
        "DRV-C-29" "of many commits of one digest at once one wins" shared::commit_race;
        "DRV-C-30" "of many writers of one ref at once one holds it" shared::writer_race;
        "DRV-C-31" "many work side by side" shared::side_by_side;
        "DRV-C-32" "lives leave folder, umask, signals and descriptors as they were" shared::guest;
        "DRV-C-33" "capabilities stay as they are" blob::capabilities;
    }
}

fn name(text: &str) -> Result<IngestRef> {
    text.parse()
}

fn any() -> Expected {
    Expected::default()
}

fn exactly(data: &[u8]) -> Expected {
    Expected {
        size: Some(data.len() as u64),
        digest: Some(Algorithm::Sha256.digest(data)),
    }
}

fn no_labels() -> Labels {
    Labels::new()
}

/// Bytes that repeat nowhere, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// A committed blob of these bytes.
fn put(store: &dyn ContentStore, data: &[u8], labels: &Labels) -> Result<BlobInfo> {
    let mut writer = store.writer(&name("put")?, &any())?;
    writer.write(data)?;
    writer.commit(&any(), labels)
}

/// Fails unless the blob's bytes are these.
fn same(store: &dyn ContentStore, digest: &Digest, data: &[u8]) -> Result<()> {
    let reader = store.reader(digest)?;
    let size = reader.size();
    ensure(size == data.len() as u64, || {
        format!("blob {digest}: size {size}, want {}", data.len())
    })?;
    let mut found = vec![0; data.len()];
    containerkit::content::read_exact_at(&*reader, &mut found, 0)?;
    ensure(found == data, || format!("blob {digest}: other bytes"))
}

/// The error of a call that must fail with this kind.
fn failure<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<Error> {
    match result {
        Err(error) if error.kind() == kind => {
            let text = error.to_string();
            ensure(!text.contains('\n'), || {
                format!("{what}: the error has more than one line: {text:?}")
            })?;
            Ok(error)
        }
        result => crate::expect_kind(result, kind, what)
            .and(Err(Error::internal(format!("{what}: no error")))),
    }
}

fn offset(writer: &dyn IngestWriter) -> Result<u64> {
    Ok(writer.status()?.offset)
}
