//! What the cases have in common.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::fs::unique_name;
use containerkit::mounter::{mount_detached, unmount};
use containerkit::snapshot::{CommitOptions, SnapshotInfo};
use containerkit::{Context, Error, IoContext, Labels, Mount, Result, SnapshotKey, Snapshotter};

use super::Factory;

/// A root of its own with an instance on it.
pub(super) struct Lab<'a> {
    factory: &'a Factory,
    snapshotter: Option<Arc<dyn Snapshotter>>,
    pub(super) dir: PathBuf,
}

impl<'a> Lab<'a> {
    pub(super) fn new(factory: &'a Factory) -> Result<Lab<'a>> {
        let dir = std::env::temp_dir().join(unique_name("containerkit-conformance"));
        fs::create_dir_all(dir.join("root")).io_context(|| format!("make {}", dir.display()))?;
        let mut lab = Lab {
            factory,
            snapshotter: None,
            dir,
        };
        lab.reopen()?;
        Ok(lab)
    }

    /// Closes the instance and opens another on the same root.
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.snapshotter = None;
        self.snapshotter = Some((self.factory)(&self.dir.join("root"))?);
        Ok(())
    }

    pub(super) fn driver(&self) -> Result<&dyn Snapshotter> {
        self.snapshotter
            .as_deref()
            .ok_or_else(|| Error::internal("the instance is closed"))
    }

    /// Prepares, lets `write` fill the mounted tree, and commits.
    pub(super) fn layer(
        &self,
        name: &str,
        parent: Option<&str>,
        write: impl FnOnce(&Tree) -> Result<()>,
    ) -> Result<SnapshotInfo> {
        let active = key(&format!("{name}-active"));
        let mounts = self
            .driver()?
            .prepare(&active, parent.map(key).as_ref(), &Labels::new())
            .context(|| format!("prepare {active}"))?;
        let tree = Tree::mount(&mounts)?;
        write(&tree).context(|| format!("write {name}"))?;
        drop(tree);
        self.driver()?
            .commit(&key(name), &active, &CommitOptions::default())
            .context(|| format!("commit {name}"))
    }

    /// A mounted view of a committed snapshot, under a fresh key.
    pub(super) fn view(&self, parent: &str) -> Result<Tree> {
        let name = key(&unique_name("view"));
        let mounts = self
            .driver()?
            .view(&name, Some(&key(parent)), &Labels::new())
            .context(|| format!("view {parent}"))?;
        Tree::mount(&mounts)
    }

    pub(super) fn prepare(&self, name: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.driver()?
            .prepare(&key(name), parent.map(key).as_ref(), &Labels::new())
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        self.snapshotter = None;
        let _ = unmount(&self.dir);
        let _ = containerkit::fs::remove_tree_path(&self.dir);
    }
}

/// A mounted snapshot, gone when it is dropped.
pub(super) struct Tree {
    fd: OwnedFd,
}

impl Tree {
    pub(super) fn mount(mounts: &[Mount]) -> Result<Tree> {
        mount_detached(mounts).map(|fd| Tree { fd })
    }

    /// A path in it, for the calls of `std`.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.at(path), text).io_context(|| format!("write {path}"))
    }

    pub(super) fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.at(path)).io_context(|| format!("read {path}"))
    }

    pub(super) fn mkdir(&self, path: &str) -> Result<()> {
        fs::create_dir_all(self.at(path)).io_context(|| format!("make {path}"))
    }

    pub(super) fn remove(&self, path: &str) -> Result<()> {
        let at = self.at(path);
        let stat = fs::symlink_metadata(&at).io_context(|| format!("stat {path}"))?;
        if stat.is_dir() {
            fs::remove_dir_all(&at).io_context(|| format!("remove {path}"))
        } else {
            fs::remove_file(&at).io_context(|| format!("remove {path}"))
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub(super) fn stat(&self, path: &str) -> Result<fs::Metadata> {
        fs::symlink_metadata(self.at(path)).io_context(|| format!("stat {path}"))
    }

    pub(super) fn fingerprint(&self) -> Result<BTreeMap<PathBuf, String>> {
        fingerprint(&self.at("."))
    }
}

/// What a tree looks like: type, mode, owner, links and content of each path.
pub(super) fn fingerprint(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let at = root.join(&path);
        let shown = || format!("look at {}", path.display());
        let stat = fs::symlink_metadata(&at).io_context(shown)?;
        let kind = stat.file_type();
        let what = if kind.is_dir() {
            for entry in fs::read_dir(&at).io_context(shown)? {
                pending.push(path.join(entry.io_context(shown)?.file_name()));
            }
            "folder".to_string()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&at).io_context(shown)?.display())
        } else if kind.is_file() {
            let data = fs::read(&at).io_context(shown)?;
            format!(
                "{} links, {:?}",
                stat.nlink(),
                String::from_utf8_lossy(&data)
            )
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {:x}", stat.rdev())
        } else {
            "fifo or socket".to_string()
        };
        let line = format!("{:o} {}:{} {what}", stat.mode(), stat.uid(), stat.gid());
        all.insert(path, line);
    }
    Ok(all)
}

/// The first difference of two trees.
pub(super) fn compare(
    want: &BTreeMap<PathBuf, String>,
    found: &BTreeMap<PathBuf, String>,
    when: &str,
) -> Result<()> {
    let paths = want.keys().chain(found.keys());
    for path in paths {
        let (want, found) = (want.get(path), found.get(path));
        crate::ensure(want == found, || {
            format!(
                "{when}: /{}: want {want:?}, found {found:?}",
                path.display()
            )
        })?;
    }
    Ok(())
}

/// A key that is known to be good.
pub(super) fn key(text: &str) -> SnapshotKey {
    // The cases' own constants; a panic is the case's failure.
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}
