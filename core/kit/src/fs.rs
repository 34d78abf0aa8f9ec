//! Files on directory descriptors, and writes that survive power loss.
//!
//! Everything that comes from an image, a rootfs or a store's name goes
//! through [`Root`], which resolves beneath a descriptor with `openat2` and
//! can therefore not be led out of it by a symlink, however it changes
//! meanwhile.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::step::step;
use crate::value::Usage;

/// Whether a write must survive power loss when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// fsync of the file, and of its folder after the rename.
    Synced,
    /// Rename only: whole or absent after a crash of the process. For `state`.
    Volatile,
}

/// A name beside others that no other process picks: `PREFIX.PID.N`.
pub fn unique_name(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = crate::value::Timestamp::now().unix_nanos();
    format!("{prefix}.{}.{nanos:x}.{n}", std::process::id())
}

/// Replaces `path` by a file of these bytes, whole or not at all.
pub fn write_atomic(path: &Path, data: &[u8], mode: u32, durability: Durability) -> Result<()> {
    let (dir, name) = split(path)?;
    let temporary = dir.join(unique_name(&format!(".{name}.tmp")));
    let result = (|| {
        step("file.create");
        let fd = rustix::fs::open(
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .io_context(|| format!("create {}", temporary.display()))?;
        let mut file = File::from(fd);
        step("file.created");
        file.write_all(data)
            .io_context(|| format!("write {}", temporary.display()))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .io_context(|| format!("chmod {}", temporary.display()))?;
        if durability == Durability::Synced {
            file.sync_all()
                .io_context(|| format!("fsync {}", temporary.display()))?;
        }
        step("file.rename");
        std::fs::rename(&temporary, path).io_context(|| format!("rename to {}", path.display()))?;
        step("file.renamed");
        if durability == Durability::Synced {
            sync_dir(&dir)?;
        }
        Ok(())
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Makes a file of these bytes, whole or not at all, and durable when this
/// returns. What is there already stays (`AlreadyExists`).
pub fn write_new(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    let (dir, name) = split(path)?;
    let create = || format!("create {}", path.display());
    let open = |path: &Path, flags: OFlags| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::open(path, flags | OFlags::WRONLY | OFlags::CLOEXEC, mode)
    };
    // A file without a name: a killed process leaves nothing of a secret.
    let (fd, temporary) = match open(&dir, OFlags::TMPFILE) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let temporary = dir.join(unique_name(&format!(".{name}.tmp")));
            let fd = open(&temporary, OFlags::CREATE | OFlags::EXCL).io_context(create)?;
            (fd, Some(temporary))
        }
        opened => (opened.io_context(create)?, None),
    };
    let mut file = File::from(fd);
    let written = (|| {
        file.write_all(data)
            .io_context(|| format!("write {}", path.display()))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .io_context(|| format!("chmod {}", path.display()))?;
        file.sync_all()
            .io_context(|| format!("fsync {}", path.display()))?;
        step("file.name");
        let (from, flags) = match &temporary {
            Some(temporary) => (temporary.clone(), AtFlags::empty()),
            None => (
                format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
                AtFlags::SYMLINK_FOLLOW,
            ),
        };
        rustix::fs::linkat(CWD, &from, CWD, path, flags).io_context(create)?;
        step("file.named");
        sync_dir(&dir)
    })();
    if let Some(temporary) = temporary {
        let _ = std::fs::remove_file(temporary);
    }
    written
}

fn split(path: &Path) -> Result<(PathBuf, String)> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok((dir.to_path_buf(), name.to_string_lossy().into_owned())),
        _ => Err(Error::invalid(format!(
            "{} is not the path of a file",
            path.display()
        ))),
    }
}

/// fsync of a folder: makes the names in it durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = open_dir(path)?;
    rustix::fs::fsync(&dir).io_context(|| format!("fsync {}", path.display()))
}

/// Writes out everything on the file system of a path: the files that others
/// wrote there, before a record promises them.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let dir = open_dir(path)?;
    rustix::fs::syncfs(&dir)
        .io_context(|| format!("write out the file system of {}", path.display()))
}

/// Opens a folder that the caller trusts.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| format!("open folder {}", path.display()))
}

