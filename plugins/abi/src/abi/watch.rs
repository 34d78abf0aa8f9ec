//! The watchdog: a call into a driver that does not return ends the program,
//! naming driver and method.
//!
//! Nothing can stop a thread that is inside a driver, and going on beside it
//! would go on with the locks it holds. So the program ends at once, without
//! a destructor of anybody; its locks end with it, and the next program finds
//! what it left as after a crash.
//!
//! Each thread that calls drivers has a slot, where a call costs a few stores.
//! One thread looks at all slots now and then. It reads no clock inside a
//! call, and a program that was stopped or suspended meanwhile is not charged
//! for it: between two looks at most twice the pause between them counts.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use containerkit::{DriverContext, DriverKind, Error, ErrorKind};

/// How long a call may take unless something else is said. Every call that
/// waits for anything has a deadline of its own; what is left are copies,
/// deletions and dumps, bound by a disk.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// What a program does with a hang before it ends.
pub type OnHang = fn(&Error);

/// Who is called.
#[derive(Debug, PartialEq, Eq)]
pub struct Subject {
    /// How an error calls it: the instance's name.
    pub name: String,
    what: String,
    library: PathBuf,
    limit: Duration,
}

impl Subject {
    /// An opened instance of a driver.
    pub fn instance(library: &Path, kind: DriverKind, context: &DriverContext) -> &'static Subject {
        keep(Subject {
            name: context.instance.to_string(),
            what: format!("{kind} {}", context.instance),
            library: library.to_path_buf(),
            limit: context.call_timeout.unwrap_or_else(default_limit),
        })
    }

    /// A library that is being loaded.
    pub fn library(library: &Path) -> &'static Subject {
        keep(Subject {
            name: String::new(),
            what: "driver".into(),
            library: library.to_path_buf(),
            limit: default_limit(),
        })
    }

    fn hang(&self, operation: &str) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!(
                "{} ({}): {operation} has not returned for {} s, so this program ends",
                self.what,
                containerkit::quote(&self.library.to_string_lossy()),
                self.limit.as_secs_f64()
            ),
        )
        .in_driver(&self.name, operation)
        .with_hint(
            "the driver hangs: tell its author, with this line; \
             if it only is slow, raise `call_timeout` in the configuration",
        )
    }
}

/// Subjects live for ever: a slot may name one that nobody uses any more.
/// There are as many as instances, not as calls.
fn keep(subject: Subject) -> &'static Subject {
    static KEPT: Mutex<Vec<&'static Subject>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = kept.iter().find(|kept| ***kept == subject) {
        return found;
    }
    let subject: &'static Subject = Box::leak(Box::new(subject));
    kept.push(subject);
    start(subject.limit);
    subject
}

static DEFAULT: AtomicU64 = AtomicU64::new(CALL_TIMEOUT.as_millis() as u64);
static HOOK: Mutex<Option<OnHang>> = Mutex::new(None);

/// How long calls may take from now on where an instance says nothing; zero
/// is for ever. Loading a library counts as a call.
pub fn set_default_limit(limit: Duration) {
    DEFAULT.store(
        u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        Relaxed,
    );
}

fn default_limit() -> Duration {
    Duration::from_millis(DEFAULT.load(Relaxed))
}

/// What is done when a call hangs, instead of printing the error; the program
/// ends with status 1 when it returns, or five seconds later.
pub fn set_hook(hook: OnHang) {
    *HOOK.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
}

/// A thread's calls.
struct Slot {
    /// Odd while a call runs; every call has a number of its own.
    turn: AtomicU64,
    subject: AtomicPtr<Subject>,
    operation: AtomicPtr<&'static str>,
}

struct Registered {
    slot: Arc<Slot>,
    /// Calls within calls count as the outermost.
    depth: Cell<u32>,
}

static SLOTS: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());

thread_local! {
    static SLOT: Registered = Registered::new();
}

impl Registered {
    fn new() -> Registered {
        let slot = Arc::new(Slot {
            turn: AtomicU64::new(0),
            subject: AtomicPtr::new(std::ptr::null_mut()),
            operation: AtomicPtr::new(std::ptr::null_mut()),
        });
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        slots.push(Arc::clone(&slot));
        Registered {
            slot,
            depth: Cell::new(0),
        }
    }

