//! What the shim writes down in the container's folder.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::request::{PROTOCOL, parse};
use crate::error::{Error, IoContext, Result};
use crate::fs::{Durability, read_limited, write_atomic};
use crate::process::{ProcessIdentity, Stat, boot_id};
use crate::value::Timestamp;

const INTENT: &str = "intent.json";
const INIT: &str = "init.json";
const EXIT: &str = "exit.json";
/// Name of the shim's log in the container's folder.
pub const LOG: &str = "shim.log";

const LIMIT: u64 = 64 << 10;

/// Written before the runtime is asked for anything: from here on a container
/// may exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// [`PROTOCOL`].
    pub version: u32,
    /// The process that supervises the container.
    pub shim: ProcessIdentity,
    /// The session that the shim and the runtime's commands are in; 0 when it
    /// has no number in this pid namespace.
    #[serde(default)]
    pub session: u32,
    /// When.
    pub at: Timestamp,
}

impl Intent {
    /// The intent of this process.
    pub fn new() -> Result<Intent> {
        let me = std::process::id();
        Ok(Intent {
            version: PROTOCOL,
            shim: ProcessIdentity::of(me)?,
            session: Stat::read(me)?.session,
            at: Timestamp::now(),
        })
    }
}

/// The container's init, so that it can be found and killed without the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    /// [`PROTOCOL`].
    pub version: u32,
    /// The init.
    pub process: ProcessIdentity,
    /// The container's own cgroups, absolute folders; never one that the shim
    /// itself is in.
    pub cgroups: Vec<PathBuf>,
    /// When it was started.
    pub at: Timestamp,
}

/// How an exit was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitSource {
    /// The shim reaped the init: this is what it ended with.
    Reaped,
    /// The shim was killed and the container with it.
    Inferred,
    /// It ended unseen.
    Unknown,
}

impl ExitSource {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ExitSource::Reaped => "reaped",
            ExitSource::Inferred => "inferred",
            ExitSource::Unknown => "unknown",
        }
    }
}

/// How a container's init ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`PROTOCOL`].
    pub version: u32,
    /// Its exit code, when it exited.
    pub code: Option<u8>,
    /// The signal that killed it, when one did.
    pub signal: Option<i32>,
    /// How that was learned.
    pub source: ExitSource,
    /// Whether the kernel killed one of its processes for lack of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When.
    pub at: Timestamp,
}

impl ExitRecord {
    fn new(code: Option<u8>, signal: Option<i32>, source: ExitSource) -> ExitRecord {
        ExitRecord {
            version: PROTOCOL,
            code,
            signal,
            source,
            oom_killed: false,
            at: Timestamp::now(),
        }
    }

    /// It exited by itself, now.
    pub fn exited(code: u8) -> ExitRecord {
        ExitRecord::new(Some(code), None, ExitSource::Reaped)
    }

    /// A signal killed it, now.
    pub fn signaled(signal: i32) -> ExitRecord {
        ExitRecord::new(None, Some(signal), ExitSource::Reaped)
    }

    /// It was killed together with its shim: 137.
    pub fn inferred() -> ExitRecord {
        ExitRecord::new(None, Some(9), ExitSource::Inferred)
    }

    /// Nobody saw its end: 255.
    pub fn unknown() -> ExitRecord {
        ExitRecord::new(None, None, ExitSource::Unknown)
    }

    /// As a shell gives it: the code, 128 + signal, or 255 when it is unknown.
    pub fn status(&self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => {
                u8::try_from(signal).map_or(255, |signal| signal.saturating_add(128))
            }
            (None, None) => 255,
        }
    }
}

/// Reads `intent.json`; `None` when there is none, or one of another boot.
pub fn read_intent(state_dir: &Path) -> Result<Option<Intent>> {
    let intent: Option<Intent> = read(state_dir, INTENT)?;
    let boot = boot_id()?;
    Ok(intent.filter(|intent| intent.shim.boot_id == boot))
}

