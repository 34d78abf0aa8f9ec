//! One blob into the content store: resumed, checked, from whoever has it.

use std::io::Read;
use std::time::{Duration, Instant};

use containerkit::content::{ContentStore, Expected, IngestWriter};
use containerkit::{Digest, Error, ErrorKind, IngestRef, LabelChanges, Labels, Result};

use crate::client::Registry;
use crate::deadline::Deadline;
use crate::event::{Event, How, Transfer, Watcher};
use crate::fetch::Span;
use crate::http;
use crate::pull::board::{Board, Tap};
use crate::pull::ranges;
use crate::settings::Endpoint;

/// What is read at a time.
pub(super) const PIECE: usize = 256 << 10;
/// So many bytes make an attempt that failed worth another without counting.
const FORWARD: u64 = 256 << 10;

/// The label that names a blob's repository by registry: from there another
/// repository of that registry can mount it.
pub(crate) fn source_label(domain: &str) -> String {
    format!("containerkit.source/{domain}")
}

/// Where a blob is and where it goes.
pub(super) struct Download<'a> {
    pub(super) registry: &'a Registry,
    pub(super) endpoints: &'a [Endpoint],
    pub(super) store: &'a dyn ContentStore,
    pub(super) board: &'a Board,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) watch: Watcher<'a>,
}

/// Bytes on the way: to the ingest, and to whoever unpacks them already.
pub(super) struct Sink<'a> {
    pub(super) writer: Box<dyn IngestWriter>,
    pub(super) offset: u64,
    tap: Option<Tap>,
    /// Bytes that the tap was given.
    tapped: u64,
    told: Instant,
    task: &'a Download<'a>,
}

impl Sink<'_> {
    /// Appends a piece. More than the blob's size is an error.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.task.board.check()?;
        let end = self.offset + piece.len() as u64;
        if end > self.task.size {
            return Err(Error::data_loss(format!(
                "the data goes on after the {} bytes that its descriptor says",
                self.task.size
            )));
        }
        self.writer.write(piece)?;
        let known = self.tapped.saturating_sub(self.offset);
        if let Some(tap) = &self.tap
            && let Some(new) = piece.get(known as usize..).filter(|new| !new.is_empty())
        {
            match tap.send(new.to_vec()) {
                Ok(()) => self.tapped = end,
                // Nobody reads it any more.
                Err(_) => self.tap = None,
            }
        }
        self.offset = end;
        if self.told.elapsed() >= Duration::from_millis(100) {
            self.told = Instant::now();
            (self.task.watch)(Event::Progress {
                digest: self.task.digest.clone(),
                bytes: end,
            });
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self) -> Result<()> {
        if self.offset > 0 {
            self.writer.truncate(0)?;
            self.offset = 0;
        }
        Ok(())
    }
}

