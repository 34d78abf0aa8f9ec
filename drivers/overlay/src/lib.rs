//! The `overlay` driver of containerkit: snapshots as folders that the
//! kernel's overlay file system stacks.

mod driver;

pub use driver::Overlay;
