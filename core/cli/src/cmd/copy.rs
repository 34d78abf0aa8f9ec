//! `cp`.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use containerkit::container::ContainerRoot;
use containerkit::{Access, Error, IoContext, Result};
use containerkit_image::copy::{self, End, Follow};

use crate::Outcome;
use crate::app::App;
use crate::args::container::CopyArgs;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;

/// As it was typed.
enum Side {
    Stream,
    Host(PathBuf),
    Container(String, PathBuf),
}

/// `ID:PATH`; what begins with a slash or a dot is the host's, whatever colons
/// are in it.
fn parse(word: &OsStr) -> Side {
    let bytes = word.as_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':');
    let id = colon.and_then(|colon| std::str::from_utf8(&bytes[..colon]).ok());
    match (bytes, colon, id) {
        (b"-", ..) => Side::Stream,
        ([b'/' | b'.', ..] | [b':', ..], ..) => Side::Host(word.into()),
        (_, Some(colon), Some(id)) if !id.contains('/') => {
            let path = OsString::from(OsStr::from_bytes(&bytes[colon + 1..]));
            Side::Container(id.into(), path.into())
        }
        _ => Side::Host(word.into()),
    }
}

/// A side that can be copied from or to.
struct Opened {
    tree: Option<Rc<ContainerRoot>>,
    path: PathBuf,
}

impl Opened {
    /// `None` for a stream.
    fn new(
        side: Side,
        open: impl FnOnce(&str) -> Result<Rc<ContainerRoot>>,
    ) -> Result<Option<Opened>> {
        let (tree, path) = match side {
            Side::Stream => return Ok(None),
            Side::Host(path) if path.as_os_str().is_empty() => {
                return Err(Error::invalid("a path is empty"));
            }
            Side::Host(path) => (None, path),
            Side::Container(id, path) => {
                let tree = open(&id)?;
                tree.check(&path)?;
                (Some(tree), path)
            }
        };
        Ok(Some(Opened { tree, path }))
    }

    fn end(&self) -> End<'_> {
        let tree = self.tree.as_ref();
        End {
            root: tree.map(|tree| tree.root.as_fd()),
            path: &self.path,
            mapping: tree.and_then(|tree| tree.mapping.as_ref()),
        }
    }
}

pub(crate) fn copy(app: &App, args: CopyArgs) -> Result<Outcome> {
    let (source, target) = (parse(&args.source), parse(&args.target));
    let is_container = |side: &Side| matches!(side, Side::Container(..));
    if !is_container(&source) && !is_container(&target) {
        return Err(Error::invalid("neither SRC nor DST is in a container")
            .with_hint("a path in a container is written ID:PATH"));
    }
    let follow = match args.follow_link {
        true => Follow::Yes,
        false => Follow::No,
    };
    let containers = containers(app)?;
    let target = Opened::new(target, |id| {
        let record = find(&containers, id)?;
        Ok(Rc::new(containers.root(&record, Access::ReadWrite)?))
    })?;
    let source = Opened::new(source, |id| {
        let record = find(&containers, id)?;
        // A container at rest is opened by one at a time.
        let mut same = target.iter().flat_map(|target| &target.tree);
        match same.find(|tree| tree.id == record.id) {
            Some(tree) => Ok(Rc::clone(tree)),
            None => Ok(Rc::new(containers.root(&record, Access::ReadOnly)?)),
        }
    })?;
    match (&source, &target) {
        (Some(source), Some(target)) => copy::copy(&source.end(), &target.end(), follow)?,
        (Some(source), None) => {
            let mut out = std::io::stdout().lock();
            if out.is_terminal() {
                return Err(Error::precondition("a tar stream is not for a terminal")
                    .with_hint("send it to a file or a pipe"));
            }
            copy::copy_out(&source.end(), &mut out, follow)?;
            out.flush().io_context(|| "write the archive")?;
        }
        (None, Some(target)) => {
            let mut input = std::io::stdin().lock();
            copy::copy_in(&mut input, &target.end())?;
        }
        (None, None) => return Err(Error::internal("neither side is in a container")),
    }
    Ok(Outcome::Success)
}
