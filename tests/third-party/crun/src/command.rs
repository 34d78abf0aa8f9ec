//! One command of crun.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use containerkit_plugin::fs::read_file;
use containerkit_plugin::process::ProcessIdentity;
use containerkit_plugin::runtime::{StartedProcess, Stdio as Streams};
use containerkit_plugin::{ContainerId, Error, ErrorKind, IoContext, Result, quote};

use crate::words;

/// What crun may say in one call.
const LIMIT: u64 = 4 << 20;

/// The program and where it keeps its state.
#[derive(Debug)]
pub(crate) struct Crun {
    pub(crate) binary: PathBuf,
    pub(crate) root: PathBuf,
    /// Where files without a name are made.
    pub(crate) scratch: PathBuf,
}

/// A file without a name.
pub(crate) struct Nameless(File);

impl Nameless {
    /// Where another process finds it, while this one has it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    fn read(&self) -> Result<Vec<u8>> {
        read_file(&self.path(), LIMIT)
    }
}

impl Crun {
    /// A file without a name that holds `data`.
    pub(crate) fn nameless(&self, data: &[u8]) -> Result<Nameless> {
        let file = tempfile::tempfile_in(&self.scratch)
            .and_then(|mut file| std::io::Write::write_all(&mut file, data).map(|()| file))
            .io_context(|| format!("make a file in {}", self.scratch.display()))?;
        Ok(Nameless(file))
    }

    /// Runs a command about a container, whose id is the last word unless
    /// `after` has some. Returns what it printed.
    pub(crate) fn ask(
        &self,
        verb: &str,
        flags: &[OsString],
        id: &ContainerId,
        after: &[OsString],
    ) -> Result<Vec<u8>> {
        let said = self.nameless(b"")?;
        let out = said
            .0
            .try_clone()
            .io_context(|| "hand a file to the command")?;
        let streams = [Stdio::null(), Stdio::from(out), Stdio::null()];
        let words = [flags, &[id.as_str().into()], after].concat();
        self.run(verb, &words, id, streams)?;
        said.read()
    }

    /// Runs a command that starts a process with these streams.
    pub(crate) fn launch(
        &self,
        verb: &str,
        flags: Vec<OsString>,
        id: &ContainerId,
        streams: Streams,
    ) -> Result<StartedProcess> {
        let pid = self.nameless(b"")?;
        let mut words = flags;
        words.extend(["--pid-file".into(), pid.path().into_os_string()]);
        let streams = match streams {
            Streams::Fds {
                stdin,
                stdout,
                stderr,
            } => [stdin.into(), stdout.into(), stderr.into()],
            Streams::Console(socket) => {
                words.extend(["--console-socket".into(), socket.into_os_string()]);
                [Stdio::null(), Stdio::null(), Stdio::null()]
            }
        };
        words.push(id.as_str().into());
        self.run(verb, &words, id, streams)?;
        let text = pid.read()?;
        let pid = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .filter(|pid| *pid > 1)
            .ok_or_else(|| {
                let found = quote(&String::from_utf8_lossy(&text));
                Error::internal(format!("container {id}: crun {verb} told the pid {found}"))
            })?;
        Ok(started(pid))
    }

    fn run(
        &self,
        verb: &str,
        words: &[OsString],
        id: &ContainerId,
        [stdin, stdout, stderr]: [Stdio; 3],
    ) -> Result<()> {
        let log = self.nameless(b"")?;
        let mut command = Command::new(&self.binary);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log.path())
            .args(["--log-format", "json", verb])
            .args(words)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            // Sockets and notifications that the program around was given are
            // no business of a container.
            .env_clear()
            .current_dir("/")
            // A Ctrl-C at the terminal does not stop crun half way.
            .process_group(0);
        let shown = self.binary.display();
        let mut child = command
            .spawn()
            .map_err(|error| Error::io(format!("start {shown}"), error))?;
        // The descriptors that it was given stay open nowhere else.
        drop(command);
        let status = child
            .wait()
            .io_context(|| format!("wait for {shown} {verb}"))?;
        if status.success() {
            return Ok(());
        }
        let said = words::last_error(&log.read()?).unwrap_or_else(|| status.to_string());
        Err(words::failure(verb, id, &said))
    }

    /// The first lines of `--version`.
    pub(crate) fn version(&self) -> Result<String> {
        let shown = self.binary.display();
        let output = Command::new(&self.binary)
            .arg("--version")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::io(format!("start {shown}"), error))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::new(
                ErrorKind::Unavailable,
                format!("{shown} --version: {}", output.status),
            )),
        }
    }
}

/// A process by its pid. One that has ended already is reaped by number, as
/// the contract has it.
fn started(pid: u32) -> StartedProcess {
    let found = ProcessIdentity::of(pid).and_then(|found| Ok((found.open()?, found.start_time)));
    match found {
        Ok((Some(pidfd), start_time)) => StartedProcess {
            pid,
            pidfd: Some(pidfd),
            start_time,
        },
        _ => StartedProcess {
            pid,
            pidfd: None,
            start_time: 0,
        },
    }
}