/// Reads `init.json`; `None` when there is none, or one of another boot.
pub fn read_init(state_dir: &Path) -> Result<Option<InitRecord>> {
    let init: Option<InitRecord> = read(state_dir, INIT)?;
    let boot = boot_id()?;
    Ok(init.filter(|init| init.process.boot_id == boot))
}

/// Reads `exit.json`; `None` while the container runs.
pub fn read_exit(state_dir: &Path) -> Result<Option<ExitRecord>> {
    read(state_dir, EXIT)
}

/// Writes `intent.json`.
pub fn write_intent(state_dir: &Path, intent: &Intent) -> Result<()> {
    write(state_dir, INTENT, intent)
}

/// Writes `init.json`.
pub fn write_init(state_dir: &Path, init: &InitRecord) -> Result<()> {
    write(state_dir, INIT, init)
}

/// Writes `exit.json`, once: the first record stays, so that every wait gives
/// the same, and is returned. The caller holds the container's lock.
pub fn write_exit(state_dir: &Path, exit: ExitRecord) -> Result<ExitRecord> {
    if let Ok(Some(first)) = read_exit(state_dir) {
        return Ok(first);
    }
    write(state_dir, EXIT, &exit)?;
    Ok(exit)
}

/// Removes what an earlier run of the container left here; its exit would
/// otherwise be taken for that of the next.
pub fn clear(state_dir: &Path) -> Result<()> {
    crate::fs::remove_tree_path(&state_dir.join(super::execs::FOLDER))?;
    for name in [INTENT, INIT, EXIT] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(dir: &Path, name: &str) -> Result<Option<T>> {
    let path = dir.join(name);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let what = path.display().to_string();
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => parse(&what, &read_limited(fd, &what, LIMIT)?).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).io_context(|| format!("open {what}")),
    }
}

pub(super) fn write(dir: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = dir.join(name);
    let mut data = serde_json::to_vec(value).map_err(|error| {
        Error::internal(format!("encode {}", path.display())).with_source(error)
    })?;
    data.push(b'\n');
    write_atomic(&path, &data, 0o600, Durability::Volatile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(ExitRecord::exited(3).status(), 3);
        assert_eq!(ExitRecord::signaled(15).status(), 143);
        assert_eq!(ExitRecord::signaled(1000).status(), 255);
        assert_eq!(ExitRecord::signaled(-1).status(), 255);
        assert_eq!(ExitRecord::inferred().status(), 137);
        assert_eq!(ExitRecord::unknown().status(), 255);
    }

    #[test]
    fn an_unknown_status_can_be_read_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(read_exit(dir.path()), Ok(None));
        let exit = write_exit(dir.path(), ExitRecord::unknown()).expect("write");
        assert_eq!(read_exit(dir.path()), Ok(Some(exit.clone())));
        assert_eq!(exit.status(), 255);
        // A later finding does not change what was told.
        let second = write_exit(dir.path(), ExitRecord::inferred()).expect("write");
        assert_eq!(second, exit);
        clear(dir.path()).expect("clear");
        assert_eq!(read_exit(dir.path()), Ok(None));
        clear(dir.path()).expect("nothing is left to clear");
    }

    #[test]
    fn damaged_newer_and_foreign_files_are_told_apart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(EXIT);
        std::fs::write(&path, "%!u(uint32=255)").expect("write");
        let error = read_exit(dir.path()).expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        std::fs::write(&path, "{\"version\":99}").expect("write");
        let error = read_exit(dir.path()).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("exit.json"), "{error}");

        let mut init = InitRecord {
            version: PROTOCOL,
            process: ProcessIdentity::of(std::process::id()).expect("identity"),
            cgroups: Vec::new(),
            at: Timestamp::now(),
        };
        write_init(dir.path(), &init).expect("write");
        assert_eq!(read_init(dir.path()), Ok(Some(init.clone())));
        init.process.boot_id = "another boot".into();
        write_init(dir.path(), &init).expect("write");
        assert_eq!(read_init(dir.path()), Ok(None));
    }
}
