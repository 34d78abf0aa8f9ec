//! One entry of a tar stream, every extension header merged in.

use std::collections::BTreeMap;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    Directory,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// An entry without its data.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// As in the archive: not cleaned, any bytes but NUL.
    pub(crate) path: Vec<u8>,
    /// Target of a hard link or symlink.
    pub(crate) link: Vec<u8>,
    /// Bytes of a file, holes included.
    pub(crate) size: u64,
    /// Permission bits, setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch, nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where the data of a sparse file belong, in order: offset and length.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}
