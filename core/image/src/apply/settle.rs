//! Sets a blindly written layer right, once the layers below are known.
//!
//! Afterwards its folder holds what writing it through a mount of the layers
//! below would have left there, as far as the merged tree shows it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::{Error, IoContext, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::below::{Below, Implied};
use super::stack::{Found, Stack};
use super::tree::{is_whiteout, open_beneath, times_of};
use super::{c_name, meta, split};

/// Looks into layers below that one layer may cost.
const LOOKS: usize = 1 << 20;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The layer is right.
    Yes,
    /// It cannot be set right, and must be written through a mount.
    No(&'static str),
}

/// Sets the layer beneath `root` right for the layers below it.
pub(crate) fn settle(root: BorrowedFd<'_>, below: &Below, stack: &mut Stack) -> Result<Settled> {
    let on_something = stack.len() > 0;
    if below.root_opaque && on_something {
        // Overlay merges the roots of all its layers.
        return Ok(Settled::No("it hides the whole of the layers below"));
    }
    let deferred = below.implied.len() + below.whiteouts.len();
    if deferred.saturating_mul(stack.len()) > LOOKS {
        return Ok(Settled::No("it leans on too much of the layers below"));
    }
    // All looks first: what cannot be set right is not begun.
    let mut inherits = Vec::new();
    let mut idle = Vec::new();
    for (path, implied) in &below.implied {
        let found = stack.find(path)?;
        if matches!(found, Found::Symlink) {
            return Ok(Settled::No("a path leads through a symlink below"));
        }
        if *implied == Implied::Told {
            continue;
        }
        // A folder above it may have been hidden since.
        let shown = matches!(found, Found::Folder(_));
        if below.bare.contains(path) && (!shown || below.is_closed(split(path).0)) {
            idle.push(path);
        } else if shown {
            inherits.push(path);
        }
    }
    for path in &below.whiteouts {
        // In a folder that overlay does not merge, a whiteout would be listed.
        if below.is_closed(split(path).0) || matches!(stack.find(path)?, Found::Nothing) {
            remove(root, path, Only::Whiteout)?;
        }
    }
    // What such a folder hides is not there, and it is not there itself.
    for path in idle.iter().rev() {
        remove(root, path, Only::Anything)?;
    }
    for path in inherits.iter().rev() {
        if let (Found::Folder(from), Some(to)) = (stack.find(path)?, open(root, path)?) {
            meta::copy(&from, &to)?;
        }
    }
    if !below.root_told
        && let Some(from) = stack.root()
        && let Some(to) = open(root, b"")?
    {
        meta::copy(&from, &to)?;
    }
    Ok(Settled::Yes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Whiteout,
    Anything,
}

/// Removes a name, and leaves its folder's time as it was.
fn remove(root: BorrowedFd<'_>, path: &[u8], only: Only) -> Result<()> {
    let (parent, name) = split(path);
    let Some(folder) = open(root, parent)? else {
        return Ok(());
    };
    let name = c_name(name)?;
    if only == Only::Whiteout && !is_whiteout(&folder, &name)? {
        return Ok(());
    }
    let times = times_of(&folder)?;
    containerkit::fs::remove_tree(folder.as_fd(), &name)?;
    rustix::fs::futimens(&folder, &times).io_context(|| "set the time of a folder")
}

/// A folder of the layer, if it is one still.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    match open_beneath(root, path, OFlags::RDONLY) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(Error::io(
            format!("open folder {}", crate::show(path)),
            errno,
        )),
    }
}
