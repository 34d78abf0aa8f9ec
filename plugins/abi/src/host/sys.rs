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

/// Ends the process here and now: no destructor runs, of nobody.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// What a signal does in this process.
#[derive(Clone, Copy)]
pub(super) struct Disposition {
    signal: i32,
    action: libc::sigaction,
}

impl Disposition {
    pub(super) fn signal(&self) -> i32 {
        self.signal
    }

    /// `the default`, `ignored` or `handled`.
    pub(super) fn name(&self) -> &'static str {
        match self.action.sa_sigaction {
            libc::SIG_DFL => "the default",
            libc::SIG_IGN => "ignored",
            _ => "handled",
        }
    }

    /// Puts it back.
    pub(super) fn restore(&self) {
        // SAFETY: the action is one that the kernel gave for this signal.
        unsafe { libc::sigaction(self.signal, &self.action, std::ptr::null_mut()) };
    }
}

impl PartialEq for Disposition {
    fn eq(&self, other: &Disposition) -> bool {
        self.signal == other.signal && self.action.sa_sigaction == other.action.sa_sigaction
    }
}

/// What all signals do.
pub(super) fn dispositions() -> Vec<Disposition> {
    (1..=64)
        .filter_map(|signal| {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: it writes one sigaction, or fails for a signal that
            // cannot be asked for.
            let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
            // SAFETY: written, or zeroed, which is a value of it too.
            let action = unsafe { action.assume_init() };
            (result == 0).then_some(Disposition { signal, action })
        })
        .collect()
}

/// Whether a number is an open descriptor that a program started here gets.
pub(super) fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: it takes two numbers; one that is not open makes it fail.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}
