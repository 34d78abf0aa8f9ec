//! The line of an image's layers: who writes which, and in what order they
//! are settled and committed.
//!
//! A process holds the locks of the layers that it writes until they are
//! committed. Before it waits for another's lock it commits what it has, so
//! it only ever waits for a layer below all that it holds: no two processes
//! wait for each other.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use containerkit::lock::{FileLock, Wait};
use containerkit::snapshot::CommitOptions;
use containerkit::{Error, ErrorKind, IoContext, Mount, Result, SnapshotKey, mounter};

use super::source::{self, Watched};
use super::worker::{self, Outcome, Queue, Written, drop_active};
use super::{CHAIN_LABEL, Task, committed, flight};
use crate::apply::{Applied, ApplyOptions, Settled, Stack, WhiteoutForm, apply, settle};
use crate::event::Event;

/// How often a waiting process looks at its own work.
const PAUSE: Duration = Duration::from_millis(100);

/// A layer that is written and right, and not committed.
struct Ready {
    index: usize,
    active: SnapshotKey,
    /// The folder to be synced, unless that is done.
    root: Option<OwnedFd>,
    /// To commit on, when it was prepared on nothing.
    parent: Option<SnapshotKey>,
    applied: Applied,
}

struct Line<'a> {
    task: &'a Task<'a>,
    queue: &'a Queue,
    stop: &'a AtomicBool,
    results: Receiver<(usize, Result<Outcome>)>,
    /// Of the layers that this process writes.
    locks: BTreeMap<usize, FileLock>,
    arrived: BTreeMap<usize, Outcome>,
    ready: Vec<Ready>,
    /// The layers below the next one, as far as they are looked at.
    stack: Stack,
    /// The topmost committed layer of the stack, before it is looked at.
    base: Option<usize>,
    view: Option<SnapshotKey>,
}

/// Unpacks these layers; what is below them is committed.
pub(super) fn unpack(task: &Task<'_>, range: Range<usize>) -> Result<()> {
    let can = task.snapshotter.capabilities();
    let blind = can.rebase && can.direct_upper;
    let queue = Queue::default();
    let stop = AtomicBool::new(false);
    let (sender, results) = channel();
    std::thread::scope(|scope| {
        let mut line = Line {
            task,
            queue: &queue,
            stop: &stop,
            results,
            locks: BTreeMap::new(),
            arrived: BTreeMap::new(),
            ready: Vec::new(),
            stack: Stack::default(),
            base: range.start.checked_sub(1),
            view: None,
        };
        let result = (|| {
            if !blind {
                return line.one_by_one(range);
            }
            for _ in 0..task.options.workers.clamp(1, range.len()) {
                let sender = sender.clone();
                let (queue, stop) = (&queue, &stop);
                std::thread::Builder::new()
                    .name("unpack".into())
                    .spawn_scoped(scope, move || worker::run(task, queue, stop, &sender))
                    .map_err(|error| Error::io("start a thread", error))?;
            }
            line.side_by_side(range)
        })();
        drop(sender);
        line.end(result)
    })
}

