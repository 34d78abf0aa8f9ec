//! A big blob over several connections: parts are fetched side by side and
//! appended in order.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use containerkit::{Error, ErrorKind, Result};

use crate::deadline::Deadline;
use crate::fetch::Span;
use crate::http;
use crate::pull::download::{Download, PIECE, Sink, fill};
use crate::settings::Endpoint;

/// From so many bytes on it is worth more than one connection.
pub(super) const LARGE: u64 = 64 << 20;
/// Bytes of a part. The lane whose turn it is hands on what comes; the others
/// are ahead by about this much, which a killed pull loses.
const PART: u64 = 4 << 20;
/// Connections.
const LANES: u64 = 3;

type Pieces = Result<Vec<u8>>;

/// Fetches the rest. Lane `n` of `k` fetches every `k`th part; what it has is
/// taken in turn.
pub(super) fn fetch(
    task: &Download<'_>,
    endpoint: &Endpoint,
    sink: &mut Sink<'_>,
    deadline: Deadline,
) -> Result<()> {
    let begin = sink.offset;
    let parts = (task.size - begin).div_ceil(PART);
    let span = |part: u64| {
        let start = begin + part * PART;
        Span {
            start,
            end: task.size.min(start + PART),
            size: task.size,
        }
    };
    let probe = task
        .registry
        .open_blob(endpoint, &task.digest, span(0), deadline)?;
    if !probe.is_part {
        // It knows no ranges; what it sends is the whole from the beginning.
        drop(probe);
        return task.stream(endpoint, sink, deadline);
    }
    std::thread::scope(|scope| {
        let mut first = Some(probe.data);
        let mut lanes: Vec<Receiver<Pieces>> = Vec::new();
        for lane in 0..LANES.min(parts) {
            let (sender, receiver) = sync_channel(PART as usize / PIECE);
            let mut opened = first.take();
            std::thread::Builder::new()
                .name("range".into())
                .spawn_scoped(scope, move || {
                    for part in (lane..parts).step_by(LANES as usize) {
                        let span = span(part);
                        let data = match opened.take() {
                            Some(data) => Ok(data),
                            None => open(task, endpoint, span, deadline),
                        };
                        match data.and_then(|data| read(task, endpoint, data, span, &sender)) {
                            Ok(Taken::All) => {}
                            Ok(Taken::NoMore) => return,
                            Err(error) => return drop(sender.send(Err(error))),
                        }
                    }
                })
                .map_err(|error| Error::io("start a thread", error))?;
            lanes.push(receiver);
        }
        for part in 0..parts {
            let lane = &lanes[(part % LANES) as usize];
            let end = span(part).end;
            while sink.offset < end {
                let piece = lane
                    .recv()
                    .map_err(|_| Error::internal("a part of a blob has no thread"))??;
                sink.write(&piece)?;
            }
        }
        Ok(())
    })
}

fn open(
    task: &Download<'_>,
    endpoint: &Endpoint,
    span: Span,
    deadline: Deadline,
) -> Result<Box<dyn Read + Send>> {
    task.board.check()?;
    let opened = task
        .registry
        .open_blob(endpoint, &task.digest, span, deadline)?;
    match opened.is_part {
        true => Ok(opened.data),
        false => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{}: it serves parts only sometimes", endpoint.origin),
        )),
    }
}

/// Whether somebody still takes what a lane reads.
enum Taken {
    All,
    NoMore,
}

/// Hands on exactly a part.
fn read(
    task: &Download<'_>,
    endpoint: &Endpoint,
    data: Box<dyn Read + Send>,
    span: Span,
    sender: &SyncSender<Pieces>,
) -> Result<Taken> {
    let want = span.end - span.start;
    let wrong = |bytes: u64| {
        Error::new(
            ErrorKind::Unavailable,
            format!("{}: a part has {bytes} bytes, not {want}", endpoint.origin),
        )
    };
    // One byte more shows what goes on, and ends what does not.
    let mut data = data.take(want + 1);
    let mut bytes = 0;
    loop {
        let mut piece = vec![0; PIECE];
        let read = fill(&mut data, &mut piece).map_err(|error| {
            http::read_error(&endpoint.url(&format!("blobs/{}", task.digest)), error)
        })?;
        bytes += read as u64;
        if bytes > want || (read == 0 && bytes < want) {
            return Err(wrong(bytes));
        }
        if read == 0 {
            return Ok(Taken::All);
        }
        piece.truncate(read);
        if sender.send(Ok(piece)).is_err() {
            return Ok(Taken::NoMore);
        }
    }
}
