//! Copies one folder to another: data without holes, owners, modes, times and
//! attributes; no symlink is followed.

use std::ffi::CStr;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::fs::{Uid, XattrFlags};
use rustix::io::Errno;

use super::allowance::Allowance;
use crate::error::{Error, ErrorKind, IoContext, Result, quote};

/// Folders in folders beyond this are refused: each holds a descriptor.
const DEPTH_LIMIT: u32 = 128;

pub(super) fn folder(
    from: &OwnedFd,
    to: &OwnedFd,
    depth: u32,
    allowance: &Allowance,
) -> Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("its folders are nested more than {DEPTH_LIMIT} deep"),
        ));
    }
    let list = Dir::read_from(from).io_context(|| "list a folder")?;
    for item in list {
        let item = item.io_context(|| "list a folder")?;
        let name = item.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        entry(from, to, name, depth, allowance)
            .map_err(|error| error.context(format!("copy {}", quote(&name.to_string_lossy()))))?;
    }
    let stat = rustix::fs::fstat(from).io_context(|| "stat a folder")?;
    metadata(from, to, &stat, allowance)
}

fn entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    depth: u32,
    allowance: &Allowance,
) -> Result<()> {
    allowance.take_entry()?;
    let stat =
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).io_context(|| "stat it")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = open(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).io_context(|| "make a folder")?;
            let target = open(to, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            folder(&source, &target, depth + 1, allowance)
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
            data(&mut reader, &mut writer, stat.st_size as u64, allowance)?;
            metadata(&reader, &writer, &stat, allowance)
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

/// Copies the data and makes the holes by leaving them out.
fn data(
    from: &mut std::fs::File,
    to: &mut std::fs::File,
    length: u64,
    allowance: &Allowance,
) -> Result<()> {
    use rustix::fs::SeekFrom::{Data, Hole};
    rustix::fs::ftruncate(&*to, length).io_context(|| "set its length")?;
    let mut offset = 0;
    while offset < length {
        let start = match rustix::fs::seek(&*from, Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // Where holes are not known, all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(errno) => return Err(Error::io("find its data", errno)),
        };
        let end = rustix::fs::seek(&*from, Hole(start)).unwrap_or(length);
        let end = end.min(length);
        if end <= start {
            break;
        }
        allowance.take_data(end - start)?;
        for file in [&mut *from, &mut *to] {
            file.seek(SeekFrom::Start(start))
                .io_context(|| "find its data")?;
        }
        let mut range = (&mut *from).take(end - start);
        let copied = std::io::copy(&mut range, to).io_context(|| "copy its data")?;
        if copied != end - start {
            return Err(Error::precondition("it changed while it was copied"));
        }
        offset = end;
    }
    Ok(())
}

/// Owner before mode: a change of owner clears setuid; times last.
fn metadata(from: impl AsFd, to: impl AsFd, stat: &Stat, allowance: &Allowance) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    rustix::fs::fchown(to, owner(stat), group(stat)).io_context(|| "change its owner")?;
    xattrs(from, to, allowance)?;
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
fn xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>, allowance: &Allowance) -> Result<()> {
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
        allowance.take_data(length as u64)?;
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
