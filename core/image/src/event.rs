//! What long work tells whoever watches it.

use containerkit::Digest;

/// A step of an import or an unpacking. Never promised, and only for display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A blob is being stored.
    Storing {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob is stored, or was already.
    Stored {
        /// The blob.
        digest: Digest,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// The layer's place, from 1.
        layer: usize,
        /// How many there are.
        layers: usize,
        /// The uncompressed layer's digest.
        diff_id: Digest,
    },
    /// A layer is unpacked, or was already.
    Unpacked {
        /// The layer's place, from 1.
        layer: usize,
        /// Entries that were written; 0 when it was there already.
        entries: u64,
        /// Uncompressed bytes; 0 when it was there already.
        bytes: u64,
    },
}

/// A receiver that ignores everything.
pub fn ignore(_: Event) {}
