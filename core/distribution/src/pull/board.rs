//! The layers of a pull, and who waits for which.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use containerkit::content::{
    BlobFilter, BlobInfo, BlobReader, ContentCapabilities, ContentStore, Expected, IngestStatus,
    IngestWriter,
};
use containerkit::{Cancel, Digest, Error, ErrorKind, IngestRef, LabelChanges, Page, Result};

/// Pieces on the way to a reader: what it is behind, at most.
const PIECES: usize = 16;

/// Where the bytes of a layer go besides its ingest.
pub(super) type Tap = SyncSender<Vec<u8>>;

enum State {
    Queued { size: u64, tap: Option<Tap> },
    Running,
    Done,
    Failed(Error),
}

/// Layers by digest, moved by several threads.
pub(super) struct Board {
    layers: Mutex<HashMap<Digest, State>>,
    changed: Condvar,
    stopped: AtomicBool,
    cancel: Cancel,
}

impl Board {
    pub(super) fn new(layers: impl Iterator<Item = (Digest, u64)>, cancel: Cancel) -> Board {
        let queued = |(digest, size)| (digest, State::Queued { size, tap: None });
        Board {
            layers: Mutex::new(layers.map(queued).collect()),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            cancel,
        }
    }

    /// The next layer to be moved: one that is waited for, else the largest,
    /// as unpacking has it.
    pub(super) fn next(&self) -> Option<(Digest, Option<Tap>)> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = layers
            .iter()
            .filter_map(|(digest, state)| match state {
                State::Queued { size, tap } => Some(((tap.is_some(), *size), digest)),
                _ => None,
            })
            .max()
            .map(|(_, digest)| digest.clone())?;
        match layers.insert(digest.clone(), State::Running) {
            Some(State::Queued { tap, .. }) => Some((digest, tap)),
            _ => None,
        }
    }

    pub(super) fn end(&self, digest: &Digest, result: Result<()>) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match result {
            Ok(()) => State::Done,
            Err(error) => State::Failed(error),
        };
        layers.insert(digest.clone(), state);
        self.changed.notify_all();
    }

    /// What is queued does not come, and what comes may end: something failed.
    pub(super) fn stop(&self, why: &Error) {
        self.stopped.store(true, Ordering::Relaxed);
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for state in layers.values_mut() {
            if matches!(state, State::Queued { .. }) {
                *state = State::Failed(why.clone());
            }
        }
        self.changed.notify_all();
    }

    /// `Cancelled` when the user or a failure ended it.
    pub(super) fn check(&self) -> Result<()> {
        self.cancel.check()?;
        match self.stopped.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Cancelled, "another layer failed")),
        }
    }

    /// Waits until a layer is stored.
    fn wait(&self, digest: &Digest) -> Result<()> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match layers.get(digest) {
                None | Some(State::Done) => return Ok(()),
                Some(State::Failed(error)) => return Err(error.clone()),
                _ => {}
            }
            self.cancel.check()?;
            layers = self
                .changed
                .wait_timeout(layers, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Asks for a layer's bytes as they come, if they have not begun to.
    fn tap(&self, digest: &Digest) -> Option<(u64, Receiver<Vec<u8>>)> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match layers.get_mut(digest) {
            Some(State::Queued { size, tap }) if tap.is_none() => {
                let (sender, receiver) = sync_channel(PIECES);
                *tap = Some(sender);
                Some((*size, receiver))
            }
            _ => None,
        }
    }
}

/// A content store whose layers may still be on their way: a reader of one
/// gets its bytes as they come, or waits until it is stored.
pub(super) struct Arriving {
    pub(super) store: Arc<dyn ContentStore>,
    pub(super) board: Arc<Board>,
}

/// What is left of a stream.
struct Stream {
    pieces: Option<Receiver<Vec<u8>>>,
    piece: Vec<u8>,
    /// In the piece.
    at: usize,
    /// In the blob.
    offset: u64,
}

struct Reader {
    size: u64,
    digest: Digest,
    store: Arc<dyn ContentStore>,
    board: Arc<Board>,
    stream: Mutex<Stream>,
    stored: Mutex<Option<Box<dyn BlobReader>>>,
}

impl Reader {
    /// From the stream, where it is at this offset.
    fn streamed(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.offset != offset {
            stream.pieces = None;
        }
        while stream.at == stream.piece.len() {
            match stream.pieces.as_ref()?.recv() {
                Ok(piece) => {
                    stream.piece = piece;
                    stream.at = 0;
                }
                Err(_) => {
                    stream.pieces = None;
                    return None;
                }
            }
        }
        stream.pieces.as_ref()?;
        let read = buf.len().min(stream.piece.len() - stream.at);
        let at = stream.at;
        buf[..read].copy_from_slice(&stream.piece[at..at + read]);
        stream.at += read;
        stream.offset += read as u64;
        Some(read)
    }
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if buf.is_empty() || offset >= self.size {
            // The end is believed when the digest is known to be right.
            self.board.wait(&self.digest)?;
            return Ok(0);
        }
        if let Some(read) = self.streamed(buf, offset) {
            return Ok(read);
        }
        self.board.wait(&self.digest)?;
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.is_none() {
            *stored = Some(self.store.reader(&self.digest)?);
        }
        match stored.as_ref() {
            Some(reader) => reader.read_at(buf, offset),
            None => Err(Error::internal("a reader that was just opened")),
        }
    }
}

impl ContentStore for Arriving {
    fn capabilities(&self) -> ContentCapabilities {
        self.store.capabilities()
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo> {
        self.store.info(digest)
    }

    fn update(&self, digest: &Digest, changes: &LabelChanges) -> Result<BlobInfo> {
        self.store.update(digest, changes)
    }

    fn walk(&self, filter: &BlobFilter, page: &Page) -> Result<Vec<BlobInfo>> {
        self.store.walk(filter, page)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn BlobReader>> {
        let Some((size, pieces)) = self.board.tap(digest) else {
            self.board.wait(digest)?;
            return self.store.reader(digest);
        };
        Ok(Box::new(Reader {
            size,
            digest: digest.clone(),
            store: Arc::clone(&self.store),
            board: Arc::clone(&self.board),
            stream: Mutex::new(Stream {
                pieces: Some(pieces),
                piece: Vec::new(),
                at: 0,
                offset: 0,
            }),
            stored: Mutex::new(None),
        }))
    }

    fn writer(&self, name: &IngestRef, expected: &Expected) -> Result<Box<dyn IngestWriter>> {
        self.store.writer(name, expected)
    }

    fn status(&self, name: &IngestRef) -> Result<IngestStatus> {
        self.store.status(name)
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>> {
        self.store.list_statuses()
    }

    fn abort(&self, name: &IngestRef) -> Result<()> {
        self.store.abort(name)
    }
}
