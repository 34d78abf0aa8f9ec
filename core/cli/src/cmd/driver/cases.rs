//! The suites of a kind, case by case.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerkit::fs::ensure_dir;
use containerkit::{DriverContext, DriverKind, InstanceName, Result};
use containerkit_conformance::driver::Opened;
use containerkit_conformance::{Case, CaseResult, content, driver, runtime, snapshot};
use containerkit_plugin::host::Library;
use serde_json::{Map, Value};

/// A case's id and what it promises.
pub(super) type Row = (&'static str, &'static str);

fn rows<F: ?Sized>(cases: &[Case<F>]) -> Vec<Row> {
    cases.iter().map(|case| (case.id, case.name)).collect()
}

/// All cases of a kind, in the order in which they run.
pub(super) fn plan(kind: DriverKind) -> Vec<Row> {
    let mut all = rows(&driver::cases());
    all.extend(match kind {
        DriverKind::Runtime => rows(&runtime::cases()),
        DriverKind::Snapshotter => rows(&snapshot::cases()),
        DriverKind::Content => rows(&content::cases()),
        DriverKind::Network | DriverKind::Volume => Vec::new(),
    });
    all
}

/// The driver under test.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) library: Arc<Library>,
    pub(super) kind: DriverKind,
    pub(super) instance: InstanceName,
    pub(super) options: Map<String, Value>,
    /// How long one call may take.
    pub(super) limit: Duration,
}

impl Subject {
    /// The context of an instance with these folders.
    fn context(&self, context: &DriverContext) -> DriverContext {
        DriverContext::new(self.instance.clone(), &context.root, &context.state)
            .with_options(self.options.clone())
            .with_call_timeout(Some(self.limit))
    }

    /// An instance with the folders `root` and `state` in this one.
    pub(super) fn open(&self, dir: &Path) -> Result<Opened> {
        let context = self.context(&DriverContext::new(
            self.instance.clone(),
            dir.join("root"),
            dir.join("state"),
        ));
        let library = &self.library;
        Ok(match self.kind {
            DriverKind::Runtime => Opened::Runtime(library.runtime(context)?),
            DriverKind::Snapshotter => Opened::Snapshotter(library.snapshotter(context)?),
            _ => Opened::Content(library.content(context)?),
        })
    }

    /// Runs the cases from number `first` on; `begin` and `end` are called
    /// round each with its number.
    pub(super) fn run(
        &self,
        first: usize,
        scratch: &Path,
        begin: impl Fn(usize) -> Result<()>,
        end: impl Fn(usize, CaseResult) -> Result<()>,
    ) -> Result<()> {
        let general = driver::cases();
        let me = self.clone();
        let factory = move |dir: &Path| me.open(dir);
        let runner = Runner { first, begin, end };
        runner.all(0, &factory as &driver::Factory, &general)?;
        let before = general.len();
        let me = self.clone();
        match self.kind {
            DriverKind::Runtime => {
                let open = move |context| me.library.runtime(me.context(&context));
                let folders = runtime::Folders::new(scratch, open);
                runner.all(before, &folders as &dyn runtime::Factory, &runtime::cases())
            }
            DriverKind::Snapshotter => {
                let factory = move |root: &Path| {
                    let state = root.with_file_name("state");
                    ensure_dir(&state, 0o711)?;
                    let context = DriverContext::new(me.instance.clone(), root, state);
                    me.library.snapshotter(me.context(&context))
                };
                let factory: &snapshot::Factory = &factory;
                runner.all(before, factory, &snapshot::cases())
            }
            DriverKind::Content => {
                let open = move |context| me.library.content(me.context(&context));
                let folders = content::Folders::new(scratch, open);
                runner.all(before, &folders as &dyn content::Factory, &content::cases())
            }
            DriverKind::Network | DriverKind::Volume => Ok(()),
        }
    }
}

struct Runner<B, E> {
    first: usize,
    begin: B,
    end: E,
}

impl<B, E> Runner<B, E>
where
    B: Fn(usize) -> Result<()>,
    E: Fn(usize, CaseResult) -> Result<()>,
{
    /// Runs one suite, whose first case has number `before`.
    fn all<F: ?Sized>(&self, before: usize, factory: &F, cases: &[Case<F>]) -> Result<()> {
        for (index, case) in cases.iter().enumerate() {
            let number = before + index;
            if number < self.first {
                continue;
            }
            (self.begin)(number)?;
            let result = containerkit_conformance::run(factory, std::slice::from_ref(case));
            if let Some(result) = result.into_iter().next() {
                (self.end)(number, result)?;
            }
        }
        Ok(())
    }
}