    #[inline]
    fn enter(&self, subject: &'static Subject, operation: &'static &'static str) {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        if depth == 0 {
            let slot = &*self.slot;
            slot.subject
                .store(std::ptr::from_ref(subject).cast_mut(), Relaxed);
            slot.operation
                .store(std::ptr::from_ref(operation).cast_mut(), Relaxed);
            slot.turn.store(slot.turn.load(Relaxed) + 1, Release);
        }
    }

    #[inline]
    fn leave(&self) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        if depth == 0 {
            let turn = &self.slot.turn;
            turn.store(turn.load(Relaxed) + 1, Release);
            // The next call's names are not written before this.
            fence(Release);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// Leaves the slot, by a panic too: a method that an older driver does not
/// have has its body on this side.
struct Turn;

impl Drop for Turn {
    #[inline]
    fn drop(&mut self) {
        let _ = SLOT.try_with(Registered::leave);
    }
}

/// Runs a call into a driver. While a thread ends, it is not watched.
#[inline]
pub fn watched<T>(
    subject: &'static Subject,
    operation: &'static &'static str,
    call: impl FnOnce() -> T,
) -> T {
    let turn = SLOT.try_with(|slot| slot.enter(subject, operation));
    let _turn = turn.is_ok().then_some(Turn);
    call()
}

/// Starts the watching thread, or tells it of a shorter limit.
fn start(limit: Duration) {
    static WATCHER: OnceLock<Option<Thread>> = OnceLock::new();
    static SHORTEST: AtomicU64 = AtomicU64::new(u64::MAX);
    if limit.is_zero() {
        return;
    }
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    SHORTEST.fetch_min(millis, Relaxed);
    let watcher = WATCHER.get_or_init(|| {
        let spawned = std::thread::Builder::new()
            .name("driver-watch".into())
            .stack_size(128 << 10)
            .spawn(|| watch(|| Duration::from_millis(SHORTEST.load(Relaxed))));
        if let Err(error) = &spawned {
            log::warn!("calls into drivers are not watched: {error}");
        }
        spawned
            .ok()
            .map(|handle: JoinHandle<()>| handle.thread().clone())
    });
    if let Some(thread) = watcher {
        thread.unpark();
    }
}

/// A call that was running at the last look.
struct Seen {
    turn: u64,
    counted: Duration,
}

fn watch(shortest: impl Fn() -> Duration) {
    let mut seen: std::collections::HashMap<usize, Seen> = Default::default();
    let mut last = Instant::now();
    loop {
        let busy = !seen.is_empty();
        let limit = shortest();
        let pause = match busy {
            true => (limit / 20).clamp(Duration::from_millis(5), Duration::from_secs(10)),
            // What begins in it is seen a quarter of the limit late at most.
            false => (limit / 4).min(Duration::from_secs(60)),
        };
        std::thread::park_timeout(pause);
        let now = Instant::now();
        let elapsed = now.duration_since(last).min(pause * 2);
        last = now;
        let slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut running = std::collections::HashMap::new();
        for slot in &slots {
            let turn = slot.turn.load(Acquire);
            if turn % 2 == 0 {
                continue;
            }
            let key = Arc::as_ptr(slot) as usize;
            let counted = match seen.get(&key) {
                Some(before) if before.turn == turn => before.counted + elapsed,
                _ => Duration::ZERO,
            };
            if let Some((subject, operation)) = overdue(slot, turn, counted) {
                end(subject, operation);
            }
            running.insert(key, Seen { turn, counted });
        }
        seen = running;
    }
}

fn overdue(slot: &Slot, turn: u64, counted: Duration) -> Option<(&'static Subject, &'static str)> {
    let (subject, operation) = (slot.subject.load(Relaxed), slot.operation.load(Relaxed));
    fence(Acquire);
    if slot.turn.load(Relaxed) != turn {
        return None;
    }
    // SAFETY: only `enter` writes these, from references that live for ever;
    // an odd turn was stored after the first of them.
    let (subject, operation) = unsafe { (subject.as_ref()?, operation.as_ref()?) };
    let over = !subject.limit.is_zero() && counted >= subject.limit;
    over.then_some((subject, *operation))
}

fn end(subject: &Subject, operation: &str) -> ! {
    let error = subject.hang(operation);
    let hook = *HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    // Telling of it may block as well: the reader may be what hangs.
    let _ = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(Duration::from_secs(5));
        crate::host::exit_now(1);
    });
    match hook {
        Some(hook) => hook(&error),
        None => crate::host::print_last(&error),
    }
    crate::host::exit_now(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_what_runs() {
        let context = DriverContext::new("one".parse().expect("name"), "/r", "/s");
        let subject = Subject::instance(Path::new("/lib.so"), DriverKind::Content, &context);
        let slot = || SLOT.with(|slot| Arc::clone(&slot.slot));
        let turn = || slot().turn.load(Relaxed);
        let before = turn();
        watched(subject, &"outer", || {
            assert_eq!(turn(), before + 1);
            watched(subject, &"inner", || assert_eq!(turn(), before + 1));
            let found = overdue(&slot(), turn(), CALL_TIMEOUT).expect("overdue");
            assert_eq!((found.0, found.1), (subject, "outer"));
            let early = CALL_TIMEOUT - Duration::from_millis(1);
            assert!(overdue(&slot(), turn(), early).is_none());
            assert!(overdue(&slot(), before, CALL_TIMEOUT).is_none());
        });
        assert_eq!(turn(), before + 2);
        let error = subject.hang("stat").to_string();
        assert!(
            error.starts_with("content one (\"/lib.so\"): stat has not"),
            "{error}"
        );
    }

    #[test]
    fn a_panic_leaves_the_slot() {
        let subject = Subject::library(Path::new("/x.so"));
        let turn = || SLOT.with(|slot| slot.slot.turn.load(Relaxed));
        let before = turn();
        let ran = std::panic::catch_unwind(|| watched(subject, &"load", || panic!("out")));
        assert!(ran.is_err());
        assert_eq!(turn(), before + 2);
    }
}
