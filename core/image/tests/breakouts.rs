//! Layers that try to break out, by the names under which containerd's suite
//! knows them. Each runs in a folder whose surroundings are checked after.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use containerkit::ErrorKind;
use containerkit_image::apply::WhiteoutForm;
use support::{Cell, Entry, apply_to, assert_one_line, dir, file, link, symlink};

enum Want {
    Same(&'static str, &'static str),
    Different(&'static str, &'static str),
    Value(&'static str, &'static str),
    Absent(&'static str),
    SameSymlink(&'static str, &'static str),
    Refused,
}
use Want::*;

/// A path in the root, symlinks resolved as the container sees them.
fn at(root: &Path, path: &str) -> PathBuf {
    let mut parts: Vec<String> = path.split('/').rev().map(str::to_string).collect();
    let mut here = PathBuf::new();
    while let Some(part) = parts.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                here.pop();
                continue;
            }
            _ => {}
        }
        match fs::read_link(root.join(&here).join(&part)) {
            Ok(target) => {
                let target = target.to_str().unwrap();
                if target.starts_with('/') {
                    here = PathBuf::new();
                }
                parts.extend(target.split('/').rev().map(str::to_string));
            }
            Err(_) => here.push(part),
        }
    }
    root.join(here)
}

fn run(name: &str, lower: &[Entry], layer: &[Entry], wants: &[Want]) {
    let cell = Cell::new();
    let root = cell.root();
    apply_to(&root, lower).expect(name);
    let result = apply_to(&root, layer);
    cell.check();
    if wants.iter().any(|want| matches!(want, Refused)) {
        let error = result.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}: {error}");
        assert_one_line(&error);
        return;
    }
    result.expect(name);
    for want in wants {
        let inode = |path: &str| fs::metadata(at(&root, path)).expect(name).ino();
        match want {
            Same(a, b) => assert_eq!(inode(a), inode(b), "{name}"),
            Different(a, b) => assert_ne!(inode(a), inode(b), "{name}"),
            Value(path, text) => {
                let found = fs::read_to_string(at(&root, path)).expect(name);
                assert_eq!(found, *text, "{name}");
            }
            Absent(path) => assert!(root.join(path).symlink_metadata().is_err(), "{name}"),
            SameSymlink(a, b) => {
                let read = |path: &str| fs::read_link(root.join(path)).expect(name);
                assert_eq!(read(a), read(b), "{name}");
                let inode = |path: &str| root.join(path).symlink_metadata().expect(name).ino();
                assert_eq!(inode(a), inode(b), "{name}");
            }
            Refused => unreachable!(),
        }
    }
}

fn passwd() -> Vec<Entry> {
    vec![dir("etc", 0o770), file("/etc/passwd", "inside")]
}

fn with(mut first: Vec<Entry>, rest: &[Entry]) -> Vec<Entry> {
    first.extend_from_slice(rest);
    first
}

#[test]
fn symlinks_as_parents() {
    let unbroken = || [Value("etc/unbroken", "unbroken")];
    let etc = || dir("etc", 0o755);
    run(
        "SymlinkAbsolute",
        &[],
        &[
            etc(),
            symlink("/etc", "localetc"),
            file("/localetc/unbroken", "unbroken"),
        ],
        &unbroken(),
    );
    run(
        "SymlinkUpAndOut",
        &[],
        &[
            etc(),
            dir("dummy", 0o755),
            symlink("/dummy/../etc", "localetc"),
            file("/localetc/unbroken", "unbroken"),
        ],
        &unbroken(),
    );
    for (name, second) in [
        ("SymlinkMultipleAbsolute", "/dummy/etc"),
        ("SymlinkMultipleRelative", "./dummy/etc"),
    ] {
        run(
            name,
            &[],
            &[
                etc(),
                dir("dummy", 0o755),
                symlink("/etc", "/dummy/etc"),
                symlink(second, "localetc"),
                file("/dummy/etc/unbroken", "unbroken"),
                file("/localetc/also", "unbroken"),
            ],
            &[
                Value("etc/unbroken", "unbroken"),
                Value("etc/also", "unbroken"),
            ],
        );
    }
    run(
        "SymlinkEmptyFile",
        &[],
        &[
            etc(),
            file("etc/emptied", "notempty"),
            symlink("/etc", "localetc"),
            file("/localetc/emptied", ""),
        ],
        &[Value("etc/emptied", "")],
    );
}

