use super::*;
use crate::abi::declaration::{DriverDeclaration, SYMBOL};

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        let end = offset as usize + buf.len();
        match self.get(offset as usize..end) {
            Some(data) => {
                buf.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

/// A whole small shared object: one segment, three sections, one symbol.
fn object(machine: u16) -> Vec<u8> {
    let mut plain = MAGIC.to_vec();
    let size = std::mem::size_of::<DriverDeclaration>() as u32;
    for number in [size, 1, 2, 3, 2 | 1, 0] {
        plain.extend(u32::to_ne_bytes(number));
    }
    plain.extend(b"rustc 1.2.3");
    plain.resize(size as usize, 0);
    let names = format!("\0other\0{SYMBOL}\0").into_bytes();

    let program_at = HEADER;
    let plain_at = program_at + PROGRAM;
    let names_at = plain_at + plain.len();
    let symbols_at = names_at + names.len();
    let sections_at = symbols_at + 2 * SYMBOL_SIZE;
    let total = sections_at + 3 * SECTION;

    let mut file = vec![0; total];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF");
    put(4, &[CLASS, ENDIAN, 1]);
    put(16, &TYPE_DYN.to_ne_bytes());
    put(18, &machine.to_ne_bytes());
    put(32, &(program_at as u64).to_ne_bytes());
    put(40, &(sections_at as u64).to_ne_bytes());
    put(54, &(PROGRAM as u16).to_ne_bytes());
    put(56, &1u16.to_ne_bytes());
    put(58, &(SECTION as u16).to_ne_bytes());
    put(60, &3u16.to_ne_bytes());
    // The segment: the whole file at address 0x1000.
    put(program_at, &PT_LOAD.to_ne_bytes());
    put(program_at + 16, &0x1000u64.to_ne_bytes());
    put(program_at + 32, &(total as u64).to_ne_bytes());
    put(plain_at, &plain);
    put(names_at, &names);
    // Symbol 1 is the declaration.
    let symbol = symbols_at + SYMBOL_SIZE;
    put(symbol, &7u32.to_ne_bytes());
    put(symbol + 6, &1u16.to_ne_bytes());
    put(symbol + 8, &(0x1000 + plain_at as u64).to_ne_bytes());
    put(symbol + 16, &u64::from(size).to_ne_bytes());
    // Section 1 holds the symbols, section 2 their names.
    let mut section = |index: usize, kind: u32, at: usize, len: usize, link: u32| {
        let base = sections_at + index * SECTION;
        put(base + 4, &kind.to_ne_bytes());
        put(base + 24, &(at as u64).to_ne_bytes());
        put(base + 32, &(len as u64).to_ne_bytes());
        put(base + 40, &link.to_ne_bytes());
    };
    section(1, SHT_DYNSYM, symbols_at, 2 * SYMBOL_SIZE, 2);
    section(2, 3, names_at, names.len(), 0);
    file
}

fn own_machine() -> u16 {
    let own = MACHINES
        .iter()
        .find(|(_, name)| *name == std::env::consts::ARCH);
    own.expect("this architecture has a number").0
}

#[test]
fn a_declaration_is_found() {
    let found = inspect(&object(own_machine())).expect("a driver");
    assert_eq!(found.abi_version.to_string(), "1.2.3");
    assert_eq!(found.kinds, [DriverKind::Runtime, DriverKind::Snapshotter]);
    assert_eq!(found.rustc, "rustc 1.2.3");
    assert_eq!(
        inspect(&object(0x1234)),
        Err(Refusal::Machine("machine 4660".into()))
    );
}

#[test]
fn every_cut_is_noticed() {
    let whole = object(own_machine());
    for len in 0..whole.len() {
        let cut = whole[..len].to_vec();
        let wanted = if len < 4 { "NotShared" } else { "Truncated" };
        let refusal = format!("{:?}", inspect(&cut).expect_err("cut"));
        assert!(refusal.starts_with(wanted), "{len}: {refusal}");
    }
}

/// No file makes the parser panic, loop or take much memory.
#[test]
fn mutations_are_answered() {
    let whole = object(own_machine());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let extremes = [
        0u64,
        1,
        0x7f,
        0xff,
        u64::MAX,
        u64::MAX - 7,
        1 << 63,
        1 << 32,
    ];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..50_000 {
        let mut file = whole.clone();
        for _ in 0..=next() % 3 {
            let at = next() as usize % file.len();
            let value = extremes[next() as usize % extremes.len()];
            let width = [1, 2, 4, 8][next() as usize % 4].min(file.len() - at);
            file[at..at + width].copy_from_slice(&value.to_ne_bytes()[..width]);
        }
        if next() % 8 == 0 {
            file.truncate(next() as usize % whole.len());
        }
        match inspect(&file) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 500 && bad > 500, "{good} {bad}");
}
