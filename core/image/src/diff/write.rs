//! From changes to a tar stream.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use containerkit::{Context as _, Error, IoContext, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::node::{self, Node, changed};
use super::{Change, ChangeKind, DiffOptions, Diffed};
use crate::apply::{c_name, join, split};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::writer::Writer;

const WHITEOUT: &[u8] = b".wh.";
/// Holes together that make a file sparse.
const HOLES: u64 = 1 << 20;
/// Extents that a sparse entry may have: a map that every reader takes.
const EXTENTS: usize = 1 << 14;
const CHUNK: usize = 256 << 10;

pub(super) fn write(
    root: BorrowedFd<'_>,
    changes: &[Change],
    layer: &mut dyn Write,
    options: &DiffOptions,
) -> Result<Diffed> {
    let mut output = Output::new(root, layer, options);
    for change in changes {
        options.cancel.check()?;
        output
            .change(change)
            .context(|| crate::show(&change.path))?;
    }
    output.finish()
}

/// An archive being written from a tree.
pub(crate) struct Output<'a> {
    root: BorrowedFd<'a>,
    writer: Writer<&'a mut dyn Write>,
    options: &'a DiffOptions,
    /// The first name of each inode that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The folder of the last change.
    folder: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
    entries: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        root: BorrowedFd<'a>,
        layer: &'a mut dyn Write,
        options: &'a DiffOptions,
    ) -> Output<'a> {
        Output {
            root,
            writer: Writer::new(layer),
            options,
            links: HashMap::new(),
            folder: None,
            buffer: vec![0; CHUNK],
            entries: 0,
        }
    }

    pub(crate) fn finish(self) -> Result<Diffed> {
        Ok(Diffed {
            entries: self.entries,
            bytes: self.writer.finish()?,
        })
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        let (parent, name) = match &change.path[..] {
            b"" => (&b""[..], &b"."[..]),
            path => split(path),
        };
        if name.starts_with(WHITEOUT) {
            return Err(Error::invalid(
                "a name that begins with `.wh.` means a deletion in a layer, and cannot be in one",
            )
            .with_hint("remove or rename it, and try again"));
        }
        if change.kind == ChangeKind::Deleted {
            let name = [WHITEOUT, name].concat();
            return self.entry(&Entry {
                kind: EntryKind::File,
                path: join(parent, &name),
                link: Vec::new(),
                size: 0,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: (self.options.epoch.unwrap_or(0), 0),
                xattrs: Default::default(),
                sparse: None,
            });
        }
        let folder = match self.folder.take() {
            Some((path, folder)) if path == parent => folder,
            _ => node::open_dir(self.root, parent)?,
        };
        let written = self.node(folder.as_fd(), name, &change.path);
        self.folder = Some((parent.to_vec(), folder));
        written
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        self.writer.entry(entry)
    }

    fn node(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        let name = c_name(name)?;
        let node = Node::find(folder, &name)?.ok_or_else(|| changed(path, Errno::NOENT))?;
        self.put(&node, path)
    }

    /// What was found, with the data of a file, at a path of the archive.
    pub(crate) fn put(&mut self, node: &Node<'_>, path: &[u8]) -> Result<()> {
        let mut entry = node.entry(path, self.options)?;
        if let Some(inode) = node.inode() {
            match self.links.get(&inode) {
                Some(first) => {
                    entry.kind = EntryKind::HardLink;
                    entry.link = first.clone();
                    entry.xattrs.clear();
                }
                None => drop(self.links.insert(inode, path.to_vec())),
            }
        }
        if entry.kind != EntryKind::File || entry.size == 0 {
            return self.entry(&entry);
        }
        let file = node.open()?;
        // Blocks that are not there are the sign of holes.
        if (node.stat.st_blocks as u64).saturating_mul(512) < entry.size {
            entry.sparse = extents(&file, entry.size)?;
        }
        self.entry(&entry)?;
        match &entry.sparse {
            None => self.data(&file, 0, entry.size),
            Some(extents) => extents
                .iter()
                .try_for_each(|(offset, length)| self.data(&file, *offset, *length)),
        }
    }

    fn data(&mut self, file: &File, mut offset: u64, mut length: u64) -> Result<()> {
        while length > 0 {
            let part = length.min(CHUNK as u64) as usize;
            let read = match file.read_at(&mut self.buffer[..part], offset) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.io_context(|| "read it")?,
            };
            if read == 0 {
                return Err(Error::conflict("it became shorter while it was read")
                    .with_hint("stop or pause what changes it, and try again"));
            }
            self.options.cancel.check()?;
            self.writer.data(&self.buffer[..read])?;
            offset += read as u64;
            length -= read as u64;
        }
        Ok(())
    }
}

/// Where the data of a file are; `None` when it has few holes.
fn extents(file: &File, size: u64) -> Result<Option<Vec<(u64, u64)>>> {
    let mut extents = Vec::new();
    let (mut offset, mut data) = (0, 0);
    while offset < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(Error::io("look for holes", errno)),
        };
        if start >= size {
            break;
        }
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))
            .io_context(|| "look for holes")?
            .min(size);
        if end <= start || extents.len() == EXTENTS {
            return Ok(None);
        }
        extents.push((start, end - start));
        data += end - start;
        offset = end;
    }
    Ok((size - data >= HOLES).then_some(extents))
}
