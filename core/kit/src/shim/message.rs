//! The packets of the launching client, and what they share with those of the
//! [socket](super::talk).

use serde::{Deserialize, Serialize};

use super::state::ExitRecord;
use crate::error::{Error, ErrorKind, ExecFailure};

/// The first packet: the shim loads its driver and waits. Its descriptor: the
/// [`RuntimeRef`](super::RuntimeRef) in a sealed memfd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandBy {
    /// [`PROTOCOL`](super::PROTOCOL) of the client.
    pub version: u32,
    /// As in the [request](super::ShimRequest::log_level).
    #[serde(default)]
    pub log_level: String,
}

/// The second packet: the container. Its descriptors: the request's memfd, the
/// three standard streams, the container's lock, the file that takes the
/// shim's log, and perhaps the other end of a [`Link`](super::Link) that is
/// attached from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`](super::PROTOCOL) of the client.
    pub version: u32,
}

impl Hello {
    /// How many descriptors come with it at least.
    pub const FDS: usize = 6;
}

/// From client to shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToShim {
    /// Send a signal to the container's init.
    Signal {
        /// Its number.
        number: i32,
    },
    /// The client has removed, or will remove, what is left.
    Done,
    /// A newer client's; ignored.
    #[serde(other)]
    Unknown,
}

/// From shim to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    /// The user's program was let go. With a terminal, the pty's master is
    /// attached.
    Started {
        /// Pid of the init in the shim's namespace.
        pid: u32,
    },
    /// It could not be started, and everything is undone. The last packet.
    Failed {
        /// Why.
        error: WireError,
    },
    /// Nobody reads the client's standard output any more; the container's goes
    /// on, to its log.
    ReaderGone,
    /// The init ended, no process of the container is left, and the rootfs is
    /// unmounted.
    Exited {
        /// How.
        exit: ExitRecord,
    },
    /// The runtime has removed the container. The last packet.
    Gone {
        /// Why it could not.
        error: Option<WireError>,
    },
    /// A newer shim's; ignored.
    #[serde(other)]
    Unknown,
}

/// An [`Error`] as a packet carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    kind: u32,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<u32>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> WireError {
        WireError {
            kind: error.kind().code(),
            message: cut(error.message()),
            driver: error.driver().map(cut),
            operation: error.operation().map(cut),
            source: error.source_text().map(cut),
            hint: error.hint().map(cut),
            exec: error.exec_failure().map(|failure| failure as u32),
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Error {
        let mut error = Error::new(ErrorKind::from_code(wire.kind), wire.message);
        if let (Some(driver), operation) = (wire.driver, wire.operation.unwrap_or_default()) {
            error = error.in_driver(&driver, &operation);
        }
        if let Some(source) = wire.source {
            error = error.with_source_text(source);
        }
        if let Some(hint) = wire.hint {
            error = error.with_hint(hint);
        }
        if let Some(failure) = wire.exec.and_then(ExecFailure::from_code) {
            error = error.with_exec_failure(failure);
        }
        error
    }
}

/// Keeps an error's five texts within a packet, even where every byte of them
/// becomes six of JSON.
fn cut(text: &str) -> String {
    const LIMIT: usize = 2000;
    if text.len() <= LIMIT {
        return text.to_owned();
    }
    let mut end = LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_whole() {
        let error = Error::io("open /x", std::io::Error::from_raw_os_error(2))
            .in_driver("runc", "run")
            .with_hint("do this")
            .with_exec_failure(ExecFailure::NotExecutable);
        let text = serde_json::to_vec(&WireError::from(&error)).expect("encode");
        let back: WireError = serde_json::from_slice(&text).expect("decode");
        assert_eq!(Error::from(back), error);
    }

    #[test]
    fn the_longest_error_fits_into_a_packet() {
        let long = "\u{1}".repeat(100_000);
        let error = Error::internal(long.clone())
            .with_source_text(long.clone())
            .with_hint(long.clone())
            .in_driver(&long, &long);
        let packet = ToClient::Failed {
            error: WireError::from(&error),
        };
        let text = serde_json::to_vec(&packet).expect("encode");
        assert!(text.len() < super::super::PACKET_LIMIT, "{}", text.len());
    }

    #[test]
    fn what_a_newer_shim_says_is_ignored() {
        for text in ["{\"type\":\"oom\",\"x\":{\"y\":[1]}}", "{\"type\":\"x\"}"] {
            assert_eq!(
                serde_json::from_str::<ToClient>(text).ok(),
                Some(ToClient::Unknown)
            );
        }
        let text = "{\"type\":\"started\",\"pid\":7,\"more\":true}";
        assert_eq!(
            serde_json::from_str::<ToClient>(text).ok(),
            Some(ToClient::Started { pid: 7 })
        );
    }
}
