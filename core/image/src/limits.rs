//! What a layer or an archive may cost before it is refused.

use containerkit::{Error, ErrorKind, Result};

/// Bounds on untrusted streams. The defaults are far above real images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one tar stream.
    pub entries: u64,
    /// Bytes of the extension headers of one entry: long names, xattrs.
    pub metadata: u64,
    /// Bytes of one uncompressed stream, and of one sparse file.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one, counted once the stream
    /// has grown past [`Limits::RATIO_FLOOR`].
    pub ratio: u64,
    /// Layers of one image: what the kernel's overlay can stack.
    pub layers: usize,
}

impl Limits {
    /// Streams that stay below this many bytes may expand as they like: a
    /// small image of zeros is no attack.
    pub const RATIO_FLOOR: u64 = 1 << 30;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 1 << 22,
            metadata: 1 << 20,
            bytes: 256 << 30,
            ratio: 200,
            layers: containerkit::mounter::OVERLAY_LAYERS,
        }
    }
}

impl Limits {
    /// Refuses a stream that has expanded too far.
    pub(crate) fn check_expansion(&self, compressed: u64, expanded: u64) -> Result<()> {
        if expanded > self.bytes {
            return Err(exhausted(format!(
                "it holds more than the {} bytes allowed",
                self.bytes
            )));
        }
        if expanded > Limits::RATIO_FLOOR && expanded / compressed.max(1) > self.ratio {
            return Err(exhausted(format!(
                "it expands to more than {} times its compressed size",
                self.ratio
            )));
        }
        Ok(())
    }
}

pub(crate) fn exhausted(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ResourceExhausted, message)
}
