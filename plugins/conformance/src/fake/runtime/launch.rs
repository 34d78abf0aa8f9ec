//! Processes in namespaces of their own, by util-linux's `unshare` and
//! `nsenter`: started behind a gate, and the caller's children from then on.
//!
//! Both tools fork a process into the pid namespace and wait for it. Once it
//! stands behind the gate, a fifo that it reads a line from, the tool is
//! killed, so that the process falls to the nearest subreaper, as a container
//! of a real runtime does.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use containerkit::oci_spec::runtime::Process;
use containerkit::runtime::{StartedProcess, Stdio};
use containerkit::{Error, IoContext, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that stands behind its gate.
pub(super) struct Waiting {
    pub(super) process: StartedProcess,
    /// Its own end is open: a line lets it go, closing makes it end.
    pub(super) gate: File,
    /// The line: the number of its terminal, or `-`.
    pub(super) line: String,
}

/// What to start.
pub(super) struct Launch<'a> {
    /// `unshare` or `nsenter` with what it is to enter.
    pub(super) tool: Vec<String>,
    /// What the process does before its gate.
    pub(super) before: String,
    pub(super) process: &'a Process,
    pub(super) rootfs: &'a Path,
    pub(super) stdio: Stdio,
    /// A folder for the fifo.
    pub(super) scratch: &'a Path,
}

/// A word of a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Launch<'_> {
    pub(super) fn go(self) -> Result<Waiting> {
        let gate = self.scratch.join(containerkit::fs::unique_name("gate"));
        rustix::fs::mknodat(CWD, &gate, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .io_context(|| "make a gate")?;
        let result = self.behind(&gate);
        let _ = std::fs::remove_file(&gate);
        result
    }

    fn behind(self, gate: &Path) -> Result<Waiting> {
        let script = self.script(gate);
        let mut command = Command::new(&self.tool[0]);
        command
            .args(&self.tool[1..])
            .args(["/bin/sh", "-e", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/");
        let console = match self.stdio {
            Stdio::Fds {
                stdin,
                stdout,
                stderr,
            } => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
            Stdio::Console(socket) => {
                let null = std::process::Stdio::null;
                command.stdin(null()).stdout(null()).stderr(null());
                Some(socket)
            }
        };
        let mut tool = sys::streams_only(&mut command)
            .spawn()
            .io_context(|| format!("start {}", self.tool[0]))?;
        // Ours of the streams.
        drop(command);
        let result = waiting(&mut tool, gate).and_then(|(process, gate)| {
            let line = match &console {
                Some(socket) => connect(process.pid, self.rootfs, socket)?,
                None => "-".to_owned(),
            };
            Ok(Waiting {
                process,
                gate,
                line,
            })
        });
        if result.is_err() {
            // Its own process ends with the gate, or has ended.
            let _ = child(&tool).map(|pid| kill(pid, 9));
            let _ = tool.wait();
        } else {
            let _ = tool.kill();
            tool.wait().io_context(|| "wait for a tool")?;
        }
        result
    }

    fn script(&self, gate: &Path) -> String {
        let process = self.process;
        let rootfs = self.rootfs.to_string_lossy();
        let user = process.user();
        let env = process.env().iter().flatten();
        let env: Vec<String> = env.map(|word| quoted(word)).collect();
        let args = process.args().iter().flatten();
        let args: Vec<String> = args.map(|word| quoted(word)).collect();
        let terminal = process.terminal().unwrap_or(false);
        format!(
            "{before}\n\
             setsid=$(command -v setsid); unshare=$(command -v unshare)\n\
             read -r line < {gate}\n\
             {streams}\n\
             exec env -i {env} \"$setsid\" {control} \"$unshare\" --root={root} --wd={cwd} \
             --setgid={gid} --setuid={uid} {args}\n",
            before = self.before,
            gate = quoted(&gate.to_string_lossy()),
            streams = match terminal {
                true => format!(
                    "tty={}/dev/pts/$line; exec <$tty >$tty 2>&1",
                    quoted(&rootfs)
                ),
                false => String::new(),
            },
            env = env.join(" "),
            control = if terminal { "--ctty" } else { "" },
            root = quoted(&rootfs),
            cwd = quoted(&process.cwd().to_string_lossy()),
            uid = user.uid(),
            gid = user.gid(),
            args = args.join(" "),
        )
    }
}

/// Waits until the tool's process is at the gate.
fn waiting(tool: &mut Child, gate: &Path) -> Result<(StartedProcess, File)> {
    let deadline = Instant::now() + PATIENCE;
    let open = || {
        // Fails until the other end is there.
        File::options()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(gate)
    };
    let file = loop {
        match open() {
            Ok(file) => break file,
            Err(_) if tool.try_wait().io_context(|| "wait for a tool")?.is_some() => {
                return Err(Error::internal(
                    "the process ended before it could be started",
                ));
            }
            Err(_) if Instant::now() > deadline => {
                return Err(Error::internal("the process does not come to be"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let pid = child(tool)?;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::internal("a pid of 0"))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).io_context(|| "open a process")?;
    let start_time = containerkit::process::start_time(pid)?;
    let process = StartedProcess {
        pid,
        pidfd: Some(pidfd),
        start_time,
    };
    Ok((process, file))
}

/// The process that a tool forked.
fn child(tool: &Child) -> Result<u32> {
    let pid = tool.id();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).io_context(|| path)?;
    text.split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| Error::internal("the tool has no process"))
}

/// Sends a signal to a process by its number.
pub(super) fn kill(pid: u32, signal: i32) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::internal("a pid of 0"))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).io_context(|| "open a process")?;
    sys::signal(pidfd.as_fd(), signal).io_context(|| format!("send signal {signal}"))
}

/// Makes a terminal of the container, sends its master to the socket, and
/// returns its number.
fn connect(pid: u32, rootfs: &Path, socket: &Path) -> Result<String> {
    let mut ptmx = PathBuf::from(format!("/proc/{pid}/root"));
    ptmx.push(rootfs.strip_prefix("/").unwrap_or(rootfs));
    ptmx.push("dev/pts/ptmx");
    let master = rustix::fs::open(
        &ptmx,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| "open a terminal")?;
    rustix::pty::unlockpt(&master).io_context(|| "unlock a terminal")?;
    let name = rustix::pty::ptsname(&master, Vec::new()).io_context(|| "name a terminal")?;
    let name = name.to_string_lossy().into_owned();
    let stream =
        UnixStream::connect(socket).io_context(|| format!("connect to {}", socket.display()))?;
    send(&stream, &master)?;
    Ok(name.trim_start_matches("/dev/pts/").to_owned())
}

fn send(stream: &UnixStream, master: &OwnedFd) -> Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        stream,
        &[std::io::IoSlice::new(b"tty")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .io_context(|| "send a terminal")?;
    Ok(())
}
