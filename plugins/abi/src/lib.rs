//! The one crate that a containerkit driver names.

pub use containerkit::*;
pub use log;
/// What options and feature documents are made of.
pub use serde_json;

mod export;

#[doc(hidden)]
pub mod abi;

#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub use host::{AbiVersion, Declaration, Library, Tried, declaration, search};
