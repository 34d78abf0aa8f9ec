//! What long work tells whoever watches it.

use containerkit::Digest;

/// Which way a blob goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From a registry.
    Download,
    /// To a registry or a layout.
    Upload,
}

/// How a blob came to be where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its bytes were moved.
    Moved,
    /// It was there.
    There,
    /// The registry took it from another repository of its own.
    Mounted,
}

/// A step of a transfer. Never promised, and only for display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A blob begins to move.
    Begin {
        /// Which way.
        transfer: Transfer,
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Bytes of it that an earlier attempt has moved.
        offset: u64,
    },
    /// So far, at most some ten times a second.
    Progress {
        /// The blob.
        digest: Digest,
        /// Bytes that are there.
        bytes: u64,
    },
    /// Another process moves this blob: its result is waited for and shared.
    Waiting {
        /// The blob.
        digest: Digest,
        /// The process, as far as it is known.
        pid: Option<u32>,
    },
    /// A blob is where it should be.
    End {
        /// Which way.
        transfer: Transfer,
        /// The blob.
        digest: Digest,
        /// How.
        how: How,
    },
}

/// Whoever watches, from whatever thread.
pub type Watcher<'a> = &'a (dyn Fn(Event) + Sync);
