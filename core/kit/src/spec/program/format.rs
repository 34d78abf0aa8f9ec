//! Whether the kernel could execute a file that exists and is executable.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::elf::{self, Elf, HEAD};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// It is executed by this program; relative paths are the process's.
    Interpreted(PathBuf),
    /// The kernel refuses it, for this reason.
    Refused(&'static str),
    /// It can be executed, or only the kernel can tell.
    Other,
}

/// `has_helpers`: programs are registered that execute what the kernel cannot.
pub(super) fn of(file: &File, has_helpers: impl FnOnce() -> bool) -> Format {
    let mut head = [0; HEAD];
    let Some(length) = fill(file, &mut head) else {
        return Format::Other;
    };
    let refused = if let Some(line) = head[..length].strip_prefix(b"#!") {
        return script(line, length == HEAD);
    } else if head.starts_with(b"\x7fELF") {
        match elf::inspect(file, &head) {
            Elf::Interpreter(path) => return Format::Interpreted(OsStr::from_bytes(&path).into()),
            Elf::Other => return Format::Other,
            Elf::Foreign => "it is for another architecture",
            Elf::NoProgram => "it is an ELF file, but not a program",
        }
    } else if length == 0 {
        "it is empty"
    } else {
        "it is neither an ELF program nor a script that begins with #!"
    };
    match has_helpers() {
        true => Format::Other,
        false => Format::Refused(refused),
    }
}

/// As much of the file's beginning as there is.
fn fill(file: &File, head: &mut [u8; HEAD]) -> Option<usize> {
    let mut length = 0;
    while length < HEAD {
        match file.read_at(&mut head[length..], length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(length)
}

/// `line` is what follows `#!`, cut off when there is more of the file.
fn script(line: &[u8], is_cut: bool) -> Format {
    let line_end = line.iter().position(|byte| matches!(byte, b'\n' | 0));
    let is_cut = is_cut && line_end.is_none();
    let line = line[..line_end.unwrap_or(line.len())].trim_ascii_start();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    match (&line[..end.unwrap_or(line.len())], end) {
        // The path may go on where it was cut off.
        (_, None) if is_cut => Format::Other,
        (b"", _) => Format::Refused("its line #! names no interpreter"),
        (path, _) => Format::Interpreted(OsStr::from_bytes(path).into()),
    }
}

/// Whether binfmt_misc knows further formats.
pub(super) fn has_helpers() -> bool {
    entries(Path::new("/proc/sys/fs/binfmt_misc"))
}

fn entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|list| {
        list.flatten()
            .any(|entry| !matches!(entry.file_name().as_bytes(), b"register" | b"status"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn with(bytes: &[u8], has_helpers: bool) -> Format {
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(bytes).expect("write");
        of(&file, || has_helpers)
    }

    #[test]
    fn scripts_name_their_interpreter() {
        let long = [b"#!/bin/sh ".as_slice(), &[b'a'; 400]].concat();
        for (text, want) in [
            (b"#!/bin/sh\n".as_slice(), "/bin/sh"),
            (b"#! \t/bin/sh -e\n", "/bin/sh"),
            (b"#!/bin/sh", "/bin/sh"),
            (b"#!/usr/bin/env\tpython\n", "/usr/bin/env"),
            (b"#!bin/sh\0x", "bin/sh"),
            (b"#!/bin/sh\r\n", "/bin/sh\r"),
            (&long, "/bin/sh"),
        ] {
            assert_eq!(with(text, false), Format::Interpreted(want.into()));
        }
        let cut = [b"#!/".as_slice(), &[b'a'; 400]].concat();
        assert_eq!(with(&cut, false), Format::Other);
        for none in [b"#!".as_slice(), b"#!\n", b"#!  \n/bin/sh"] {
            assert!(matches!(with(none, false), Format::Refused(_)));
        }
    }

    #[test]
    fn what_the_kernel_cannot_execute_may_have_a_helper() {
        let mut foreign = elf::sample(None);
        foreign[18] = 243;
        for (bytes, want) in [
            (b"".as_slice(), "empty"),
            (b"echo no line\n", "neither"),
            (b"\xef\xbb\xbf#!/bin/sh\n", "neither"),
            (b"\x7fEL", "neither"),
            (&foreign, "another architecture"),
        ] {
            match with(bytes, false) {
                Format::Refused(why) => assert!(why.contains(want), "{why}"),
                other => panic!("{want}: {other:?}"),
            }
            assert_eq!(with(bytes, true), Format::Other, "{want}");
        }
        assert_eq!(with(&elf::sample(None), false), Format::Other);
    }

    #[test]
    fn only_further_entries_are_helpers() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(!entries(&dir.path().join("missing")));
        for (name, want) in [("register", false), ("status", false), ("qemu-arm", true)] {
            std::fs::write(dir.path().join(name), "").expect("write");
            assert_eq!(entries(dir.path()), want, "{name}");
        }
    }
}
