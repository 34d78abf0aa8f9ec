//! No panic crosses: each call into a driver's code, and each call back into
//! the host, runs in a guard that makes an error of it. A panic that did
//! cross would end the process.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use abi_stable::std_types::{RErr, ROk};
use containerkit::{Error, Result};

use super::convert::error_out;
use super::value::FResult;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook that keeps the text of a guarded panic instead of
/// printing it. Panics elsewhere, in a driver's own threads say, go on to the
/// hook that was there before. Each shared object has a hook of its own.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let guarded = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false);
            if !guarded {
                return previous(info);
            }
            let text = payload_text(info.payload());
            let text = match info.location() {
                Some(at) => format!("{text} at {}:{}", at.file(), at.line()),
                None => text,
            };
            let _ = LAST.try_with(|last| *last.borrow_mut() = Some(text));
        }));
    });
}

/// Runs `call`; a panic is its text. In the good case this costs one look at
/// a thread-local, which has no destructor and so is always there.
#[inline]
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let result = DEPTH.with(|depth| {
        depth.set(depth.get() + 1);
        let result = catch_unwind(AssertUnwindSafe(call));
        depth.set(depth.get() - 1);
        result
    });
    result.map_err(text_of)
}

#[cold]
fn text_of(payload: Box<dyn std::any::Any + Send>) -> String {
    let kept = LAST
        .try_with(|last| last.borrow_mut().take())
        .ok()
        .flatten();
    let text = kept.unwrap_or_else(|| payload_text(&*payload));
    // Dropping it could panic again.
    std::mem::forget(payload);
    text
}

/// Runs a driver's method; an error or a panic crosses as a value.
#[inline]
pub fn guard<T>(operation: &'static str, call: impl FnOnce() -> Result<T>) -> FResult<T> {
    match catch(call) {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error_out(error)),
        Err(text) => RErr(error_out(panicked(operation, &text))),
    }
}

/// How the line begins that a panic in a drop is logged as.
pub const DROP_PANIC: &str = "the driver panicked while dropping its";

/// Drops a driver's value; a panic is logged.
pub fn guard_drop(what: &'static str, call: impl FnOnce()) {
    if let Err(text) = catch(call) {
        // The logger is the host's and could fail in its own way.
        let _ = catch(|| log::error!("{DROP_PANIC} {what}: {text}"));
    }
}

fn panicked(operation: &'static str, text: &str) -> Error {
    Error::internal(format!("the driver panicked in {operation}: {text}"))
        .with_hint("this is a defect of the driver: tell its author, with this line")
}

fn payload_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}
