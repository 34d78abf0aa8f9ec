//! What a driver's file must be before it is believed: found through folders
//! that nobody else can write, regular, owned by somebody trusted, whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use containerkit::{Algorithm, Digest, Error, ErrorKind, Result};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags, Stat};
use rustix::io::Errno;

use super::elf::{self, Declaration, Refusal, Source};

/// Links on the way to a file; the kernel's own limit.
const LINK_LIMIT: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// An open file that may be believed.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

/// One line that names the file.
pub(super) fn refuse(path: &Path, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
    Error::new(kind, format!("driver {}: {what}", shown(path)))
}

/// A path for people: control characters escaped.
pub(super) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().any(char::is_control) {
        containerkit::quote(&text)
    } else {
        text
    }
}

/// Opens `path` and checks all but its contents.
pub(super) fn open(path: &Path) -> Result<Checked> {
    if !path.is_absolute() {
        return Err(refuse(
            path,
            ErrorKind::InvalidArgument,
            "want an absolute path",
        ));
    }
    check_folders(path)?;
    // Not blocking: a fifo must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| cannot(path, errno))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| cannot(path, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(refuse(
                path,
                ErrorKind::InvalidArgument,
                "it is a folder, not a shared object",
            ));
        }
        _ => {
            return Err(refuse(
                path,
                ErrorKind::InvalidArgument,
                "it is not a regular file",
            ));
        }
    }
    check_owner(path, &stat)?;
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
        return Err(refuse(
            path,
            ErrorKind::PermissionDenied,
            format!(
                "others may write it (mode {:04o}), and what is in it runs as this user",
                stat.st_mode & 0o7777
            ),
        )
        .with_hint(format!("chmod go-w {}", shown(path))));
    }
    if stat.st_size == 0 {
        return Err(
            refuse(path, ErrorKind::DataLoss, "the file is empty").with_hint("install it again")
        );
    }
    // What was open without blocking reads like any file.
    Ok(Checked { fd, stat })
}

fn cannot(path: &Path, errno: Errno) -> Error {
    let error = Error::io(format!("driver {}: cannot open it", shown(path)), errno);
    match errno {
        Errno::NOENT => error.with_hint(
            "install the driver, or correct `driver` or `driver_path` in the configuration",
        ),
        _ => error,
    }
}

fn trusted(uid: u32) -> bool {
    uid == 0
        || uid == rustix::process::geteuid().as_raw()
        || std::fs::metadata("/proc/self/exe")
            .is_ok_and(|binary| std::os::unix::fs::MetadataExt::uid(&binary) == uid)
}

fn check_owner(path: &Path, stat: &Stat) -> Result<()> {
    if trusted(stat.st_uid) {
        return Ok(());
    }
    Err(refuse(
        path,
        ErrorKind::PermissionDenied,
        format!(
            "it belongs to user {}, want root, this user or the owner of this program",
            stat.st_uid
        ),
    )
    .with_hint(format!("chown root {}", shown(path))))
}

/// Walks to the file as the kernel would, and refuses a way on which anybody
/// else could put another file: every folder, and every folder that a link
/// leads through.
fn check_folders(path: &Path) -> Result<()> {
    let mut todo: Vec<OsString> = parts(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    check_folder(path, &at)?;
    while let Some(part) = todo.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let stat = rustix::fs::lstat(&next).map_err(|errno| cannot(path, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(cannot(path, Errno::LOOP));
                }
                let target = std::fs::read_link(&next).map_err(|error| {
                    Error::io(format!("driver {}: cannot open it", shown(path)), error)
                })?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                todo.extend(parts(&target));
            }
            FileType::Directory => {
                at = next;
                check_folder(path, &at)?;
            }
            _ if todo.is_empty() => return Ok(()),
            _ => return Err(cannot(path, Errno::NOTDIR)),
        }
    }
    Ok(())
}

