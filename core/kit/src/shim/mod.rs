//! The supervisor of one container, seen from outside: what is asked of it,
//! what it answers, what it writes down, and how its end is mended.
//!
//! # Vocabulary
//! The **shim** (`containerkit-shim`) is one program a container, in two
//! processes. The **guard** is the one a command starts; it forks the
//! **supervisor**, which mounts the rootfs, loads the runtime driver and is the
//! parent of the container's **init**. The guard is the supervisor's parent and
//! a subreaper: when the supervisor is killed, the whole container falls to the
//! guard, which kills and reaps it. The **launching client** is the command that
//! started the shim, and shares a socket pair with it. Any later process of the
//! same user is a **client** too, through a [`Link`] to the shim's socket.
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
//! both sides may grow. The launching client's first packet carries the
//! protocol's version and the runtime driver, which the shim loads while the
//! client still makes the container ([`Standby`]); the second has six
//! descriptors or seven. The request itself is in a sealed memfd, because the
//! mounts of a deep image do not fit into a packet.
//!
//! The socket is `shim/socket`, 0600 in a folder of 0700, and never abstract; a
//! peer is of the shim's user or root, or is hung up on. A client begins with
//! its version, and the shim answers with the lower of both, so that a newer
//! command still speaks to an older shim; a request that this does not know is
//! refused as `Unimplemented`. Packets that cannot be understood end their
//! connection and nothing else. A client that does not read what it is told is
//! hung up on once its queue is full.
//!
//! # Streams
//! Without [`hold`](ShimRequest::hold) the init has the launching client's
//! streams themselves and nobody copies anything: the way of `run --rm` in the
//! foreground. With it the shim reads the output, logs it ([`crate::logs`]) and
//! gives it to every attached client through a pipe of that client's own. What
//! such a pipe has no room for is skipped and counted, so that no client holds
//! up the container; only the launching client is waited for, as the reader of
//! a pipeline is, for as long as it lives. The streams of an exec are always
//! the descriptors of the client that asked for it.
//!
//! One loop does all of this, in one thread. While the runtime is asked for an
//! exec, everything else waits for it.
//!
//! # Files
//! In the container's own folder of `state`, by rename without fsync, each with
//! a version: `intent.json` before the runtime is asked for anything,
//! `init.json` once there is an init, `exit.json` at its end. `exec/N.json` is
//! written before the runtime is asked for the Nth further process, again when
//! it runs, and at its end; the last of those that ended are kept. `shim.log`
//! holds what the shim had to say.

mod cgroup;
mod channel;
mod client;
mod execs;
mod link;
mod message;
mod recover;
mod request;
mod socket;
mod state;
mod talk;

pub use cgroup::{cgroups_at, is_frozen, joined_cgroup, kill_cgroups, own_cgroups, remove_cgroups};
pub use channel::{Channel, PACKET_LIMIT};
pub use client::{Heard, Shim, Standby, Started, last_line};
pub use execs::{ExecRecord, end_execs, read_exec, read_execs, remove_exec, write_exec};
pub use link::{Attached, ExecStreams, Input, Link, StartedExec};
pub use message::{Hello, StandBy, ToClient, ToShim, WireError};
pub use recover::{kill_remains, recover};
pub use request::{EventSource, Hold, PROTOCOL, RuntimeRef, ShimRequest, read_request, unseal};
pub use socket::{Listener, listen};
pub use state::{
    ExitRecord, ExitSource, InitRecord, Intent, LOG, clear, read_exit, read_init, read_intent,
    write_exit, write_init, write_intent,
};
pub use talk::{Ask, Tell};
