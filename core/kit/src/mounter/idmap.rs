//! Trees whose files are shown with mapped owners (mount_setattr(2)).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::idmap::{IdMap, IdMapping};
use crate::mount::Mount;
use crate::sys::MountAttr;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// The user namespace that says a mapping to the kernel.
pub(super) fn namespace(mapping: &IdMapping) -> Result<OwnedFd> {
    let lines = |maps: &[IdMap]| -> String {
        maps.iter()
            .map(|map| format!("{} {} {}\n", map.container, map.host, map.count))
            .collect()
    };
    crate::sys::user_namespace(&lines(mapping.uids()), &lines(mapping.gids()))
        .map_err(|error| Error::io("make a user namespace", error))
}

/// Maps a detached tree.
pub(super) fn map(mount: &Mount, tree: &OwnedFd, namespace: &OwnedFd) -> Result<()> {
    let attributes = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    crate::sys::mount_setattr(tree.as_fd(), attributes).map_err(|errno| {
        let error = Error::io(
            format!("{}: show its files with mapped owners", super::name(mount)),
            errno,
        );
        let error = super::kind_for_mount(error);
        match errno {
            Errno::INVAL | Errno::NOSYS | Errno::PERM => error
                .with_kind(crate::ErrorKind::FailedPrecondition)
                .with_hint("this kernel, or the file system that the files are on, cannot map owners (a plain folder can since Linux 5.12, layers since 5.19)"),
            _ => error,
        }
    })
}