/// The components, last first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn check_folder(path: &Path, folder: &Path) -> Result<()> {
    let stat = rustix::fs::lstat(folder).map_err(|errno| cannot(path, errno))?;
    let sticky = stat.st_mode & STICKY != 0 && stat.st_uid == 0;
    if stat.st_mode & WRITABLE_BY_OTHERS == 0 || sticky {
        return Ok(());
    }
    Err(refuse(
        path,
        ErrorKind::PermissionDenied,
        format!(
            "others may write the folder {} (mode {:04o}) and put another file in its place",
            shown(folder),
            stat.st_mode & 0o7777
        ),
    )
    .with_hint(format!("chmod go-w {}", shown(folder))))
}

impl Checked {
    /// A sealed copy in memory, which nobody can change any more.
    pub(super) fn sealed(&self, path: &Path) -> Result<OwnedFd> {
        let failed = |errno| Error::io(format!("driver {}: copy it to memory", shown(path)), errno);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the flag and do not need it.
        let copy =
            match rustix::fs::memfd_create("containerkit-driver", flags | MemfdFlags::EXEC) {
                Err(Errno::INVAL) => rustix::fs::memfd_create("containerkit-driver", flags),
                other => other,
            }
            .map_err(failed)?;
        let copy = File::from(copy);
        let mut offset = 0;
        each_chunk(self.fd.as_fd(), |chunk| {
            copy.write_all_at(chunk, offset)?;
            offset += chunk.len() as u64;
            Ok(())
        })
        .map_err(|error| Error::io(format!("driver {}: copy it to memory", shown(path)), error))?;
        rustix::fs::fcntl_add_seals(
            &copy,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )
        .map_err(failed)?;
        Ok(copy.into())
    }
}

/// The digest of the contents.
pub(super) fn digest(fd: BorrowedFd<'_>, path: &Path, algorithm: Algorithm) -> Result<Digest> {
    let mut hasher = algorithm.hasher();
    each_chunk(fd, |chunk| {
        hasher.update(chunk);
        Ok(())
    })
    .map_err(|error| Error::io(format!("driver {}: read it", shown(path)), error))?;
    Ok(hasher.finish())
}

fn each_chunk(fd: BorrowedFd<'_>, mut with: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buf = vec![0; 1 << 16];
    let mut offset = 0;
    loop {
        match rustix::io::pread(fd, &mut buf[..], offset) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                with(&buf[..read])?;
                offset += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

struct Descriptor<'a> {
    fd: BorrowedFd<'a>,
    len: u64,
}

impl Source for Descriptor<'_> {
    fn len(&self) -> u64 {
        self.len
    }
    fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> bool {
        while !buf.is_empty() {
            match rustix::io::pread(self.fd, &mut *buf, offset) {
                Ok(0) => return false,
                Ok(read) => {
                    buf = &mut buf[read..];
                    offset += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// The declaration in an open file, or why it is no driver.
pub(super) fn inspect(fd: BorrowedFd<'_>, path: &Path) -> Result<Declaration> {
    let len = rustix::fs::fstat(fd)
        .map_err(|errno| cannot(path, errno))?
        .st_size;
    let len = u64::try_from(len).unwrap_or(0);
    elf::inspect(&Descriptor { fd, len }).map_err(|refusal| match refusal {
        Refusal::NotShared(what) => refuse(
            path,
            ErrorKind::Incompatible,
            format!("{what}, want an ELF shared object"),
        )
        .with_hint("name the driver's .so file"),
        Refusal::Truncated { needs } => refuse(
            path,
            ErrorKind::DataLoss,
            format!("the file is truncated: it has {len} bytes, its headers ask for {needs}"),
        )
        .with_hint("install it again"),
        Refusal::Machine(found) => refuse(
            path,
            ErrorKind::Incompatible,
            format!(
                "built for {found}, this program is for {}",
                std::env::consts::ARCH
            ),
        )
        .with_hint("install the driver of this architecture"),
        Refusal::NotDriver(what) => refuse(
            path,
            ErrorKind::Incompatible,
            format!("a shared object, but not a containerkit driver: {what}"),
        )
        .with_hint("name a library that was built with `export_driver!` of containerkit-plugin"),
    })
}
