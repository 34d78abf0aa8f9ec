//! What a shim is asked to do.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::events::{Event, EventLog};
use crate::ids::{ContainerId, InstanceName};
use crate::logs::LogFiles;
use crate::mount::Mount;
use crate::runtime::CheckpointRequest;

/// The version of protocol, request and state files that this code speaks.
pub const PROTOCOL: u32 = 1;

/// No request is longer: 500 layers with the longest paths the kernel takes.
const REQUEST_LIMIT: u64 = 4 << 20;

/// The runtime driver that the shim loads for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuntimeRef {
    /// The shared object, absolute.
    pub library: PathBuf,
    /// Its pin, when the configuration has one.
    #[serde(default)]
    pub sha256: Option<Digest>,
    /// The instance's name.
    pub instance: InstanceName,
    /// The instance's persistent folder, which exists.
    pub root: PathBuf,
    /// The instance's run-time folder, which exists.
    pub state: PathBuf,
    /// The instance's options.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// Seconds that one call into it may take; 0 is for ever, `None` the
    /// shim's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_timeout: Option<u64>,
}

/// How the shim holds the streams of an init.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Whether clients may write to its standard input. Otherwise it is the
    /// launching client's, as it is.
    #[serde(default)]
    pub stdin: bool,
    /// Where its output is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFiles>,
}

/// What a shim tells events with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSource {
    /// The kit's `state` folder, absolute.
    pub state: PathBuf,
    /// The container's name.
    pub name: ContainerId,
    /// Its image.
    #[serde(default)]
    pub image: Option<String>,
}

impl EventSource {
    /// Tells of a container; `more` adds attributes.
    pub fn tell(&self, id: &ContainerId, kind: &str, more: impl FnOnce(Event) -> Event) {
        let event = Event::of_container(kind, id, self.name.as_str()).image(self.image.clone());
        EventLog::new(&self.state).tell(more(event));
    }
}

/// One container to supervise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShimRequest {
    /// [`PROTOCOL`] of the client.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// The bundle, absolute: `config.json` is in it, and the folder `rootfs`,
    /// empty when there are mounts.
    pub bundle: PathBuf,
    /// Performed at `bundle/rootfs` in the shim's own mount namespace.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The runtime driver.
    pub runtime: RuntimeRef,
    /// The saved processes that the init is made from, when it is not begun
    /// anew.
    #[serde(default)]
    pub restore: Option<CheckpointRequest>,
    /// Whether the init has a terminal; the same as in `config.json`.
    pub terminal: bool,
    /// Whether the shim stands between the init and its streams. Without it
    /// the init has the launching client's own, and nobody else can have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// This container's own folder in `state`, absolute and of mode 0700.
    pub state_dir: PathBuf,
    /// A program and its arguments, executed at the end when the client has
    /// vanished; its first is absolute and so are the paths among the others.
    /// Empty: nothing.
    #[serde(default)]
    pub cleanup: Vec<String>,
    /// How events are told; without it they are not.
    #[serde(default)]
    pub events: Option<EventSource>,
    /// `error`, `warn`, `info`, `debug` or `trace`: what goes to `shim.log`;
    /// warnings and errors when empty.
    #[serde(default)]
    pub log_level: String,
}

impl ShimRequest {
    /// Where the rootfs is: `bundle/rootfs`.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// Tells an event of the container, where events are told.
    pub fn tell(&self, kind: &str, more: impl FnOnce(Event) -> Event) {
        if let Some(source) = &self.events {
            source.tell(&self.id, kind, more);
        }
    }

    /// Refuses what no shim can do.
    pub fn check(&self) -> Result<()> {
        check_version("the shim's request", self.version)?;
        let runtime = &self.runtime;
        let mut paths = vec![
            ("bundle", self.bundle.as_path()),
            ("state folder", &self.state_dir),
            ("runtime library", &runtime.library),
            ("runtime root", &runtime.root),
            ("runtime state", &runtime.state),
        ];
        if let Some(log) = self.hold.as_ref().and_then(|hold| hold.log.as_ref()) {
            paths.push(("folder of logs", &log.folder));
        }
        if let Some(program) = self.cleanup.first() {
            paths.push(("cleanup program", Path::new(program)));
        }
        for (what, path) in paths {
            if !path.is_absolute() {
                return Err(Error::invalid(format!(
                    "container {}: {what} {path:?} is not absolute",
                    self.id
                )));
            }
        }
        Ok(())
    }

