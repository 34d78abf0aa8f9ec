//! What every [`Runtime`] promises, as cases DRV-R-01 and on.
//!
//! A [`Factory`] makes a [`Fixture`], a runtime that knows no container, for
//! each case; [`Fixture::open`] opens it again, as another process would.
//! [`Folders`] is both, for every driver that is opened from a
//! [`DriverContext`]:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use containerkit::{DriverContext, Result, Runtime};
//! # fn open(context: DriverContext) -> Result<Arc<dyn Runtime>> { unimplemented!() }
//! use containerkit_conformance::{assert_conforms, runtime};
//! let folder = std::path::Path::new("/some/scratch");
//! assert_conforms(&runtime::run(&runtime::Folders::new(folder, open)), &[]);
//! ```
//!
//! The cases start real containers, so they need what the runtime needs (root,
//! as a rule) and a statically linked `/bin/busybox`. Running them makes the
//! process a subreaper, which it stays: exit statuses come to its parent or to
//! a subreaper only. Nothing but the suite's own processes is reaped.

mod exec;
mod host;
mod life;
mod limits;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::{DriverContext, Result, Runtime};

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

/// Instances in folders beneath one that the caller gives and removes.
pub struct Folders<F> {
    base: PathBuf,
    open: Arc<F>,
}

impl<F> Folders<F>
where
    F: Fn(DriverContext) -> Result<Arc<dyn Runtime>> + 'static,
{
    /// Fixtures beneath `base`, each opened by `open`.
    pub fn new(base: &Path, open: F) -> Folders<F> {
        Folders {
            base: base.to_path_buf(),
            open: Arc::new(open),
        }
    }
}

impl<F> Factory for Folders<F>
where
    F: Fn(DriverContext) -> Result<Arc<dyn Runtime>> + 'static,
{
    fn fixture(&self) -> Result<Box<dyn Fixture>> {
        let top = self.base.join(containerkit::fs::unique_name("runtime"));
        for name in ["root", "state", "work"] {
            containerkit::fs::ensure_dir(&top.join(name), 0o700)?;
        }
        Ok(Box::new(Folder {
            work: top.join("work"),
            top,
            open: Arc::clone(&self.open),
        }))
    }
}

struct Folder<F> {
    top: PathBuf,
    work: PathBuf,
    open: Arc<F>,
}

impl<F> Fixture for Folder<F>
where
    F: Fn(DriverContext) -> Result<Arc<dyn Runtime>>,
{
    fn open(&self) -> Result<Arc<dyn Runtime>> {
        (self.open)(DriverContext::new(
            "conformance".parse()?,
            self.top.join("root"),
            self.top.join("state"),
        ))
    }

    fn folder(&self) -> &Path {
        &self.work
    }
}

impl<F> Drop for Folder<F> {
    fn drop(&mut self) {
        let _ = containerkit::fs::remove_tree_path(&self.top);
    }
}

/// Every case.
pub fn cases() -> Vec<Case<dyn Factory>> {
    let mut all = Vec::new();
    all.extend(life::CASES);
    all.extend(exec::CASES);
    all.extend(limits::CASES);
    all
}

/// Runs every case.
pub fn run(factory: &(dyn Factory + 'static)) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}
