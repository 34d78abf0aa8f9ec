//! Instances in folders of their own, for every driver that is opened from a
//! [`DriverContext`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::{DriverContext, Result};

type Open<D> = dyn Fn(DriverContext) -> Result<Arc<D>>;

/// Fixtures in folders beneath one that the caller gives and removes, each
/// opened by one function. `D` is the contract: `dyn ContentStore`.
pub struct Folders<D: ?Sized> {
    base: PathBuf,
    open: Arc<Open<D>>,
}

impl<D: ?Sized> Folders<D> {
    /// Fixtures beneath `base`, each opened by `open`.
    pub fn new(
        base: &Path,
        open: impl Fn(DriverContext) -> Result<Arc<D>> + 'static,
    ) -> Folders<D> {
        Folders {
            base: base.to_path_buf(),
            open: Arc::new(open),
        }
    }

    /// A folder that nobody had, removed when it is dropped.
    pub(crate) fn fresh(&self) -> Result<Folder<D>> {
        let top = self.base.join(containerkit::fs::unique_name("suite"));
        for name in ["root", "state", "work"] {
            containerkit::fs::ensure_dir(&top.join(name), 0o700)?;
        }
        Ok(Folder {
            work: top.join("work"),
            top,
            open: Arc::clone(&self.open),
        })
    }
}

/// One instance's folders.
pub(crate) struct Folder<D: ?Sized> {
    top: PathBuf,
    /// For what a case writes itself.
    pub(crate) work: PathBuf,
    open: Arc<Open<D>>,
}

impl<D: ?Sized> Folder<D> {
    /// The instance; a second one when it is open already.
    pub(crate) fn open(&self) -> Result<Arc<D>> {
        let (root, state) = (self.top.join("root"), self.top.join("state"));
        (self.open)(DriverContext::new("conformance".parse()?, root, state))
    }
}

impl<D: ?Sized> Drop for Folder<D> {
    fn drop(&mut self) {
        let _ = containerkit::fs::remove_tree_path(&self.top);
    }
}

/// A folder for one run of a suite, gone when it is dropped. Others may pass
/// through it, as the users of a container must.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Scratch> {
        let path = std::env::temp_dir().join(containerkit::fs::unique_name("containerkit-suite"));
        containerkit::fs::ensure_dir(&path, 0o711)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = containerkit::fs::remove_tree_path(&self.0);
    }
}
