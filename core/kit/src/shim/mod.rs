//! The supervisor of one container, seen from outside: what is asked of it,
//! what it answers, what it writes down, and how its end is mended.
//!
//! # Vocabulary
//! The **shim** (`containerkit-shim`) is one program a container, in two
//! processes. The **guard** is the one a command starts; it forks the
//! **supervisor**, which mounts the rootfs, loads the runtime driver and is the
//! parent of the container's **init**. The guard is the supervisor's parent and
//! a subreaper: when the supervisor is killed, the whole container falls to the
//! guard, which kills and reaps it. The **client** is the command that launched
//! the shim. Client and shim share one socket pair.
//!
//! # A story
//! ```no_run
//! use containerkit::lock::FileLock;
//! use containerkit::shim::{Shim, ShimRequest};
//! # use containerkit::Result;
//! # fn story(binary: &std::path::Path, request: ShimRequest,
//! #          stdio: [std::os::fd::OwnedFd; 3], lock: FileLock) -> Result<u8> {
//! // The lock goes along: from here on it is the shim that is in charge.
//! let mut shim = Shim::launch(binary, &request, stdio, lock)?;
//! let started = shim.wait_started()?; // or the runtime's own error, whole
//! println!("running as {}", started.pid);
//! let exit = shim.wait_exit()?; // nothing uses the rootfs any more
//! // … remove the snapshot and the records …
//! shim.finish()?; // runtime state, cgroup and both processes are gone
//! # Ok(exit.status())
//! # }
//! ```
//!
//! A client that vanishes (or drops its [`Shim`] without
//! [`finish`](Shim::finish)) leaves the container running; at its end the shim
//! executes [`ShimRequest::cleanup`].
//!
//! # Protocol
//! Packets (`SOCK_SEQPACKET`) of one JSON object with a `type`, at most 64 KiB,
//! descriptors attached. A type or a key that is not known is ignored, so that
//! both sides may grow. The first packet carries the protocol's version and
//! six descriptors; the request itself is in a sealed memfd, because the mounts
//! of a deep image do not fit into a packet.
//!
//! # Files
//! In the container's own folder of `state`, by rename without fsync, each with
//! a version: `intent.json` before the runtime is asked for anything,
//! `init.json` once there is an init, `exit.json` at its end. `shim.log` holds
//! what the shim had to say.

mod cgroup;
mod channel;
mod client;
mod message;
mod recover;
mod request;
mod state;

pub use cgroup::{cgroups_at, kill_cgroups, own_cgroups, remove_cgroups};
pub use channel::{Channel, PACKET_LIMIT};
pub use client::{Shim, Started};
pub use message::{Hello, ToClient, ToShim, WireError};
pub use recover::{kill_remains, recover};
pub use request::{PROTOCOL, RuntimeRef, ShimRequest, read_request};
pub use state::{
    ExitRecord, ExitSource, InitRecord, Intent, LOG, clear, read_exit, read_init, read_intent,
    write_exit, write_init, write_intent,
};
