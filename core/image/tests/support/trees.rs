//! A tree as text, to be compared with another.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use containerkit::Algorithm;

/// What of a tree is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Which files are one, too.
    Told,
    Untold,
}

/// Every name with all that is known of it, in order. Times of now, which a
/// folder has that no layer tells of, are told as such.
pub fn tree(root: &Path, links: Links) -> String {
    let mut lines = Vec::new();
    let mut seen = HashMap::new();
    walk(root, Path::new(""), links, &mut seen, &mut lines);
    lines.join("\n")
}

fn walk(
    root: &Path,
    path: &Path,
    links: Links,
    seen: &mut HashMap<(u64, u64), String>,
    lines: &mut Vec<String>,
) {
    let full = root.join(path);
    // A whiteout that is listed cannot be looked at: that is to be seen.
    let Ok(meta) = fs::symlink_metadata(&full) else {
        lines.push(format!("{} cannot be looked at", path.display()));
        return;
    };
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "dir".to_string()
    } else if kind.is_symlink() {
        format!("-> {}", fs::read_link(&full).expect("readlink").display())
    } else if kind.is_file() {
        let data = fs::read(&full).expect("read");
        format!("file {} {}", data.len(), Algorithm::Sha256.digest(&data))
    } else if kind.is_fifo() {
        "fifo".into()
    } else {
        format!("device {:x}", meta.rdev())
    };
    let time = match meta.mtime() {
        seconds if seconds > 1_600_000_000 => "now".into(),
        seconds => format!("{seconds}.{:09}", meta.mtime_nsec()),
    };
    let mut line = format!(
        "{} {what} {:o} {}:{} {time}",
        path.display(),
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
    );
    for (name, value) in xattrs(&full) {
        line.push_str(&format!(" {name}={value:02x?}"));
    }
    if !kind.is_dir() && links == Links::Told {
        let first = seen
            .entry((meta.dev(), meta.ino()))
            .or_insert_with(|| path.display().to_string());
        line.push_str(&format!(" is {first}"));
    }
    lines.push(line);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)
            .expect("list")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        names.sort();
        for name in names {
            walk(root, &path.join(name), links, seen, lines);
        }
    }
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 1 << 16];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0) {
        let name = std::ffi::OsStr::from_bytes(name).to_string_lossy();
        if name.is_empty() || name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0u8; 1 << 16];
        let length = rustix::fs::lgetxattr(path, &*name, &mut value[..]).expect("xattr");
        value.truncate(length);
        found.push((name.into_owned(), value));
    }
    found.sort();
    found
}
