//! Threads that write layers, each into an upper folder of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, PoisonError};

use containerkit::{Error, ErrorKind, IoContext, Result, SnapshotKey, Snapshotter};

use super::source::{self, Watched};
use super::{Task, flight};
use crate::apply::{Applied, Below, Blind, blind};
use crate::event::Event;

/// What came of writing a layer.
pub(super) enum Outcome {
    /// An active snapshot that is right once it is settled.
    Written(Written),
    /// It must be written through a mount.
    Unsure(&'static str),
}

pub(super) struct Written {
    pub(super) active: SnapshotKey,
    /// Its upper folder, opened before the first write so that it learns of
    /// every failed one.
    pub(super) root: OwnedFd,
    pub(super) applied: Applied,
    pub(super) below: Below,
}

/// Layers by number, waiting to be written.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// With the sizes of their blobs.
    jobs: Vec<(u64, usize)>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, size: u64, index: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push((size, index));
        self.changed.notify_one();
    }

    /// Nothing more comes; what is waiting is dropped.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.clear();
        state.closed = true;
        self.changed.notify_all();
    }

    /// The largest first, so that the last one to end is a small one.
    fn pop(&self) -> Option<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            let largest = state.jobs.iter().enumerate().max_by_key(|(_, job)| job.0);
            if let Some(place) = largest.map(|(place, _)| place) {
                return Some(state.jobs.swap_remove(place).1);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes layers until there are no more. The first error stops all.
pub(super) fn run(
    task: &Task<'_>,
    queue: &Queue,
    stop: &AtomicBool,
    results: &Sender<(usize, Result<Outcome>)>,
) {
    while let Some(index) = queue.pop() {
        let written =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(task, index, stop)))
                .unwrap_or_else(|_| Err(Error::internal("a defect while the layer was written")));
        let failed = written.is_err();
        // Told before the others are stopped: it is the first to be heard of.
        let heard = results.send((index, written)).is_ok();
        if failed || !heard {
            stop.store(true, Ordering::Relaxed);
            queue.close();
        }
    }
}

fn write(task: &Task<'_>, index: usize, stop: &AtomicBool) -> Result<Outcome> {
    let (layer, key) = (&task.layers[index], &task.keys[index]);
    let stream = source::open(task.store, layer, &task.options.limits)?;
    (task.options.progress)(Event::Unpacking {
        layer: index + 1,
        layers: task.layers.len(),
        diff_id: layer.diff_id.clone(),
        size: layer.descriptor.size(),
    });
    let active = flight::active_key(key)?;
    task.snapshotter
        .prepare(&active, None, &flight::labels(key)?)?;
    containerkit::step("unpack.prepared");
    let mut stream = Watched::new(stream, index + 1, task.options, stop);
    let written = (|| {
        let root = containerkit::fs::open_dir(&task.snapshotter.upper(&active)?)?;
        // A layer need not have an entry for the root: then it was made by
        // nobody, and not just now.
        rustix::fs::futimens(&root, &super::EPOCH).io_context(|| "set the time of the root")?;
        match blind(&mut stream, root.as_fd(), &task.options.limits)? {
            Blind::Unsure(why) => Ok(Err(why)),
            Blind::Written(applied, below) => {
                stream.verify(layer)?;
                containerkit::step("unpack.written");
                (task.options.progress)(Event::Applied {
                    layer: index + 1,
                    entries: applied.entries,
                    bytes: applied.bytes,
                });
                Ok(Ok((root, applied, below)))
            }
        }
    })();
    match written {
        Ok(Ok((root, applied, below))) => Ok(Outcome::Written(Written {
            active,
            root,
            applied,
            below,
        })),
        Ok(Err(why)) => {
            drop_active(task.snapshotter, &active);
            Ok(Outcome::Unsure(why))
        }
        Err(error) => {
            drop_active(task.snapshotter, &active);
            Err(error)
        }
    }
}

/// Removes what is not to be committed. Best effort: the next unpacking finds
/// what stays.
pub(super) fn drop_active(snapshotter: &dyn Snapshotter, key: &SnapshotKey) {
    match snapshotter.remove(key) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("snapshot {key} stays behind until the next unpacking: {error}");
        }
        _ => {}
    }
}
