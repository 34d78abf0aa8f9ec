//! Values that cross by value. Each is frozen within a major version: a field
//! more changes its size and every driver's layout. What a minor version must
//! add travels in `ext`, a JSON object or empty, or in a method of its own.
//!
//! Kinds are open numbers, never enums; paths are bytes; times are
//! nanoseconds since 1970; descriptors are plain numbers whose ownership
//! moves to the receiver, -1 for none.

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RResult, RString, RVec, Tuple2};

pub type FResult<T> = RResult<T, FError>;
pub type FLabels = RVec<Tuple2<RString, RString>>;
pub type FOptionalLabels = RVec<Tuple2<RString, ROption<RString>>>;

/// `containerkit::Error`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FError {
    /// `ErrorKind::code`.
    pub kind: u32,
    /// `ExecFailure`, 0 for none.
    pub exec: u32,
    pub message: RString,
    pub driver: ROption<RString>,
    pub operation: ROption<RString>,
    pub source: ROption<RString>,
    pub hint: ROption<RString>,
    pub ext: RString,
}

/// `containerkit::Mount`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FMount {
    pub fstype: RString,
    pub source: RString,
    pub target: RString,
    pub options: RVec<RString>,
    pub ext: RString,
}

/// `containerkit::Usage`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FUsage {
    pub size: u64,
    pub inodes: u64,
    pub ext: RString,
}

/// `containerkit::Page`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FPage {
    pub after: ROption<RString>,
    pub limit: u32,
    pub ext: RString,
}

/// `containerkit::LabelChanges`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FLabelChanges {
    pub replace_all: bool,
    pub set: FOptionalLabels,
    pub ext: RString,
}

/// `containerkit::snapshot::SnapshotInfo`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FSnapshotInfo {
    pub key: RString,
    /// `SnapshotKind::code`.
    pub kind: u32,
    pub parent: ROption<RString>,
    pub labels: FLabels,
    pub created: i64,
    pub updated: i64,
    pub ext: RString,
}

/// `containerkit::snapshot::SnapshotFilter`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FSnapshotFilter {
    /// `SnapshotKind::code`, 0 for any.
    pub kind: u32,
    /// Whether `parent` is a condition.
    pub by_parent: bool,
    pub parent: ROption<RString>,
    pub labels: FOptionalLabels,
    pub ext: RString,
}

/// `containerkit::snapshot::CommitOptions`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FCommitOptions {
    pub labels: FLabels,
    pub parent: ROption<RString>,
    pub ext: RString,
}

/// `containerkit::content::BlobInfo`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FBlobInfo {
    pub digest: RString,
    pub size: u64,
    pub labels: FLabels,
    pub created: i64,
    pub updated: i64,
    pub ext: RString,
}

/// `containerkit::content::BlobFilter`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FBlobFilter {
    pub labels: FOptionalLabels,
    pub ext: RString,
}

/// `containerkit::content::Expected`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FExpected {
    pub size: ROption<u64>,
    pub digest: ROption<RString>,
    pub ext: RString,
}

/// `containerkit::content::IngestStatus`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FIngestStatus {
    pub name: RString,
    pub offset: u64,
    pub total: ROption<u64>,
    pub expected: ROption<RString>,
    pub started: i64,
    pub updated: i64,
    pub holder: ROption<u32>,
    pub ext: RString,
}

/// `containerkit::runtime::Stdio`: a console when its path is not empty, else
/// three descriptors, which belong to the callee from the call on, whatever
/// it returns.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FStdio {
    pub stdin: i32,
    pub stdout: i32,
    pub stderr: i32,
    pub console: RVec<u8>,
    pub ext: RString,
}

/// `containerkit::runtime::CreateRequest`.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FCreateRequest {
    pub bundle: RVec<u8>,
    pub stdio: FStdio,
    pub ext: RString,
}

/// `containerkit::runtime::ExecRequest`; the process is the JSON of the
/// runtime-spec.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FExecRequest {
    pub process_json: RString,
    pub stdio: FStdio,
    pub ext: RString,
}

/// `containerkit::runtime::StartedProcess`; the pidfd belongs to the caller.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FStarted {
    pub pid: u32,
    pub pidfd: i32,
    pub start_time: u64,
    pub ext: RString,
}
