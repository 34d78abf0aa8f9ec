//! A layer as a stream of tar entries, and what its bytes are wrapped in.
//!
//! The reader hands out entries with their extension headers already merged,
//! so that no caller sees a header's size where an extension says another.
//! Nothing here touches a file system.

pub(crate) mod compression;
pub(crate) mod entry;
pub(crate) mod number;
pub(crate) mod pax;
pub(crate) mod reader;
pub(crate) mod sparse;
pub(crate) mod writer;
