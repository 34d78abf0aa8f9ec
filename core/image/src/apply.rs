//! Applies a layer to a directory tree.
//!
//! Every name in the layer is hostile until proved otherwise. A parent folder
//! is resolved beneath the root's descriptor, symlinks of the image in-root
//! (as the container will see them), and the last component is made, changed
//! or removed by an at-call on the parent's descriptor that follows nothing.
//! No path is ever handed to the kernel from the process's own root.
//!
//! What a layer means follows OCI image-spec `layer.md`: a file replaces what
//! has its name, a folder is merged with a folder, a whiteout hides what lower
//! layers hold and never what its own layer adds, in whatever order they come.

mod below;
mod blind;
mod meta;
mod settle;
mod stack;
mod tree;
mod whiteout;

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use containerkit::idmap::IdMapping;
use containerkit::{Context as _, Error, ErrorKind, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

pub use crate::limits::Limits;

use crate::layer::entry::{Entry, EntryKind};
use crate::layer::reader::Reader;
use crate::show;
use tree::{Dir, Tree};

pub(crate) use below::Below;
pub(crate) use blind::{Blind, blind};
pub(crate) use meta::{is_kept_xattr, is_overlays, is_systems};
pub(crate) use settle::{Settled, settle};
pub(crate) use stack::Stack;
pub(crate) use tree::{clamp, join};

/// What becomes of a whiteout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhiteoutForm {
    /// The thing is removed: the root is a tree that shows the lower layers,
    /// such as a mounted snapshot.
    #[default]
    Remove,
    /// There are none: the archive is no layer, every name means itself, and
    /// what is there is replaced by its own kind only.
    Plain,
    /// It is recorded in overlay's on-disk form: the root is an upper folder
    /// that holds nothing but this layer. A character device 0/0 hides a
    /// name, `trusted.overlay.opaque` everything below a folder.
    Overlay,
}

/// How to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyOptions {
    /// What becomes of whiteouts.
    pub whiteouts: WhiteoutForm,
    /// What the layer may cost.
    pub limits: Limits,
    /// The folder of the root that the entries are in: a path from it, its
    /// symlinks followed in the root. Of a layer the root itself.
    pub folder: Vec<u8>,
    /// The tree belongs to mapped users, and the archive has their ids as they
    /// are in the container. Of a layer none.
    pub mapping: Option<IdMapping>,
}

/// What was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the uncompressed layer, to its very end.
    pub bytes: u64,
}

/// Applies one uncompressed layer to the tree beneath `root`, and reads the
/// stream to its end so that its caller may know the digest.
///
/// Neither durable nor atomic: a failure leaves a part of the layer, which
/// the caller throws away with the snapshot it was writing.
///
/// ```
/// use std::os::fd::AsFd;
/// # fn main() -> containerkit::Result<()> {
/// # let dir = tempfile::tempdir().expect("tempdir");
/// let root = containerkit::fs::open_dir(dir.path())?;
/// let layer = [0u8; 1024]; // an empty archive
/// let applied = containerkit_image::apply(
///     &mut &layer[..],
///     root.as_fd(),
///     &containerkit_image::ApplyOptions::default(),
/// )?;
/// assert_eq!(applied.entries, 0);
/// # Ok(())
/// # }
/// ```
pub fn apply(
    layer: &mut dyn Read,
    root: BorrowedFd<'_>,
    options: &ApplyOptions,
) -> Result<Applied> {
    run(layer, root, options, None).0
}

/// As [`apply`], with what was taken for granted where `below` is given.
fn run(
    layer: &mut dyn Read,
    root: BorrowedFd<'_>,
    options: &ApplyOptions,
    below: Option<Below>,
) -> (Result<Applied>, Option<Below>) {
    let mut extractor = match Tree::new(root, options.whiteouts, below) {
        Ok(tree) => Extractor {
            tree,
            options,
            form: options.whiteouts,
            buffer: vec![0; 256 << 10],
        },
        Err(error) => return (Err(error), None),
    };
    let applied = extractor.all(Reader::new(layer, &options.limits));
    (applied, extractor.tree.into_below())
}

struct Extractor<'a> {
    tree: Tree<'a>,
    options: &'a ApplyOptions,
    form: WhiteoutForm,
    buffer: Vec<u8>,
}

/// A name without empty and `.` components. `..` takes a component back, as
/// text; one that climbs above the root is refused.
pub(crate) fn clean_name(path: &[u8]) -> Result<Vec<u8>> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if clean.is_empty() => {
                return Err(Error::invalid("its name leads out of the image"));
            }
            b".." => {
                let end = clean.iter().rposition(|b| *b == b'/').unwrap_or(0);
                clean.truncate(end);
            }
            part => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    Ok(clean)
}