impl Line<'_> {
    /// Each layer through a mount of its parent, which is committed before.
    fn one_by_one(&mut self, range: Range<usize>) -> Result<()> {
        for index in range {
            if self.wait(index)? {
                self.through_mount(index, Sync::Now)
                    .map_err(|error| self.blamed(index, error))?;
            }
        }
        self.flush()
    }

    fn side_by_side(&mut self, range: Range<usize>) -> Result<()> {
        self.claim(range.clone())?;
        for index in range.clone() {
            if !self.locks.contains_key(&index) {
                if !self.wait(index)? {
                    continue;
                }
                self.push(index);
                self.claim(index + 1..range.end)?;
            }
            let outcome = self.receive(index)?;
            self.place(index, outcome)
                .map_err(|error| self.blamed(index, error))?;
        }
        self.flush()
    }

    fn push(&self, index: usize) {
        self.queue
            .push(self.task.layers[index].descriptor.size(), index);
    }

    /// Takes what nobody has, and has it written.
    fn claim(&mut self, range: Range<usize>) -> Result<()> {
        for index in range {
            if self.locks.contains_key(&index) {
                continue;
            }
            let chain = &self.task.layers[index].chain_id;
            let Some(lock) = flight::try_take(chain, self.task.options)? else {
                continue;
            };
            if committed(self.task.snapshotter, &self.task.keys[index])? {
                lock.remove()?;
                continue;
            }
            self.locks.insert(index, lock);
            self.push(index);
        }
        Ok(())
    }

    /// Waits until a layer is committed (`false`) or is this process's to
    /// write.
    fn wait(&mut self, index: usize) -> Result<bool> {
        // Others may wait for what is written here.
        self.flush()?;
        let (task, chain) = (self.task, &self.task.layers[index].chain_id);
        let deadline = Instant::now() + task.options.wait;
        let mut waited = false;
        let lock = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match flight::take(chain, task.options, Wait::AtMost(left.min(PAUSE))) {
                Ok(lock) => break lock,
                Err(error) if error.kind() == ErrorKind::Conflict && left > PAUSE => {}
                Err(error) => return Err(self.told(index, error)),
            }
            task.options.cancel.check()?;
            self.collect()?;
            if !std::mem::replace(&mut waited, true) {
                (task.options.progress)(Event::Waiting {
                    layer: index + 1,
                    layers: task.layers.len(),
                    pid: flight::holder(chain, task.options),
                });
            }
        };
        if committed(task.snapshotter, &task.keys[index])? {
            lock.remove()?;
            (task.options.progress)(super::shared(index + 1));
            self.close_view();
            self.base = Some(index);
            return Ok(false);
        }
        // Its holder may have died over it just now.
        flight::remove_stale(task.snapshotter, (CHAIN_LABEL, Some(&task.keys[index])))?;
        self.locks.insert(index, lock);
        Ok(true)
    }

    /// Takes what the workers have done, without waiting.
    fn collect(&mut self) -> Result<()> {
        while let Ok((index, result)) = self.results.try_recv() {
            let outcome = result.map_err(|error| self.blamed(index, error))?;
            self.arrived.insert(index, outcome);
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.arrived.remove(&index) {
                return Ok(outcome);
            }
            let (index, result) = self
                .results
                .recv()
                .map_err(|_| Error::internal("the threads that unpack ended early"))?;
            let outcome = result.map_err(|error| self.blamed(index, error))?;
            self.arrived.insert(index, outcome);
        }
    }

    /// Sets a layer right on those below it.
    fn place(&mut self, index: usize, outcome: Outcome) -> Result<()> {
        let why = match outcome {
            Outcome::Unsure(why) => why,
            Outcome::Written(written) => {
                let Written { active, root, .. } = &written;
                let settled = self
                    .look_below()
                    .and_then(|()| settle(root.as_fd(), &written.below, &mut self.stack));
                match settled {
                    Ok(Settled::Yes) => return self.written(index, written),
                    Ok(Settled::No(why)) => {
                        drop_active(self.task.snapshotter, active);
                        why
                    }
                    Err(error) => {
                        drop_active(self.task.snapshotter, active);
                        return Err(error);
                    }
                }
            }
        };
        log::debug!(
            "layer {} of {} is written through a mount: {why}",
            index + 1,
            self.task.layers.len()
        );
        self.through_mount(index, Sync::Later)
    }

    fn written(&mut self, index: usize, written: Written) -> Result<()> {
        let ready = Ready {
            index,
            active: written.active,
            root: None,
            parent: index.checked_sub(1).map(|p| self.task.keys[p].clone()),
            applied: written.applied,
        };
        self.ready.push(ready);
        self.on_top(written.root)
    }

    /// The layer written last is the topmost of those below the next.
    fn on_top(&mut self, root: OwnedFd) -> Result<()> {
        let copy = root
            .try_clone()
            .io_context(|| "copy a folder's descriptor")?;
        if let Some(ready) = self.ready.last_mut() {
            ready.root = Some(root);
        }
        self.stack.push(copy);
        Ok(())
    }

    /// Makes the committed layers below a part of the stack.
    fn look_below(&mut self) -> Result<()> {
        let Some(base) = self.base.take() else {
            return Ok(());
        };
        let (task, key) = (self.task, &self.task.keys[base]);
        let view = flight::active_key(key)?;
        let mounts = task
            .snapshotter
            .view(&view, Some(key), &flight::labels(key)?)?;
        self.view = Some(view);
        let tree = mounter::mount_detached(&mounts)?;
        let mut stack = Stack::default();
        stack.push(open_root(&tree)?);
        self.stack = stack;
        Ok(())
    }

    fn close_view(&mut self) {
        self.stack = Stack::default();
        if let Some(view) = self.view.take() {
            drop_active(self.task.snapshotter, &view);
        }
    }

    /// Writes a layer through a mount on its parent.
    fn through_mount(&mut self, index: usize, sync: Sync) -> Result<()> {
        self.flush()?;
        let task = self.task;
        let (layer, key) = (&task.layers[index], &task.keys[index]);
        let stream = source::open(task.store, layer, &task.options.limits)?;
        (task.options.progress)(Event::Unpacking {
            layer: index + 1,
            layers: task.layers.len(),
            diff_id: layer.diff_id.clone(),
            size: layer.descriptor.size(),
        });
        let active = flight::active_key(key)?;
        let parent = index.checked_sub(1).map(|parent| &task.keys[parent]);
        let mounts = task
            .snapshotter
            .prepare(&active, parent, &flight::labels(key)?)?;
        containerkit::step("unpack.prepared");
        let stream = Watched::new(stream, index + 1, task.options, self.stop);
        let filled = (|| {
            let root = match sync {
                Sync::Now => None,
                Sync::Later => Some(containerkit::fs::open_dir(
                    &task.snapshotter.upper(&active)?,
                )?),
            };
            let applied = fill(task, index, &mounts, stream, sync)?;
            Ok((root, applied))
        })();
        let (root, applied) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                drop_active(task.snapshotter, &active);
                return Err(error);
            }
        };
        self.ready.push(Ready {
            index,
            active,
            root: None,
            parent: None,
            applied,
        });
        root.map_or(Ok(()), |root| self.on_top(root))
    }

    /// Makes durable what is written, and then commits it.
    fn flush(&mut self) -> Result<()> {
        let task = self.task;
        let roots: Vec<&OwnedFd> = self.ready.iter().filter_map(|r| r.root.as_ref()).collect();
        if !roots.is_empty() {
            (task.options.progress)(Event::Syncing {
                layers: roots.len(),
            });
        }
        let mut synced = HashSet::new();
        for root in roots {
            let device = rustix::fs::fstat(root)
                .io_context(|| "stat a layer")?
                .st_dev;
            if synced.insert(device) {
                rustix::fs::syncfs(root).io_context(|| "write the layers to the disk")?;
                containerkit::step("unpack.synced");
            }
        }
        while !self.ready.is_empty() {
            let ready = &self.ready[0];
            let index = ready.index;
            let options = CommitOptions {
                parent: ready.parent.clone(),
                ..CommitOptions::default()
            };
            match task
                .snapshotter
                .commit(&task.keys[index], &ready.active, &options)
            {
                Ok(_) => {}
                // Somebody with other locks was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    drop_active(task.snapshotter, &ready.active);
                }
                Err(error) => return Err(self.told(index, error)),
            }
            let ready = self.ready.remove(0);
            if let Some(lock) = self.locks.remove(&index) {
                lock.remove()?;
            }
            (task.options.progress)(Event::Unpacked {
                layer: index + 1,
                entries: ready.applied.entries,
                bytes: ready.applied.bytes,
            });
        }
        Ok(())
    }

    /// Ends the workers, and leaves nothing behind that is not committed.
    fn end(mut self, mut result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.queue.close();
        while let Ok((index, ended)) = self.results.recv() {
            match ended {
                Ok(outcome) => drop(self.arrived.insert(index, outcome)),
                // Why this process's own work was stopped.
                Err(error) if result.as_ref().is_err_and(is_stopped) && !is_stopped(&error) => {
                    result = Err(self.blamed(index, error));
                }
                Err(_) => {}
            }
        }
        for outcome in std::mem::take(&mut self.arrived).into_values() {
            if let Outcome::Written(written) = outcome {
                drop_active(self.task.snapshotter, &written.active);
            }
        }
        for ready in std::mem::take(&mut self.ready) {
            drop_active(self.task.snapshotter, &ready.active);
        }
        self.close_view();
        // Last: what they guard is gone.
        for lock in std::mem::take(&mut self.locks).into_values() {
            if let Err(error) = lock.remove() {
                log::warn!("{error}");
            }
        }
        result
    }

    /// An error of a layer, with what is known of its blob.
    fn blamed(&self, index: usize, error: Error) -> Error {
        let layer = &self.task.layers[index];
        self.told(index, source::blame(self.task.store, layer, error))
    }

    fn told(&self, index: usize, error: Error) -> Error {
        error.context(format!(
            "layer {} of {} ({})",
            index + 1,
            self.task.layers.len(),
            self.task.layers[index].digest
        ))
    }
}

