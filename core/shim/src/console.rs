//! The terminal of a container: the runtime makes the pty and sends its master
//! to a socket of ours.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit::shim::listen;
use containerkit::{Context, Error, ErrorKind, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

const NAME: &str = "tty.sock";

/// A socket that waits for a pty's master. It is gone from its folder when
/// this is dropped.
pub(crate) struct Listener {
    socket: OwnedFd,
    folder: OwnedFd,
}

impl Listener {
    /// Listens at `tty.sock` in this folder, of mode 0600.
    pub(crate) fn new(state_dir: &Path) -> Result<Listener> {
        let what = || format!("the terminal in {}", state_dir.display());
        let folder = containerkit::fs::open_dir(state_dir)?;
        let socket = listen(&folder, NAME, SocketType::STREAM, 1).context(what)?;
        Ok(Listener { socket, folder })
    }

    /// A path of the socket for a child of this process, short whatever the
    /// folder's own path is: a socket's address has 107 bytes.
    pub(crate) fn path(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}/{NAME}",
            std::process::id(),
            self.folder.as_raw_fd()
        )
        .into()
    }

    /// Receives the master.
    pub(crate) fn accept(self, patience: Duration) -> Result<OwnedFd> {
        let what = || "receive the terminal from the runtime";
        readable(&self.socket, patience)?;
        let peer = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).io_context(what)?;
        let credentials = rustix::net::sockopt::socket_peercred(&peer).io_context(what)?;
        if credentials.uid != rustix::process::geteuid() {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{}: it comes from another user", what()),
            ));
        }
        readable(&peer, patience)?;
        let mut name = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .io_context(what)?;
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(part) = part {
                fds.extend(part);
            }
        }
        match <[OwnedFd; 1]>::try_from(fds) {
            Ok([master]) if rustix::termios::isatty(&master) => Ok(master),
            Ok(_) => Err(Error::internal(format!("{}: it is no terminal", what()))),
            Err(fds) => Err(Error::internal(format!(
                "{}: {} descriptors came, not one",
                what(),
                fds.len()
            ))),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.folder, NAME, AtFlags::empty());
    }
}

fn readable(fd: &OwnedFd, patience: Duration) -> Result<()> {
    let what = || "wait for the runtime to send the terminal";
    let timeout = Timespec::try_from(patience).map_err(|_| Error::internal(what()))?;
    loop {
        match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{}: nothing came within {} s", what(), patience.as_secs()),
                ));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).io_context(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    };
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    fn send(path: &Path, fds: &[OwnedFd]) {
        let socket =
            rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("socket");
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).expect("address"))
            .expect("connect");
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let data = [IoSlice::new(b"/dev/ptmx")];
        rustix::net::sendmsg(&socket, &data, &mut control, SendFlags::empty()).expect("send");
    }

    fn open(path: &str) -> OwnedFd {
        use rustix::fs::OFlags;
        rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect(path)
    }

    #[test]
    fn a_master_arrives_in_a_folder_with_a_long_path() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).expect("mkdir");
        std::fs::write(deep.join(NAME), "stale").expect("write");
        let listener = Listener::new(&deep).expect("listen");
        let mode = std::fs::metadata(deep.join(NAME)).expect("stat");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert!(listener.path().as_os_str().len() < 107);
        send(&listener.path(), &[open("/dev/ptmx")]);
        let master = listener.accept(Duration::from_secs(5)).expect("master");
        assert!(rustix::termios::isatty(&master));
        assert!(!deep.join(NAME).exists());
    }

    #[test]
    fn what_is_no_terminal_is_refused_and_silence_times_out() {
        let dir = tempfile::tempdir().expect("tempdir");
        for fds in [
            vec![],
            vec![open("/dev/null")],
            vec![open("/dev/ptmx"), open("/dev/ptmx")],
        ] {
            let listener = Listener::new(dir.path()).expect("listen");
            send(&listener.path(), &fds);
            let error = listener
                .accept(Duration::from_secs(5))
                .expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        }
        let listener = Listener::new(dir.path()).expect("listen");
        let error = listener
            .accept(Duration::from_millis(10))
            .expect_err("late");
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
