//! Whether the file system beneath a root can serve: asked once, then
//! remembered by the root's device.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerkit::fs::{ensure_dir, open_in_root, remove_tree_path, unique_name};
use containerkit::mounter::{is_upper_in_use, mount_detached};
use containerkit::{Error, IoContext, Mount, Result};
use rustix::fs::{Dir, FileType, FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;

/// The device that a probe was good for.
pub(crate) fn identity(root: &Path) -> Result<String> {
    let stat = rustix::fs::stat(root).io_context(|| format!("stat {}", root.display()))?;
    Ok(format!("1:{}:{}", stat.st_dev, stat.st_ino))
}

/// Says what is wrong with the file system; makes its files in `trash`.
pub(crate) fn run(root: &Path, trash: &Path) -> Result<()> {
    let unfit = |what: &str| {
        Error::precondition(format!(
            "overlay cannot store snapshots in {}: {what}",
            root.display()
        ))
        .with_hint("move the root to ext4, xfs, btrfs or tmpfs, or use a copying snapshotter")
    };
    let stat = rustix::fs::statfs(root).io_context(|| format!("statfs {}", root.display()))?;
    if stat.f_type as i64 == OVERLAYFS_SUPER_MAGIC {
        return Err(unfit(
            "it is an overlay itself, as in a container, and overlays do not stack on overlays",
        ));
    }
    let (dir, _held) = make(trash)?;
    let result = try_out(&dir, &unfit);
    let removed = remove_tree_path(&dir);
    result.and(removed)
}

/// A folder of our own in the trash, held, so that nobody who empties the
/// trash takes it for trash before the probe has ended.
fn make(trash: &Path) -> Result<(PathBuf, OwnedFd)> {
    loop {
        let dir = trash.join(unique_name("probe"));
        ensure_dir(&dir, 0o700)?;
        let held = (|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&dir, flags, Mode::empty())?;
            rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
            // Somebody may have been emptying the trash just then.
            rustix::fs::stat(&dir)?;
            Ok(fd)
        })();
        match held {
            Ok(fd) => return Ok((dir, fd)),
            Err(Errno::NOENT | Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(Error::io(format!("hold {}", dir.display()), errno)),
        }
    }
}

fn try_out(dir: &Path, unfit: &dyn Fn(&str) -> Error) -> Result<()> {
    for name in ["lower/inner", "upper", "work"] {
        ensure_dir(&dir.join(name), 0o755)?;
    }
    std::fs::write(dir.join("lower/file"), "x").io_context(|| "write a probe file")?;
    has_types(&dir.join("lower"), unfit)?;
    let upper = dir.join("upper");
    match rustix::fs::setxattr(&upper, "trusted.overlay.opaque", b"n", XattrFlags::empty()) {
        Ok(()) => rustix::fs::removexattr(&upper, "trusted.overlay.opaque")
            .io_context(|| "remove an extended attribute")?,
        Err(Errno::OPNOTSUPP) => return Err(unfit("it has no extended attributes")),
        Err(Errno::PERM | Errno::ACCESS) => {
            return Err(unfit("trusted extended attributes need root")
                .with_hint("run as root, or use a copying snapshotter"));
        }
        Err(errno) => return Err(unfit(&format!("extended attributes: {errno}"))),
    }
    let mount = Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir+={}", dir.join("lower").display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", dir.join("work").display()),
        ],
    };
    let tree = mount_detached(&[mount])
        .map_err(|error| unfit(&error.to_string()).with_kind(error.kind()))?;
    // Deleting needs whiteouts, which some file systems cannot make.
    rustix::fs::unlinkat(&tree, "file", rustix::fs::AtFlags::empty()).map_err(|errno| {
        unfit(&format!(
            "a file of a lower layer cannot be deleted: {errno}"
        ))
    })?;
    open_in_root(
        tree.as_fd(),
        Path::new("inner/new"),
        OFlags::WRONLY | OFlags::CREATE,
        0o600,
    )
    .map_err(|errno| {
        unfit(&format!(
            "a folder of a lower layer cannot be changed: {errno}"
        ))
    })?;
    if !is_upper_in_use(&upper)? {
        log::warn!(
            "this kernel does not tell when an upper folder is in use: commit and remove see only mounts that are held"
        );
    }
    Ok(())
}

/// Overlay cannot merge folders whose entries come without a type.
fn has_types(dir: &Path, unfit: &dyn Fn(&str) -> Error) -> Result<()> {
    let fd = rustix::fs::open(
        dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .io_context(|| "open a probe folder")?;
    for entry in Dir::read_from(&fd).io_context(|| "list a probe folder")? {
        let entry = entry.io_context(|| "list a probe folder")?;
        if entry.file_type() == FileType::Unknown {
            return Err(unfit(
                "its folders do not tell the type of their entries (d_type; xfs: mkfs with ftype=1)",
            ));
        }
    }
    Ok(())
}
