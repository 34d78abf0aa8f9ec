//! Walks an upper tree against a lower one.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use containerkit::{Context as _, Error, Result};
use rustix::fs::FileType;

use super::node::{self, Node, Times};
use super::{ChangeKind, DiffOptions};
use crate::apply::join;

const OPAQUE: &CStr = c"trusted.overlay.opaque";
const REDIRECT: &CStr = c"trusted.overlay.redirect";
const METACOPY: &CStr = c"trusted.overlay.metacopy";

/// What the upper tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The whole tree.
    Whole,
    /// An overlay's upper folder: what is not in it is as in the lower tree.
    Upper,
}

/// What a walk finds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) changes: HashMap<Vec<u8>, Changed>,
    /// The names, in the upper tree, of each inode that has several there.
    pub(super) links: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

pub(super) struct Changed {
    pub(super) kind: ChangeKind,
    /// An empty file, or a folder.
    pub(super) hollow: bool,
    /// A folder with nothing new but its time.
    pub(super) touched: bool,
}

/// Why a walk ends early.
pub(super) enum Stop {
    Failed(Error),
    /// Only the kernel knows what the upper folder shows.
    Unresolved,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// What a folder is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    /// Nothing: it and all below it is new.
    Nothing,
    /// A folder whose names are gone unless they are here.
    All,
    /// A folder whose names are there unless a whiteout is here.
    Rest,
}

pub(super) fn walk(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    form: Form,
    options: &DiffOptions,
) -> Result<Found, Stop> {
    let mut walk = Walk {
        lower,
        upper,
        form,
        options,
        found: Found::default(),
        pending: Vec::new(),
    };
    let against = walk.root()?;
    walk.pending.push((Vec::new(), against));
    // Folders are opened by their paths: depth costs no descriptors.
    while let Some((path, against)) = walk.pending.pop() {
        options.cancel.check()?;
        walk.folder(&path, against)?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    lower: Option<BorrowedFd<'a>>,
    upper: BorrowedFd<'a>,
    form: Form,
    options: &'a DiffOptions,
    found: Found,
    pending: Vec<(Vec<u8>, Against)>,
}

impl Walk<'_> {
    fn root(&mut self) -> Result<Against> {
        let gone = || Error::internal("a root folder has no name");
        let upper = Node::find(self.upper, c".")?.ok_or_else(gone)?;
        let Some(lower) = self.lower else {
            self.change(Vec::new(), ChangeKind::Added, &upper);
            return Ok(Against::Nothing);
        };
        let lower = Node::find(lower, c".")?.ok_or_else(gone)?;
        if !node::same(&lower, &upper, self.options, Times::Ignored)? {
            self.change(Vec::new(), ChangeKind::Modified, &upper);
        }
        Ok(match self.form {
            Form::Whole => Against::All,
            Form::Upper => Against::Rest,
        })
    }

    fn change(&mut self, path: Vec<u8>, kind: ChangeKind, node: &Node<'_>) {
        let hollow =
            node.is_dir() || node.kind() == FileType::RegularFile && node.stat.st_size == 0;
        let changed = Changed {
            kind,
            hollow,
            touched: false,
        };
        self.found.changes.insert(path, changed);
    }

    fn folder(&mut self, path: &[u8], against: Against) -> Result<(), Stop> {
        let dir = node::open_dir(self.upper, path)?;
        // Looked at in new folders too: a redirect may be anywhere.
        let opaque = self.form == Form::Upper && is_opaque(&dir)?;
        let against = match against {
            Against::Rest if opaque => Against::All,
            against => against,
        };
        let below = match (self.lower, against) {
            (Some(lower), Against::All | Against::Rest) => Some(node::open_dir(lower, path)?),
            _ => None,
        };
        let mut here = HashSet::new();
        for name in node::names(&dir)? {
            let path = join(path, name.to_bytes());
            // A file that went away between the two is one that is not there.
            let Some(node) = Node::find(dir.as_fd(), &name)? else {
                continue;
            };
            let under = match &below {
                Some(below) => Node::find(below.as_fd(), &name)?,
                None => None,
            };
            let socket = node.kind() == FileType::Socket;
            if socket {
                log::debug!("{}: a socket is left out", crate::show(&path));
            }
            if socket || self.form == Form::Upper && node.is_whiteout() {
                if let (Some(under), Against::Rest) = (under, against) {
                    self.change(path, ChangeKind::Deleted, &under);
                }
                continue;
            }
            self.one(path, &node, under.as_ref(), against)?;
            here.insert(name);
        }
        if let (Some(below), Against::All) = (&below, against) {
            for name in node::names(below)? {
                if !here.contains(&name)
                    && let Some(under) = Node::find(below.as_fd(), &name)?
                {
                    self.change(join(path, name.to_bytes()), ChangeKind::Deleted, &under);
                }
            }
        }
        Ok(())
    }

    /// One name of the upper tree and, where there is one, of the lower.
    fn one(
        &mut self,
        path: Vec<u8>,
        node: &Node<'_>,
        under: Option<&Node<'_>>,
        against: Against,
    ) -> Result<(), Stop> {
        if self.form == Form::Upper
            && node.kind() == FileType::RegularFile
            && node.xattr(METACOPY)?.is_some()
        {
            return Err(Stop::Unresolved);
        }
        let same_kind = under.filter(|under| under.kind() == node.kind());
        let kind = match (under, same_kind) {
            (None, _) => Some(ChangeKind::Added),
            (Some(_), Some(under)) => {
                let same = node::same(under, node, self.options, Times::Count)
                    .context(|| crate::show(&path))?;
                (!same).then_some(ChangeKind::Modified)
            }
            (Some(_), None) => Some(ChangeKind::Modified),
        };
        if let Some(kind) = kind {
            self.change(path.clone(), kind, node);
            if let Some(under) = same_kind.filter(|_| node.is_dir())
                && node::same(under, node, self.options, Times::Ignored)?
                && let Some(changed) = self.found.changes.get_mut(&path)
            {
                changed.touched = true;
            }
        }
        if let Some(inode) = node.inode() {
            let names = self.found.links.entry(inode).or_default();
            names.push(path.clone());
        }
        if node.is_dir() {
            let against = match same_kind {
                Some(_) => against,
                None => Against::Nothing,
            };
            self.pending.push((path, against));
        }
        Ok(())
    }
}

/// Whether an upper folder hides the lower one.
fn is_opaque(dir: &OwnedFd) -> Result<bool, Stop> {
    let Some(itself) = Node::find(dir.as_fd(), c".")? else {
        return Ok(false);
    };
    if itself.xattr(REDIRECT)?.is_some() {
        return Err(Stop::Unresolved);
    }
    match itself.xattr(OPAQUE)?.as_deref() {
        None => Ok(false),
        Some(b"y") => Ok(true),
        // Its whiteouts are attributes, of Linux 6.8.
        Some(_) => Err(Stop::Unresolved),
    }
}