    /// The request in a sealed memfd.
    pub(super) fn to_memfd(&self) -> Result<OwnedFd> {
        seal(&format!("the request of container {}", self.id), self)
    }
}

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A value in a sealed memfd, for what may be too long for a packet.
pub(super) fn seal(what: &str, value: &impl Serialize) -> Result<OwnedFd> {
    let what = || format!("pass {what}");
    let data = serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, what()).with_source(error))?;
    if data.len() as u64 > REQUEST_LIMIT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{}: {} bytes, at most {REQUEST_LIMIT}", what(), data.len()),
        ));
    }
    let fd = rustix::fs::memfd_create(
        c"containerkit-request",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .io_context(what)?;
    let mut file = File::from(fd);
    file.write_all(&data).io_context(what)?;
    rustix::fs::fcntl_add_seals(&file, SEALS).io_context(what)?;
    Ok(file.into())
}

/// The value in a sealed memfd. Anything else is refused: it could hold up
/// the reader, or change under its eyes.
pub fn unseal<T: for<'a> Deserialize<'a>>(what: &str, memfd: impl AsFd) -> Result<T> {
    match rustix::fs::fcntl_get_seals(&memfd) {
        Ok(seals) if seals.contains(SEALS) => {}
        _ => return Err(Error::invalid(format!("{what} is not in a sealed memfd"))),
    }
    rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0)).io_context(|| what.to_owned())?;
    let data = crate::fs::read_limited(memfd, what, REQUEST_LIMIT)?;
    serde_json::from_slice(&data)
        .map_err(|error| Error::invalid(format!("{what} cannot be understood")).with_source(error))
}

/// Reads the request from its memfd, from the beginning.
pub fn read_request(memfd: impl AsFd) -> Result<ShimRequest> {
    let what = "the shim's request";
    rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0)).io_context(|| what)?;
    let data = crate::fs::read_limited(memfd, what, REQUEST_LIMIT)?;
    parse(what, &data)
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Parses a versioned document; a newer one is refused by name before its
/// fields are looked at.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(what: &str, data: &[u8]) -> Result<T> {
    let damaged = |error: serde_json::Error| {
        Error::data_loss(format!("{what} cannot be understood")).with_source(error)
    };
    let head: Versioned = serde_json::from_slice(data).map_err(damaged)?;
    check_version(what, head.version)?;
    serde_json::from_slice(data).map_err(damaged)
}

pub(super) fn check_version(what: &str, version: u32) -> Result<()> {
    if version == 0 || version > PROTOCOL {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!("{what} has version {version}, this program knows up to {PROTOCOL}"),
        )
        .with_hint("install containerkit and containerkit-shim of one version"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn request() -> ShimRequest {
        ShimRequest {
            version: PROTOCOL,
            id: "a".parse().expect("id"),
            bundle: "/b".into(),
            mounts: Vec::new(),
            runtime: RuntimeRef {
                library: "/lib.so".into(),
                sha256: None,
                instance: "runc".parse().expect("instance"),
                root: "/r".into(),
                state: "/s".into(),
                options: Map::new(),
                call_timeout: None,
            },
            restore: None,
            terminal: false,
            hold: None,
            state_dir: "/s/a".into(),
            cleanup: Vec::new(),
            events: None,
            log_level: String::new(),
        }
    }

    #[test]
    fn a_request_survives_its_memfd_and_cannot_be_changed_there() {
        let mut request = request();
        // 500 layers are far more than a packet holds.
        request.mounts = (0..500)
            .map(|n| Mount::bind(format!("/{n}/{}", "x".repeat(200)), crate::Access::ReadOnly))
            .collect();
        let fd = request.to_memfd().expect("memfd");
        assert_eq!(read_request(&fd).expect("read"), request);
        assert_eq!(read_request(&fd).expect("read again"), request);
        assert!(rustix::io::write(&fd, b"x").is_err());
    }

    #[test]
    fn a_newer_or_relative_request_is_refused() {
        let mut newer = request();
        newer.version = PROTOCOL + 1;
        let fd = newer.to_memfd().expect("memfd");
        let error = read_request(&fd).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        for break_it in [
            (|r| r.bundle = "b".into()) as fn(&mut ShimRequest),
            |r| r.state_dir = "s".into(),
            |r| r.runtime.library = "lib.so".into(),
            |r| r.cleanup = vec!["containerkit".into()],
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(request.check().is_err(), "{request:?}");
        }
        assert!(request().check().is_ok());
    }
}
