//! The declaration, read from an ELF file that nothing has loaded.
//!
//! Every number in the file is somebody's claim: offsets are checked before
//! they are used and additions cannot overflow. A truncated file is found
//! here, because the dynamic loader would die of SIGBUS on it.

use containerkit::DriverKind;

use super::library::AbiVersion;
use crate::abi::declaration::{MAGIC, PLAIN_SIZE, SYMBOL};

/// What a driver's file says before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The version of `containerkit-plugin` it was built with.
    pub abi_version: AbiVersion,
    /// The kinds of driver it holds.
    pub kinds: Vec<DriverKind>,
    /// The compiler that built it.
    pub rustc: String,
}

/// Where the bytes of the file are.
pub(super) trait Source {
    /// Bytes in all.
    fn len(&self) -> u64;
    /// Fills `buf` from `offset`; false when that is not there.
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool;
}

/// Why a file is no driver of ours: what is wrong, and whether another file or
/// another build would mend it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not ELF at all, or not a shared object.
    NotShared(String),
    /// A part of the file is missing.
    Truncated {
        /// Bytes that the headers ask for.
        needs: u64,
    },
    /// For another machine.
    Machine(String),
    /// A shared object without the declaration.
    NotDriver(String),
}

const HEADER: usize = 64;
const PROGRAM: usize = 56;
const SECTION: usize = 64;
const SYMBOL_SIZE: usize = 24;
const TYPE_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
/// A table that is larger is nobody's.
const TABLE_LIMIT: u64 = 64 << 20;

const CLASS: u8 = if cfg!(target_pointer_width = "64") {
    2
} else {
    1
};
const ENDIAN: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };

const MACHINES: [(u16, &str); 9] = [
    (3, "x86"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

fn machine_name(machine: u16) -> String {
    MACHINES
        .iter()
        .find(|(number, _)| *number == machine)
        .map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).into())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_ne_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads and checks a file's headers and its declaration.
pub(super) fn inspect(source: &dyn Source) -> Result<Declaration, Refusal> {
    let size = source.len();
    let head = bytes(source, 0, size.min(HEADER as u64))?;
    if !head.starts_with(b"\x7fELF") {
        return Err(Refusal::NotShared("not an ELF file".into()));
    }
    if head.len() < HEADER {
        return Err(Refusal::Truncated {
            needs: HEADER as u64,
        });
    }
    if head[4] != CLASS || head[5] != ENDIAN {
        let found = format!(
            "a {}-bit {}-endian one",
            if head[4] == 1 { 32 } else { 64 },
            if head[5] == 2 { "big" } else { "little" }
        );
        return Err(Refusal::Machine(found));
    }
    let machine = u16_at(&head, 18);
    if machine_name(machine) != std::env::consts::ARCH {
        return Err(Refusal::Machine(machine_name(machine)));
    }
    if u16_at(&head, 16) != TYPE_DYN {
        return Err(Refusal::NotShared(
            "an ELF file, but not a shared object".into(),
        ));
    }
    let segments = segments(source, &head)?;
    let sections = sections(source, &head)?;
    let place = find_symbol(source, &sections)?;
    let offset = file_offset(&segments, place)
        .ok_or_else(|| Refusal::NotDriver(format!("its {SYMBOL} lies outside the file")))?;
    declaration(&bytes(source, offset, PLAIN_SIZE as u64)?)
}

/// The declaration in its first bytes.
pub(super) fn declaration(plain: &[u8]) -> Result<Declaration, Refusal> {
    let not = |what: &str| Refusal::NotDriver(format!("its {SYMBOL} {what}"));
    if plain.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(not("begins with something else"));
    }
    if (u32_at(plain, 16) as usize) < PLAIN_SIZE {
        return Err(not("is too short"));
    }
    let kinds = u32_at(plain, 32);
    let rustc = plain.get(40..PLAIN_SIZE).unwrap_or_default();
    let rustc = String::from_utf8_lossy(rustc)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    Ok(Declaration {
        abi_version: AbiVersion {
            major: u32_at(plain, 20),
            minor: u32_at(plain, 24),
            patch: u32_at(plain, 28),
        },
        kinds: DriverKind::ALL
            .into_iter()
            .filter(|kind| kinds & kind.bit() != 0)
            .collect(),
        rustc,
    })
}

