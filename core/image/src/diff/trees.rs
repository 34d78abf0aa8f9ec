//! The two trees, from the mounts of a snapshotter or from folders.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use containerkit::{Context as _, Error, Mount, Result, mounter};

use super::snapshot::View;
use super::walk::{Form, Stop, walk};
use super::{Change, DiffOptions, Diffed, list, write};

/// Two trees, held open and in use until this is dropped.
pub struct Trees<'a> {
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    form: Form,
    /// What shows the upper tree whole, where the form is its upper folder.
    merged: Vec<Mount>,
    _held: Vec<OwnedFd>,
    /// After what is mounted of them.
    views: Vec<View<'a>>,
}

impl<'a> Trees<'a> {
    /// Of mounts, as a snapshotter gives them: of a view of the parent, and of
    /// the snapshot itself. No mounts are no tree.
    pub fn of_mounts(lower: &[Mount], upper: &[Mount]) -> Result<Trees<'a>> {
        // From here on nobody commits or removes them.
        let mut held = mounter::hold(lower)?;
        held.extend(mounter::hold(upper)?);
        let upper_folder = match Overlay::of(upper).zip(below(lower)?) {
            Some((overlay, layers)) => overlay.on(&layers)?,
            None => None,
        };
        let lower_tree = match lower {
            [] => None,
            mounts => Some(show(mounts)?),
        };
        let (tree, form) = match &upper_folder {
            Some(folder) => (containerkit::fs::open_dir(Path::new(folder))?, Form::Upper),
            None => (show(upper)?, Form::Whole),
        };
        Ok(Trees {
            lower: lower_tree,
            upper: tree,
            form,
            merged: upper.to_vec(),
            _held: held,
            views: Vec::new(),
        })
    }

    /// Of folders that the caller opened.
    pub fn of_folders(lower: Option<OwnedFd>, upper: OwnedFd) -> Trees<'static> {
        Trees {
            lower,
            upper,
            form: Form::Whole,
            merged: Vec::new(),
            _held: Vec::new(),
            views: Vec::new(),
        }
    }

    pub(super) fn keep(mut self, views: impl IntoIterator<Item = View<'a>>) -> Trees<'a> {
        self.views.extend(views);
        self
    }

    /// What changed, and what else the layer needs, in the layer's order.
    pub fn changes(&mut self, options: &DiffOptions) -> Result<Vec<Change>> {
        loop {
            let lower = self.lower.as_ref().map(AsFd::as_fd);
            match walk(lower, self.upper.as_fd(), self.form, options) {
                Ok(found) => return Ok(list::list(found, &options.mount_points)),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Unresolved) if self.form == Form::Upper => {
                    log::debug!("the upper folder has redirects; walking the whole tree");
                    self.upper = show(&self.merged)?;
                    self.form = Form::Whole;
                }
                Err(Stop::Unresolved) => {
                    return Err(Error::internal("a whole tree cannot be resolved"));
                }
            }
        }
    }

    /// Writes the layer of these changes.
    pub fn write(
        &self,
        changes: &[Change],
        layer: &mut dyn Write,
        options: &DiffOptions,
    ) -> Result<Diffed> {
        write::write(self.upper.as_fd(), changes, layer, options)
    }
}

/// The tree of mounts, which is not written to.
fn show(mounts: &[Mount]) -> Result<OwnedFd> {
    // A view as it is: without its own upper it may be too low for an overlay.
    let read_only = |mount: &Mount| match mount.is_read_only() {
        true => mount.clone(),
        false => mount.clone().read_only(),
    };
    let mounts: Vec<Mount> = mounts.iter().map(read_only).collect();
    mounter::mount_detached(&mounts).context(|| "look at a snapshot")
}

/// A single overlay that is made of plain folders, topmost first.
struct Overlay<'a> {
    mount: &'a Mount,
    upper: Option<&'a str>,
    lower: Vec<&'a str>,
}

impl<'a> Overlay<'a> {
    /// `None` for whatever else.
    fn of(mounts: &'a [Mount]) -> Option<Overlay<'a>> {
        let [mount] = mounts else { return None };
        let plain = |option: &String| {
            !option.starts_with("lowerdir=")
                && !option.starts_with("datadir")
                && !option.starts_with("idmap=")
                && option != "userxattr"
        };
        if mount.fstype != "overlay" || !mount.target.is_empty() || !mount.options.iter().all(plain)
        {
            return None;
        }
        let values = |key| {
            mount
                .options
                .iter()
                .filter_map(move |o| o.strip_prefix(key))
        };
        Some(Overlay {
            mount,
            upper: values("upperdir=").next(),
            lower: values("lowerdir+=").collect(),
        })
    }

    /// Its folders, topmost first, without the empty upper that a view has.
    fn layers(&self) -> Result<Vec<&'a str>> {
        let mut layers = self.lower.clone();
        if let Some(upper) = self.upper
            && !(self.mount.is_read_only() && is_empty(upper)?)
        {
            layers.insert(0, upper);
        }
        Ok(layers)
    }

    /// The topmost folder, when what is below it is just these layers.
    fn on(&self, below: &[&str]) -> Result<Option<&'a str>> {
        let layers = self.layers()?;
        let Some((top, rest)) = layers.split_first() else {
            return Ok(None);
        };
        // A snapshot on nothing lies on an empty folder all the same.
        let on_nothing = || match (below, rest) {
            ([], [only]) => is_empty(only),
            _ => Ok(false),
        };
        Ok((rest == below || on_nothing()?).then_some(*top))
    }
}

/// The layers of the lower side; `None` when they cannot be told.
fn below(mounts: &[Mount]) -> Result<Option<Vec<&str>>> {
    match Overlay::of(mounts) {
        Some(overlay) => overlay.layers().map(Some),
        None if mounts.is_empty() => Ok(Some(Vec::new())),
        None => Ok(None),
    }
}

fn is_empty(dir: &str) -> Result<bool> {
    let dir = containerkit::fs::open_dir(Path::new(dir))?;
    super::node::names(&dir).map(|names| names.is_empty())
}
