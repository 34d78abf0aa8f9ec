//! A blob's bytes from an endpoint, from an offset, at a pace.

use std::io::{Error as IoError, ErrorKind as IoKind, Read};
use std::time::{Duration, Instant};

use containerkit::{Cancel, Digest, Error, ErrorKind, Result};

use crate::client::{Access, Registry};
use crate::deadline::Deadline;
use crate::http::{self, Answer, Call};
use crate::settings::Endpoint;

/// Over so long a body must bring [`SLOWEST`] bytes.
const WINDOW: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 64 << 10;

/// A part of a blob: from an offset to its end, or to this byte (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) size: u64,
}

/// What a server sends for a span: it may ignore it and begin at 0.
pub(crate) struct Opened {
    pub(crate) start: u64,
    /// Whether it is the span that was asked for, and ends with it.
    pub(crate) is_part: bool,
    pub(crate) data: Box<dyn Read + Send>,
}

impl Registry {
    /// Opens a blob, once: whoever reads it knows what is worth another try.
    /// Fewer or more bytes than the size that is known are an
    /// error of whoever reads to the end.
    pub(crate) fn open_blob(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        span: Span,
        deadline: Deadline,
    ) -> Result<Opened> {
        let whole = span.start == 0 && span.end == span.size;
        let mut call = Call::get(endpoint.url(&format!("blobs/{digest}"))).blob(deadline);
        if !whole {
            call = call.header("range", format!("bytes={}-{}", span.start, span.end - 1));
        }
        let answer = self.follow(endpoint, Access::Pull, &call)?;
        if http::status_may_pass(answer.status) {
            return Err(self.passing(answer, deadline));
        }
        let start = match answer.status {
            200 => {
                check_length(&answer, span.size)?;
                0
            }
            206 if !whole => {
                check_range(&answer, span)?;
                check_length(&answer, span.end - span.start)?;
                span.start
            }
            // It has less than we hold, or knows no ranges.
            416 if !whole => {
                let whole = Span {
                    start: 0,
                    end: span.size,
                    ..span
                };
                return self.open_blob(endpoint, digest, whole, deadline);
            }
            206 => {
                return Err(lie(&answer, "it answers with a part of what was asked for"));
            }
            _ => return Err(answer.error()),
        };
        Ok(Opened {
            start,
            is_part: answer.status == 206,
            data: Box::new(Paced {
                data: answer.into_reader(),
                cancel: self.0.http.cancel.clone(),
                deadline,
                waited: Duration::ZERO,
                bytes: 0,
            }),
        })
    }
}

fn lie(answer: &Answer, why: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("{}: {why}", answer.url))
}

fn check_length(answer: &Answer, want: u64) -> Result<()> {
    match answer.number("content-length") {
        Some(found) if found != want => Err(lie(
            answer,
            &format!("it announces {found} bytes, the descriptor says {want}"),
        )),
        _ => Ok(()),
    }
}

/// `Content-Range: bytes START-END/SIZE` must be what was asked for.
fn check_range(answer: &Answer, span: Span) -> Result<()> {
    let text = answer.header("content-range").unwrap_or("");
    match parse_range(text) {
        Some((start, end, size))
            if start == span.start
                && end + 1 == span.end
                && size.is_none_or(|size| size == span.size) =>
        {
            Ok(())
        }
        _ => Err(lie(
            answer,
            &format!(
                "its Content-Range {} is not the part that was asked for ({}-{}/{})",
                containerkit::quote(text),
                span.start,
                span.end - 1,
                span.size
            ),
        )),
    }
}

fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let end: u64 = end.parse().ok()?;
    let size = match size {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some((start.parse().ok()?, end.checked_add(1).map(|_| end)?, size))
}

/// Gives up a body that trickles. Only waiting for it counts: who reads slowly
/// is not the server's fault.
struct Paced<R> {
    data: R,
    cancel: Cancel,
    deadline: Deadline,
    waited: Duration,
    bytes: u64,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(IoError::other)?;
        if let Err(late) = self.deadline.check() {
            return Err(IoError::new(IoKind::TimedOut, late));
        }
        let asked = Instant::now();
        let read = self.data.read(buf)?;
        self.waited += asked.elapsed();
        self.bytes += read as u64;
        if self.waited > WINDOW {
            if self.bytes < SLOWEST {
                return Err(IoError::new(
                    IoKind::TimedOut,
                    format!("fewer than {SLOWEST} bytes came in a minute"),
                ));
            }
            self.waited = Duration::ZERO;
            self.bytes = 0;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, 0, None)));
        for bad in [
            "",
            "bytes 5-9",
            "bytes */10",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes -1-2/3",
        ] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