fn bytes(source: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>, Refusal> {
    let needs = offset.saturating_add(len);
    if needs > source.len() {
        return Err(Refusal::Truncated { needs });
    }
    if len > TABLE_LIMIT {
        return Err(Refusal::NotShared(format!(
            "an ELF file with a table of {len} bytes"
        )));
    }
    let mut buf = vec![0; len as usize];
    if source.read(offset, &mut buf) {
        Ok(buf)
    } else {
        Err(Refusal::Truncated { needs })
    }
}

struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
}

fn segments(source: &dyn Source, head: &[u8]) -> Result<Vec<Segment>, Refusal> {
    let count = u16_at(head, 56);
    if usize::from(u16_at(head, 54)) != PROGRAM || count == 0 {
        return Err(Refusal::NotShared("an ELF file without segments".into()));
    }
    let table = bytes(source, u64_at(head, 32), u64::from(count) * PROGRAM as u64)?;
    let mut segments = Vec::new();
    for entry in table.chunks_exact(PROGRAM) {
        let segment = Segment {
            offset: u64_at(entry, 8),
            address: u64_at(entry, 16),
            file_size: u64_at(entry, 32),
        };
        let needs = segment.offset.saturating_add(segment.file_size);
        if needs > source.len() {
            return Err(Refusal::Truncated { needs });
        }
        if u32_at(entry, 0) == PT_LOAD {
            segments.push(segment);
        }
    }
    Ok(segments)
}

struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

fn sections(source: &dyn Source, head: &[u8]) -> Result<Vec<Section>, Refusal> {
    let count = u16_at(head, 60);
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(u16_at(head, 58)) != SECTION {
        return Err(Refusal::NotShared(
            "an ELF file with a broken section table".into(),
        ));
    }
    let table = bytes(source, u64_at(head, 40), u64::from(count) * SECTION as u64)?;
    let mut sections = Vec::new();
    for entry in table.chunks_exact(SECTION) {
        let section = Section {
            kind: u32_at(entry, 4),
            offset: u64_at(entry, 24),
            size: u64_at(entry, 32),
            link: u32_at(entry, 40),
        };
        let needs = section.offset.saturating_add(section.size);
        if section.kind != SHT_NOBITS && needs > source.len() {
            return Err(Refusal::Truncated { needs });
        }
        sections.push(section);
    }
    Ok(sections)
}

/// The address of the declaration.
fn find_symbol(source: &dyn Source, sections: &[Section]) -> Result<u64, Refusal> {
    let missing = || Refusal::NotDriver(format!("it has no symbol {SYMBOL}"));
    let table = sections
        .iter()
        .find(|section| section.kind == SHT_DYNSYM)
        .ok_or_else(missing)?;
    let names = sections.get(table.link as usize).ok_or_else(missing)?;
    if names.kind == SHT_NOBITS {
        return Err(missing());
    }
    let symbols = bytes(source, table.offset, table.size)?;
    let names = bytes(source, names.offset, names.size)?;
    for symbol in symbols.chunks_exact(SYMBOL_SIZE) {
        let name = names
            .get(u32_at(symbol, 0) as usize..)
            .and_then(|rest| rest.split(|byte| *byte == 0).next())
            .unwrap_or_default();
        if name != SYMBOL.as_bytes() {
            continue;
        }
        // Section 0: the symbol is wanted here, not offered.
        if u16_at(symbol, 6) == 0 {
            return Err(missing());
        }
        if u64_at(symbol, 16) < PLAIN_SIZE as u64 {
            return Err(Refusal::NotDriver(format!("its {SYMBOL} is too short")));
        }
        return Ok(u64_at(symbol, 8));
    }
    Err(missing())
}

fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    let end = address.checked_add(PLAIN_SIZE as u64)?;
    segments.iter().find_map(|segment| {
        let inside =
            address >= segment.address && end <= segment.address.checked_add(segment.file_size)?;
        if inside {
            segment.offset.checked_add(address - segment.address)
        } else {
            None
        }
    })
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
