//! A driver of all three kinds that does nothing but tell what it was opened
//! with: what this crate's tests load.

use containerkit_plugin::content::*;
use containerkit_plugin::runtime::*;
use containerkit_plugin::snapshot::*;
use containerkit_plugin::*;

struct Probe<const KIND: u32>(DriverContext);

impl<const KIND: u32> Driver for Probe<KIND> {
    fn info() -> DriverInfo {
        let mut kinds = DriverKind::ALL.into_iter();
        DriverInfo {
            name: "probe".into(),
            version: "1.2.3".into(),
            kind: kinds
                .find(|kind| kind.bit() == KIND)
                .unwrap_or(DriverKind::Volume),
            options: vec![
                OptionSpec::new("fail", OptionKind::String, "", "How to fail."),
                OptionSpec::new("word", OptionKind::String, "", "Anything."),
            ],
        }
    }

    fn open(context: DriverContext) -> Result<Self> {
        match context.string("fail")?.as_deref() {
            Some("not_found") => Err(Error::not_found("no program to run")),
            Some("panic") => panic!("as asked"),
            _ => Ok(Probe(context)),
        }
    }
}

fn no<T>() -> Result<T> {
    Err(Error::unimplemented("anything"))
}

impl Runtime for Probe<{ DriverKind::Runtime as u32 }> {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            pause: true,
            ..RuntimeCapabilities::default()
        }
    }
    /// The context, as text.
    fn info(&self) -> Result<RuntimeInfo> {
        let DriverContext { root, state, .. } = &self.0;
        Ok(RuntimeInfo {
            name: self.0.instance.to_string(),
            version: format!(
                "{}|{}|{}",
                root.display(),
                state.display(),
                self.0.string("word")?.unwrap_or_default()
            ),
            ..RuntimeInfo::default()
        })
    }
    fn create(&self, _: &ContainerId, _: CreateRequest) -> Result<StartedProcess> {
        no()
    }
    fn start(&self, _: &ContainerId) -> Result<()> {
        no()
    }
    fn kill(&self, _: &ContainerId, _: i32, _: KillScope) -> Result<()> {
        no()
    }
    fn delete(&self, _: &ContainerId, _: DeleteMode) -> Result<()> {
        no()
    }
    fn exec(&self, _: &ContainerId, _: ExecRequest) -> Result<StartedProcess> {
        no()
    }
    fn state(&self, _: &ContainerId) -> Result<RuntimeState> {
        no()
    }
    fn list(&self) -> Result<Vec<RuntimeState>> {
        no()
    }
}

impl Snapshotter for Probe<{ DriverKind::Snapshotter as u32 }> {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities {
            rebase: true,
            ..SnapshotterCapabilities::default()
        }
    }
    fn stat(&self, _: &SnapshotKey) -> Result<SnapshotInfo> {
        no()
    }
    fn update(&self, _: &SnapshotKey, _: &LabelChanges) -> Result<SnapshotInfo> {
        no()
    }
    fn usage(&self, _: &SnapshotKey) -> Result<Usage> {
        no()
    }
    fn mounts(&self, _: &SnapshotKey) -> Result<Vec<Mount>> {
        no()
    }
    fn prepare(&self, _: &SnapshotKey, _: Option<&SnapshotKey>, _: &Labels) -> Result<Vec<Mount>> {
        no()
    }
    fn view(&self, _: &SnapshotKey, _: Option<&SnapshotKey>, _: &Labels) -> Result<Vec<Mount>> {
        no()
    }
    fn commit(&self, _: &SnapshotKey, _: &SnapshotKey, _: &CommitOptions) -> Result<SnapshotInfo> {
        no()
    }
    fn remove(&self, _: &SnapshotKey) -> Result<()> {
        no()
    }
    fn walk(&self, _: &SnapshotFilter, _: &Page) -> Result<Vec<SnapshotInfo>> {
        no()
    }
    fn cleanup(&self) -> Result<Usage> {
        no()
    }
}

impl ContentStore for Probe<{ DriverKind::Content as u32 }> {
    fn capabilities(&self) -> ContentCapabilities {
        ContentCapabilities { fd: true }
    }
    fn info(&self, _: &Digest) -> Result<BlobInfo> {
        no()
    }
    fn update(&self, _: &Digest, _: &LabelChanges) -> Result<BlobInfo> {
        no()
    }
    fn walk(&self, _: &BlobFilter, _: &Page) -> Result<Vec<BlobInfo>> {
        no()
    }
    fn delete(&self, _: &Digest) -> Result<()> {
        no()
    }
    fn reader(&self, _: &Digest) -> Result<Box<dyn BlobReader>> {
        no()
    }
    fn writer(&self, _: &IngestRef, _: &Expected) -> Result<Box<dyn IngestWriter>> {
        no()
    }
    fn status(&self, _: &IngestRef) -> Result<IngestStatus> {
        no()
    }
    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        no()
    }
    fn abort(&self, _: &IngestRef) -> Result<()> {
        no()
    }
}

containerkit_plugin::export_driver!(
    runtime: Probe<{ DriverKind::Runtime as u32 }>,
    snapshotter: Probe<{ DriverKind::Snapshotter as u32 }>,
    content: Probe<{ DriverKind::Content as u32 }>,
);