/// Makes a folder and the missing ones above it; those it makes have exactly
/// `mode`, whatever the umask. An existing folder keeps its mode.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<()> {
    // Not more private than it will be: a kill before the chmod would leave it
    // so. A umask that takes bits away is put right by the chmod.
    let make = || rustix::fs::mkdir(path, Mode::from_raw_mode(mode));
    let made = match (make(), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) if !parent.as_os_str().is_empty() => {
            ensure_dir(parent, mode)?;
            // Once: in /proc a folder's parent exists and it still is ENOENT.
            make()
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => {
            step("folder.made");
            rustix::fs::chmod(path, Mode::from_raw_mode(mode))
                .io_context(|| format!("chmod {}", path.display()))
        }
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(Errno::EXIST) => Err(Error::precondition(format!(
            "{} exists and is not a folder",
            path.display()
        ))),
        Err(errno) => Err(Error::io(format!("make folder {}", path.display()), errno)),
    }
}

/// Reads a whole file that is at most `limit` bytes.
pub fn read_limited(file: impl AsFd, what: &str, limit: u64) -> Result<Vec<u8>> {
    let fd = file
        .as_fd()
        .try_clone_to_owned()
        .io_context(|| format!("read {what}"))?;
    let mut data = Vec::new();
    File::from(fd)
        .take(limit + 1)
        .read_to_end(&mut data)
        .io_context(|| format!("read {what}"))?;
    if data.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{what} has more than the {limit} bytes allowed"),
        ));
    }
    Ok(data)
}

/// Reads a whole regular file that somebody named, at most `limit` bytes.
/// What is something else is refused at once: a fifo without a writer would
/// hold its reader for ever.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let shown = quote(&path.to_string_lossy());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).io_context(|| format!("open {shown}"))?;
    let stat = rustix::fs::fstat(&fd).io_context(|| format!("stat {shown}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!(
            "{shown} is not a regular file"
        )));
    }
    read_limited(fd, &shown, limit)
}

/// A folder beneath which paths are resolved; nothing leads out of it.
///
/// Absolute paths and symlinks are resolved as if the folder were `/`, `..`
/// stops at it, and magic links of `/proc` are refused.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Beneath this folder, which the caller trusts.
    pub fn open(path: &Path) -> Result<Root> {
        open_dir(path).map(Root::from_fd)
    }

    /// Beneath this folder.
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd }
    }

    /// The folder.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens `path` in the root. `mode` counts only with `OFlags::CREATE`.
    pub fn open_at(
        &self,
        path: impl AsRef<Path>,
        flags: OFlags,
        mode: u32,
    ) -> rustix::io::Result<OwnedFd> {
        open_in_root(self.fd.as_fd(), path.as_ref(), flags, mode)
    }

    /// Reads a whole regular file in the root, at most `limit` bytes.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        // O_NONBLOCK: a fifo planted here must not hold us.
        let fd = self
            .open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0)
            .io_context(|| format!("open {}", path.display()))?;
        let stat = rustix::fs::fstat(&fd).io_context(|| format!("stat {}", path.display()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::precondition(format!(
                "{} is not a regular file",
                path.display()
            )));
        }
        read_limited(fd, &path.display().to_string(), limit)
    }
}

/// `openat2` beneath `root`, which is `/` to the path; always close-on-exec.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: u32,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from_raw_mode(mode)
    } else {
        Mode::empty()
    };
    // EAGAIN: something was renamed meanwhile and the kernel would not say
    // whether the path left the root.
    for _ in 0..128 {
        match rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Removes `name` in the folder `parent` with everything beneath it. Follows
/// no symlink and crosses into no mount (`FailedPrecondition`). What is not
/// there is success.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let shown = || String::from_utf8_lossy(name.to_bytes()).into_owned();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(Error::io(format!("remove {}", shown()), errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Error::io(format!("remove {}", shown()), errno)),
    };
    // What is nested too deeply is moved up to `top` and emptied in a later
    // round, so that depth costs no descriptors.
    loop {
        let mut moved = 0u64;
        empty_dir(&top, &top, 0, &mut moved)
            .map_err(|e| e.context(format!("remove {}", shown())))?;
        if moved == 0 {
            break;
        }
    }
    step("tree.emptied");
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::io(format!("remove {}", shown()), errno)),
    }
}

const DEPTH_LIMIT: u32 = 64;

fn empty_dir(top: &OwnedFd, dir: &OwnedFd, depth: u32, moved: &mut u64) -> Result<()> {
    let list = rustix::fs::Dir::read_from(dir).io_context(|| "list a folder")?;
    for entry in list {
        let entry = entry.io_context(|| "list a folder")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let shown = || String::from_utf8_lossy(name.to_bytes()).into_owned();
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(Error::io(format!("remove {}", shown()), errno)),
            }
        }
        if depth >= DEPTH_LIMIT {
            *moved += 1;
            let aside = CString::new(unique_name(".moved")).map_err(|_| Error::internal("name"))?;
            rustix::fs::renameat(dir, name, top, &aside)
                .io_context(|| format!("move {}", shown()))?;
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(Error::io(format!("remove {}", shown()), errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = rustix::fs::openat(dir, name, flags, Mode::empty())
            .io_context(|| format!("open {}", shown()))?;
        empty_dir(top, &child, depth + 1, moved)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io(format!("remove {}", shown()), errno)),
        }
    }
    Ok(())
}

