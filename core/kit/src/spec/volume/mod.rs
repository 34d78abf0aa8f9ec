//! Folders of declared volumes, filled with what the image has there.

mod allowance;
mod copy;

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;

use crate::error::{Error, IoContext, Result, quote};
use crate::fs::{Root, ensure_dir};
use allowance::Allowance;

/// A declared volume as a folder of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFolder {
    /// The folder on the host, to be made.
    pub source: PathBuf,
    /// Where the container sees it: clean, and in the image no symlink leads
    /// from it elsewhere.
    pub target: String,
    allowance: Allowance,
}

impl VolumeFolder {
    /// A volume with an allowance of its own.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<String>) -> VolumeFolder {
        VolumeFolder {
            source: source.into(),
            target: target.into(),
            allowance: Allowance::default(),
        }
    }

    /// A further volume of the same container, which draws on the same
    /// allowance.
    pub(super) fn beside(&self, source: PathBuf, target: String) -> VolumeFolder {
        VolumeFolder {
            source,
            target,
            allowance: self.allowance.clone(),
        }
    }
}

/// Makes the folder, with the content, owner and mode that the root file
/// system has at the volume's place; there, paths are resolved in the root
/// and no symlink in the content is followed (CVE-2022-23648).
///
/// The folder appears whole or not at all: it is filled beside its place and
/// renamed. One that exists already keeps its content. Holes stay holes, and
/// what the volumes of one container copy together is limited.
pub fn populate(rootfs: &Root, volume: &VolumeFolder) -> Result<()> {
    let what = || format!("volume {}", quote(&volume.target));
    if volume.source.symlink_metadata().is_ok() {
        return Ok(());
    }
    let Some(parent) = volume.source.parent() else {
        return Err(Error::invalid(format!("{}: it has no folder", what())));
    };
    // 0711: a container whose users are mapped passes to its own volume.
    ensure_dir(parent, 0o711)?;
    let half = parent.join(crate::fs::unique_name(".volume"));
    ensure_dir(&half, 0o755)?;
    let result = (|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match rootfs.open_at(&volume.target, flags, 0) {
            Ok(from) => {
                let to = crate::fs::open_dir(&half)?;
                copy::folder(&from, &to, 0, &volume.allowance)?;
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Error::io("open it in the image", errno)),
        }
        rustix::fs::renameat(CWD, &half, CWD, &volume.source)
            .io_context(|| format!("rename to {}", volume.source.display()))
    })();
    if result.is_err() {
        let _ = crate::fs::remove_tree_path(&half);
    }
    result.map_err(|error: Error| error.context(what()))
}

