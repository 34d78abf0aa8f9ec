//! Named files, be they in a folder or in an archive.

use std::io::Read;
use std::path::Path;

use containerkit::{Context as _, Error, IoContext, Result};
use rustix::fs::{FileType, Mode, OFlags};

use super::ImportOptions;
use super::archive::Archive;
use super::folder::Folder;
use crate::document::DOCUMENT;
use crate::limits::exhausted;

/// An open file of a source.
pub(super) struct Opened<'a> {
    pub(super) size: u64,
    /// Gives at most `size` bytes and one more, which tells a lie.
    pub(super) data: Box<dyn Read + Send + 'a>,
}

/// Files by their names in the layout or archive, such as `index.json`.
pub(super) trait Source {
    /// `None`: there is none. What is no regular file is an error.
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>>;

    /// Whether the name is there.
    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.open(name)?.is_some())
    }

    /// A whole file of at most 4 MiB.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(opened) = self.open(name)? else {
            return Ok(None);
        };
        let mut data = Vec::new();
        opened
            .data
            .take(DOCUMENT + 1)
            .read_to_end(&mut data)
            .io_context(|| format!("read {}", containerkit::quote(name)))?;
        if data.len() as u64 > DOCUMENT {
            return Err(exhausted(format!(
                "{} has more than the {DOCUMENT} bytes allowed",
                containerkit::quote(name)
            )));
        }
        Ok(Some(data))
    }
}

/// A folder, or an archive in whatever compression.
pub(super) fn open(path: &Path, options: &ImportOptions) -> Result<Box<dyn Source>> {
    // O_NONBLOCK: a fifo must not hold us before it is refused.
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| "open it")?;
    let stat = rustix::fs::fstat(&fd).io_context(|| "stat it")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(Box::new(Folder::new(fd))),
        FileType::RegularFile => Ok(Box::new(
            Archive::new(fd.into(), options).context(|| "as an archive")?,
        )),
        _ => Err(Error::invalid("it is neither a folder nor a regular file")),
    }
}
