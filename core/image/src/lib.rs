//! OCI images as data: apply a layer, import an archive, resolve a platform,
//! unpack into a snapshotter.
//!
//! Usable alone: the stores are `containerkit`'s traits, and applying needs no
//! more than a folder. There is no registry here and no record of names.
//!
//! | module | what lives there |
//! |---|---|
//! | [`apply`](mod@apply) | one layer onto a directory tree |
//! | [`copy`](mod@copy) | files from one tree to another, or as an archive |
//! | [`diff`](mod@diff) | what changed between two trees, and the layer that tells it |
//! | [`export`](mod@export) | images into layouts and archives |
//! | [`import`](mod@import) | layouts and archives into a content store |
//! | [`pack`](mod@pack) | a changed tree as an image |
//! | [`mod@resolve`] | from an index to one platform's manifest, config and layers |
//! | [`unpack`](mod@unpack) | layers into committed snapshots |
//! | [`mirror`] | two trees compared, and made equal |
//! | [`migrate`](mod@migrate) | committed snapshots into another snapshotter |
//! | [`gc`] | what nothing needs any more |
//! | [`check`](mod@check) | whether what is stored is whole, and mending it |

pub mod apply;
pub mod check;
pub mod copy;
pub mod diff;
mod document;
pub mod event;
pub mod export;
pub mod gc;
pub mod import;
mod layer;
mod limits;
pub mod migrate;
pub mod mirror;
pub mod pack;
pub mod resolve;
pub mod unpack;

pub use apply::{Applied, ApplyOptions, WhiteoutForm, apply};
pub use containerkit::{Cancel, PlatformChoice};
pub use diff::{Change, ChangeKind, DiffOptions, Diffed, diff};
pub use event::{Event, Watcher};
pub use export::{ExportFormat, ExportOptions, export};
pub use import::{ImportOptions, Imported, Role, import};
pub use limits::Limits;
pub use pack::{PackOptions, Packed, pack};
pub use resolve::{Image, Layer, describe, descriptor, is_complete, offers, platforms, resolve};
pub use unpack::{UnpackOptions, unpack};

/// Bytes of an image, quoted for an error line.
pub(crate) fn show(bytes: &[u8]) -> String {
    containerkit::quote(&String::from_utf8_lossy(bytes))
}
