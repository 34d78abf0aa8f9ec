//! A line of a file: written, and read back.

use std::fmt::Write;

use crate::value::Timestamp;

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As a line names it.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What of a container's output one line of a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the shim read it.
    pub time: Timestamp,
    /// From where.
    pub stream: Stream,
    /// Whether a newline follows the text.
    pub whole: bool,
    /// The bytes as they were written, without the newline.
    pub text: Vec<u8>,
}

impl Entry {
    /// Of a line without its newline; `None` for one that is damaged.
    pub(super) fn parse(line: &[u8]) -> Option<Entry> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // More tags may follow the first, after colons.
        let whole = match fields.next()?.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Entry {
            time,
            stream,
            whole,
            text: fields.next()?.to_vec(),
        })
    }
}

/// Calls `put` with each piece of `data` as lines of a file.
pub(super) fn lines(
    stream: Stream,
    time: Timestamp,
    data: &[u8],
    mut put: impl FnMut(&[u8], &[u8]),
) {
    let mut head = String::new();
    let _ = write!(head, "{time} {} F ", stream.name());
    let tag = head.len() - 2;
    for piece in data.split_inclusive(|byte| *byte == b'\n') {
        match piece.strip_suffix(b"\n") {
            Some(text) => put(head.as_bytes(), text),
            None => {
                head.replace_range(tag..=tag, "P");
                put(head.as_bytes(), piece);
            }
        }
    }
}