/// Removes the folders of a container's volumes; what is gone is success.
pub fn remove(volumes_dir: &Path) -> Result<()> {
    crate::fs::remove_tree_path(volumes_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn content_owner_and_mode_come_along() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().join("rootfs/data");
        std::fs::create_dir_all(data.join("sub")).expect("mkdir");
        std::fs::write(data.join("sub/file"), "content").expect("write");
        symlink("/etc/passwd", data.join("link")).expect("symlink");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1770)).expect("chmod");
        let setuid = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(data.join("sub/file"), setuid).expect("chmod");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&data, Some(70), Some(71)).expect("chown");
            std::os::unix::fs::chown(data.join("sub/file"), Some(70), None).expect("chown");
            let setuid = std::fs::Permissions::from_mode(0o4755);
            std::fs::set_permissions(data.join("sub/file"), setuid).expect("chmod");
        }
        let rootfs = Root::open(&dir.path().join("rootfs")).expect("root");
        let volume = VolumeFolder::new(dir.path().join("volumes/0"), "/data");
        populate(&rootfs, &volume).expect("populate");
        for name in ["", "sub", "sub/file", "link"] {
            let a = std::fs::symlink_metadata(data.join(name)).expect("stat");
            let b = std::fs::symlink_metadata(volume.source.join(name)).expect(name);
            assert_eq!(
                (a.mode(), a.uid(), a.gid()),
                (b.mode(), b.uid(), b.gid()),
                "{name}"
            );
        }
        let copied = std::fs::read_to_string(volume.source.join("sub/file")).expect("read");
        assert_eq!(copied, "content");

        std::fs::write(volume.source.join("sub/file"), "mine").expect("write");
        populate(&rootfs, &volume).expect("again");
        let kept = std::fs::read_to_string(volume.source.join("sub/file")).expect("read");
        assert_eq!(kept, "mine");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("volumes"))
            .expect("ls")
            .collect();
        assert_eq!(left.len(), 1);
        remove(&dir.path().join("volumes")).expect("remove");
        remove(&dir.path().join("volumes")).expect("twice");
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().join("rootfs/data");
        std::fs::create_dir_all(&data).expect("mkdir");
        let length = 3 << 30;
        let middle = 1 << 30;
        let file = std::fs::File::create(data.join("sparse")).expect("create");
        file.write_all_at(b"first", 0).expect("write");
        file.write_all_at(b"middle", middle).expect("write");
        file.set_len(length).expect("length");
        let file = std::fs::File::create(data.join("hole")).expect("create");
        file.set_len(length).expect("length");
        let rootfs = Root::open(&dir.path().join("rootfs")).expect("root");
        let volume = VolumeFolder::new(dir.path().join("volumes/0"), "/data");
        populate(&rootfs, &volume).expect("populate");
        for name in ["sparse", "hole"] {
            let stat = std::fs::metadata(volume.source.join(name)).expect("stat");
            assert_eq!(stat.len(), length, "{name}");
            assert!(stat.blocks() < 4096, "{name}: {} blocks", stat.blocks());
        }
        let copy = std::fs::File::open(volume.source.join("sparse")).expect("open");
        for (offset, want) in [(0, "first\0"), (middle, "middle\0"), (length - 1, "\0")] {
            let mut have = vec![1; want.len()];
            copy.read_exact_at(&mut have, offset).expect("read");
            assert_eq!(have, want.as_bytes(), "{offset}");
        }
    }

    #[test]
    fn the_volumes_of_a_container_share_one_allowance() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["a", "b"] {
            let data = dir.path().join("rootfs").join(name);
            std::fs::create_dir_all(&data).expect("mkdir");
            std::fs::write(data.join("file"), [1; 60_000]).expect("write");
        }
        let rootfs = Root::open(&dir.path().join("rootfs")).expect("root");
        for (case, allowance, want) in [
            ("enough", Allowance::new(120_000, 2), None),
            ("data", Allowance::new(119_999, 2), Some("16 GiB of data")),
            (
                "entries",
                Allowance::new(120_000, 1),
                Some("1000000 entries"),
            ),
        ] {
            let folder = dir.path().join(case);
            let mut first = VolumeFolder::new(folder.join("0"), "/a");
            first.allowance = allowance;
            let second = first.beside(folder.join("1"), "/b".into());
            populate(&rootfs, &first).expect(case);
            let result = populate(&rootfs, &second);
            let left = std::fs::read_dir(&folder).expect("ls").count();
            match want {
                None => {
                    result.expect(case);
                    assert_eq!(left, 2, "{case}");
                }
                Some(want) => {
                    let error = result.expect_err(case);
                    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
                    let text = error.to_string();
                    assert!(text.contains("/b") && text.contains(want), "{text}");
                    assert_eq!(left, 1, "{case}: nothing half is left");
                }
            }
        }
    }

    #[test]
    fn nothing_of_the_host_is_copied() {
        let dir = tempfile::tempdir().expect("tempdir");
        let outside = dir.path().join("secret");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::write(outside.join("key"), "secret").expect("write");
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir(&rootfs).expect("mkdir");
        symlink("../secret", rootfs.join("up")).expect("symlink");
        symlink(&outside, rootfs.join("abs")).expect("symlink");
        let root = Root::open(&rootfs).expect("root");
        for (number, target) in ["/up", "/abs", "/../secret", "/missing"].iter().enumerate() {
            let volume = VolumeFolder::new(dir.path().join(format!("volumes/{number}")), *target);
            populate(&root, &volume).expect(target);
            let copied = std::fs::read_dir(&volume.source).expect("ls").count();
            assert_eq!(copied, 0, "{target}");
        }
    }
}