fn is_stopped(error: &Error) -> bool {
    error.kind() == ErrorKind::Cancelled
}

/// When a layer is made durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// While it is mounted, which it is not when it is committed.
    Now,
    /// With the others, by its upper folder.
    Later,
}

/// Writes a layer through the snapshot's mounts, which are gone when it
/// returns.
fn fill(
    task: &Task<'_>,
    index: usize,
    mounts: &[Mount],
    mut stream: Watched<'_>,
    sync: Sync,
) -> Result<Applied> {
    let tree = mounter::mount_detached(mounts)?;
    // Opened before the first write, so that it learns of every failed one.
    let root = open_root(&tree)?;
    if index == 0 {
        rustix::fs::futimens(&root, &super::EPOCH).io_context(|| "set the time of the root")?;
    }
    let applied = apply(
        &mut stream,
        root.as_fd(),
        &ApplyOptions {
            whiteouts: WhiteoutForm::Remove,
            limits: task.options.limits.clone(),
            ..ApplyOptions::default()
        },
    )?;
    stream.verify(&task.layers[index])?;
    containerkit::step("unpack.written");
    (task.options.progress)(Event::Applied {
        layer: index + 1,
        entries: applied.entries,
        bytes: applied.bytes,
    });
    if sync == Sync::Now {
        rustix::fs::syncfs(&root).io_context(|| "write the layer to the disk")?;
    }
    Ok(applied)
}

pub(super) fn open_root(tree: &OwnedFd) -> Result<OwnedFd> {
    rustix::fs::openat(
        tree,
        c".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .io_context(|| "open the mounted snapshot")
}