#[test]
fn hard_links_through_symlinks() {
    let breakouts = dir("breakouts", 0o755);
    run(
        "HardlinkRelative",
        &[],
        &with(
            passwd(),
            &[
                breakouts.clone(),
                symlink("../../etc", "breakouts/d1"),
                link("/breakouts/d1/passwd", "breakouts/mypasswd"),
            ],
        ),
        &[Same("breakouts/mypasswd", "etc/passwd")],
    );
    run(
        "HardlinkDownAndOut",
        &[],
        &with(
            passwd(),
            &[
                breakouts,
                dir("downandout", 0o755),
                symlink("../downandout/../../etc", "breakouts/d1"),
                link("/breakouts/d1/passwd", "breakouts/mypasswd"),
            ],
        ),
        &[Same("breakouts/mypasswd", "etc/passwd")],
    );
    for (name, target) in [
        ("HardlinkAbsolute", "/etc"),
        ("HardlinkRelativeLong", "../../../../../../../etc"),
        ("HardlinkRelativeUpAndOut", "upandout/../../../etc"),
    ] {
        run(
            name,
            &[],
            &with(
                passwd(),
                &[
                    symlink(target, "localetc"),
                    link("/localetc/passwd", "localpasswd"),
                ],
            ),
            &[Same("localpasswd", "etc/passwd")],
        );
    }
    for (name, target) in [
        ("HardlinkDirectRelative", "../../../../../etc/passwd"),
        ("HardlinkDirectAbsolute", "/etc/passwd"),
    ] {
        run(
            name,
            &[],
            &with(passwd(), &[link(target, "localpasswd")]),
            &[Same("localpasswd", "etc/passwd")],
        );
    }
}

#[test]
fn symlinks_in_the_place_of_folders() {
    // A symlink for the root, or for its parent, is refused whole.
    run(
        "SymlinkParentDirectory",
        &[],
        &with(passwd(), &[symlink("/etc/", "..")]),
        &[Refused],
    );
    run(
        "SymlinkEmptyFilename",
        &[],
        &with(passwd(), &[symlink("/etc/", "")]),
        &[Refused],
    );
    run(
        "SymlinkRoot",
        &[],
        &with(passwd(), &[symlink("/etc/", "/")]),
        &[Refused],
    );
    run(
        "SymlinkDot",
        &[],
        &with(passwd(), &[symlink("/etc/", ".")]),
        &[Refused],
    );
    run(
        "SymlinkParentRelative",
        &[],
        &with(
            passwd(),
            &[
                symlink("/etc/", "localetc/sub/.."),
                link("/etc/passwd", "/localetc/localpasswd"),
            ],
        ),
        &[Same("localetc/localpasswd", "etc/passwd")],
    );
    run(
        "SymlinkSlashEnded",
        &[],
        &with(
            passwd(),
            &[
                dir("localetc/", 0o770),
                link("/etc/passwd", "/localetc/localpasswd"),
            ],
        ),
        &[Same("localetc/localpasswd", "etc/passwd")],
    );
    let lower = with(passwd(), &[dir("/localetc/", 0o755)]);
    for (name, target) in [
        ("SymlinkOverrideDirectory", "/etc"),
        ("SymlinkOverrideDirectoryRelative", "../../etc"),
        ("SymlinkOverridePath", "etc"),
    ] {
        run(
            name,
            &lower,
            &[
                symlink(target, "localetc"),
                link("/etc/passwd", "/localetc/localpasswd"),
            ],
            &[Same("etc/localpasswd", "etc/passwd")],
        );
    }
    run(
        "DirectoryOverrideSymlink",
        &with(passwd(), &[symlink("/etc", "localetc")]),
        &[
            dir("/localetc/", 0o755),
            link("/etc/passwd", "/localetc/localpasswd"),
        ],
        &[
            Same("localetc/localpasswd", "etc/passwd"),
            Absent("etc/localpasswd"),
        ],
    );
    run(
        "DirectoryOverrideSymlinkAndHardlink",
        &with(
            passwd(),
            &[
                symlink("etc", "localetc"),
                link("/etc/passwd", "/localetc/localpasswd"),
            ],
        ),
        &[
            dir("/localetc/", 0o755),
            file("/localetc/localpasswd", "different"),
        ],
        &[
            Different("localetc/localpasswd", "etc/passwd"),
            Value("etc/passwd", "inside"),
            Value("localetc/localpasswd", "different"),
        ],
    );
}

