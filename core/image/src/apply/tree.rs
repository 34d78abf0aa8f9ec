//! The tree being written: folders by descriptor, what the layer has added,
//! and the times that folders get at the end.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use containerkit::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::below::Below;
use super::{WhiteoutForm, c_name, reopen};
use crate::limits::exhausted;

/// Descriptors kept open, beside those of the folders above the last. Layers
/// come folder by folder, so few are enough.
const CACHED: usize = 32;
/// Bytes of folder names that are kept for their times.
const NAMES: usize = 512 << 20;
/// What the kernel follows in one path.
const SYMLINKS: u32 = 40;
/// Components of one path and of every symlink on its way, together: more
/// than the longest path has that the kernel takes.
const COMPONENTS: usize = 4096;

/// A folder: its descriptor (`O_PATH`) and its path without symlinks.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) path: Vec<u8>,
}

pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// By the path as the layer writes it. Emptied whenever a folder or a
    /// symlink goes away, for a path through it may then lead elsewhere;
    /// what is merely added cannot change where an existing path leads.
    cache: HashMap<Vec<u8>, Rc<Dir>>,
    /// Hashes of the paths that this layer has made or passed through.
    added: HashSet<(u64, u64)>,
    /// Hashes of the folders, by their paths without symlinks, that hold
    /// nothing any more but what this layer has put there.
    pruned: HashSet<(u64, u64)>,
    keys: (RandomState, RandomState),
    /// Times that folders get at the end, by path without symlinks.
    times: BTreeMap<Vec<u8>, Timestamps>,
    names: usize,
    form: WhiteoutForm,
    /// When the layers below are not to be seen.
    pub(super) below: Option<Below>,
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    if !parent.is_empty() {
        path.extend_from_slice(parent);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether a folder's path lies on the way to another.
fn is_above(folder: &[u8], path: &[u8]) -> bool {
    folder.is_empty() || path.starts_with(folder) && path.get(folder.len()) == Some(&b'/')
}

/// A path without empty and `.` components, `..` stopping at the root. Unlike
/// the kernel it takes `..` as text, as every tool of this field does here.
pub(crate) fn clamp(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// What is to be done about a folder that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    /// To hide something in it that may be below: made where it may be below.
    MakeToHide,
    Report,
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        root: BorrowedFd<'a>,
        form: WhiteoutForm,
        below: Option<Below>,
    ) -> Result<Tree<'a>> {
        let stat = rustix::fs::fstat(root).io_context(|| "stat the root folder")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::invalid("the root to apply to is not a folder"));
        }
        Ok(Tree {
            root,
            cache: HashMap::new(),
            added: HashSet::new(),
            pruned: HashSet::new(),
            keys: (RandomState::new(), RandomState::new()),
            times: BTreeMap::new(),
            names: 0,
            form,
            below,
        })
    }

    /// What was taken for granted.
    pub(super) fn into_below(mut self) -> Option<Below> {
        let mut below = self.below.take()?;
        let bare = below.implied.keys().filter(|path| !self.is_added(path));
        below.bare = bare.cloned().collect();
        Some(below)
    }

    /// The root itself, open for changing.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        self.open(b"", OFlags::RDONLY)
            .io_context(|| "open the root folder")
    }

    /// The folder at a cleaned path, made with its parents where it is
    /// missing: root-owned, 0755.
    pub(super) fn make(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let Some(dir) = self.cached(path, Missing::Make)? else {
            return Err(Error::internal("a folder was neither found nor made"));
        };
        // What the layer puts something into, it shows.
        let mut end = dir.path.len();
        while end > 0 && self.added.insert(self.hash(&dir.path[..end])) {
            end = dir.path[..end]
                .iter()
                .rposition(|b| *b == b'/')
                .unwrap_or(0);
        }
        Ok(dir)
    }

    /// The folder in which something is to be hidden, made without being the
    /// layer's; `None` when there is nothing that could be hidden.
    pub(super) fn make_to_hide(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        self.cached(path, Missing::MakeToHide)
    }

    /// The folder at a cleaned path, if there is one.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        self.cached(path, Missing::Report)
    }

    fn cached(&mut self, path: &[u8], missing: Missing) -> Result<Option<Rc<Dir>>> {
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(dir.clone()));
        }
        let Some(dir) = self.walk(path, missing)?.map(Rc::new) else {
            return Ok(None);
        };
        self.keep(path, dir.clone());
        Ok(Some(dir))
    }

    /// A folder was opened at its own path: what comes next is often in it.
    pub(super) fn opened(&mut self, dir: Dir) {
        let path = dir.path.clone();
        self.keep(&path, Rc::new(dir));
    }

    fn keep(&mut self, path: &[u8], dir: Rc<Dir>) {
        if self.cache.len() >= CACHED {
            self.cache.retain(|known, _| is_above(known, path));
            // Nobody nests folders so deep but to use up descriptors.
            if self.cache.len() >= CACHED {
                self.cache.clear();
            }
        }
        self.cache.insert(path.to_vec(), dir);
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_beneath(self.root, path, flags)
    }

    /// Resolves a path as `RESOLVE_IN_ROOT` would, keeping the path without
    /// symlinks, and making what is missing, at the end of a dangling symlink
    /// too.
    fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Option<Dir>> {
        let failed = |errno| match errno {
            Errno::LOOP => Error::invalid(format!(
                "the symlinks on the way to folder {} do not end",
                crate::show(path)
            )),
            errno => Error::io(format!("open folder {}", crate::show(path)), errno),
        };
        match self.open(path, OFlags::PATH) {
            Ok(fd) => {
                return Ok(Some(Dir {
                    fd,
                    path: path.to_vec(),
                }));
            }
            // XDEV: its `..` lead out, where they stop at the root.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let mut parts: VecDeque<Vec<u8>> = VecDeque::new();
        let mut budget = COMPONENTS;
        push_front(&mut parts, path, &mut budget)?;
        let mut here = Dir {
            fd: self.open(b"", OFlags::PATH).map_err(failed)?,
            path: Vec::new(),
        };
        // What `..` must lead to, so that a step costs the same at any depth
        // and a folder that somebody moves leads nowhere else.
        let mut above: Vec<(u64, u64)> = Vec::new();
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if part == b".." {
                let Some(parent) = above.pop() else { continue };
                here.fd = open_part(&here.fd, c"..").map_err(failed)?;
                if identity(&here.fd)? != parent {
                    return Err(Error::conflict(format!(
                        "folder {} was moved while the layer was applied",
                        crate::show(&here.path)
                    )));
                }
                let end = here.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                here.path.truncate(end);
                continue;
            }
            let next = join(&here.path, &part);
            let name = c_name(&part)?;
            match open_part(&here.fd, &name) {
                Ok(fd) => {
                    above.push(identity(&here.fd)?);
                    here = Dir { fd, path: next };
                }
                // ENOTDIR is a symlink too: O_NOFOLLOW meets O_DIRECTORY.
                Err(Errno::LOOP | Errno::NOTDIR) => match self.kind(&here, &name)? {
                    Some(FileType::Symlink) => {
                        links += 1;
                        if links > SYMLINKS {
                            return Err(failed(Errno::LOOP));
                        }
                        let target = rustix::fs::readlinkat(&here.fd, &name, Vec::new())
                            .io_context(|| format!("read symlink {}", crate::show(&next)))?;
                        let target = target.as_bytes();
                        if target.starts_with(b"/") {
                            here = Dir {
                                fd: self.open(b"", OFlags::PATH).map_err(failed)?,
                                path: Vec::new(),
                            };
                            above.clear();
                        }
                        push_front(&mut parts, target, &mut budget)?;
                    }
                    Some(_) if missing == Missing::Make && self.form == WhiteoutForm::Plain => {
                        return Err(Error::precondition(format!(
                            "{} is not a folder",
                            crate::show(&next)
                        )));
                    }
                    Some(_) if missing == Missing::Make => {
                        // The layer says that it is a folder now.
                        self.changing(&here)?;
                        self.remove(&here, &name, &next)?;
                        above.push(identity(&here.fd)?);
                        here = self.mkdir(&here, &name, next)?;
                        self.untold(&here.path)?;
                        if self.form == WhiteoutForm::Overlay {
                            super::whiteout::make_opaque(&here)?;
                        }
                        if let Some(below) = &mut self.below {
                            below.close(&here.path)?;
                        }
                    }
                    _ => return Ok(None),
                },
                // As text, what goes into a missing folder and out again
                // stays where it was.
                Err(Errno::NOENT) if leaves_again(&mut parts) => {
                    if let Some(below) = &mut self.below {
                        return Err(below.unsure("a path leaves a folder of the layers below"));
                    }
                }
                Err(Errno::NOENT) if missing == Missing::MakeToHide && self.is_closed(&here) => {
                    return Ok(None);
                }
                Err(Errno::NOENT) if missing != Missing::Report => {
                    self.changing(&here)?;
                    above.push(identity(&here.fd)?);
                    let parent = std::mem::take(&mut here.path);
                    here = self.mkdir(&here, &name, next)?;
                    self.untold(&here.path)?;
                    if let Some(below) = &mut self.below {
                        below.implied(&parent, &here.path)?;
                    }
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(Some(here))
    }

    fn mkdir(&self, parent: &Dir, name: &CString, path: Vec<u8>) -> Result<Dir> {
        let shown = || format!("make folder {}", crate::show(&path));
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)).io_context(shown)?;
        let fd = open_dir(parent, name)?;
        // Whatever the umask, and whatever a setgid parent handed down.
        let root = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
        rustix::fs::fchown(&fd, Some(root.0), Some(root.1)).io_context(shown)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).io_context(shown)?;
        Ok(Dir { fd, path })
    }

    /// Whether it is known that a folder shows nothing of the layers below.
    fn is_closed(&self, dir: &Dir) -> bool {
        let below = self.below.as_ref();
        below.is_some_and(|below| below.closed.contains(&dir.path))
    }

    /// The kind of a name in a folder, nothing followed.
    pub(super) fn kind(&self, parent: &Dir, name: &CString) -> Result<Option<FileType>> {
        match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("stat", errno)),
        }
    }

    /// Removes a name with everything below it.
    pub(super) fn remove(&mut self, parent: &Dir, name: &CString, path: &[u8]) -> Result<()> {
        match self.kind(parent, name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                self.cache.clear();
                self.times.remove(path);
                if let Some(below) = &mut self.below {
                    below.removed(path);
                }
                let below = join(path, b"");
                let stale: Vec<Vec<u8>> = self
                    .times
                    .range(below.clone()..)
                    .map(|(path, _)| path)
                    .take_while(|known| known.starts_with(&below))
                    .cloned()
                    .collect();
                for path in stale {
                    self.times.remove(&path);
                }
            }
            Some(FileType::Symlink) => self.cache.clear(),
            Some(_) => {}
        }
        containerkit::fs::remove_tree(parent.fd.as_fd(), name)
    }

    fn hash(&self, path: &[u8]) -> (u64, u64) {
        (self.keys.0.hash_one(path), self.keys.1.hash_one(path))
    }

    /// Remembers that this layer made this path.
    pub(super) fn added(&mut self, path: &[u8]) {
        self.added.insert(self.hash(path));
    }

    /// Whether this layer made this path, or something below it.
    pub(super) fn is_added(&self, path: &[u8]) -> bool {
        self.added.contains(&self.hash(path))
    }

    /// Whether a folder is still to be rid of what lower layers put there,
    /// which it counts as from now on.
    pub(super) fn prune_once(&mut self, path: &[u8]) -> bool {
        self.pruned.insert(self.hash(path))
    }

    /// A folder's content is about to change: its own time must not, unless
    /// the layer says so.
    pub(super) fn changing(&mut self, dir: &Dir) -> Result<()> {
        if self.times.contains_key(&dir.path) {
            return Ok(());
        }
        let times = times_of(&dir.fd)?;
        self.remember(&dir.path, times)
    }

    /// The time a folder gets at the end.
    pub(super) fn set_time(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<()> {
        let times = super::meta::times(mtime);
        if let Some(known) = self.times.get_mut(path) {
            *known = times;
            return Ok(());
        }
        self.remember(path, times)
    }

    /// A folder of an image that no entry tells of has the time 0, so that the
    /// same layer always gives the same tree.
    fn untold(&mut self, path: &[u8]) -> Result<()> {
        match self.form {
            WhiteoutForm::Plain => Ok(()),
            _ => self.set_time(path, (0, 0)),
        }
    }

    fn remember(&mut self, path: &[u8], times: Timestamps) -> Result<()> {
        self.names += path.len();
        if self.names > NAMES {
            return Err(exhausted("the names of its folders take too much memory"));
        }
        self.times.insert(path.to_vec(), times);
        Ok(())
    }

    /// Gives folders their times, deepest first.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times).iter().rev() {
            let fd = match self.open(path, OFlags::PATH) {
                Ok(fd) => fd,
                // Removed or replaced later in the layer.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => {
                    return Err(Error::io(format!("open {}", crate::show(path)), errno));
                }
            };
            rustix::fs::utimensat(&fd, c".", times, AtFlags::empty())
                .io_context(|| format!("set the time of {}", crate::show(path)))?;
        }
        Ok(())
    }
}

