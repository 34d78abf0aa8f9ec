//! A big blob over several connections: parts are fetched side by side and
//! appended in order.

use std::io::Read;
use std::sync::mpsc::{Receiver, sync_channel};

use containerkit::{Error, ErrorKind, Result};

use crate::fetch::Span;
use crate::http;
use crate::pull::download::{Download, PIECE, Sink};
use crate::settings::Endpoint;

/// From so many bytes on it is worth more than one connection.
pub(super) const LARGE: u64 = 64 << 20;
/// Bytes of a part. A killed pull loses those that are not appended yet.
const PART: u64 = 8 << 20;
/// Connections.
const LANES: u64 = 3;

/// Fetches the rest. Lane `n` of `k` fetches every `k`th part; what it has is
/// taken in turn, so that none is ahead by more than two parts.
pub(super) fn fetch(task: &Download<'_>, endpoint: &Endpoint, sink: &mut Sink<'_>) -> Result<()> {
    let begin = sink.offset;
    let probe = task.registry.open_blob(
        endpoint,
        &task.digest,
        Span {
            start: begin,
            end: begin + PART,
            size: task.size,
        },
    )?;
    if !probe.is_part {
        // It knows no ranges; what it sends is the whole from the beginning.
        drop(probe);
        return task.stream(endpoint, sink);
    }
    let parts = (task.size - begin).div_ceil(PART);
    let span = |part: u64| {
        let start = begin + part * PART;
        Span {
            start,
            end: task.size.min(start + PART),
            size: task.size,
        }
    };
    std::thread::scope(|scope| {
        let mut first = Some(probe.data);
        let mut lanes: Vec<Receiver<Result<Vec<u8>>>> = Vec::new();
        for lane in 0..LANES.min(parts) {
            let (sender, receiver) = sync_channel(1);
            let mut opened = first.take();
            std::thread::Builder::new()
                .name("range".into())
                .spawn_scoped(scope, move || {
                    for part in (lane..parts).step_by(LANES as usize) {
                        let span = span(part);
                        let result = match opened.take() {
                            Some(data) => read(task, endpoint, data, span),
                            None => open(task, endpoint, span),
                        };
                        let failed = result.is_err();
                        if sender.send(result).is_err() || failed {
                            return;
                        }
                    }
                })
                .map_err(|error| Error::io("start a thread", error))?;
            lanes.push(receiver);
        }
        for part in 0..parts {
            let lane = &lanes[(part % LANES) as usize];
            let data = lane
                .recv()
                .map_err(|_| Error::internal("a part of a blob has no thread"))??;
            for piece in data.chunks(PIECE) {
                sink.write(piece)?;
            }
        }
        Ok(())
    })
}

fn open(task: &Download<'_>, endpoint: &Endpoint, span: Span) -> Result<Vec<u8>> {
    task.board.check()?;
    let opened = task.registry.open_blob(endpoint, &task.digest, span)?;
    if !opened.is_part {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("{}: it serves parts only sometimes", endpoint.origin),
        ));
    }
    read(task, endpoint, opened.data, span)
}

fn read(
    task: &Download<'_>,
    endpoint: &Endpoint,
    data: Box<dyn Read + Send>,
    span: Span,
) -> Result<Vec<u8>> {
    let want = span.end - span.start;
    let mut part = Vec::with_capacity(want as usize);
    data.take(want + 1)
        .read_to_end(&mut part)
        .map_err(|error| {
            http::read_error(&endpoint.url(&format!("blobs/{}", task.digest)), error)
        })?;
    if part.len() as u64 != want {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "{}: a part has {} bytes, not {want}",
                endpoint.origin,
                part.len()
            ),
        ));
    }
    Ok(part)
}
