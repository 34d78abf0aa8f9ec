//! What long work tells whoever watches it.

use containerkit::Digest;

/// A step of an import or an unpacking. Never promised, and only for display.
///
/// Events of different layers come from different threads, mixed.
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
    /// So far, at most some ten times a second.
    StoringProgress {
        /// The blob.
        digest: Digest,
        /// Bytes that are stored.
        bytes: u64,
    },
    /// A blob is stored, or was already.
    Stored {
        /// The blob.
        digest: Digest,
    },
    /// Another process unpacks this layer: its result is waited for and shared.
    Waiting {
        /// The layer's place, from 1.
        layer: usize,
        /// How many there are.
        layers: usize,
        /// The process, as far as it is known.
        pid: Option<u32>,
    },
    /// A layer is being unpacked. A second one for the same layer begins it
    /// anew, for it needs the layers below after all.
    Unpacking {
        /// The layer's place, from 1.
        layer: usize,
        /// How many there are.
        layers: usize,
        /// The uncompressed layer's digest.
        diff_id: Digest,
        /// The blob's size in bytes.
        size: u64,
    },
    /// So far, at most some ten times a second for each layer.
    Progress {
        /// The layer's place, from 1.
        layer: usize,
        /// Bytes of the blob that are read.
        read: u64,
        /// Uncompressed bytes that are applied.
        bytes: u64,
    },
    /// A layer is written whole and is what it should be. It is neither durable
    /// nor committed.
    Applied {
        /// The layer's place, from 1.
        layer: usize,
        /// Entries that were written.
        entries: u64,
        /// Uncompressed bytes.
        bytes: u64,
    },
    /// What was written is being made durable.
    Syncing {
        /// How many layers it is.
        layers: usize,
    },
    /// A layer is unpacked and durable, or was already.
    Unpacked {
        /// The layer's place, from 1.
        layer: usize,
        /// Entries that were written; 0 when it was there already.
        entries: u64,
        /// Uncompressed bytes; 0 when it was there already.
        bytes: u64,
    },
}

/// Whoever watches, from whatever thread.
pub type Watcher<'a> = &'a (dyn Fn(Event) + Sync);

/// A receiver that ignores everything.
pub fn ignore(_: Event) {}
