//! Whiteouts: OCI image-spec `layer.md`, "Whiteouts".

use std::ffi::{CStr, CString};

use containerkit::{Error, IoContext, Result};
use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::tree::{Dir, join, names, open_dir};
use super::{Extractor, WhiteoutForm, c_name};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Overlay's mark of a folder that hides what is below it.
pub(super) const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";
/// What AUFS keeps for itself.
const AUFS: &[u8] = b".wh..wh.";

impl Extractor<'_> {
    /// Whether the name is a whiteout, which is then done.
    pub(super) fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<bool> {
        let Some(hidden) = name.strip_prefix(PREFIX) else {
            return Ok(false);
        };
        if self.form == WhiteoutForm::Plain {
            return Ok(false);
        }
        match hidden {
            _ if name == OPAQUE => self.opaque(parent)?,
            _ if name.starts_with(AUFS) => {}
            b"" | b"." | b".." => {
                return Err(Error::invalid(
                    "a whiteout must name something in its own folder",
                ));
            }
            hidden => self.hide(parent, hidden)?,
        }
        Ok(true)
    }

    fn hide(&mut self, parent: &[u8], hidden: &[u8]) -> Result<()> {
        let name = c_name(hidden)?;
        match self.form {
            WhiteoutForm::Remove | WhiteoutForm::Plain => {
                let Some(dir) = self.tree.find(parent)? else {
                    return Ok(());
                };
                let Some(kind) = self.tree.kind(&dir, &name)? else {
                    return Ok(());
                };
                let path = join(&dir.path, hidden);
                if !self.tree.is_added(&path) {
                    self.tree.changing(&dir)?;
                    return self.tree.remove(&dir, &name, &path);
                }
                if kind == FileType::Directory {
                    let fd = open_dir(&dir, &name)?;
                    self.prune(&Dir { fd, path })?;
                }
                Ok(())
            }
            WhiteoutForm::Overlay => self.hide_below(parent, hidden, &name),
        }
    }

    fn hide_below(&mut self, parent: &[u8], hidden: &[u8], name: &CString) -> Result<()> {
        let Some(dir) = self.tree.make_to_hide(parent)? else {
            return Ok(());
        };
        let path = join(&dir.path, hidden);
        match self.tree.kind(&dir, name)? {
            None => {}
            // Made on the way of another whiteout: nobody put it there.
            Some(FileType::Directory) if !self.tree.is_added(&path) => {
                self.tree.changing(&dir)?;
                self.tree.remove(&dir, name, &path)?;
            }
            Some(FileType::Directory) => {
                make_opaque(&Dir {
                    fd: open_dir(&dir, name)?,
                    path: path.clone(),
                })?;
                return match &mut self.tree.below {
                    Some(below) => below.close(&path),
                    None => Ok(()),
                };
            }
            // A file of this layer hides the lower one by itself.
            Some(_) => return Ok(()),
        }
        if let Some(below) = &mut self.tree.below {
            if below.closed.contains(&dir.path) {
                return Ok(());
            }
            below.whiteout(&path)?;
        }
        self.tree.changing(&dir)?;
        rustix::fs::mknodat(
            &dir.fd,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .io_context(|| "make the whiteout")
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        match self.form {
            WhiteoutForm::Remove | WhiteoutForm::Plain => match self.tree.find(path)? {
                Some(dir) => self.prune(&dir),
                None => Ok(()),
            },
            WhiteoutForm::Overlay => {
                let Some(dir) = self.tree.make_to_hide(path)? else {
                    return Ok(());
                };
                make_opaque(&dir)?;
                match &mut self.tree.below {
                    Some(below) => below.close(&dir.path),
                    None => Ok(()),
                }
            }
        }
    }

    /// Removes everything below a folder that this layer did not put there.
    /// A folder is listed once in a layer: whatever comes into it later, this
    /// layer puts there.
    fn prune(&mut self, top: &Dir) -> Result<()> {
        // Descriptors are not kept: depth must not cost them.
        let mut pending = vec![top.path.clone()];
        while let Some(path) = pending.pop() {
            if !self.tree.prune_once(&path) {
                continue;
            }
            let Some(dir) = self.tree.find(&path)? else {
                continue;
            };
            for name in names(&dir.fd)? {
                let child = join(&dir.path, name.as_bytes());
                if !self.tree.is_added(&child) {
                    self.tree.changing(&dir)?;
                    self.tree.remove(&dir, &name, &child)?;
                } else if self.tree.kind(&dir, &name)? == Some(FileType::Directory) {
                    pending.push(child);
                }
            }
        }
        Ok(())
    }
}

/// Hides from overlay what lower layers have in this folder.
pub(super) fn make_opaque(dir: &Dir) -> Result<()> {
    let fd = super::reopen(&dir.fd).io_context(|| "open the folder")?;
    match rustix::fs::fsetxattr(&fd, OPAQUE_XATTR, b"y", XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Err(Error::precondition(
            "the file system of the snapshots has no trusted extended attributes",
        )),
        result => result.io_context(|| "make the folder opaque"),
    }
}
