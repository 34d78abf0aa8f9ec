//! Whether two trees are equal.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use containerkit::{IoContext, Result};
use rustix::fs::FileType;

use super::{Difference, Node, join, names, open, open_file};
use crate::Cancel;
use crate::show;

/// The first name of each file that has several.
type Links = HashMap<(u64, u64), Vec<u8>>;

/// The differences of two trees, at most `limit` of them.
pub fn compare(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
    limit: usize,
    cancel: &Cancel,
) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let (mut links, mut other_links) = (Links::new(), Links::new());
    let (a, b) = (open(one, b"")?, open(other, b"")?);
    let roots = (Node::look(&a, c".")?, Node::look(&b, c".")?);
    found.extend(roots.0.difference(&roots.1).map(|what| Difference {
        path: Vec::new(),
        what,
    }));
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        cancel.check()?;
        let (a, b) = (open(one, &path)?, open(other, &path)?);
        let (in_a, in_b) = (names(&a)?, names(&b)?);
        for name in in_a.union(&in_b) {
            let path = join(&path, name);
            let mut differs = |what| {
                found.push(Difference {
                    path: path.clone(),
                    what,
                });
            };
            match (in_a.contains(name), in_b.contains(name)) {
                (true, false) => differs("it is missing in the second"),
                (false, true) => differs("it is missing in the first"),
                _ => {
                    let (x, y) = (Node::look(&a, name)?, Node::look(&b, name)?);
                    let first = |links: &mut Links, node: &Node| {
                        let link = node.link()?;
                        Some(links.entry(link).or_insert_with(|| path.clone()).clone())
                    };
                    let (p, q) = (first(&mut links, &x), first(&mut other_links, &y));
                    let folders = x.kind == FileType::Directory && y.kind == x.kind;
                    // Its first name was compared.
                    let further = p.as_ref().is_some_and(|first| *first != path);
                    if let Some(what) = x.difference(&y) {
                        differs(what);
                    } else if p != q {
                        differs("which names are one file");
                    } else if x.kind == FileType::RegularFile
                        && !further
                        && !same_content(&a, &b, name)?
                    {
                        differs("its content");
                    }
                    if folders {
                        pending.push(path);
                    }
                }
            }
            if found.len() >= limit {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Whether a file has the same bytes in two folders.
pub(super) fn same_content(a: &OwnedFd, b: &OwnedFd, name: &CStr) -> Result<bool> {
    let (mut x, mut y) = (open_file(a, name)?, open_file(b, name)?);
    let (mut left, mut right) = (vec![0u8; 256 << 10], vec![0u8; 256 << 10]);
    let fill = |file: &mut std::fs::File, buf: &mut [u8]| {
        let mut done = 0;
        while done < buf.len() {
            match file
                .read(&mut buf[done..])
                .io_context(|| format!("read {}", show(name.to_bytes())))?
            {
                0 => break,
                read => done += read,
            }
        }
        Ok::<usize, containerkit::Error>(done)
    };
    loop {
        let (read, other) = (fill(&mut x, &mut left)?, fill(&mut y, &mut right)?);
        if left[..read] != right[..other] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}
