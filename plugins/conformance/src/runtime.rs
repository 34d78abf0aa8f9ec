//! What every [`Runtime`] promises, as cases DRV-R-01 and on.
//!
//! A [`Factory`] makes a [`Fixture`], a runtime that knows no container, for
//! each case; [`Fixture::open`] opens it again, as another process would.
//! [`Folders`] is both, for every driver that is opened from a
//! [`DriverContext`], and [`conforms`] a driver's whole test:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use containerkit::{DriverContext, Result, Runtime};
//! # fn open(context: DriverContext) -> Result<Arc<dyn Runtime>> { unimplemented!() }
//! use containerkit_conformance::{assert_conforms, runtime};
//! runtime::conforms(open, &[]);
//! // The same, in this process and in a folder of the caller's:
//! let folder = std::path::Path::new("/some/scratch");
//! assert_conforms(&runtime::run(&runtime::Folders::new(folder, open)), &[]);
//! ```
//!
//! The cases start real containers, so they need what the runtime needs (root,
//! as a rule) and a statically linked `/bin/busybox`. Running them makes the
//! process a subreaper, which it stays: exit statuses come to its parent or to
//! a subreaper only. Nothing but the suite's own processes is reaped.

mod ends;
mod exec;
mod host;
mod life;
mod limits;
mod names;
mod streams;

use std::path::Path;
use std::sync::Arc;

use containerkit::runtime::DeleteMode;
use containerkit::{DriverContext, Result, Runtime};

use crate::apart::apart;
use crate::folders::{Folder, Scratch};
use crate::{Case, CaseResult};

/// One instance of a runtime, without containers at first.
pub trait Fixture {
    /// Opens the instance. Called again while the first is open, it gives
    /// what another process would have; a fixture that cannot open twice in a
    /// process may give the same again.
    fn open(&self) -> Result<Arc<dyn Runtime>>;

    /// A scratch folder for bundles, removed with the fixture.
    fn folder(&self) -> &Path;
}

/// Makes a fresh instance for each case.
pub trait Factory {
    /// An instance of its own, removed when the fixture is dropped.
    fn fixture(&self) -> Result<Box<dyn Fixture>>;
}

/// Instances in folders of their own, each opened by one function.
pub type Folders = crate::Folders<dyn Runtime>;

impl Factory for Folders {
    fn fixture(&self) -> Result<Box<dyn Fixture>> {
        Ok(Box::new(self.fresh()?))
    }
}

impl Fixture for Folder<dyn Runtime> {
    fn open(&self) -> Result<Arc<dyn Runtime>> {
        Folder::open(self)
    }

    fn folder(&self) -> &Path {
        &self.work
    }
}

/// A driver's whole test: the suite in a process of its own, on instances in a
/// scratch folder. `unsupported` are the ids of the cases that the driver
/// declares it cannot do.
///
/// # Panics
/// With a table of the cases that did not pass.
pub fn conforms(
    open: impl Fn(DriverContext) -> Result<Arc<dyn Runtime>> + 'static,
    unsupported: &[&str],
) {
    crate::assert_conforms(&apart(|| suite(open)), unsupported);
}

/// Runs every case, in this process, on instances in a scratch folder.
///
/// # Panics
/// When the scratch folder cannot be made.
pub fn suite(
    open: impl Fn(DriverContext) -> Result<Arc<dyn Runtime>> + 'static,
) -> Vec<CaseResult> {
    let scratch = Scratch::new().unwrap_or_else(|error| panic!("{error}"));
    run(&Folders::new(scratch.path(), open))
}

const fn case(
    id: &'static str,
    name: &'static str,
    run: fn(&(dyn Factory + 'static)) -> Result<()>,
) -> Case<dyn Factory> {
    Case { id, name, run }
}

/// Every case.
pub fn cases() -> Vec<Case<dyn Factory>> {
    let mut all = Vec::new();
    all.extend(life::CASES);
    all.extend(ends::CASES);
    all.extend(names::CASES);
    all.extend(exec::CASES);
    all.extend(streams::CASES);
    all.extend(limits::CASES);
    all
}

/// Runs every case.
pub fn run(factory: &(dyn Factory + 'static)) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}

/// A container's whole life, with files in a folder of temporary ones.
pub(crate) fn visit(runtime: &Arc<dyn Runtime>, name: &str) -> Result<()> {
    struct Visited(Arc<dyn Runtime>, Scratch);
    impl Fixture for Visited {
        fn open(&self) -> Result<Arc<dyn Runtime>> {
            Ok(Arc::clone(&self.0))
        }
        fn folder(&self) -> &Path {
            self.1.path()
        }
    }
    let fixture = Visited(Arc::clone(runtime), Scratch::new()?);
    let host = host::Host::of(Box::new(fixture))?;
    let (container, exit) = host.ended(name, "exit 3")?;
    crate::equal(exit, host::Exit::Code(3), "the end of `exit 3`")?;
    runtime.delete(&container.id, DeleteMode::Stopped)
}
