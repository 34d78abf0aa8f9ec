//! dlopen, and nothing else that needs unsafe.

#![allow(unsafe_code)]

use std::os::fd::RawFd;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::abi::declaration::SYMBOL;

/// Loads what is open as `fd` and returns the address of its declaration. The
/// library stays for ever, and so must the descriptor: the dynamic loader
/// knows objects by name, and a number used again would name the first.
pub(super) fn load(fd: RawFd) -> Result<*const u8, String> {
    let name = format!("/proc/self/fd/{fd}");
    // SAFETY: constructors of the file run here; the caller read its
    // declaration before, so it is a driver, trusted by its owner.
    let library = unsafe { Library::open(Some(&name), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| text(&error).replace(&format!("{name}: "), ""))?;
    // SAFETY: only its address is taken.
    let address = unsafe { library.get::<*const u8>(SYMBOL.as_bytes()) }
        .map(|symbol| symbol.as_raw_ptr().cast_const().cast::<u8>())
        .map_err(|error| text(&error).replace(&format!("{name}: "), ""));
    // Even after a failure: abi_stable's and other caches may point inside.
    std::mem::forget(library);
    address
}

/// Reads the plain part of a declaration in memory.
///
/// # Safety
/// `address` is what [`load`] returned, and the file was checked to have at
/// least `len` bytes there.
pub(super) unsafe fn read(address: *const u8, len: usize) -> Vec<u8> {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address, len) }.to_vec()
}

/// libloading keeps the loader's own words in the source.
fn text(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
