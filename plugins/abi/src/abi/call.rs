//! A call into a driver, from the host's side: watched, its answer checked,
//! its error named.

use std::fmt::Display;
use std::mem::ManuallyDrop;

use abi_stable::std_types::RResult;
use containerkit::{Page, Result};

use super::convert::{broken, error_in};
use super::value::FResult;
use super::watch::{Subject, watched};

/// What stays while an instance lives: its claim on its root.
pub type Claim = Box<dyn Send + Sync>;

/// A driver's object, whose drop is a call as well.
pub struct Handle<T> {
    object: ManuallyDrop<T>,
    pub subject: &'static Subject,
}

impl<T> Handle<T> {
    pub fn new(object: T, subject: &'static Subject) -> Handle<T> {
        Handle {
            object: ManuallyDrop::new(object),
            subject,
        }
    }

    /// Calls a method. Not guarded: the driver's side is, and a method that an
    /// older driver does not have has a default body here.
    #[inline]
    pub fn call<V, U>(
        &self,
        operation: &'static &'static str,
        call: impl FnOnce(&T) -> FResult<V>,
        convert: impl FnOnce(V) -> Result<U>,
    ) -> Result<U> {
        let result = watched(self.subject, operation, || call(&self.object));
        answer(self.subject, operation, result, convert)
    }

    /// As [`Handle::call`], for a method that changes the object.
    #[inline]
    pub fn call_mut<V, U>(
        &mut self,
        operation: &'static &'static str,
        call: impl FnOnce(&mut T) -> FResult<V>,
        convert: impl FnOnce(V) -> Result<U>,
    ) -> Result<U> {
        let object = &mut *self.object;
        let result = watched(self.subject, operation, || call(object));
        answer(self.subject, operation, result, convert)
    }
}

impl<T> Drop for Handle<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        watched(self.subject, &"drop", || {
            // SAFETY: dropped here and nowhere else; `self` is not used after.
            unsafe { ManuallyDrop::drop(&mut self.object) }
        });
    }
}

/// An answer, checked and converted; an error, named.
#[inline]
pub fn answer<V, U>(
    subject: &Subject,
    operation: &str,
    result: FResult<V>,
    convert: impl FnOnce(V) -> Result<U>,
) -> Result<U> {
    let result = match result {
        RResult::ROk(value) => convert(value),
        RResult::RErr(error) => Err(error_in(error)),
    };
    result.map_err(|error| error.in_driver(&subject.name, operation))
}

/// Refuses an answer about something else than what was asked.
pub fn same<T: PartialEq + Display>(asked: &T, told: &T) -> Result<()> {
    if asked == told {
        return Ok(());
    }
    Err(broken(format!("asked for {asked}, it answered for {told}")))
}

/// Refuses a page that is longer than asked.
pub fn within<T>(page: &Page, found: &[T]) -> Result<()> {
    if found.len() <= page.limit as usize {
        return Ok(());
    }
    Err(broken(format!(
        "asked for at most {}, it returned {}",
        page.limit,
        found.len()
    )))
}

/// Refuses a page that is not in order or begins before it should: who walks
/// all pages would never end.
pub fn in_order<T>(page: &Page, found: &[T], name: impl Fn(&T) -> String) -> Result<()> {
    let mut last = page.after.clone();
    for entry in found {
        let name = name(entry);
        if last.as_ref().is_some_and(|last| *last >= name) {
            let last = last.unwrap_or_default();
            return Err(broken(format!("its listing tells {name} after {last}")));
        }
        last = Some(name);
    }
    Ok(())
}
