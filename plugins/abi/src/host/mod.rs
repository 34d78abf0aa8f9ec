//! The loading side: file checks, the declaration read from the file, dlopen,
//! layout check, search. `ABI.md` tells the order and why.

//!
//! [`set_default_limit`] and [`set_hook`] are the watchdog's: how long a call
//! into a driver may take, and what is done before a program that hangs in
//! one ends. [`Surroundings`] tells what a driver did to the process.

mod damage;
mod elf;
mod file;
mod last;
mod library;
mod search;
mod sys;

/// Holds a program of ours that is about to be started to the rules of a
/// driver's file: nobody else may write it, or put another in its place.
pub fn check_program(path: &std::path::Path) -> containerkit::Result<()> {
    file::open(path).map(drop).map_err(|error| {
        let kind = error.kind();
        let text = error.to_string();
        let what = text.strip_prefix("driver ").unwrap_or(&text);
        let refused = containerkit::Error::new(kind, format!("program {what}"));
        match error.hint() {
            Some(hint) if kind == containerkit::ErrorKind::PermissionDenied => {
                refused.with_hint(hint)
            }
            _ => refused.with_hint("containerkit-shim must be installed beside containerkit"),
        }
    })
}

pub use crate::abi::guard::DROP_PANIC;
pub use crate::abi::watch::{CALL_TIMEOUT, OnHang, set_default_limit, set_hook};
pub use damage::Surroundings;
pub use elf::Declaration;
pub(crate) use last::print_last;
pub use library::{AbiVersion, Library, declaration};
pub use search::{Tried, search};
pub(crate) use sys::exit_now;
