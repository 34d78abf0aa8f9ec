//! From a registry into a content store, and on to whoever unpacks it.
//!
//! Documents and configs come first and are stored as they come. Then layers
//! move side by side, while the caller's `then` works with a store in which
//! they are, or are about to be: opening one of them gives its bytes as they
//! arrive. A layer that another process fetches, or that was half there, is
//! waited for instead. A layer is fetched by one process at a time, the one
//! that holds its ingest; killed, it leaves what the next goes on from.

mod board;
mod download;
mod ranges;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerkit::content::{self, ContentStore, Expected};
use containerkit::document::{self, Document};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{
    Cancel, Context as _, Digest, Error, ErrorKind, IngestRef, Labels, Reference, Result,
};

use crate::Check;
use crate::client::Registry;
use crate::event::{Event, How, Transfer, Watcher};
use crate::tree::{self, Documents, Platforms};
use board::{Arriving, Board};
pub(crate) use download::source_label;
use download::{Download, is_stored};

/// How to pull.
pub struct PullOptions<'a> {
    /// Which platforms.
    pub platforms: Platforms,
    /// Has its say when the reference is resolved.
    pub check: Check<'a>,
    /// Called with every blob of the image before any is looked for or
    /// stored: from then on none that is there may be collected.
    pub hold: &'a dyn Fn(&[Digest]) -> Result<()>,
    /// Told of each blob.
    pub progress: Watcher<'a>,
}

/// Pulls an image or artifact. `then` is called once, in this thread, when all
/// documents are stored and layers begin to move; it must not name the image
/// (record it) before this returns. Both must succeed.
pub fn pull<T>(
    registry: &Registry,
    store: &Arc<dyn ContentStore>,
    reference: &Reference,
    options: &PullOptions<'_>,
    then: impl FnOnce(&dyn ContentStore, &Descriptor) -> Result<T>,
) -> Result<(Descriptor, T)> {
    let target = registry.manifest(reference)?;
    let digest = document::digest_of(&target.descriptor)?;
    (options.check)(reference, &digest)?;
    let remote = Remote {
        registry,
        store: &**store,
        reference,
    };
    let tree = tree::walk(&remote, &target.descriptor, target.data, &options.platforms)?;
    for (descriptor, data) in &tree.documents {
        let parsed = document::parse(data, descriptor.media_type().as_ref())?;
        if let Document::Manifest(manifest) = parsed {
            document::check_layers(&manifest)
                .context(|| format!("manifest {}", descriptor.digest()))?;
        }
    }
    let documents = tree.documents.iter().map(|(descriptor, _)| descriptor);
    let all = documents.chain(&tree.configs).chain(&tree.layers);
    let all: Vec<Digest> = all.map(document::digest_of).collect::<Result<_>>()?;
    (options.hold)(&all)?;
    let endpoints = registry.endpoints(reference)?;
    let origin = (
        source_label(reference.domain()),
        reference.path().to_string(),
    );
    let labels = Labels::from([origin.clone()]);
    let (target, cancel) = (target.descriptor, &registry.0.http.cancel);
    let missing = |blobs: &[Descriptor]| -> Result<Vec<(Digest, u64)>> {
        let mut missing = Vec::new();
        for blob in blobs {
            let digest = document::digest_of(blob)?;
            if is_stored(&**store, &digest, blob.size(), &origin)? {
                (options.progress)(Event::End {
                    transfer: Transfer::Download,
                    digest,
                    how: How::There,
                });
            } else {
                missing.push((digest, blob.size()));
            }
        }
        Ok(missing)
    };
    let work = |blobs: Vec<(Digest, u64)>, board: &Board| -> Result<()> {
        while let Some((digest, tap)) = board.next() {
            let size = blobs
                .iter()
                .find(|(known, _)| *known == digest)
                .map_or(0, |(_, size)| *size);
            let result = Download {
                registry,
                endpoints: &endpoints,
                store: &**store,
                board,
                digest: digest.clone(),
                size,
                watch: options.progress,
            }
            .run(tap, &labels);
            board.end(&digest, result.clone());
            if let Err(error) = result {
                board.stop(&error);
                return Err(error);
            }
        }
        Ok(())
    };
    let configs = missing(&tree.configs)?;
    let board = Board::new(configs.iter().cloned(), cancel.clone());
    work(configs, &board)?;
    for (descriptor, data) in &tree.documents {
        keep(&**store, descriptor, data, cancel)?;
    }
    containerkit::step("pull.documents-stored");
    let layers = missing(&tree.layers)?;
    let board = Arc::new(Board::new(layers.iter().cloned(), cancel.clone()));
    let arriving = Arriving {
        store: Arc::clone(store),
        board: Arc::clone(&board),
    };
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let jobs = registry.settings().jobs().min(layers.len());
    let done = std::thread::scope(|scope| {
        for _ in 0..jobs {
            let layers = layers.clone();
            let (board, failure, work) = (&board, &failure, &work);
            let worker = move || {
                let ended =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(layers, board)))
                        .unwrap_or_else(|_| {
                            Err(Error::internal("a defect while a layer was fetched"))
                        });
                if let Err(error) = ended {
                    board.stop(&error);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // The first is the one that stopped the others.
                    failure.get_or_insert(error);
                }
            };
            std::thread::Builder::new()
                .name("pull".into())
                .spawn_scoped(scope, worker)
                .map_err(|error| Error::io("start a thread", error))
                .inspect_err(|error| board.stop(error))?;
        }
        let done = then(&arriving, &target);
        if let Err(error) = &done {
            board.stop(error);
        }
        done
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (done, failure) {
        // Whoever unpacks fails with what it was waiting for.
        (_, Some(error)) if error.kind() != ErrorKind::Cancelled => Err(error),
        (Err(error), _) | (Ok(_), Some(error)) => Err(error),
        (Ok(done), None) => Ok((target, done)),
    }
}

/// Documents of a registry, as far as the store has them not.
struct Remote<'a> {
    registry: &'a Registry,
    store: &'a dyn ContentStore,
    reference: &'a Reference,
}

impl Remote<'_> {
    /// From the store, where it is there, whole, and as announced.
    fn stored(&self, descriptor: &Descriptor) -> Option<Vec<u8>> {
        document::read(self.store, descriptor).ok()
    }
}

impl Documents for Remote<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.stored(descriptor) {
            Some(data) => Ok(data),
            None => Ok(self.registry.document(self.reference, descriptor)?.data),
        }
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.stored(descriptor) {
            Some(data) => Ok(data),
            None => self.registry.blob(self.reference, descriptor),
        }
    }
}

/// Stores a document that is at hand.
fn keep(
    store: &dyn ContentStore,
    descriptor: &Descriptor,
    data: &[u8],
    cancel: &Cancel,
) -> Result<()> {
    let digest = document::digest_of(descriptor)?;
    match content::read_blob(store, &digest, data.len() as u64) {
        Ok(_) => return Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => {}
            ErrorKind::DataLoss | ErrorKind::ResourceExhausted => {
                log::warn!("blob {digest} is damaged, and is replaced by a good one");
                store.delete(&digest)?;
            }
            _ => return Err(error),
        },
    }
    let name: IngestRef = format!("pull-{}-{}", digest.algorithm(), digest.hex()).parse()?;
    let expected = Expected {
        size: Some(data.len() as u64),
        digest: Some(digest.clone()),
    };
    loop {
        match content::ingest(store, &name, &expected, &Labels::new(), &mut &data[..]) {
            Ok(_) => return Ok(()),
            // Another process stores the same; it takes a moment.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                cancel.check()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.context(format!("manifest {digest}"))),
        }
    }
}
