//! Paths in a container, made safe before they reach a runtime.

use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, quote};
use crate::fs::Root;

/// The kernel follows as many symlinks in one path.
const SYMLINK_LIMIT: u32 = 40;

/// An absolute path without `.`, `..` and doubled slashes; `..` stops at `/`.
/// `what` names the path in errors.
pub fn clean(path: &str, what: &str) -> Result<String> {
    let bad = |why: &str| Error::invalid(format!("{what} {}: {why}", quote(path)));
    if !path.starts_with('/') {
        return Err(bad("want an absolute path"));
    }
    if path.contains('\0') {
        return Err(bad("it holds a NUL"));
    }
    if path.len() >= 4096 {
        return Err(bad("it is longer than 4095 bytes"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Whether `path` is `above` or lies beneath it; both clean.
pub fn is_within(path: &str, above: &str) -> bool {
    above == "/"
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where a path leads in the root, every symlink followed as the container
/// would follow it; from the first missing component on it is taken as it is.
///
/// What `/proc` will hold in the container is not there yet, so a symlink to
/// it is followed by its text: the answer then begins with `/proc`.
pub fn resolve(root: &Root, path: &str, what: &str) -> Result<String> {
    walk(root, path, what, |_| false)
}

/// [`resolve`] that asks before each look whether something covers the place:
/// then what is there is not looked at and taken as it is.
pub(super) fn walk(
    root: &Root,
    path: &str,
    what: &str,
    mut covered: impl FnMut(&str) -> bool,
) -> Result<String> {
    let mut pending: Vec<String> = components(path);
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        done.push(part);
        let here = format!("/{}", done.join("/"));
        if covered(&here) {
            continue;
        }
        let fd = match root.open_at(&here, OFlags::PATH | OFlags::NOFOLLOW, 0) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => {
                return Err(Error::io(format!("{what} {}", quote(path)), errno));
            }
        };
        let Ok(target) = rustix::fs::readlinkat(&fd, c"", Vec::new()) else {
            continue;
        };
        links += 1;
        if links > SYMLINK_LIMIT {
            return Err(Error::invalid(format!(
                "{what} {}: too many symlinks",
                quote(path)
            )));
        }
        let target = target.to_string_lossy().into_owned();
        done.pop();
        if target.starts_with('/') {
            done.clear();
        }
        pending.extend(components(&target));
    }
    Ok(format!("/{}", done.join("/")))
}

/// The components that matter, last first.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|part| !matches!(*part, "" | "."))
        .map(str::to_owned)
        .collect()
}

/// The working folder of a process: absolute, resolved in the root, and never
/// one that leads to a descriptor of the runtime (CVE-2024-21626).
pub fn workdir(root: &Root, path: &str) -> Result<String> {
    let what = "working folder";
    clean(path, what)?;
    let resolved = resolve(root, path, what)?;
    for forbidden in ["/proc", "/dev/fd"] {
        if is_within(&resolved, forbidden) {
            return Err(Error::invalid(format!(
                "{what} {}: it leads to {forbidden}, which could name a folder of the host",
                quote(path)
            )));
        }
    }
    match root.open_at(&resolved, OFlags::PATH | OFlags::DIRECTORY, 0) {
        Ok(_) | Err(Errno::NOENT) => Ok(resolved),
        Err(Errno::NOTDIR) => Err(Error::precondition(format!(
            "{what} {}: it is not a folder in the image",
            quote(path)
        ))),
        Err(errno) => Err(Error::io(format!("{what} {}", quote(path)), errno)),
    }
}

/// Refuses a root whose `/proc`, `/sys` or `/dev` is anything but a folder: a
/// symlink there turns the runtime's mounts elsewhere.
pub fn check_mount_points(root: &Root) -> Result<()> {
    for name in ["/proc", "/sys", "/dev"] {
        let fd = match root.open_at(Path::new(name), OFlags::PATH | OFlags::NOFOLLOW, 0) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(Error::io(format!("{name} of the image"), errno)),
        };
        let stat = rustix::fs::fstat(&fd)
            .map_err(|errno| Error::io(format!("{name} of the image"), errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::precondition(format!(
                "{name} of the image is not a folder; nothing can be mounted there safely"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn dots_stop_at_the_root() {
        for (path, want) in [
            ("/../../etc", "/etc"),
            ("/a/./b//c/", "/a/b/c"),
            ("/a/../..", "/"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path, "path").as_deref(), Ok(want), "{path}");
        }
        for bad in ["", "a", "../x", "/a\0b", &format!("/{}", "a".repeat(5000))] {
            assert!(clean(bad, "path").is_err(), "{bad}");
        }
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a"));
    }

    #[test]
    fn a_workdir_never_names_a_descriptor() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["proc", "dev", "work", "a"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        std::fs::write(dir.path().join("file"), "").expect("write");
        for (name, target) in [
            ("fd", "/proc/self/fd/7"),
            ("up", "../../proc/1/cwd"),
            ("a/rel", "../proc/self/fd/7"),
            ("hop", "a/rel"),
            ("dots", "work/../proc/self"),
            ("devfd", "/dev/fd/7"),
            ("good", "work"),
            ("dangling", "/made/by/the/runtime"),
            ("loop", "loop"),
        ] {
            symlink(target, dir.path().join(name)).expect("symlink");
        }
        let root = Root::open(dir.path()).expect("root");
        for bad in [
            "/proc/self/fd/7",
            "//proc/../proc/self/fd/8/",
            "/../proc/1/root",
            "/fd",
            "/fd/..",
            "/up",
            "/a/rel",
            "/hop",
            "/dots",
            "/devfd",
            "/dev/fd/7",
            "/loop",
            "/file",
            "work",
            "",
        ] {
            assert!(workdir(&root, bad).is_err(), "{bad}");
        }
        for (path, want) in [
            ("/good", "/work"),
            ("/good/new/dir", "/work/new/dir"),
            ("/dangling", "/made/by/the/runtime"),
            ("/missing", "/missing"),
            ("/", "/"),
            ("/procfs", "/procfs"),
        ] {
            assert_eq!(workdir(&root, path).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn a_symlink_in_place_of_proc_is_refused() {
        for name in ["proc", "sys", "dev"] {
            let dir = tempfile::tempdir().expect("tempdir");
            let root = Root::open(dir.path()).expect("root");
            check_mount_points(&root).expect("missing is fine");
            symlink("tmp", dir.path().join(name)).expect("symlink");
            let error = check_mount_points(&root).expect_err("symlink");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