/// What is in the store already, and of the right size.
pub(super) fn is_stored(
    store: &dyn ContentStore,
    digest: &Digest,
    size: u64,
    origin: &(String, String),
) -> Result<bool> {
    match store.info(digest) {
        Ok(info) if info.size == size => {
            if info.labels.get(&origin.0) != Some(&origin.1) {
                let mut changes = LabelChanges::default();
                changes.set.insert(origin.0.clone(), Some(origin.1.clone()));
                // It only saves bytes, some day.
                if let Err(error) = store.update(digest, &changes) {
                    log::debug!("label {digest}: {error}");
                }
            }
            Ok(true)
        }
        Ok(info) => Err(Error::precondition(format!(
            "blob {digest} has {} bytes, its descriptor says {size}",
            info.size
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Download<'_> {
    /// Stores the blob.
    pub(super) fn run(&self, tap: Option<Tap>, labels: &Labels) -> Result<()> {
        let how = self.fetch(tap, labels)?;
        (self.watch)(Event::End {
            transfer: Transfer::Download,
            digest: self.digest.clone(),
            how,
        });
        Ok(())
    }

    fn fetch(&self, tap: Option<Tap>, labels: &Labels) -> Result<How> {
        let name: IngestRef =
            format!("pull-{}-{}", self.digest.algorithm(), self.digest.hex()).parse()?;
        let expected = Expected {
            size: Some(self.size),
            digest: Some(self.digest.clone()),
        };
        let Some((writer, before)) = self.take(&name, &expected)? else {
            return Ok(How::There);
        };
        let held = writer.status()?.offset;
        let mut sink = Sink {
            writer,
            offset: held,
            // A stream begins at the beginning: half of one is waited for.
            tap: tap.filter(|_| held == 0),
            tapped: 0,
            told: Instant::now(),
            task: self,
        };
        // Only a digest says that what is held is the beginning of this blob.
        if held > self.size || (held > 0 && before.as_ref() != Some(&self.digest)) {
            sink.truncate()?;
        }
        (self.watch)(Event::Begin {
            transfer: Transfer::Download,
            digest: self.digest.clone(),
            size: self.size,
            offset: sink.offset,
        });
        let mut failure = None;
        for endpoint in self.endpoints {
            match self.from(endpoint, &mut sink, &expected, labels) {
                Ok(()) => return Ok(How::Moved),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    if self.endpoints.len() > 1 {
                        log::warn!("{}: {error}", endpoint.origin);
                    }
                    failure = Some(error);
                }
            }
        }
        let error = failure.unwrap_or_else(|| Error::internal("a blob without an endpoint"));
        if error.kind() == ErrorKind::DataLoss {
            // Nothing to go on from.
            drop(sink);
            if let Err(second) = self.store.abort(&name) {
                log::debug!("abort ingest {name}: {second}");
            }
        }
        Err(error.context(format!("blob {}", self.digest)))
    }

    /// Takes the ingest, waiting while another process has it; `None` when the
    /// blob is there. With the digest that it was begun for.
    #[allow(clippy::type_complexity)]
    fn take(
        &self,
        name: &IngestRef,
        expected: &Expected,
    ) -> Result<Option<(Box<dyn IngestWriter>, Option<Digest>)>> {
        let mut waited = false;
        loop {
            self.board.check()?;
            let status = self.store.status(name).ok();
            match self.store.writer(name, expected) {
                // It was not there when we looked: whoever had the ingest until
                // now has stored it.
                Ok(writer) if self.is_there() => {
                    drop(writer);
                    if let Err(error) = self.store.abort(name) {
                        log::debug!("abort ingest {name}: {error}");
                    }
                    return Ok(None);
                }
                Ok(writer) => {
                    let before = status.and_then(|status| status.expected);
                    return Ok(Some((writer, before)));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    if !waited {
                        waited = true;
                        (self.watch)(Event::Waiting {
                            digest: self.digest.clone(),
                            pid: status.and_then(|status| status.holder),
                        });
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_there(&self) -> bool {
        let info = self.store.info(&self.digest);
        info.is_ok_and(|info| info.size == self.size)
    }

    /// From one endpoint, until it is whole or the endpoint is given up.
    fn from(
        &self,
        endpoint: &Endpoint,
        sink: &mut Sink<'_>,
        expected: &Expected,
        labels: &Labels,
    ) -> Result<()> {
        let http = &self.registry.0.http;
        let deadline = self.registry.settings().deadline(&endpoint.domain);
        let mut failures = 0;
        let mut resumed = sink.offset > 0;
        loop {
            let before = sink.offset;
            let moved = match before == self.size {
                true => Ok(()),
                false => self.move_rest(endpoint, sink, deadline),
            };
            let error = match moved {
                Ok(()) => match sink.writer.commit(expected, labels) {
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                        sink.truncate()?;
                        if resumed {
                            // What was held may have been wrong, not this.
                            resumed = false;
                            continue;
                        }
                        return Err(Error::data_loss(format!(
                            "{}: its bytes have another digest",
                            endpoint.origin
                        ))
                        .with_source(error));
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => error,
            };
            self.board.check()?;
            if error.kind() == ErrorKind::DataLoss {
                sink.truncate()?;
            }
            if !http::may_pass(&error) {
                return Err(error);
            }
            deadline
                .check()
                .map_err(|late| late.context(&endpoint.origin).with_source(&error))?;
            failures = match sink.offset >= before.saturating_add(FORWARD) {
                true => 1,
                false => failures + 1,
            };
            if failures >= self.registry.attempts(endpoint) {
                return Err(error);
            }
            log::info!("blob {}: {error}, going on at {}", self.digest, sink.offset);
            http.pause(failures - 1, None)?;
            resumed = true;
        }
    }

    fn move_rest(
        &self,
        endpoint: &Endpoint,
        sink: &mut Sink<'_>,
        deadline: Deadline,
    ) -> Result<()> {
        if self.size - sink.offset >= ranges::LARGE {
            return ranges::fetch(self, endpoint, sink, deadline);
        }
        self.stream(endpoint, sink, deadline)
    }

    /// The rest in one stream.
    pub(super) fn stream(
        &self,
        endpoint: &Endpoint,
        sink: &mut Sink<'_>,
        deadline: Deadline,
    ) -> Result<()> {
        let span = Span {
            start: sink.offset,
            end: self.size,
            size: self.size,
        };
        let opened = self
            .registry
            .open_blob(endpoint, &self.digest, span, deadline)?;
        if opened.start != sink.offset {
            log::info!(
                "{}: it does not resume; from the beginning",
                endpoint.origin
            );
            sink.truncate()?;
        }
        let mut data = opened.data;
        let mut piece = vec![0u8; PIECE];
        loop {
            let read = fill(&mut data, &mut piece).map_err(|error| {
                http::read_error(&endpoint.url(&format!("blobs/{}", self.digest)), error)
            })?;
            if read == 0 {
                break;
            }
            sink.write(&piece[..read])?;
        }
        if sink.offset < self.size {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{}: the data ends at {} of {} bytes",
                    endpoint.origin, sink.offset, self.size
                ),
            ));
        }
        containerkit::step("pull.fetched");
        Ok(())
    }
}

/// Reads until the buffer is full or the data ends.
pub(super) fn fill(data: &mut dyn Read, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match data.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // What came before it counts.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
