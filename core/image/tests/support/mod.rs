//! Tar streams built header by header, so that hostile ones can be built too.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod images;
pub mod imports;
pub mod snapshots;
pub mod store;
pub mod trees;
pub mod wild;

use std::os::fd::AsFd;
use std::path::Path;

use containerkit::Result;
use containerkit_image::{Applied, ApplyOptions, WhiteoutForm, apply};

/// A header with everything settable; numbers are written as they are given.
#[derive(Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub flag: u8,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    /// The size in the header, where it is not that of the data.
    pub size: Option<u64>,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn entry(flag: u8, path: &str) -> Entry {
    Entry {
        path: path.into(),
        flag,
        link: Vec::new(),
        data: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        device: (0, 0),
        size: None,
        pax: Vec::new(),
    }
}

pub fn file(path: &str, data: &str) -> Entry {
    Entry {
        data: data.into(),
        ..entry(b'0', path)
    }
}

pub fn dir(path: &str, mode: u32) -> Entry {
    Entry {
        mode,
        ..entry(b'5', path)
    }
}

pub fn symlink(target: &str, path: &str) -> Entry {
    Entry {
        link: target.into(),
        mode: 0o777,
        ..entry(b'2', path)
    }
}

pub fn link(target: &str, path: &str) -> Entry {
    Entry {
        link: target.into(),
        ..entry(b'1', path)
    }
}

impl Entry {
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Entry {
        self.pax.push((key.into(), value.as_ref().into()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Entry {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut pax = self.pax.clone();
        let mut path = self.path.clone();
        let mut link = self.link.clone();
        if path.len() > 100 {
            pax.push((b"path".to_vec(), std::mem::take(&mut path)));
        }
        if link.len() > 100 {
            pax.push((b"linkpath".to_vec(), std::mem::take(&mut link)));
        }
        if !pax.is_empty() {
            let body: Vec<u8> = pax.iter().flat_map(|(k, v)| record(k, v)).collect();
            out.extend(header(b'x', b"pax", b"", body.len() as u64, self));
            out.extend(padded(&body));
        }
        let size = self.size.unwrap_or(self.data.len() as u64);
        out.extend(header(self.flag, &path, &link, size, self));
        out.extend(padded(&self.data));
        out
    }
}

pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().div_ceil(512) * 512, 0);
    data
}

pub fn header(flag: u8, path: &[u8], link: &[u8], size: u64, entry: &Entry) -> Vec<u8> {
    let mut h = vec![0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{:07o}\0", entry.mode).as_bytes());
    put(108, &number(entry.uid, 8));
    put(116, &number(entry.gid, 8));
    put(124, &number(size, 12));
    put(136, &number(entry.mtime, 12));
    put(156, &[flag]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", entry.device.0).as_bytes());
    put(337, format!("{:07o}\0", entry.device.1).as_bytes());
    checksum(&mut h);
    h
}

pub fn checksum(header: &mut [u8]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Octal when it fits, else base-256.
fn number(value: u64, width: usize) -> Vec<u8> {
    let text = format!("{value:0width$o}\0", width = width - 1);
    if text.len() <= width {
        return text.into_bytes();
    }
    let mut field = vec![0u8; width];
    let bytes = value.to_be_bytes();
    let part = bytes.len().min(width);
    field[width - part..].copy_from_slice(&bytes[bytes.len() - part..]);
    field[0] |= 0x80;
    field
}

/// The whole stream, with its end.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    out.extend([0; 1024]);
    out
}

pub fn apply_bytes(root: &Path, layer: &[u8], form: WhiteoutForm) -> Result<Applied> {
    let fd = containerkit::fs::open_dir(root).expect("root");
    let options = ApplyOptions {
        whiteouts: form,
        ..ApplyOptions::default()
    };
    let mut layer = layer;
    apply(&mut layer, fd.as_fd(), &options)
}

pub fn apply_to(root: &Path, entries: &[Entry]) -> Result<Applied> {
    apply_bytes(root, &tar(entries), WhiteoutForm::Remove)
}

/// A folder to apply to, inside one that must stay as it is.
pub struct Cell {
    outer: tempfile::TempDir,
}

impl Cell {
    pub fn new() -> Cell {
        let outer = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(outer.path().join("root")).expect("mkdir");
        std::fs::write(outer.path().join("canary"), "outside").expect("write");
        std::fs::create_dir(outer.path().join("etc")).expect("mkdir");
        std::fs::write(outer.path().join("etc/passwd"), "outside").expect("write");
        Cell { outer }
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.outer.path().join("root")
    }

    pub fn outer(&self) -> &Path {
        self.outer.path()
    }

    /// Nothing beside the root was made, changed or removed.
    pub fn check(&self) {
        let mut names: Vec<String> = std::fs::read_dir(self.outer.path())
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("utf-8")
            })
            .collect();
        names.sort();
        assert_eq!(names, ["canary", "etc", "root"]);
        assert_eq!(
            std::fs::read(self.outer.path().join("canary")).expect("read"),
            b"outside"
        );
        assert_eq!(
            std::fs::read(self.outer.path().join("etc/passwd")).expect("read"),
            b"outside"
        );
        assert_eq!(
            std::fs::read_dir(self.outer.path().join("etc"))
                .expect("list")
                .count(),
            1
        );
        assert!(self.root().symlink_metadata().expect("root").is_dir());
    }
}

/// An error is one line of printable text.
pub fn assert_one_line(error: &containerkit::Error) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() < 2000, "{text}");
}
