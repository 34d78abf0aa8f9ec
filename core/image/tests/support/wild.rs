//! Trees made and changed at random, the same for the same seed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// A linear congruential generator: small, and enough to disturb trees.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed
            .wrapping_mul(2_862_933_555_777_941_757)
            .wrapping_add(3_037_000_493))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

const NAMES: [&[u8]; 16] = [
    b"a",
    b"b",
    b"a.b",
    b"a-b",
    b"c d",
    b"-rf",
    b"...",
    b".whx",
    b"wh.",
    b"\xff\xfe\x01",
    b"new\nline",
    "\u{e9}\u{202e}".as_bytes(),
    b"=9 path=x\n",
    b"\\",
    &[b'n'; 255],
    &[b'\xc3'; 120],
];

/// What the file systems of the tests can do, and the places of a tree.
pub struct Wild<'a> {
    root: &'a Path,
    rng: &'a mut Rng,
}

impl<'a> Wild<'a> {
    pub fn new(root: &'a Path, rng: &'a mut Rng) -> Wild<'a> {
        Wild { root, rng }
    }

    /// So many steps, then every new time becomes an old one, so that trees
    /// can be compared to the nanosecond.
    pub fn disturb(mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        let all = self.all();
        for path in all.iter().rev() {
            if fs::symlink_metadata(path).is_ok_and(|meta| meta.mtime() > 1_600_000_000) {
                self.set_time(path);
            }
        }
    }

    /// Everything but the root, folders before what is in them.
    fn all(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut pending = vec![self.root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            let mut names: Vec<_> = fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            names.sort();
            for path in names {
                if path.symlink_metadata().unwrap().is_dir() {
                    pending.push(path.clone());
                }
                found.push(path);
            }
        }
        found
    }

    fn any(&mut self, fits: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let all = self.all();
        let fit: Vec<&PathBuf> = all
            .iter()
            .filter(|path| fits(&path.symlink_metadata().unwrap()))
            .collect();
        match fit.len() {
            0 => None,
            count => Some(fit[self.rng.below(count as u64) as usize].clone()),
        }
    }

    fn new_path(&mut self) -> PathBuf {
        let dir = match self.rng.below(4) {
            0 => None,
            _ => self.any(|meta| meta.is_dir()),
        };
        let dir = dir.unwrap_or_else(|| self.root.to_path_buf());
        dir.join(OsStr::from_bytes(self.rng.pick(&NAMES)))
    }

    fn data(&mut self) -> Vec<u8> {
        let length = match self.rng.below(8) {
            0 => 0,
            1 => 300_000,
            _ => self.rng.below(2000),
        };
        let byte = self.rng.below(256) as u8;
        (0..length)
            .map(|n| byte.wrapping_add((n % 251) as u8))
            .collect()
    }

    /// Called after changes that may change nothing: overlay then has a copy
    /// that is one no more with the file's other names, which is not told of
    /// what is equal.
    fn set_time(&mut self, path: &Path) {
        let time = Timespec {
            tv_sec: self.rng.below(1_500_000_000) as i64 - 1000,
            tv_nsec: self
                .rng
                .pick(&[&0, &0, &1, &500_000_000, &999_999_999])
                .to_owned(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=3 => {
                let (path, data) = (self.new_path(), self.data());
                if path.symlink_metadata().is_err() {
                    fs::write(path, data).unwrap();
                }
            }
            4 | 5 => drop(fs::create_dir(self.new_path())),
            6 => {
                let target = self
                    .rng
                    .pick(&[&b"a"[..], b"../b", b"/etc/\xff", &[b't'; 200]]);
                drop(symlink(OsStr::from_bytes(target), self.new_path()));
            }
            7 => {
                let (path, kind) = (self.new_path(), self.rng.below(3));
                let (kind, device) = match kind {
                    0 => (FileType::Fifo, 0),
                    1 => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                    _ => (FileType::BlockDevice, rustix::fs::makedev(7, 200)),
                };
                let _ = rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device);
            }
            8 | 9 => {
                if let Some(from) = self.any(|meta| !meta.is_dir()) {
                    drop(fs::hard_link(from, self.new_path()));
                }
            }
            10 => {
                if let Some(path) = self.any(|meta| !meta.file_type().is_symlink()) {
                    let mode = self
                        .rng
                        .pick(&[&0o755, &0o700, &0o4755, &0o2711, &0o1777, &0o604]);
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                    self.set_time(&path);
                }
            }
            11 => {
                if let Some(path) = self.any(|_| true) {
                    let id = self.rng.pick(&[&0, &1000, &65534, &3_000_000]);
                    std::os::unix::fs::lchown(&path, Some(*id), Some(*id)).unwrap();
                    self.set_time(&path);
                }
            }
            12 | 13 => self.set_xattr(),
            14 => {
                if let Some(path) = self.any(|meta| meta.is_file()) {
                    // The same size; the time is another by itself.
                    let data = fs::read(&path).unwrap();
                    fs::write(path, data.iter().map(|b| b ^ 1).collect::<Vec<u8>>()).unwrap();
                }
            }
            15 => {
                if let Some(path) = self.any(|_| true) {
                    self.set_time(&path);
                }
            }
            16 | 17 => {
                if let Some(path) = self.any(|_| true) {
                    self.remove(&path);
                    // What comes anew under an old name hides the old.
                    match self.rng.below(4) {
                        0 => fs::create_dir(&path).unwrap(),
                        1 => fs::write(&path, "instead").unwrap(),
                        _ => {}
                    }
                }
            }
            18 => {
                if let Some(from) = self.any(|_| true) {
                    // A folder of a lower layer cannot be renamed (EXDEV).
                    let to = self.new_path();
                    if fs::rename(from, &to).is_ok() {
                        self.set_time(&to);
                    }
                }
            }
            _ => {
                let path = self.new_path();
                if path.symlink_metadata().is_err() {
                    let file = fs::File::create(path).unwrap();
                    file.set_len(3 << 20).unwrap();
                    let at = self.rng.below(3 << 20);
                    std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
                }
            }
        }
    }

    fn set_xattr(&mut self) {
        let Some(path) = self.any(|meta| {
            let kind = meta.file_type();
            kind.is_file() || kind.is_dir() || kind.is_fifo()
        }) else {
            return;
        };
        let (name, value): (&str, &[u8]) = match self.rng.below(4) {
            0 => ("user.one", b"value\n2=\0"),
            // Not empty: Go's tar takes an empty value for none.
            1 => ("trusted.two", b"2"),
            // cap_net_raw=ep
            2 => (
                "security.capability",
                b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            _ => ("user.one", b"another"),
        };
        // Some kinds of file take no user attributes and no capabilities.
        let _ = rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty());
        self.set_time(&path);
    }

    fn remove(&self, path: &Path) {
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}