/// Parent and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(crate) fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::invalid("a name holds a NUL"))
}

impl Extractor<'_> {
    fn all(&mut self, mut reader: Reader<&mut dyn Read>) -> Result<Applied> {
        while let Some(mut entry) = reader.next()? {
            self.map_owner(&mut entry)
                .context(|| format!("entry {}", show(&entry.path)))?;
            self.entry(&entry, &mut reader)
                .context(|| format!("entry {}", show(&entry.path)))?;
        }
        self.tree.finish()?;
        reader.drain()?;
        Ok(Applied {
            entries: reader.entries(),
            bytes: reader.position(),
        })
    }

    fn map_owner(&self, entry: &mut Entry) -> Result<()> {
        let Some(mapping) = &self.options.mapping else {
            return Ok(());
        };
        let unmapped = |what: &str, id: u32| {
            Error::invalid(format!(
                "its {what} {id} is none of the container's mapped ones"
            ))
        };
        let (uid, gid) = (entry.uid, entry.gid);
        entry.uid = mapping.host_uid(uid).ok_or_else(|| unmapped("user", uid))?;
        entry.gid = mapping
            .host_gid(gid)
            .ok_or_else(|| unmapped("group", gid))?;
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, data: &mut Reader<&mut dyn Read>) -> Result<()> {
        let path = clean_name(&entry.path)?;
        if path.is_empty() {
            if entry.kind != EntryKind::Directory {
                return Err(Error::invalid("the root of an image must be a folder"));
            }
            return match self.form {
                // The folder that is copied into stays as it is.
                WhiteoutForm::Plain => Ok(()),
                _ => self.root_entry(entry),
            };
        }
        let path = join(&self.options.folder, &path);
        let (parent, name) = split(&path);
        if self.whiteout(parent, name)? {
            return Ok(());
        }
        let parent = self.tree.make(parent)?;
        let path = join(&parent.path, name);
        let name = c_name(name)?;
        self.tree.changing(&parent)?;
        match entry.kind {
            EntryKind::Directory => self.directory(entry, &parent, &name, &path)?,
            EntryKind::File => self.file(entry, &parent, &name, &path, data)?,
            EntryKind::HardLink => self.hard_link(entry, &parent, &name, &path)?,
            EntryKind::Symlink => {
                let target = c_name(&entry.link)?;
                self.replace(&parent, &name, &path, || {
                    rustix::fs::symlinkat(&target, &parent.fd, &name)
                })
                .context(|| "make the symlink")?;
                meta::special(&parent, &name, entry)?;
            }
            EntryKind::CharDevice { major, minor } => {
                if (major, minor) == (0, 0) {
                    return Err(Error::invalid(
                        "a character device 0/0 is overlay's whiteout and cannot be stored",
                    ));
                }
                let device = rustix::fs::makedev(major, minor);
                self.node(
                    entry,
                    &parent,
                    &name,
                    &path,
                    FileType::CharacterDevice,
                    device,
                )?;
            }
            EntryKind::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(major, minor);
                self.node(entry, &parent, &name, &path, FileType::BlockDevice, device)?;
            }
            EntryKind::Fifo => self.node(entry, &parent, &name, &path, FileType::Fifo, 0)?,
        }
        self.tree.added(&path);
        Ok(())
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        let root = self.tree.root()?;
        meta::directory(&root, entry, meta::Existing::Yes)?;
        if let Some(below) = &mut self.tree.below {
            below.root_told = true;
        }
        self.tree.set_time(&[], entry.mtime)
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &CString,
        path: &[u8],
    ) -> Result<()> {
        let existing = match mkdir(parent, name, entry) {
            Ok(()) => meta::Existing::No,
            Err(Errno::EXIST) => match self.tree.kind(parent, name)? {
                Some(FileType::Directory) => meta::Existing::Yes,
                _ if self.form == WhiteoutForm::Plain => {
                    return Err(Error::precondition(
                        "a folder cannot take the place of something that is none",
                    ));
                }
                _ => {
                    self.remove(parent, name, path)?;
                    mkdir(parent, name, entry).io_context(|| "make the folder")?;
                    meta::Existing::Replaced
                }
            },
            Err(errno) => return Err(Error::io("make the folder", errno)),
        };
        let dir = Dir {
            fd: tree::open_dir(parent, name)?,
            path: path.to_vec(),
        };
        meta::directory(&dir.fd, entry, existing)?;
        if existing == meta::Existing::Replaced && self.form == WhiteoutForm::Overlay {
            // What it replaces, a whiteout among them, hid the lower folder.
            whiteout::make_opaque(&dir)?;
        }
        if let Some(below) = &mut self.tree.below {
            below.told(&parent.path, path)?;
            if existing == meta::Existing::Replaced {
                below.close(path)?;
            }
        }
        self.tree.set_time(path, entry.mtime)?;
        self.tree.opened(dir);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &CString,
        path: &[u8],
        data: &mut Reader<&mut dyn Read>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.replace(parent, name, path, || {
            rustix::fs::openat(&parent.fd, name, flags, meta::at_first(entry))
        })?;
        let mut file = std::fs::File::from(fd);
        match &entry.sparse {
            None => self.copy(&mut file, data, entry.size)?,
            Some(extents) => {
                for (offset, length) in extents {
                    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(*offset))
                        .io_context(|| "seek")?;
                    self.copy(&mut file, data, *length)?;
                }
                file.set_len(entry.size).io_context(|| "set the size")?;
            }
        }
        meta::file(&file, entry)
    }

    fn copy(
        &mut self,
        file: &mut std::fs::File,
        data: &mut Reader<&mut dyn Read>,
        length: u64,
    ) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let want = left.min(self.buffer.len() as u64) as usize;
            let mut filled = 0;
            while filled < want {
                match data.read(&mut self.buffer[filled..want])? {
                    0 => return Err(Error::data_loss("the archive is cut off")),
                    read => filled += read,
                }
            }
            file.write_all(&self.buffer[..want])
                .io_context(|| "write")?;
            left -= want as u64;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &CString,
        path: &[u8],
    ) -> Result<()> {
        let missing = |tree: &mut Tree<'_>| match &mut tree.below {
            Some(below) => below.unsure("a hard link leads into the layers below"),
            None => Error::invalid(format!(
                "the target {} of this hard link is not in the image",
                show(&entry.link)
            )),
        };
        // The target is resolved as a path in the image, where `..` stops at
        // the root.
        let target = match tree::clamp(&entry.link) {
            target if target.is_empty() => target,
            target => join(&self.options.folder, &target),
        };
        if target.is_empty() {
            return Err(missing(&mut self.tree));
        }
        let (target_parent, target_name) = split(&target);
        let Some(target_parent) = self.tree.find(target_parent)? else {
            return Err(missing(&mut self.tree));
        };
        let target_path = join(&target_parent.path, target_name);
        let target_name = c_name(target_name)?;
        match self.tree.kind(&target_parent, &target_name)? {
            None => return Err(missing(&mut self.tree)),
            Some(FileType::CharacterDevice)
                if self.form == WhiteoutForm::Overlay
                    && tree::is_whiteout(&target_parent.fd, &target_name)? =>
            {
                return Err(missing(&mut self.tree));
            }
            Some(FileType::Directory) => {
                return Err(Error::invalid(format!(
                    "the target {} of this hard link is a folder",
                    show(&entry.link)
                )));
            }
            Some(_) if target_path == path => return Ok(()),
            Some(_) => {}
        }
        self.replace(parent, name, path, || {
            rustix::fs::linkat(
                &target_parent.fd,
                &target_name,
                &parent.fd,
                name,
                AtFlags::empty(),
            )
        })
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(&mut self.tree),
            _ => error.context("make the hard link"),
        })
    }

    fn node(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &CString,
        path: &[u8],
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        self.replace(parent, name, path, || {
            rustix::fs::mknodat(&parent.fd, name, kind, Mode::from_raw_mode(0o600), device)
        })
        .context(|| "make the special file")?;
        meta::special(parent, name, entry)
    }

    /// Makes something that must not exist yet, removing what does.
    fn replace<T>(
        &mut self,
        parent: &Dir,
        name: &CString,
        path: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                if self.form == WhiteoutForm::Plain
                    && self.tree.kind(parent, name)? == Some(FileType::Directory)
                {
                    return Err(Error::precondition(
                        "a folder is there, and only a folder can take its place",
                    ));
                }
                self.remove(parent, name, path)?;
                make().io_context(|| "create it")
            }
            result => result.io_context(|| "create it"),
        }
    }

    fn remove(&mut self, parent: &Dir, name: &CString, path: &[u8]) -> Result<()> {
        self.tree.remove(parent, name, path)
    }
}

fn mkdir(parent: &Dir, name: &CString, entry: &Entry) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(&parent.fd, name, meta::at_first(entry))
}

/// A descriptor that can be listed and changed, of a folder known by another.
fn reopen(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        fd,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_text() {
        for (path, want) in [
            ("", ""),
            ("./", ""),
            ("/", ""),
            ("a/..", ""),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("dne/../.wh.etc", ".wh.etc"),
            ("a/b/../../c", "c"),
        ] {
            assert_eq!(
                clean_name(path.as_bytes()),
                Ok(want.as_bytes().to_vec()),
                "{path}"
            );
        }
        for bad in ["..", "../a", "a/../..", "/../a", "a/../../b"] {
            assert!(clean_name(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
