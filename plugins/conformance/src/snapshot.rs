//! The suite of the [`Snapshotter`] contract.
//!
//! Every case opens instances on a root of its own, and mounts by
//! [`containerkit::mounter::mount_detached`], so that nothing stays mounted
//! whatever happens. It needs root, as mounting does.
//!
//! | module | what is promised |
//! |---|---|
//! | `lab` | no case: roots, layers, comparing trees |
//! | `metadata` | keys, kinds, labels, times, listings |
//! | `files` | what a layer above shows of the layers below |
//! | `inodes` | what programs hold on to |
//! | `life` | commit, removal, mounts, many at a time |
//! | `abilities` | what a capability promises |

mod abilities;
mod files;
mod inodes;
mod lab;
mod life;
mod metadata;

use std::path::Path;
use std::sync::Arc;

use containerkit::{DriverContext, Result, Snapshotter};

use crate::apart::apart;
use crate::{Case, CaseResult};

/// Opens an instance on this root, an existing folder. Called again with the
/// same root only after the instance before is dropped.
pub type Factory = dyn Fn(&Path) -> Result<Arc<dyn Snapshotter>>;

/// Every case, in the order of their ids.
pub fn cases() -> Vec<Case<Factory>> {
    let mut cases = metadata::CASES.to_vec();
    cases.extend_from_slice(&files::CASES);
    cases.extend_from_slice(&inodes::CASES);
    cases.extend_from_slice(&life::CASES);
    cases.extend_from_slice(&abilities::CASES);
    cases.sort_by_key(|(id, ..)| *id);
    cases
        .into_iter()
        .map(|(id, name, run)| Case { id, name, run })
        .collect()
}

/// Runs the whole suite.
pub fn run(factory: &Factory) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}

/// The [`Factory`] of a driver that is opened from a [`DriverContext`].
pub fn opener(
    open: impl Fn(DriverContext) -> Result<Arc<dyn Snapshotter>> + 'static,
) -> Box<Factory> {
    Box::new(move |root| {
        let state = root.join("state");
        containerkit::fs::ensure_dir(&state, 0o700)?;
        open(DriverContext::new("conformance".parse()?, root, state))
    })
}

/// A driver's whole test: the suite in a process of its own. `unsupported` are
/// the ids of the cases that the driver declares it cannot do.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use containerkit::{DriverContext, Result, Snapshotter};
/// # fn open(context: DriverContext) -> Result<Arc<dyn Snapshotter>> { unimplemented!() }
/// containerkit_conformance::snapshot::conforms(open, &["DRV-S-60"]);
/// ```
///
/// # Panics
/// With a table of the cases that did not pass.
pub fn conforms(
    open: impl Fn(DriverContext) -> Result<Arc<dyn Snapshotter>> + 'static,
    unsupported: &[&str],
) {
    crate::assert_conforms(&apart(|| suite(open)), unsupported);
}

/// Runs every case in this process.
pub fn suite(
    open: impl Fn(DriverContext) -> Result<Arc<dyn Snapshotter>> + 'static,
) -> Vec<CaseResult> {
    run(&*opener(open))
}

type Row = (&'static str, &'static str, fn(&Factory) -> Result<()>);
