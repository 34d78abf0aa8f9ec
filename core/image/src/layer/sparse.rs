//! Sparse files: the old GNU form, and the three that ride on PAX headers.

use containerkit::{Error, Result};

use super::number;
use super::pax;

/// Extents of one file: far more than any writer makes.
const EXTENTS: usize = 1 << 20;

fn bad() -> Error {
    Error::invalid("a sparse map is malformed")
}

/// Collects extents, checking that they ascend and stay within the file.
#[derive(Debug, Default)]
pub(crate) struct Map {
    extents: Vec<(u64, u64)>,
    end: u64,
    data: u64,
}

impl Map {
    pub(crate) fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        if offset < self.end || self.extents.len() >= EXTENTS {
            return Err(bad());
        }
        self.end = offset.checked_add(length).ok_or_else(bad)?;
        self.data += length;
        if length > 0 {
            self.extents.push((offset, length));
        }
        Ok(())
    }

    /// The extents of a file of `size` bytes whose data take `stored` bytes.
    pub(crate) fn finish(self, size: u64, stored: u64) -> Result<Vec<(u64, u64)>> {
        if self.end > size || self.data != stored {
            return Err(bad());
        }
        Ok(self.extents)
    }
}

/// The 24-byte offset and length pairs of a GNU header or its continuation.
pub(crate) fn gnu_pairs(map: &mut Map, pairs: &[u8]) -> Result<()> {
    for pair in pairs.chunks_exact(24) {
        if pair.iter().all(|b| *b == 0) {
            break;
        }
        let offset = number::unsigned(&pair[..12], "sparse map")?;
        let length = number::unsigned(&pair[12..], "sparse map")?;
        map.push(offset, length)?;
    }
    Ok(())
}

/// The map of the PAX forms 0.0 and 0.1, which is in the records.
pub(crate) fn from_records(sparse: &pax::Sparse) -> Result<Map> {
    let mut map = Map::default();
    if !sparse.map.len().is_multiple_of(2) {
        return Err(bad());
    }
    for pair in sparse.map.chunks_exact(2) {
        map.push(pair[0], pair[1])?;
    }
    Ok(map)
}

/// The map of the PAX form 1.0: decimal lines before the data, padded to a
/// block. `block` gives the next 512 bytes; returns how many it took.
pub(crate) fn from_data(mut block: impl FnMut() -> Result<[u8; 512]>) -> Result<(Map, u64)> {
    let mut line = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut blocks = 0u64;
    loop {
        let bytes = block()?;
        blocks += 1;
        for byte in bytes {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            numbers.push(number::decimal(&line, "sparse map")?);
            line.clear();
            let count = usize::try_from(numbers[0]).map_err(|_| bad())?;
            if count > EXTENTS {
                return Err(bad());
            }
            if numbers.len() == 1 + 2 * count {
                let mut map = Map::default();
                for pair in numbers[1..].chunks_exact(2) {
                    map.push(pair[0], pair[1])?;
                }
                return Ok((map, blocks * 512));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_ascend_and_fit() {
        let mut map = Map::default();
        map.push(0, 5).expect("first");
        map.push(10, 0).expect("empty");
        assert!(map.push(9, 1).is_err(), "goes back");
        assert!(map.push(u64::MAX, 2).is_err(), "overflows");
        let mut map = Map::default();
        map.push(4, 4).expect("push");
        assert!(map.finish(7, 4).is_err(), "beyond the end");
        let mut map = Map::default();
        map.push(4, 4).expect("push");
        assert!(map.finish(8, 5).is_err(), "more data than extents");
    }

    #[test]
    fn a_map_that_never_ends_is_refused() {
        assert!(from_data(|| Ok([b'1'; 512])).is_err());
        assert!(from_data(|| Ok([b'\n'; 512])).is_err());
    }
}
