//! How much the volumes of one container may copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// What the volumes of one container may copy from its image, in bytes: an
/// image that compresses well must not fill the disk by being run. No image
/// of use seeds a volume with as much.
const DATA_LIMIT: u64 = 16 << 30;

/// As many files, folders and links: each takes an inode and time.
const ENTRY_LIMIT: u64 = 1_000_000;

/// What is left to copy, shared by the volumes of one container.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<Left>);

#[derive(Debug)]
struct Left {
    data: AtomicU64,
    entries: AtomicU64,
}

impl Allowance {
    pub(super) fn new(data: u64, entries: u64) -> Allowance {
        Allowance(Arc::new(Left {
            data: AtomicU64::new(data),
            entries: AtomicU64::new(entries),
        }))
    }

    pub(super) fn take_data(&self, bytes: u64) -> Result<()> {
        take(&self.0.data, bytes, || {
            format!("{} GiB of data", DATA_LIMIT >> 30)
        })
    }

    pub(super) fn take_entry(&self) -> Result<()> {
        take(&self.0.entries, 1, || format!("{ENTRY_LIMIT} entries"))
    }
}

fn take(left: &AtomicU64, amount: u64, limit: impl Fn() -> String) -> Result<()> {
    let less = |left: u64| left.checked_sub(amount);
    match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "the image fills the volumes of a container with more than {}",
                limit()
            ),
        )
        .with_hint("mount a folder of yours there: -v FOLDER:TARGET")),
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance::new(DATA_LIMIT, ENTRY_LIMIT)
    }
}

/// How much was copied does not make two volumes different.
impl PartialEq for Allowance {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Allowance {}
