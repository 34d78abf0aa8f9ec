//! Where an export appears, whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerkit::fs::{open_dir, remove_tree_path, sync_dir, sync_file_system, unique_name};
use containerkit::step::step;
use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Its folder, which must be there, and its name in it.
fn place(path: &Path) -> Result<(PathBuf, String)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("it names no file or folder"));
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    open_dir(parent)?;
    Ok((parent.to_path_buf(), name.to_string_lossy().into_owned()))
}

/// Writes a file, which takes the place of one that is there.
pub(super) fn file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let (parent, name) = place(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => {
            return Err(Error::invalid("there is something that is not a file"));
        }
        _ => {}
    }
    let start = format!(".{name}.tmp");
    sweep(&parent, &start);
    let hidden = parent.join(unique_name(&start));
    let (file, named) = unnamed(&parent, &hidden)?;
    let result = lock(&file)
        .and_then(|()| fill(file, write))
        .and_then(|file| {
            if !named {
                // Through /proc, which takes no capability.
                let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, &itself, CWD, &hidden, AtFlags::SYMLINK_FOLLOW)
                    .io_context(|| "name the file")?;
            }
            step("export.rename");
            std::fs::rename(&hidden, path).io_context(|| "name the file")?;
            step("export.renamed");
            sync_dir(&parent)
        });
    if result.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    result
}

/// A file without a name, where the file system has that; whether it has one.
fn unnamed(parent: &Path, hidden: &Path) -> Result<(OwnedFd, bool)> {
    let mode = Mode::from_raw_mode(0o644);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, OFlags::TMPFILE | flags, mode) {
        Ok(fd) => Ok((fd, false)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL;
            let fd = rustix::fs::open(hidden, flags, mode)
                .io_context(|| format!("create a file in {}", parent.display()))?;
            Ok((fd, true))
        }
        Err(errno) => Err(Error::io(
            format!("create a file in {}", parent.display()),
            errno,
        )),
    }
}

fn fill(fd: OwnedFd, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<File> {
    let mut out = BufWriter::with_capacity(1 << 20, File::from(fd));
    write(&mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| Error::io("write a file", error.into_error()))?;
    file.sync_all().io_context(|| "write a file out")?;
    Ok(file)
}

/// Writes a folder, where none is or an empty one.
pub(super) fn folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (parent, name) = place(path)?;
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::already_exists("the folder is there and not empty")
                    .with_hint("give a new folder, or a file's name that ends in .tar"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("look at it", error)),
    }
    let start = format!(".{name}.tmp");
    sweep(&parent, &start);
    let hidden = parent.join(unique_name(&start));
    containerkit::fs::ensure_dir(&hidden, 0o755)?;
    step("export.folder");
    let result = (|| {
        let held = open_dir(&hidden)?;
        lock(&held)?;
        write(&hidden)?;
        sync_file_system(&hidden)?;
        step("export.rename");
        std::fs::rename(&hidden, path).io_context(|| "name the folder")?;
        step("export.renamed");
        sync_dir(&parent)
    })();
    if result.is_err() {
        let _ = remove_tree_path(&hidden);
    }
    result
}

/// Says to others that somebody is at it.
fn lock(fd: &OwnedFd) -> Result<()> {
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive)
        .io_context(|| "lock what is being written")
}

/// Removes what killed exports to the same place left. One that has just begun
/// may not have its lock yet.
fn sweep(parent: &Path, start: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_old = || {
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            Some(age.as_secs() > 60)
        };
        if !name.to_string_lossy().starts_with(&format!("{start}.")) || is_old() != Some(true) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(held) = rustix::fs::open(&path, flags, Mode::empty()) else {
            continue;
        };
        if lock(&held).is_ok() {
            match remove_tree_path(&path) {
                Ok(()) => log::info!("removed {}", path.display()),
                Err(error) => log::warn!("remove {}: {error}", path.display()),
            }
        }
    }
}
