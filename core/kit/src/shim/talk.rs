//! What is said at the shim's socket.

use serde::{Deserialize, Serialize};

use super::message::WireError;
use super::state::ExitRecord;

/// From client to shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Ask {
    /// The first word; answered by `Welcome`.
    Hello {
        /// The highest [`PROTOCOL`](super::PROTOCOL) that the client speaks.
        version: u32,
    },
    /// Start a further process; answered by `Started` or `Refused`. With it
    /// come a sealed memfd with its `Process` (runtime-spec) and, unless that
    /// has a terminal, its three standard streams. From here on signals of
    /// this connection are for that process.
    Exec,
    /// Give this connection the container's output; answered by `Attached` or
    /// `Refused`.
    Attach {
        /// Its input too, where that is open.
        stdin: bool,
    },
    /// Size of the container's terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
    /// What this connection's pipe still holds is the last of the container's
    /// standard input; a terminal gets its end-of-file character.
    CloseStdin,
    /// Send a signal to the container's init, or to this connection's exec.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Tell of execs from now on.
    Follow,
    /// A newer client's.
    #[serde(other)]
    Unknown,
}

/// From shim to client. Every connection that is still there when the
/// container has ended is told of its exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Tell {
    /// The version that both speak.
    Welcome {
        /// The lower of both sides' highest.
        version: u32,
    },
    /// The last request was not done.
    Refused {
        /// Why.
        error: WireError,
    },
    /// The process runs. With a terminal, the pty's master is attached.
    Started {
        /// Its number among the container's.
        exec: u32,
        /// Its pid in the shim's namespace.
        pid: u32,
    },
    /// The output follows by pipe: with this packet come the write end of a
    /// pipe for input if there is any, the read end of one for standard output
    /// and, without a terminal, of one for standard error.
    Attached {
        /// Whether it is a terminal.
        terminal: bool,
        /// Whether the first descriptor is for input.
        stdin: bool,
    },
    /// So much of the output did not fit into this connection's pipes.
    Skipped {
        /// Since it was last told.
        bytes: u64,
    },
    /// The exec that this connection asked for ended.
    ExecExited {
        /// Which.
        exec: u32,
        /// How.
        exit: ExitRecord,
    },
    /// To one who follows: a further process runs.
    ExecStarted {
        /// Which.
        exec: u32,
        /// Its pid.
        pid: u32,
    },
    /// The container ended, and its rootfs is free. The last word.
    Exited {
        /// How.
        exit: ExitRecord,
    },
    /// A newer shim's; ignored.
    #[serde(other)]
    Unknown,
}
