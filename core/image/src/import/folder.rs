//! A layout that is a folder. Its files are the image's author's, not ours: a
//! symlink among them would have us read, and then publish, a file of the host.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use containerkit::{Error, IoContext, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::source::{Opened, Source};

pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    pub(super) fn new(fd: OwnedFd) -> Folder {
        Folder { fd }
    }
}

impl Source for Folder {
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>> {
        let shown = || format!("open {}", containerkit::quote(name));
        let result = rustix::fs::openat2(
            &self.fd,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        let fd = match result {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(Error::precondition(format!(
                    "{} is a symlink or lies behind one, which a layout may not hold",
                    containerkit::quote(name)
                )));
            }
            Err(Errno::XDEV) => {
                return Err(Error::invalid(format!(
                    "{} leads out of the archive",
                    containerkit::quote(name)
                )));
            }
            Err(errno) => return Err(Error::io(shown(), errno)),
        };
        let stat = rustix::fs::fstat(&fd).io_context(shown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::precondition(format!(
                "{} is not a regular file",
                containerkit::quote(name)
            )));
        }
        let size = stat.st_size.max(0) as u64;
        Ok(Some(Opened {
            size,
            data: Box::new(File::from(fd).take(size.saturating_add(1))),
        }))
    }
}
