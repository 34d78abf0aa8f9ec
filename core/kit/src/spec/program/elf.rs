//! What can be told of an ELF file from its header, every bound checked.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where a file's kind and its header are looked for; the kernel reads as much.
pub(super) const HEAD: usize = 256;

/// Machines whose programs this host's kernel may execute itself (386 and ARM
/// are an option of it). Empty: not known here.
const NATIVE: &[u16] = if cfg!(target_arch = "x86_64") {
    &[62, 3]
} else if cfg!(target_arch = "aarch64") {
    &[183, 40]
} else {
    &[]
};

/// The kernel refuses a longer table of program headers.
const TABLE_LIMIT: u64 = 64 << 10;

/// The kernel refuses a longer path of the interpreter.
const PATH_LIMIT: u64 = 4096;

const PT_INTERP: u32 = 3;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Elf {
    /// The interpreter's path.
    Interpreter(Vec<u8>),
    /// A program for another machine.
    Foreign,
    /// An object file or a core dump.
    NoProgram,
    /// A static program, or one that only the kernel can judge.
    Other,
}

/// Of a file that begins with the four bytes of ELF; `head` is zero where the
/// file is shorter.
pub(super) fn inspect(file: &File, head: &[u8; HEAD]) -> Elf {
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    if NATIVE.is_empty() {
        return Elf::Other;
    }
    if !NATIVE.contains(&number(18)) {
        return Elf::Foreign;
    }
    // ET_EXEC and ET_DYN.
    if !matches!(number(16), 2 | 3) {
        return Elf::NoProgram;
    }
    match interpreter(file, head) {
        Some(path) => Elf::Interpreter(path),
        None => Elf::Other,
    }
}

/// `None` as well where something does not add up: the kernel's to refuse.
fn interpreter(file: &File, head: &[u8; HEAD]) -> Option<Vec<u8>> {
    let is_wide = match head[4] {
        1 => false,
        2 => true,
        _ => return None,
    };
    let (table, size, count) = if is_wide {
        (word(head, 32, 8)?, word(head, 54, 2)?, word(head, 56, 2)?)
    } else {
        (word(head, 28, 4)?, word(head, 42, 2)?, word(head, 44, 2)?)
    };
    let entry = if is_wide { 56 } else { 32 };
    if size != entry || size * count > TABLE_LIMIT {
        return None;
    }
    let table = read(file, table, size * count)?;
    let header = table
        .chunks_exact(entry as usize)
        .find(|header| word(header, 0, 4) == Some(u64::from(PT_INTERP)))?;
    let (offset, length) = if is_wide {
        (word(header, 8, 8)?, word(header, 32, 8)?)
    } else {
        (word(header, 4, 4)?, word(header, 16, 4)?)
    };
    if !(2..=PATH_LIMIT).contains(&length) {
        return None;
    }
    let path = read(file, offset, length)?;
    let end = path.iter().position(|byte| *byte == 0)?;
    // The kernel asks for a NUL at the end, and takes what is before the first.
    (path.last() == Some(&0) && end > 0).then(|| path[..end].to_vec())
}

/// A little-endian number of `length` bytes, at most 8.
fn word(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let fold = |sum, byte: &u8| sum << 8 | u64::from(*byte);
    Some(bytes.iter().rev().fold(0, fold))
}

/// `length` is bounded by the callers.
fn read(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// A small program of this host's machine, for tests.
#[cfg(test)]
pub(super) fn sample(interpreter: Option<&str>) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    let machine = NATIVE.first().copied().unwrap_or(62);
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 2;
    let mut headers = vec![0; 112];
    headers[0] = 1;
    if let Some(path) = interpreter {
        headers[56] = 3;
        headers[56 + 8..56 + 10].copy_from_slice(&176u16.to_le_bytes());
        headers[56 + 32] = path.len() as u8 + 1;
    }
    elf.extend(headers);
    elf.extend(interpreter.unwrap_or("").bytes());
    elf.push(0);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of(bytes: &[u8]) -> Elf {
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(bytes).expect("write");
        let mut head = [0; HEAD];
        let length = bytes.len().min(HEAD);
        head[..length].copy_from_slice(&bytes[..length]);
        inspect(&file, &head)
    }

    #[test]
    fn the_interpreter_is_read() {
        let path = "/lib/ld.so".as_bytes().to_vec();
        assert_eq!(of(&sample(Some("/lib/ld.so"))), Elf::Interpreter(path));
        assert_eq!(of(&sample(None)), Elf::Other);
        let own = std::fs::read("/proc/self/exe").expect("read");
        assert!(!matches!(of(&own), Elf::Foreign | Elf::NoProgram));
    }

    #[test]
    fn other_machines_and_other_files_are_told_apart() {
        let mut foreign = sample(None);
        foreign[18..20].copy_from_slice(&243u16.to_le_bytes());
        assert_eq!(of(&foreign), Elf::Foreign);
        let mut object = sample(None);
        object[16] = 1;
        assert_eq!(of(&object), Elf::NoProgram);
        assert_eq!(of(b"\x7fELF"), Elf::Foreign);
    }

    #[test]
    fn damage_is_left_to_the_kernel() {
        let whole = sample(Some("/lib/ld.so"));
        for length in 20..whole.len() {
            assert_eq!(of(&whole[..length]), Elf::Other, "{length} bytes");
        }
        for (at, value) in [(4, 9), (32, 255), (39, 255), (54, 57), (57, 255)] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            assert_eq!(of(&damaged), Elf::Other, "{at}");
        }
        // The path's place and length.
        for (at, value) in [(64 + 56 + 15, 255), (64 + 56 + 32, 1), (64 + 56 + 39, 255)] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            assert_eq!(of(&damaged), Elf::Other, "{at}");
        }
    }
}