#[test]
fn whiteouts_that_reach_out() {
    for (name, path) in [
        ("WhiteoutRootParent", ".wh..."),
        ("WhiteoutParent", "etc/.wh..."),
        ("WhiteoutRoot", ".wh.."),
        ("WhiteoutCurrentDirectory", "etc/.wh.."),
        ("WhiteoutNothing", "etc/.wh."),
        ("WhiteoutOutside", "../.wh.canary"),
    ] {
        run(name, &passwd(), &[file(path, "")], &[Refused]);
    }
    let users = || vec![dir("etc", 0o755), file("/etc/passwd", "all users")];
    let whitedout = || {
        with(
            users(),
            &[file("/etc/whitedout", "gone"), symlink("/etc", "localetc")],
        )
    };
    run(
        "WhiteoutSymlink",
        &with(users(), &[symlink("/etc", "localetc")]),
        &[file(".wh.localetc", "")],
        &[Value("etc/passwd", "all users"), Absent("localetc")],
    );
    run(
        "WhiteoutSymlinkPath",
        &whitedout(),
        &[file("localetc/.wh.whitedout", "")],
        &[Value("etc/passwd", "all users"), Absent("etc/whitedout")],
    );
    run(
        "WhiteoutDirectoryName",
        &whitedout(),
        &[file(".wh.etc/somefile", "non-empty")],
        &[
            Value("etc/passwd", "all users"),
            Value(".wh.etc/somefile", "non-empty"),
        ],
    );
    let dead = || with(users(), &[symlink("/dne", "localetc")]);
    run(
        "WhiteoutDeadSymlinkParent",
        &dead(),
        &[file("localetc/.wh.etc", "")],
        &[Value("etc/passwd", "all users")],
    );
    run(
        "WhiteoutRelativePath",
        &dead(),
        &[file("dne/../.wh.etc", "")],
        &[Absent("etc/passwd"), Absent("etc")],
    );
}

#[test]
fn hard_links_to_symlinks() {
    run(
        "HardlinkSymlinkBeforeCreateTarget",
        &[],
        &[
            dir("etc", 0o770),
            symlink("/etc/passwd", "localpasswd"),
            link("localpasswd", "localpasswd-dup"),
            file("/etc/passwd", "after"),
        ],
        &[
            SameSymlink("localpasswd", "localpasswd-dup"),
            Value("localpasswd-dup", "after"),
        ],
    );
    for (name, target) in [
        ("HardlinkSymlinkRelative", "../../../../../etc/passwd"),
        ("HardlinkSymlinkAbsolute", "/etc/passwd"),
    ] {
        run(
            name,
            &[],
            &with(
                passwd(),
                &[
                    symlink(target, "passwdlink"),
                    link("/passwdlink", "localpasswd"),
                ],
            ),
            &[
                SameSymlink("passwdlink", "localpasswd"),
                Same("localpasswd", "etc/passwd"),
            ],
        );
    }
}

/// A hard link to a symlink that leads to a file of the host: the mode of the
/// link entry must not reach that file.
#[test]
fn hardlink_symlink_chmod() {
    let cell = Cell::new();
    let outside = cell.outer().join("canary");
    fs::set_permissions(
        &outside,
        std::os::unix::fs::PermissionsExt::from_mode(0o400),
    )
    .unwrap();
    let target = outside.to_str().unwrap();
    let layer = [
        symlink(target, "out"),
        Entry {
            mode: 0o777,
            ..link("out", "alias")
        },
        file("alias2/.keep", ""),
    ];
    apply_to(&cell.root(), &layer).expect("HardlinkSymlinkChmod");
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o400);
    cell.check();
}

#[test]
fn what_leaves_the_root_by_name_is_refused() {
    for name in [
        "../canary",
        "/../canary",
        "a/../../canary",
        "etc/../../etc/passwd",
        "..",
    ] {
        run(name, &passwd(), &[file(name, "broken")], &[Refused]);
    }
}

#[test]
fn symlink_loops_end() {
    let cell = Cell::new();
    let layer = [symlink("b", "a"), symlink("a", "b"), file("a/x", "")];
    let error = apply_to(&cell.root(), &layer).expect_err("loop");
    assert_one_line(&error);
    cell.check();
}

/// The same refusals when a layer is written blind.
#[test]
fn the_overlay_form_is_as_strict() {
    for path in [".wh...", "etc/.wh..", "../x", "etc/.wh."] {
        let cell = Cell::new();
        let layer = support::tar(&with(passwd(), &[file(path, "")]));
        let error =
            support::apply_bytes(&cell.root(), &layer, WhiteoutForm::Overlay).expect_err(path);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        cell.check();
    }
}
