//! The one symbol that a driver exports: a plain-C static, so that it can be
//! read from the file before any of the driver's code runs.
//!
//! Magic, size and version stay where they are in every version for ever.

use super::LibHeader;

/// The symbol.
pub const SYMBOL: &str = "containerkit_driver_decl";

/// The first bytes of the static.
pub const MAGIC: [u8; 16] = *b"containerkit-drv";

/// The static.
#[repr(C)]
pub struct DriverDeclaration {
    pub magic: [u8; 16],
    /// Bytes of this struct.
    pub size: u32,
    /// Version of `containerkit-plugin`.
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    /// `DriverKind::bit`s.
    pub kinds: u32,
    /// What it was built from; 0 says nothing.
    pub sources: u32,
    /// Version of the compiler, NUL-padded.
    pub rustc: [u8; 48],
    /// Where abi_stable goes on, once loaded.
    pub header: &'static LibHeader,
}

/// A number for the sources of everything that crosses, as they were built.
const SOURCES: u32 = number(env!("CONTAINERKIT_SOURCES"));

/// Bytes before `header`, all of which can be read from the file.
pub const PLAIN_SIZE: usize = std::mem::offset_of!(DriverDeclaration, header);

impl DriverDeclaration {
    pub const fn new(kinds: u32, header: &'static LibHeader) -> DriverDeclaration {
        DriverDeclaration {
            magic: MAGIC,
            size: std::mem::size_of::<DriverDeclaration>() as u32,
            major: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            patch: number(env!("CARGO_PKG_VERSION_PATCH")),
            kinds,
            sources: SOURCES,
            rustc: padded(env!("CONTAINERKIT_RUSTC")),
            header,
        }
    }

    /// Whether a driver was built from the same sources as this program, by the
    /// same compiler: then their types are the same too.
    pub fn is_of_this_build(&self) -> bool {
        const OURS: [u32; 4] = [
            number(env!("CARGO_PKG_VERSION_MAJOR")),
            number(env!("CARGO_PKG_VERSION_MINOR")),
            number(env!("CARGO_PKG_VERSION_PATCH")),
            SOURCES,
        ];
        SOURCES != 0
            && [self.major, self.minor, self.patch, self.sources] == OURS
            && self.rustc == padded(env!("CONTAINERKIT_RUSTC"))
    }
}

/// A decimal number at compile time; cargo guarantees the digits.
pub const fn number(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut index = 0;
    while index < bytes.len() {
        value = value * 10 + (bytes[index] - b'0') as u32;
        index += 1;
    }
    value
}

const fn padded(text: &str) -> [u8; 48] {
    let bytes = text.as_bytes();
    let mut out = [0; 48];
    let mut index = 0;
    while index < bytes.len() && index < out.len() {
        out[index] = bytes[index];
        index += 1;
    }
    out
}