/// `openat2` of a folder that follows no symlink at all: what it opens is
/// where the path says.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..128 {
        match rustix::fs::openat2(
            root,
            path,
            flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Whether a name is a whiteout in overlay's form.
pub(super) fn is_whiteout(parent: impl AsFd, name: &CStr) -> Result<bool> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0,
        ),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::io("stat", errno)),
    }
}

/// A file's times, to be given back.
pub(super) fn times_of(fd: impl AsFd) -> Result<Timestamps> {
    let stat = rustix::fs::fstat(fd).io_context(|| "stat a folder")?;
    Ok(Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime as i64,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime as i64,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    })
}

/// Puts the components of a path before those that are left, as far as the
/// budget goes.
fn push_front(parts: &mut VecDeque<Vec<u8>>, path: &[u8], budget: &mut usize) -> Result<()> {
    for part in path.split(|b| *b == b'/').rev() {
        if !part.is_empty() && part != b"." {
            *budget = budget.checked_sub(1).ok_or_else(|| {
                Error::invalid(format!(
                    "the symlinks on its way lead through more than {COMPONENTS} components"
                ))
            })?;
            parts.push_front(part.to_vec());
        }
    }
    Ok(())
}

fn identity(fd: &OwnedFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).io_context(|| "stat a folder")?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens one component, following nothing.
fn open_part(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Whether the path comes back by `..` out of a folder that it has entered;
/// if so, the parts up to there are taken off.
fn leaves_again(parts: &mut VecDeque<Vec<u8>>) -> bool {
    let mut depth = 1u32;
    for (index, part) in parts.iter().enumerate() {
        depth = if part == b".." { depth - 1 } else { depth + 1 };
        if depth == 0 {
            parts.drain(..=index);
            return true;
        }
    }
    false
}

/// Opens a folder in a folder, to list or change it.
pub(super) fn open_dir(parent: &Dir, name: &CString) -> Result<OwnedFd> {
    rustix::fs::openat(
        &parent.fd,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| "open the folder")
}

/// The names in a folder, `.` and `..` left out.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<CString>> {
    let fd = reopen(dir).io_context(|| "open a folder")?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd).io_context(|| "list a folder")? {
        let entry = entry.io_context(|| "list a folder")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
