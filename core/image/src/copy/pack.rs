//! A file or folder as a tar stream.

use std::ffi::CString;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use containerkit::{Context as _, Result};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::end::Source;
use crate::apply::{c_name, join};
use crate::diff::DiffOptions;
use crate::diff::node::{Node, changed, names, open_dir};
use crate::diff::write::Output;

/// File systems of the kernel's own: proc, sysfs, cgroup, cgroup2, devpts,
/// mqueue (`linux/magic.h`).
const KERNELS: [i64; 6] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
];

/// Under this name; without one, what is in the folder.
pub(super) fn pack(source: &Source, name: &[u8], archive: &mut dyn Write) -> Result<()> {
    let mut archive = BufWriter::with_capacity(64 << 10, archive);
    let options = DiffOptions {
        mapping: source.mapping.clone(),
        ..DiffOptions::default()
    };
    let mut output = Output::new(source.parent.as_fd(), &mut archive, &options);
    match source.is_folder {
        true => folder(source, name, &mut output)?,
        false => {
            let own = c_name(&source.name)?;
            let node = Node::find(source.parent.as_fd(), &own)?
                .ok_or_else(|| changed(&source.name, Errno::NOENT))?;
            output.put(&node, name)?;
        }
    }
    output.finish().map(drop)
}

fn folder(source: &Source, name: &[u8], output: &mut Output<'_>) -> Result<()> {
    let top = open_dir(source.parent.as_fd(), &source.name)?;
    if !name.is_empty() {
        let node = Node::find(top.as_fd(), c".")?.ok_or_else(|| changed(name, Errno::NOENT))?;
        output.put(&node, name)?;
    }
    // A folder is followed by what is in it: tar(1) sets a folder's time when
    // it comes to what is elsewhere. Folders are opened by their paths, again
    // after each one below, so that depth costs no descriptors.
    let mut open: Vec<Open> = vec![Open::new(&top, Vec::new())?];
    while let Some(here) = open.last_mut() {
        let Some(own) = here.names.pop() else {
            open.pop();
            continue;
        };
        let dir = match here.dir.take() {
            Some(dir) => dir,
            None => open_dir(top.as_fd(), &here.path)?,
        };
        let path = join(&here.path, own.to_bytes());
        // What goes away meanwhile is not there.
        let node = Node::find(dir.as_fd(), &own)?;
        let Some(node) = node.filter(|node| node.kind() != FileType::Socket) else {
            here.dir = Some(dir);
            continue;
        };
        output
            .put(&node, &join(name, &path))
            .context(|| crate::show(&path))?;
        if node.is_dir() {
            open.push(Open::new(&top, path)?);
        } else {
            here.dir = Some(dir);
        }
    }
    Ok(())
}

/// A folder on the way.
struct Open {
    path: Vec<u8>,
    dir: Option<OwnedFd>,
    /// Those that are left, the next one last.
    names: Vec<CString>,
}

impl Open {
    fn new(top: &OwnedFd, path: Vec<u8>) -> Result<Open> {
        let dir = open_dir(top.as_fd(), &path)?;
        let mut left = match path.is_empty() || !is_kernels(&dir) {
            true => names(&dir)?,
            false => Vec::new(),
        };
        left.reverse();
        Ok(Open {
            path,
            dir: Some(dir),
            names: left,
        })
    }
}

fn is_kernels(dir: &OwnedFd) -> bool {
    rustix::fs::fstatfs(dir).is_ok_and(|found| KERNELS.contains(&found.f_type))
}
