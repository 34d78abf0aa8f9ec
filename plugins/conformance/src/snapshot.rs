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
//! | `life` | commit, removal, mounts, abilities |

mod files;
mod lab;
mod life;
mod metadata;

use std::path::Path;
use std::sync::Arc;

use containerkit::{Result, Snapshotter};

use crate::{Case, CaseResult};

/// Opens an instance on this root, an existing folder. Called again with the
/// same root only after the instance before is dropped.
pub type Factory = dyn Fn(&Path) -> Result<Arc<dyn Snapshotter>>;

/// Every case, in the order of their ids.
pub fn cases() -> Vec<Case<Factory>> {
    let mut cases = metadata::CASES.to_vec();
    cases.extend_from_slice(&files::CASES);
    cases.extend_from_slice(&life::CASES);
    cases
        .into_iter()
        .map(|(id, name, run)| Case { id, name, run })
        .collect()
}

/// Runs the whole suite.
pub fn run(factory: &Factory) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}

type Row = (&'static str, &'static str, fn(&Factory) -> Result<()>);
