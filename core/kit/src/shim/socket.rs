//! The shim's socket, from the listening side.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::channel::Channel;
use crate::error::{IoContext, Result};

/// The socket's folder in the container's own.
pub(super) const FOLDER: &str = "shim";
/// Its name there.
pub(super) const NAME: &str = "socket";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Listens at `name` in an open folder, of mode 0600, in the place of whatever
/// a killed process left there. Non-blocking.
pub fn listen(folder: &OwnedFd, name: &str, kind: SocketType, backlog: i32) -> Result<OwnedFd> {
    let what = || format!("listen at {name}");
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).io_context(what),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .io_context(what)?;
    // A socket's address has 107 bytes, a folder's path may have more.
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let address = SocketAddrUnix::new(path).io_context(what)?;
    rustix::net::bind(&socket, &address).io_context(what)?;
    // Nobody can connect before the next line but one.
    rustix::fs::chmodat(folder, name, Mode::from_raw_mode(0o600), AtFlags::empty())
        .io_context(what)?;
    rustix::net::listen(&socket, backlog).io_context(what)?;
    Ok(socket)
}

/// The shim's socket. It is gone from its folder when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    folder: OwnedFd,
}

impl Listener {
    /// Listens in the container's own folder.
    pub fn new(state_dir: &Path) -> Result<Listener> {
        let folder = state_dir.join(FOLDER);
        crate::fs::ensure_dir(&folder, 0o700)?;
        let folder = crate::fs::open_dir(&folder)?;
        let socket = listen(&folder, NAME, SocketType::SEQPACKET, BACKLOG)?;
        Ok(Listener { socket, folder })
    }

    /// The next client that waits; `None` when none does. One of another user
    /// than ours and root is hung up on.
    pub fn accept(&self) -> Option<Channel> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(fd) if is_ours(&fd) => return Channel::from_fd(fd).ok(),
                Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.folder, NAME, AtFlags::empty());
    }
}

/// Whether the peer of a socket is this process's user or root.
fn is_ours(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}
