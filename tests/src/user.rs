//! A user at a terminal of the tests' own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::kit::Kit;

/// A user at a terminal.
pub struct User {
    /// The other side of the terminal.
    pub master: File,
    /// The command.
    pub child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

/// A window of so many lines and columns.
pub fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl User {
    /// Runs a command on a new terminal of 33 lines and 101 columns, with no
    /// password of a key in its environment.
    pub fn runs(kit: &Kit, args: &[&str]) -> User {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .expect("a terminal");
        rustix::pty::grantpt(&master).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("a terminal");
        let path = rustix::pty::ptsname(&master, Vec::new()).expect("a terminal");
        let slave = File::options()
            .read(true)
            .write(true)
            .open(path.to_str().expect("a terminal"))
            .expect("a terminal");
        rustix::termios::tcsetwinsize(&master, size(33, 101)).expect("a terminal");
        let end = || Stdio::from(OwnedFd::from(slave.try_clone().expect("a terminal")));
        let child = kit
            .command(args)
            .env_remove("CONTAINERKIT_KEY_PASSWORD")
            .env_remove("COSIGN_PASSWORD")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("a terminal");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("a terminal");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            // EIO when the last user of the other side is gone.
            while let Ok(read) = reader.read(&mut buf) {
                if read == 0 || sender.send(buf[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        User {
            master,
            child,
            output,
            seen: String::new(),
        }
    }

    /// Types this.
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Waits until the terminal has shown this, after what was waited for
    /// before, and returns what it has shown since.
    pub fn sees(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
        let end = self.seen.find(text).expect("a terminal") + text.len();
        self.seen.drain(..end).collect()
    }

    /// The command's exit status; waits for its end.
    pub fn status(&mut self) -> Option<i32> {
        self.child.wait().expect("a terminal").code()
    }

    /// Gives the terminal another size, as a window manager does.
    pub fn resizes(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(&self.master, size(rows, columns)).expect("a terminal");
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).expect("a terminal");
    }
}
