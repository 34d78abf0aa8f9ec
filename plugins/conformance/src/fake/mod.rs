//! A driver of each contract that needs nothing installed and keeps nothing:
//! enough to try a suite on, and to test what is built on a contract without
//! one of the real drivers.
//!
//! They keep the promises of their contracts within one process; no other
//! process sees what they hold. Each can be cloned: a clone is another opening
//! of the same instance.

mod content;
mod runtime;
mod snapshot;

pub use content::{Memory, memories};
pub use runtime::{Processes, processes};
pub use snapshot::{Copying, copyings};
