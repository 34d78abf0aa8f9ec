//! The loading side: file checks, the declaration read from the file, dlopen,
//! layout check, search. `ABI.md` tells the order and why.

mod elf;
mod file;
mod library;
mod search;
mod sys;

pub use elf::Declaration;
pub use library::{AbiVersion, Library, declaration};
pub use search::{Tried, search};
