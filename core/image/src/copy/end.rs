//! Where a copy comes from and where it goes to.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use containerkit::fs::open_in_root;
use containerkit::idmap::IdMapping;
use containerkit::{Error, IoContext, Result, quote};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::apply::clamp;

/// What the kernel follows in one path.
const SYMLINKS: u32 = 40;

/// Whether a source that is a symlink is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It is.
    Yes,
    /// It is copied.
    No,
}

/// A path in a tree.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The tree that the path is resolved in; `None` is the host's, whose
    /// symlinks are trusted.
    pub root: Option<BorrowedFd<'a>>,
    /// The path. Of the host's it may be relative.
    pub path: &'a Path,
    /// How the users of the tree are the host's, when they are mapped.
    pub mapping: Option<&'a IdMapping>,
}

/// What is copied.
pub(super) struct Source {
    pub(super) parent: OwnedFd,
    /// One component, or `.`.
    pub(super) name: Vec<u8>,
    pub(super) is_folder: bool,
    /// Of a folder what is in it, and not itself.
    pub(super) contents: bool,
    pub(super) mapping: Option<IdMapping>,
}

/// Where it goes.
pub(super) struct Target {
    /// Nothing leads out of it.
    pub(super) root: OwnedFd,
    /// The folder in it.
    pub(super) folder: Vec<u8>,
    /// The name there; without one, what is in the source goes there.
    pub(super) name: Option<Vec<u8>>,
}

impl End<'_> {
    pub(super) fn source(&self, follow: Follow) -> Result<Source> {
        let text = self.path.as_os_str().as_bytes();
        let contents = text == b"." || text.ends_with(b"/.");
        let folder_meant = contents || text.ends_with(b"/");
        let path = match folder_meant || follow == Follow::Yes {
            true => self.followed(&self.start())?,
            false => self.start(),
        };
        // A path that ends in `..`, or the root, has no name of its own.
        let Some(name) = path.file_name() else {
            let parent = self.open(&path, OFlags::PATH | OFlags::DIRECTORY);
            return Ok(Source {
                parent: parent.map_err(|errno| self.failed(errno))?,
                name: b".".to_vec(),
                is_folder: true,
                contents: true,
                mapping: self.mapping.cloned(),
            });
        };
        let parent = self
            .open(above(&path), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| self.failed(errno))?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed(errno))?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if folder_meant && !is_folder {
            return Err(self.no_folder());
        }
        Ok(Source {
            parent,
            name: name.as_bytes().to_vec(),
            is_folder,
            contents,
            mapping: self.mapping.cloned(),
        })
    }

    pub(super) fn target(&self, source: &Source) -> Result<Target> {
        let text = self.path.as_os_str().as_bytes();
        let folder_meant = text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
        match (self.kind()?, source.is_folder) {
            (Some(FileType::Directory), _) => {
                let name = (!source.contents).then(|| source.name.clone());
                return self.inside(&self.start(), name);
            }
            (Some(_), true) => {
                return Err(Error::precondition(format!(
                    "{}: a folder cannot take the place of something that is none",
                    self.shown()
                )));
            }
            (Some(_), false) if folder_meant => return Err(self.no_folder()),
            (None, false) if folder_meant => return Err(self.failed(Errno::NOENT)),
            _ => {}
        }
        let path = self.followed(&self.start())?;
        let name = path.file_name().ok_or_else(|| self.no_folder())?;
        self.inside(above(&path), Some(name.as_bytes().to_vec()))
    }

    /// The folder that this is.
    pub(super) fn folder(&self) -> Result<Target> {
        match self.kind()? {
            Some(FileType::Directory) => self.inside(&self.start(), None),
            Some(_) => Err(self.no_folder()),
            None => Err(self.failed(Errno::NOENT)),
        }
    }

    fn inside(&self, folder: &Path, name: Option<Vec<u8>>) -> Result<Target> {
        let opened = self.open(folder, OFlags::PATH | OFlags::DIRECTORY);
        let opened = opened.map_err(|errno| self.failed(errno))?;
        let (root, folder) = match self.root {
            Some(root) => {
                drop(opened);
                let root = root.try_clone_to_owned().io_context(|| "copy a root")?;
                (root, clean(folder))
            }
            // What the source brings along leads nowhere else on the host.
            None => (reopen(&opened)?, Vec::new()),
        };
        Ok(Target { root, folder, name })
    }

    /// The path to begin with. In a container its `..` are text, as everywhere
    /// in this field.
    fn start(&self) -> PathBuf {
        match self.root {
            Some(_) => OsString::from_vec(clamp(self.path.as_os_str().as_bytes())).into(),
            None => self.path.to_path_buf(),
        }
    }

    /// What is there, symlinks followed.
    fn kind(&self) -> Result<Option<FileType>> {
        match self.open(&self.start(), OFlags::PATH) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).io_context(|| self.shown())?;
                Ok(Some(FileType::from_raw_mode(stat.st_mode)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// The path with its last component, when that is a symlink, replaced by
    /// where it leads.
    fn followed(&self, path: &Path) -> Result<PathBuf> {
        let mut path = path.to_path_buf();
        for _ in 0..SYMLINKS {
            let Some(name) = path.file_name() else {
                return Ok(path);
            };
            let parent = self
                .open(above(&path), OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|errno| self.failed(errno))?;
            match rustix::fs::readlinkat(&parent, name, Vec::new()) {
                Ok(link) => {
                    let link = OsStr::from_bytes(link.to_bytes());
                    path = above(&path).join(link);
                }
                Err(Errno::INVAL | Errno::NOENT) => return Ok(path),
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Err(self.failed(Errno::LOOP))
    }

    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match self.root {
            Some(root) => open_in_root(root, path, flags, 0),
            None => {
                let path = match path.as_os_str().is_empty() {
                    true => Path::new("."),
                    false => path,
                };
                rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
            }
        }
    }

    fn shown(&self) -> String {
        quote(&self.path.to_string_lossy())
    }

    fn failed(&self, errno: Errno) -> Error {
        match (errno, self.root) {
            (Errno::NOENT, Some(_)) => {
                Error::not_found(format!("there is no {} in the container", self.shown()))
            }
            (Errno::NOENT, None) => Error::not_found(format!("there is no {}", self.shown())),
            _ => Error::io(self.shown(), errno),
        }
    }

    fn no_folder(&self) -> Error {
        Error::precondition(format!("{} is not a folder", self.shown()))
    }
}

/// The folder of a path that has a last component.
fn above(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Without empty and `.` components; `..` is resolved on the way.
fn clean(path: &Path) -> Vec<u8> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    parts.join(&b'/')
}

/// A descriptor that can be changed through, of a folder known by another.
fn reopen(dir: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, c".", flags, Mode::empty()).io_context(|| "open a folder")
}