/// [`remove_tree`] by a path that the caller trusts up to its last component.
pub fn remove_tree_path(path: &Path) -> Result<()> {
    let (dir, _) = split(path)?;
    let name = path
        .file_name()
        .and_then(|name| CString::new(name.as_bytes()).ok())
        .ok_or_else(|| Error::invalid(format!("remove {}", path.display())))?;
    let parent = match open_dir(&dir) {
        Ok(parent) => parent,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    remove_tree(parent.as_fd(), &name).map_err(|e| e.context(format!("in {}", dir.display())))
}

/// The allocated bytes and inodes of a tree; hard links count once.
pub fn disk_usage(path: &Path) -> Result<Usage> {
    let mut seen = std::collections::HashSet::new();
    let mut usage = Usage::default();
    let mut pending = vec![path.to_path_buf()];
    while let Some(path) = pending.pop() {
        let stat = match rustix::fs::lstat(&path) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(Error::io(format!("stat {}", path.display()), errno)),
        };
        if stat.st_nlink > 1
            && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
            && !seen.insert((stat.st_dev, stat.st_ino))
        {
            continue;
        }
        usage.size += stat.st_blocks.max(0) as u64 * 512;
        usage.inodes += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(format!("list {}", path.display()), error)),
            };
            for entry in entries.flatten() {
                pending.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_cannot_lead_out_of_a_root() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("abs")).expect("symlink");
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("up"))
            .expect("symlink");
        let root = Root::open(dir.path()).expect("root");
        for name in [
            "abs",
            "up",
            "../../etc/passwd",
            "/etc/passwd",
            "/proc/self/environ",
        ] {
            let error = root.read(name, 1 << 20).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        std::fs::write(dir.path().join("big"), [0; 100]).expect("write");
        let error = root.read("big", 99).expect_err("limit");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn ensure_dir_ends_where_no_folder_can_be_made() {
        let error = ensure_dir(Path::new("/proc/self/x/y"), 0o700).expect_err("in /proc");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let dir = tempfile::tempdir().expect("tempdir");
        ensure_dir(&dir.path().join("a/b/c"), 0o700).expect("nested");
        ensure_dir(&dir.path().join("a/b/c"), 0o700).expect("twice");
    }

    #[test]
    fn remove_tree_goes_deep_and_follows_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let keep = dir.path().join("keep");
        std::fs::create_dir(&keep).expect("mkdir");
        std::fs::write(keep.join("file"), "x").expect("write");
        let top = open_dir(dir.path()).expect("open");
        rustix::fs::mkdirat(&top, "tree", Mode::from_raw_mode(0o755)).expect("mkdir");
        let mut fd = rustix::fs::openat(&top, "tree", OFlags::RDONLY, Mode::empty()).expect("open");
        for _ in 0..1500 {
            rustix::fs::symlinkat("../../keep", &fd, "link").ok();
            rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o755)).expect("mkdir");
            fd = rustix::fs::openat(&fd, "d", OFlags::RDONLY, Mode::empty()).expect("open");
        }
        drop(fd);
        remove_tree_path(&dir.path().join("tree")).expect("remove");
        assert!(!dir.path().join("tree").exists());
        assert!(keep.join("file").exists());
        remove_tree_path(&dir.path().join("tree")).expect("twice");
    }

    #[test]
    fn write_new_is_never_over_what_is_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a");
        write_new(&path, b"1", 0o640).expect("write");
        let error = write_new(&path, b"2", 0o600).expect_err("again");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("gone", &link).expect("symlink");
        let error = write_new(&link, b"2", 0o600).expect_err("over a symlink");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), b"1");
        let mode = rustix::fs::stat(&path).expect("stat").st_mode;
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2);
        let error = write_new(&dir.path().join("no/a"), b"", 0o600).expect_err("no folder");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    #[test]
    fn write_atomic_leaves_no_temporary() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a");
        write_atomic(&path, b"1", 0o600, Durability::Synced).expect("write");
        write_atomic(&path, b"2", 0o640, Durability::Volatile).expect("write");
        assert_eq!(std::fs::read(&path).expect("read"), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
        assert!(write_atomic(&dir.path().join("no/a"), b"", 0o600, Durability::Volatile).is_err());
    }
}
