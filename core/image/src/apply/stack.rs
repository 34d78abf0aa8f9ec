//! The layers below one that is not committed yet, seen as one tree without
//! a mount: upper folders in overlay's form on a tree or on nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::c_name;
use super::whiteout::OPAQUE_XATTR;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// One folder in each layer that shows it, topmost first.
type Folders = Vec<Rc<OwnedFd>>;

/// Layers by their root folders.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    /// Bottom first.
    layers: Folders,
    /// The folder that was looked at last, by its path.
    last: Option<(Vec<u8>, Folders)>,
}

/// What has a path.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// The topmost layer's folder, which says how it looks.
    Folder(Rc<OwnedFd>),
    Symlink,
    Other,
}

impl Stack {
    /// Puts a layer on top.
    pub(crate) fn push(&mut self, root: OwnedFd) {
        self.layers.push(Rc::new(root));
        self.last = None;
    }

    /// How many layers there are.
    pub(crate) fn len(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn root(&self) -> Option<Rc<OwnedFd>> {
        self.layers.last().cloned()
    }

    /// What has this path, no symlink followed anywhere.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Found> {
        let (parent, name) = super::split(path);
        let folders = self.folders(parent)?;
        Ok(match step(&folders, name)? {
            (Some(FileType::Directory), found) => match found.into_iter().next() {
                Some(folder) => Found::Folder(folder),
                None => Found::Nothing,
            },
            (Some(FileType::Symlink), _) => Found::Symlink,
            (Some(_), _) => Found::Other,
            (None, _) => Found::Nothing,
        })
    }

    /// The folder of a path in each layer; none when it is no folder.
    fn folders(&mut self, path: &[u8]) -> Result<Folders> {
        if let Some((last, folders)) = &self.last
            && last == path
        {
            return Ok(folders.clone());
        }
        let mut folders: Folders = self.layers.iter().rev().cloned().collect();
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            folders = step(&folders, name)?.1;
        }
        self.last = Some((path.to_vec(), folders.clone()));
        Ok(folders)
    }
}

/// One name in a merged folder: its kind, and the folders that it is.
fn step(folders: &[Rc<OwnedFd>], name: &[u8]) -> Result<(Option<FileType>, Folders)> {
    let name = c_name(name)?;
    let mut found: Folders = Vec::new();
    for folder in folders {
        let stat = match rustix::fs::statat(folder.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(Error::io("look into a layer below", errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = rustix::fs::openat(folder.as_fd(), &name, FOLDER, Mode::empty())
                    .io_context(|| "open a folder of a layer below")?;
                let opaque = is_opaque(&inner)?;
                found.push(Rc::new(inner));
                if opaque {
                    break;
                }
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => break,
            kind if found.is_empty() => return Ok((Some(kind), found)),
            // Hides what is below it from the folder above.
            _ => break,
        }
    }
    let kind = (!found.is_empty()).then_some(FileType::Directory);
    Ok((kind, found))
}

fn is_opaque(folder: &OwnedFd) -> Result<bool> {
    let mut value = [0u8; 2];
    match rustix::fs::fgetxattr(folder, OPAQUE_XATTR, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(Error::io("read an attribute of a layer below", errno)),
    }
}
