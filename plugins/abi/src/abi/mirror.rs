//! The trait objects and the module. They grow in minor versions: a method is
//! only ever appended, with a default body, and `last_prefix_field` stays on
//! the last method of 1.0.

#![allow(unsafe_code)]

use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RArc, RBox, ROption, RSlice, RSliceMut, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait};

use super::value::*;

/// What a driver's shared object is given once, when it is loaded.
#[sabi_trait]
pub trait FLogger: Send + Sync {
    /// `log::LevelFilter` as a number, 0 off to 5 trace.
    fn max_level(&self) -> u32;
    #[sabi(last_prefix_field)]
    fn log(&self, level: u32, target: RStr<'_>, message: RStr<'_>);
}
pub type FLoggerArc = FLogger_TO<'static, RArc<()>>;

/// What an instance is given when it is opened: `DriverContext`.
#[sabi_trait]
pub trait FHost: Send + Sync {
    fn instance(&self) -> RStr<'_>;
    fn root(&self) -> RSlice<'_, u8>;
    fn state(&self) -> RSlice<'_, u8>;
    /// A JSON object.
    #[sabi(last_prefix_field)]
    fn options_json(&self) -> RStr<'_>;
}
pub type FHostArc = FHost_TO<'static, RArc<()>>;

/// `containerkit::Snapshotter`.
#[sabi_trait]
pub trait FSnapshotter: Send + Sync {
    fn capabilities(&self) -> FResult<u64>;
    fn stat(&self, key: RStr<'_>) -> FResult<FSnapshotInfo>;
    fn update(&self, key: RStr<'_>, changes: FLabelChanges) -> FResult<FSnapshotInfo>;
    fn usage(&self, key: RStr<'_>) -> FResult<FUsage>;
    fn mounts(&self, key: RStr<'_>) -> FResult<RVec<FMount>>;
    fn prepare(
        &self,
        key: RStr<'_>,
        parent: ROption<RStr<'_>>,
        labels: FLabels,
    ) -> FResult<RVec<FMount>>;
    fn view(
        &self,
        key: RStr<'_>,
        parent: ROption<RStr<'_>>,
        labels: FLabels,
    ) -> FResult<RVec<FMount>>;
    fn commit(
        &self,
        name: RStr<'_>,
        active: RStr<'_>,
        options: FCommitOptions,
    ) -> FResult<FSnapshotInfo>;
    fn remove(&self, key: RStr<'_>) -> FResult<()>;
    fn walk(&self, filter: FSnapshotFilter, page: FPage) -> FResult<RVec<FSnapshotInfo>>;
    fn cleanup(&self) -> FResult<FUsage>;
    #[sabi(last_prefix_field)]
    fn upper(&self, key: RStr<'_>) -> FResult<RVec<u8>>;
}
pub type FSnapshotterBox = FSnapshotter_TO<'static, RBox<()>>;

/// `containerkit::ContentStore`.
#[sabi_trait]
pub trait FContent: Send + Sync {
    fn capabilities(&self) -> FResult<u64>;
    fn info(&self, digest: RStr<'_>) -> FResult<FBlobInfo>;
    fn update(&self, digest: RStr<'_>, changes: FLabelChanges) -> FResult<FBlobInfo>;
    fn walk(&self, filter: FBlobFilter, page: FPage) -> FResult<RVec<FBlobInfo>>;
    fn delete(&self, digest: RStr<'_>) -> FResult<()>;
    fn reader(&self, digest: RStr<'_>) -> FResult<FReader_TO<'static, RBox<()>>>;
    fn writer(&self, name: RStr<'_>, expected: FExpected)
    -> FResult<FWriter_TO<'static, RBox<()>>>;
    fn status(&self, name: RStr<'_>) -> FResult<FIngestStatus>;
    fn list_statuses(&self) -> FResult<RVec<FIngestStatus>>;
    #[sabi(last_prefix_field)]
    fn abort(&self, name: RStr<'_>) -> FResult<()>;
}
pub type FContentBox = FContent_TO<'static, RBox<()>>;

/// `containerkit::content::BlobReader`.
#[sabi_trait]
pub trait FReader: Send + Sync {
    fn size(&self) -> FResult<u64>;
    fn read_at(&self, buf: RSliceMut<'_, u8>, offset: u64) -> FResult<u64>;
    /// -1 when the blob is not a file.
    #[sabi(last_prefix_field)]
    fn as_fd(&self) -> FResult<i32>;
}
pub type FReaderBox = FReader_TO<'static, RBox<()>>;

/// `containerkit::content::IngestWriter`.
#[sabi_trait]
pub trait FWriter: Send {
    fn write(&mut self, data: RSlice<'_, u8>) -> FResult<()>;
    fn status(&self) -> FResult<FIngestStatus>;
    fn truncate(&mut self, size: u64) -> FResult<()>;
    #[sabi(last_prefix_field)]
    fn commit(&mut self, expected: FExpected, labels: FLabels) -> FResult<FBlobInfo>;
}
pub type FWriterBox = FWriter_TO<'static, RBox<()>>;

/// `containerkit::Runtime`. What is rare or large crosses as the JSON of its
/// contract type.
#[sabi_trait]
pub trait FRuntime: Send + Sync {
    fn capabilities(&self) -> FResult<u64>;
    /// `RuntimeInfo`.
    fn info(&self) -> FResult<RString>;
    fn create(&self, id: RStr<'_>, request: FCreateRequest) -> FResult<FStarted>;
    fn start(&self, id: RStr<'_>) -> FResult<()>;
    fn run(&self, id: RStr<'_>, request: FCreateRequest) -> FResult<FStarted>;
    fn kill(&self, id: RStr<'_>, signal: i32, all: bool) -> FResult<()>;
    fn delete(&self, id: RStr<'_>, force: bool) -> FResult<()>;
    fn exec(&self, id: RStr<'_>, request: FExecRequest) -> FResult<FStarted>;
    /// `RuntimeState`.
    fn state(&self, id: RStr<'_>) -> FResult<RString>;
    /// An array of `RuntimeState`.
    fn list(&self) -> FResult<RString>;
    /// An array of `ProcessEntry`.
    fn ps(&self, id: RStr<'_>) -> FResult<RString>;
    fn pause(&self, id: RStr<'_>) -> FResult<()>;
    fn resume(&self, id: RStr<'_>) -> FResult<()>;
    /// `LinuxResources` of the runtime-spec.
    fn update(&self, id: RStr<'_>, resources_json: RStr<'_>) -> FResult<()>;
    /// `Stats`.
    fn stats(&self, id: RStr<'_>) -> FResult<RString>;
    /// `CheckpointRequest`.
    fn checkpoint(&self, id: RStr<'_>, request_json: RStr<'_>) -> FResult<()>;
    #[sabi(last_prefix_field)]
    fn restore(
        &self,
        id: RStr<'_>,
        request: FCreateRequest,
        checkpoint_json: RStr<'_>,
    ) -> FResult<FStarted>;
}
pub type FRuntimeBox = FRuntime_TO<'static, RBox<()>>;

/// A driver's module: one optional constructor a kind.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = DriverModule_Ref, prefix_fields = DriverModule_Prefix)))]
#[sabi(missing_field(option))]
pub struct DriverModule {
    /// Called once, before anything else.
    pub init: extern "C" fn(FLoggerArc),
    /// The level changed.
    pub set_log_level: extern "C" fn(u32),
    /// The JSON of `DriverInfo`, by `DriverKind::bit`.
    pub info: extern "C" fn(u32) -> FResult<RString>,
    pub runtime: ROption<extern "C" fn(FHostArc) -> FResult<FRuntimeBox>>,
    pub snapshotter: ROption<extern "C" fn(FHostArc) -> FResult<FSnapshotterBox>>,
    #[sabi(last_prefix_field)]
    pub content: ROption<extern "C" fn(FHostArc) -> FResult<FContentBox>>,
}

impl RootModule for DriverModule_Ref {
    abi_stable::declare_root_module_statics! {DriverModule_Ref}
    const BASE_NAME: &'static str = "containerkit_driver";
    const NAME: &'static str = "containerkit_driver";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
