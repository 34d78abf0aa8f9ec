//! `run -it` on a pseudo-terminal.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use containerkit_tests::kit::Kit;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A user at a terminal.
struct User {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl User {
    fn runs(kit: &Kit, args: &[&str]) -> User {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let path = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(path.to_str().unwrap())
            .unwrap();
        rustix::termios::tcsetwinsize(&master, size(33, 101)).unwrap();
        let end = || Stdio::from(OwnedFd::from(slave.try_clone().unwrap()));
        let child = kit
            .command(args)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
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

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the terminal has shown this, after what was waited for before.
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    fn status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_terminal_has_the_users_size_and_follows_it() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(&kit, &["run", "--rm", "-it", "busybox", "sh"]);
    user.types("stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo all-tty\n");
    user.sees("33 101");
    user.sees("xterm");
    user.sees("all-tty");
    rustix::termios::tcsetwinsize(&user.master, size(20, 60)).unwrap();
    let pid = rustix::process::Pid::from_child(&user.child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    // The new size travels beside what is typed.
    user.types("until [ \"$(stty size)\" = '20 60' ]; do sleep 0.05; done; echo resi''zed\n");
    user.sees("resized");
    user.types("exit 7\n");
    assert_eq!(user.status(), Some(7));
    kit.assert_clean();
}

#[test]
fn control_c_is_the_containers_to_handle() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(&kit, &["run", "--rm", "-it", "busybox", "sh"]);
    user.types("trap 'echo cau''ght; exit 9' INT; echo rea''dy; while :; do sleep 0.1; done\n");
    user.sees("ready");
    user.types("\u{3}");
    user.sees("caught");
    assert_eq!(user.status(), Some(9));
    kit.assert_clean();
}

#[test]
fn the_users_terminal_is_as_before_and_output_is_whole() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(
        &kit,
        &[
            "run",
            "--rm",
            "-it",
            "busybox",
            "sh",
            "-c",
            "seq 1 20000; echo e''nd",
        ],
    );
    let before = rustix::termios::tcgetattr(&user.master).unwrap();
    user.sees("\r\n20000\r\nend\r\n");
    assert_eq!(user.status(), Some(0));
    let after = rustix::termios::tcgetattr(&user.master).unwrap();
    assert_eq!(
        after.local_modes | before.local_modes,
        after.local_modes,
        "echo and lines are back"
    );
    kit.assert_clean();
}
