use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use containerkit::fs::open_dir;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::Cancel;

fn differences(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (open_dir(a).expect("a"), open_dir(b).expect("b"));
    let found = compare(a.as_fd(), b.as_fd(), 100, &Cancel::default()).expect("compare");
    found.iter().map(ToString::to_string).collect()
}

fn mirror(a: &Path, b: &Path) {
    let (a, b) = (open_dir(a).expect("a"), open_dir(b).expect("b"));
    copy(a.as_fd(), b.as_fd(), &Cancel::default()).expect("copy");
}

/// One of everything.
fn fill(dir: &Path) {
    let at = |name: &str| dir.join(name);
    std::fs::create_dir_all(at("deep/er/est")).expect("mkdir");
    std::fs::write(at("deep/er/file"), "content").expect("write");
    std::fs::hard_link(at("deep/er/file"), at("a-link")).expect("link");
    std::fs::hard_link(at("deep/er/file"), at("deep/z-link")).expect("link");
    symlink("../nowhere", at("deep/symlink")).expect("symlink");
    std::os::unix::fs::lchown(at("deep/symlink"), Some(7), Some(8)).expect("chown");
    std::fs::write(at("setuid"), "#!").expect("write");
    chown(at("setuid"), Some(1000), Some(2000)).expect("chown");
    std::fs::set_permissions(at("setuid"), std::fs::Permissions::from_mode(0o6755)).expect("mode");
    rustix::fs::setxattr(at("setuid"), "user.a", b"b", XattrFlags::empty()).expect("xattr");
    rustix::fs::setxattr(at("deep"), "trusted.x", b"\0y", XattrFlags::empty()).expect("xattr");
    rustix::fs::lsetxattr(at("deep/symlink"), "trusted.l", b"l", XattrFlags::empty())
        .expect("xattr");
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(
        CWD,
        at("null"),
        FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(1, 3),
    )
    .expect("mknod");
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).expect("mknod");
    let sparse = std::fs::File::create(at("sparse")).expect("create");
    sparse.set_len(64 << 20).expect("size");
    rustix::io::pwrite(&sparse, b"middle", 32 << 20).expect("write");
    std::fs::set_permissions(at("deep/er"), std::fs::Permissions::from_mode(0o1711)).expect("mode");
    for name in ["deep/er/est", "deep/er", "deep", "."] {
        let time = rustix::fs::Timespec {
            tv_sec: 1_000_000,
            tv_nsec: 123_456_789,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, at(name), &times, rustix::fs::AtFlags::empty()).expect("time");
    }
}

#[test]
fn a_copy_is_equal_in_everything_and_has_the_holes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for dir in [&a, &b] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    fill(&a);
    mirror(&a, &b);
    assert_eq!(differences(&a, &b), Vec::<String>::new());
    let sparse = rustix::fs::stat(b.join("sparse")).expect("stat");
    assert!(sparse.st_blocks < 1000, "{}", sparse.st_blocks);
    // Again: nothing is done anew.
    let before = rustix::fs::stat(b.join("setuid")).expect("stat");
    mirror(&a, &b);
    assert_eq!(
        rustix::fs::stat(b.join("setuid")).expect("stat").st_ino,
        before.st_ino
    );
    assert_eq!(differences(&a, &b), Vec::<String>::new());
}

#[test]
fn every_difference_is_told_and_mended() {
    type Change<'a> = (&'static str, &'a dyn Fn(&Path));
    let change: [Change<'_>; 14] = [
        ("its content", &|b| {
            let time = std::fs::metadata(b.join("setuid"))
                .and_then(|m| m.modified())
                .expect("time");
            std::fs::write(b.join("setuid"), "!#").expect("write");
            std::fs::set_permissions(b.join("setuid"), std::fs::Permissions::from_mode(0o6755))
                .expect("mode");
            std::fs::File::options()
                .write(true)
                .open(b.join("setuid"))
                .and_then(|f| f.set_modified(time))
                .expect("time");
        }),
        ("its size", &|b| {
            std::fs::write(b.join("setuid"), "longer").expect("write")
        }),
        ("its mode", &|b| {
            std::fs::set_permissions(b.join("fifo"), std::fs::Permissions::from_mode(0o644))
                .expect("mode");
        }),
        ("its owner", &|b| {
            chown(b.join("deep/er"), Some(5), None).expect("chown")
        }),
        ("its target", &|b| {
            std::fs::remove_file(b.join("deep/symlink")).expect("rm");
            symlink("other", b.join("deep/symlink")).expect("symlink");
        }),
        ("its type", &|b| {
            std::fs::remove_dir(b.join("deep/er/est")).expect("rm");
            std::fs::write(b.join("deep/er/est"), "").expect("write");
        }),
        ("its device number", &|b| {
            std::fs::remove_file(b.join("null")).expect("rm");
            rustix::fs::mknodat(
                CWD,
                b.join("null"),
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o640),
                rustix::fs::makedev(1, 5),
            )
            .expect("mknod");
        }),
        ("its modification time", &|b| {
            std::fs::File::open(b.join("sparse"))
                .and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH))
                .expect("time");
        }),
        ("its extended attributes", &|b| {
            rustix::fs::setxattr(b.join("deep"), "trusted.more", b"", XattrFlags::empty())
                .expect("xattr");
        }),
        ("its extended attributes", &|b| {
            rustix::fs::lsetxattr(
                b.join("deep/symlink"),
                "trusted.l",
                b"m",
                XattrFlags::empty(),
            )
            .expect("xattr");
        }),
        ("it is missing in the second", &|b| {
            std::fs::remove_file(b.join("null")).expect("rm")
        }),
        ("it is missing in the first", &|b| {
            std::fs::create_dir_all(b.join("more/and/more")).expect("mkdir");
        }),
        ("which names are one file", &|b| {
            std::fs::remove_file(b.join("deep/z-link")).expect("rm");
            std::fs::copy(b.join("a-link"), b.join("deep/z-link")).expect("copy");
            let time = std::fs::metadata(b.join("a-link"))
                .and_then(|m| m.modified())
                .expect("time");
            std::fs::File::options()
                .write(true)
                .open(b.join("deep/z-link"))
                .and_then(|f| f.set_modified(time))
                .expect("time");
        }),
        ("which names are one file", &|b| {
            // Of another group.
            std::fs::remove_file(b.join("setuid")).expect("rm");
            std::fs::hard_link(b.join("a-link"), b.join("setuid")).expect("link");
        }),
    ];
    for (number, (what, change)) in change.iter().enumerate() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for dir in [&a, &b] {
            std::fs::create_dir(dir).expect("mkdir");
        }
        fill(&a);
        mirror(&a, &b);
        change(&b);
        let found = differences(&a, &b);
        let last = number == 13;
        assert!(
            found.iter().any(|line| line.ends_with(what)) || last && !found.is_empty(),
            "{what}: {found:?}"
        );
        mirror(&a, &b);
        assert_eq!(differences(&a, &b), Vec::<String>::new(), "{what}");
    }
}
