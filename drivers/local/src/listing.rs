//! The sorted names of a folder of blobs, kept between the pages of a walk.
//!
//! A folder has no order, so each page would read all of it again. Names are
//! used again only while the folder's change time says that nothing was added
//! or removed, and only if that time was well past when they were read: within
//! one tick of a file system's clock two changes look like one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerkit::{Algorithm, IoContext, Result, Timestamp};
use rustix::fs::Stat;

/// Ten times the coarsest tick there is.
const SETTLED: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Names {
    dir: PathBuf,
    changed: Timestamp,
    names: Arc<Vec<Box<str>>>,
}

/// What an instance keeps: the folder it walked last.
#[derive(Debug, Default)]
pub(crate) struct Listing(Mutex<Option<Names>>);

impl Listing {
    /// The names in a folder that have a digest's length, in order.
    pub(crate) fn names(&self, dir: &Path, algorithm: Algorithm) -> Result<Arc<Vec<Box<str>>>> {
        let stat = rustix::fs::stat(dir).io_context(|| format!("stat {}", dir.display()))?;
        let changed = changed(&stat);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept
            && kept.dir == dir
            && kept.changed == changed
        {
            return Ok(Arc::clone(&kept.names));
        }
        *kept = None;
        let settled = changed.age() >= SETTLED;
        let names = Arc::new(read(dir, algorithm)?);
        if settled {
            *kept = Some(Names {
                dir: dir.to_path_buf(),
                changed,
                names: Arc::clone(&names),
            });
        }
        Ok(names)
    }

    /// After the last page: frees the memory.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn read(dir: &Path, algorithm: Algorithm) -> Result<Vec<Box<str>>> {
    let mut names: Vec<Box<str>> = Vec::new();
    let entries = std::fs::read_dir(dir).io_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry.io_context(|| format!("list {}", dir.display()))?;
        if let Some(name) = entry.file_name().to_str()
            && name.len() == algorithm.hex_len()
        {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn changed(stat: &Stat) -> Timestamp {
    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let nanos = (stat.st_ctime as i64)
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_ctime_nsec as i64);
    Timestamp::from_unix_nanos(nanos)
}
