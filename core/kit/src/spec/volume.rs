//! Folders of declared volumes, filled with what the image has there.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::fs::{Root, ensure_dir};

/// Folders in folders beyond this are refused: each holds a descriptor.
const DEPTH_LIMIT: u32 = 128;

/// A declared volume as a folder of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFolder {
    /// The folder on the host, to be made.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: String,
}

/// Makes the folder, with the content, owner and mode that the root file
/// system has at the volume's place; there, paths are resolved in the root
/// and no symlink in the content is followed (CVE-2022-23648).
///
/// The folder appears whole or not at all: it is filled beside its place and
/// renamed. One that exists already keeps its content.
pub fn populate(rootfs: &Root, volume: &VolumeFolder) -> Result<()> {
    let what = || format!("volume {}", quote(&volume.target));
    if volume.source.symlink_metadata().is_ok() {
        return Ok(());
    }
    let Some(parent) = volume.source.parent() else {
        return Err(Error::invalid(format!("{}: it has no folder", what())));
    };
    // 0711: a container whose users are mapped passes to its own volume.
    ensure_dir(parent, 0o711)?;
    let half = parent.join(crate::fs::unique_name(".volume"));
    ensure_dir(&half, 0o755)?;
    let result = (|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match rootfs.open_at(&volume.target, flags, 0) {
            Ok(from) => {
                let to = crate::fs::open_dir(&half)?;
                copy_folder(&from, &to, 0)?;
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Error::io("open it in the image", errno)),
        }
        rustix::fs::renameat(CWD, &half, CWD, &volume.source)
            .io_context(|| format!("rename to {}", volume.source.display()))
    })();
    if result.is_err() {
        let _ = crate::fs::remove_tree_path(&half);
    }
    result.map_err(|error: Error| error.context(what()))
}

fn copy_folder(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("its folders are nested more than {DEPTH_LIMIT} deep"),
        ));
    }
    let list = Dir::read_from(from).io_context(|| "list a folder")?;
    for entry in list {
        let entry = entry.io_context(|| "list a folder")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from, to, name, depth)
            .map_err(|error| error.context(format!("copy {}", quote(&name.to_string_lossy()))))?;
    }
    let stat = rustix::fs::fstat(from).io_context(|| "stat a folder")?;
    copy_metadata(from, to, &stat)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> Result<()> {
    let stat =
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).io_context(|| "stat it")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = open(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).io_context(|| "make a folder")?;
            let target = open(to, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            copy_folder(&source, &target, depth + 1)
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
            // What was looked at and what was opened may differ by now.
            let stat = rustix::fs::fstat(&source).io_context(|| "stat it")?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Error::precondition("it changed while it was copied"));
            }
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)
                .io_context(|| "create it")?;
            let mut reader = std::fs::File::from(source);
            let mut writer = std::fs::File::from(target);
            std::io::copy(&mut reader, &mut writer).io_context(|| "copy its data")?;
            copy_metadata(&reader, &writer, &stat)
        }
        FileType::Symlink => {
            let target =
                rustix::fs::readlinkat(from, name, Vec::new()).io_context(|| "read the symlink")?;
            rustix::fs::symlinkat(&target, to, name).io_context(|| "make the symlink")?;
            rustix::fs::chownat(
                to,
                name,
                owner(&stat),
                group(&stat),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .io_context(|| "change its owner")
        }
        kind @ (FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Socket) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).io_context(|| "make a node")?;
            rustix::fs::chownat(
                to,
                name,
                owner(&stat),
                group(&stat),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .io_context(|| "change its owner")?;
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).io_context(|| "change its mode")
        }
        FileType::Unknown => Ok(()),
    }
}

fn open(dir: &OwnedFd, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).io_context(|| "open it")
}

/// Owner before mode: a change of owner clears setuid; times last.
fn copy_metadata(from: impl AsFd, to: impl AsFd, stat: &Stat) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    rustix::fs::fchown(to, owner(stat), group(stat)).io_context(|| "change its owner")?;
    copy_xattrs(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .io_context(|| "change its mode")?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    rustix::fs::futimens(to, &times).io_context(|| "change its times")
}

/// File capabilities and the user's attributes; those of overlayfs and of
/// security modules belong to the place, not to the file.
fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(Error::io("list its attributes", errno)),
    };
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let bytes = name.to_bytes();
        if !bytes.starts_with(b"user.") && bytes != b"security.capability" {
            continue;
        }
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])
            .io_context(|| "read its attributes")?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(Error::io("write its attributes", errno)),
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> Option<Uid> {
    Some(Uid::from_raw(stat.st_uid))
}

fn group(stat: &Stat) -> Option<Gid> {
    Some(Gid::from_raw(stat.st_gid))
}

/// Removes the folders of a container's volumes; what is gone is success.
pub fn remove(volumes_dir: &Path) -> Result<()> {
    crate::fs::remove_tree_path(volumes_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn content_owner_and_mode_come_along() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().join("rootfs/data");
        std::fs::create_dir_all(data.join("sub")).expect("mkdir");
        std::fs::write(data.join("sub/file"), "content").expect("write");
        symlink("/etc/passwd", data.join("link")).expect("symlink");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1770)).expect("chmod");
        let setuid = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(data.join("sub/file"), setuid).expect("chmod");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&data, Some(70), Some(71)).expect("chown");
            std::os::unix::fs::chown(data.join("sub/file"), Some(70), None).expect("chown");
            let setuid = std::fs::Permissions::from_mode(0o4755);
            std::fs::set_permissions(data.join("sub/file"), setuid).expect("chmod");
        }
        let rootfs = Root::open(&dir.path().join("rootfs")).expect("root");
        let volume = VolumeFolder {
            source: dir.path().join("volumes/0"),
            target: "/data".into(),
        };
        populate(&rootfs, &volume).expect("populate");
        for name in ["", "sub", "sub/file", "link"] {
            let a = std::fs::symlink_metadata(data.join(name)).expect("stat");
            let b = std::fs::symlink_metadata(volume.source.join(name)).expect(name);
            assert_eq!(
                (a.mode(), a.uid(), a.gid()),
                (b.mode(), b.uid(), b.gid()),
                "{name}"
            );
        }
        let copied = std::fs::read_to_string(volume.source.join("sub/file")).expect("read");
        assert_eq!(copied, "content");

        std::fs::write(volume.source.join("sub/file"), "mine").expect("write");
        populate(&rootfs, &volume).expect("again");
        let kept = std::fs::read_to_string(volume.source.join("sub/file")).expect("read");
        assert_eq!(kept, "mine");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("volumes"))
            .expect("ls")
            .collect();
        assert_eq!(left.len(), 1);
        remove(&dir.path().join("volumes")).expect("remove");
        remove(&dir.path().join("volumes")).expect("twice");
    }

    #[test]
    fn nothing_of_the_host_is_copied() {
        let dir = tempfile::tempdir().expect("tempdir");
        let outside = dir.path().join("secret");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::write(outside.join("key"), "secret").expect("write");
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir(&rootfs).expect("mkdir");
        symlink("../secret", rootfs.join("up")).expect("symlink");
        symlink(&outside, rootfs.join("abs")).expect("symlink");
        let root = Root::open(&rootfs).expect("root");
        for (number, target) in ["/up", "/abs", "/../secret", "/missing"].iter().enumerate() {
            let volume = VolumeFolder {
                source: dir.path().join(format!("volumes/{number}")),
                target: (*target).into(),
            };
            populate(&root, &volume).expect(target);
            let copied = std::fs::read_dir(&volume.source).expect("ls").count();
            assert_eq!(copied, 0, "{target}");
        }
    }
}
