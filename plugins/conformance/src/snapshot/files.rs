//! What a layer above shows of the layers below. Many of these are named
//! defects that layered file systems had.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use containerkit::{ErrorKind, IoContext, Labels, Result};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::lab::{Lab, Tree, compare, fingerprint, key};
use super::{Factory, Row};
use crate::{ensure, expect_kind};

pub(super) const CASES: [Row; 19] = [
    (
        "DRV-S-20",
        "layers stack, and a view shows them all",
        stacked,
    ),
    (
        "DRV-S-21",
        "a same-size change of a file is seen",
        same_size,
    ),
    (
        "DRV-S-22",
        "a folder removed and made anew hides the old",
        remade_folder,
    ),
    ("DRV-S-23", "changed owners are kept", owners),
    (
        "DRV-S-24",
        "modes and owners are right over three layers",
        three_layers,
    ),
    (
        "DRV-S-25",
        "a deleted file stays deleted under a new layer",
        deleted,
    ),
    (
        "DRV-S-26",
        "a file moved from a lower layer is moved",
        moved,
    ),
    ("DRV-S-27", "files and new folders can be renamed", renamed),
    ("DRV-S-28", "changed modes are kept, setuid too", modes),
    ("DRV-S-29", "hard links stay links", hard_links),
    (
        "DRV-S-30",
        "links, devices, fifos and sockets are kept",
        special,
    ),
    ("DRV-S-31", "extended attributes are kept", attributes),
    ("DRV-S-32", "a fresh root is 0755 and root's", fresh_root),
    (
        "DRV-S-33",
        "the root's own mode and owner are the parent's",
        kept_root,
    ),
    (
        "DRV-S-34",
        "snapshots on one parent do not see each other",
        siblings,
    ),
    (
        "DRV-S-35",
        "a view cannot be written through",
        view_read_only,
    ),
    (
        "DRV-S-36",
        "a view of nothing is empty and read-only",
        empty_view,
    ),
    (
        "DRV-S-37",
        "names and modification times are kept",
        names_and_times,
    ),
    ("DRV-S-38", "128 layers show what was written", many_layers),
];

fn stacked(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let mut want = Default::default();
    lab.layer("a", None, |tree| {
        tree.mkdir("etc/sub")?;
        tree.write("etc/one", "1")?;
        tree.write("etc/both", "old")?;
        want = tree.fingerprint()?;
        Ok(())
    })?;
    lab.layer("b", Some("a"), |tree| {
        compare(&want, &tree.fingerprint()?, "prepared on a")?;
        tree.write("etc/both", "new")?;
        tree.write("two", "2")?;
        tree.remove("etc/one")?;
        want = tree.fingerprint()?;
        Ok(())
    })?;
    compare(&want, &lab.view("b")?.fingerprint()?, "a view of b")?;
    let a = lab.view("a")?;
    ensure(a.read("etc/both")? == "old" && !a.exists("two"), || {
        "b changed a".into()
    })
}

fn same_size(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let mut below: Option<String> = None;
    for n in 0..5 {
        let name = format!("l{n}");
        lab.layer(&name, below.as_deref(), |tree| {
            tree.write("foo", &n.to_string())?;
            tree.write("bar", &n.to_string())
        })?;
        let tree = lab.view(&name)?;
        let found = (tree.read("foo")?, tree.read("bar")?);
        ensure(found == (n.to_string(), n.to_string()), || {
            format!("layer {n}: {found:?}")
        })?;
        below = Some(name);
    }
    Ok(())
}

fn remade_folder(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("lib/deep")?;
        tree.write("lib/hidden", "1")?;
        tree.write("lib/deep/hidden", "1")
    })?;
    lab.layer("b", Some("a"), |tree| {
        tree.remove("lib")?;
        tree.mkdir("lib")?;
        tree.write("lib/new", "2")
    })?;
    lab.layer("c", Some("b"), |tree| tree.write("lib/newer", "3"))?;
    for name in ["b", "c"] {
        let tree = lab.view(name)?;
        let good = tree.exists("lib/new") && !tree.exists("lib/hidden") && !tree.exists("lib/deep");
        ensure(good, || format!("{name}: {:?}", tree.fingerprint()))?;
    }
    Ok(())
}

fn set_owner(tree: &Tree, path: &str, uid: u32, gid: u32) -> Result<()> {
    chown(tree.at(path), Some(uid), Some(gid)).io_context(|| format!("chown {path}"))
}

fn has_owner(tree: &Tree, path: &str, uid: u32, gid: u32) -> Result<()> {
    let stat = tree.stat(path)?;
    ensure((stat.uid(), stat.gid()) == (uid, gid), || {
        format!(
            "{path}: want {uid}:{gid}, found {}:{}",
            stat.uid(),
            stat.gid()
        )
    })
}

fn owners(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("opt/a/b")?;
        tree.write("opt/a/b/file", "hello")?;
        tree.write("opt/a/root-owned", "x")
    })?;
    lab.layer("b", Some("a"), |tree| {
        for path in ["opt", "opt/a", "opt/a/b", "opt/a/b/file"] {
            set_owner(tree, path, 1, 2)?;
        }
        Ok(())
    })?;
    lab.layer("c", Some("b"), |tree| tree.write("opt/a/b/other", "y"))?;
    let tree = lab.view("c")?;
    for path in ["opt", "opt/a", "opt/a/b", "opt/a/b/file"] {
        has_owner(&tree, path, 1, 2)?;
    }
    has_owner(&tree, "opt/a/root-owned", 0, 0)?;
    ensure(tree.read("opt/a/b/file")? == "hello", || "content".into())
}

fn three_layers(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        for dir in ["dir1", "dir2", "dir3", "dir4", "dir5"] {
            tree.mkdir(dir)?;
            tree.write(&format!("{dir}/file"), dir)?;
        }
        set_owner(tree, "dir1", 1, 1)
    })?;
    lab.layer("b", Some("a"), |tree| {
        set_owner(tree, "dir2", 2, 2)?;
        tree.remove("dir3")?;
        tree.mkdir("dir3")?;
        set_owner(tree, "dir3", 3, 3)?;
        fs::set_permissions(tree.at("dir4"), fs::Permissions::from_mode(0o2711))
            .io_context(|| "chmod dir4")
    })?;
    lab.layer("c", Some("b"), |tree| {
        tree.remove("dir5")?;
        tree.write("dir1/new", "x")?;
        tree.write("dir2/new", "x")?;
        tree.write("dir3/new", "x")?;
        tree.write("dir4/new", "x")
    })?;
    let tree = lab.view("c")?;
    for (path, id) in [("dir1", 1), ("dir2", 2), ("dir3", 3), ("dir4", 0)] {
        has_owner(&tree, path, id, id)?;
    }
    let mode = tree.stat("dir4")?.mode() & 0o7777;
    ensure(mode == 0o2711, || format!("dir4 has mode {mode:o}"))?;
    ensure(!tree.exists("dir5") && !tree.exists("dir3/file"), || {
        "what was removed is back".into()
    })
}

fn deleted(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| tree.write("foo", "foo"))?;
    lab.layer("b", Some("a"), |tree| tree.remove("foo"))?;
    lab.layer("c", Some("b"), |_| Ok(()))?;
    lab.layer("d", Some("c"), |tree| tree.write("bar", "bar"))?;
    for name in ["b", "c", "d"] {
        ensure(!lab.view(name)?.exists("foo"), || {
            format!("foo is in {name}")
        })?;
    }
    lab.layer("e", Some("d"), |tree| tree.write("foo", "again"))?;
    ensure(lab.view("e")?.read("foo")? == "again", || "e".into())
}

fn moved(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("dir1")?;
        tree.mkdir("dir2")?;
        tree.write("dir1/f1", "one")?;
        tree.write("dir2/f2", "two")
    })?;
    lab.layer("b", Some("a"), |tree| {
        fs::hard_link(tree.at("dir1/f1"), tree.at("dir2/f1")).io_context(|| "link f1")?;
        tree.remove("dir1/f1")?;
        fs::rename(tree.at("dir2/f2"), tree.at("dir1/f2")).io_context(|| "rename f2")
    })?;
    let tree = lab.view("b")?;
    let good = tree.read("dir2/f1")? == "one"
        && tree.read("dir1/f2")? == "two"
        && !tree.exists("dir1/f1")
        && !tree.exists("dir2/f2");
    ensure(good, || format!("{:?}", tree.fingerprint()))
}

fn renamed(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let rename = |tree: &Tree, from: &str, to: &str| {
        fs::rename(tree.at(from), tree.at(to)).io_context(|| format!("rename {from} to {to}"))
    };
    lab.layer("a", None, |tree| {
        tree.mkdir("dir")?;
        tree.write("dir/f", "1")?;
        tree.write("over", "old")?;
        tree.mkdir("fresh/inner")?;
        tree.write("fresh/inner/g", "2")?;
        rename(tree, "fresh", "renamed")
    })?;
    lab.layer("b", Some("a"), |tree| {
        rename(tree, "dir/f", "over")?;
        tree.mkdir("new")?;
        tree.write("new/h", "3")?;
        rename(tree, "new", "dir/new")
    })?;
    let tree = lab.view("b")?;
    let good = tree.read("over")? == "1"
        && tree.read("renamed/inner/g")? == "2"
        && tree.read("dir/new/h")? == "3"
        && !tree.exists("dir/f")
        && !tree.exists("fresh")
        && !tree.exists("new");
    ensure(good, || format!("{:?}", tree.fingerprint()))
}

fn modes(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let set = |tree: &Tree, path: &str, mode: u32| {
        fs::set_permissions(tree.at(path), fs::Permissions::from_mode(mode))
            .io_context(|| format!("chmod {path}"))
    };
    let has = |tree: &Tree, path: &str, want: u32| {
        let mode = tree.stat(path)?.mode() & 0o7777;
        ensure(mode == want, || {
            format!("{path}: want {want:o}, found {mode:o}")
        })
    };
    lab.layer("a", None, |tree| {
        tree.write("su", "x")?;
        set(tree, "su", 0o4755)?;
        tree.write("plain", "x")?;
        set(tree, "plain", 0o640)?;
        tree.mkdir("tmp")?;
        set(tree, "tmp", 0o1777)
    })?;
    lab.layer("b", Some("a"), |tree| {
        has(tree, "su", 0o4755)?;
        set(tree, "plain", 0o6711)?;
        tree.write("tmp/f", "x")
    })?;
    let tree = lab.view("b")?;
    has(&tree, "su", 0o4755)?;
    has(&tree, "plain", 0o6711)?;
    has(&tree, "tmp", 0o1777)
}

fn hard_links(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.write("one", "x")?;
        fs::hard_link(tree.at("one"), tree.at("two")).io_context(|| "link")
    })?;
    lab.layer("b", Some("a"), |tree| {
        let (one, two) = (tree.stat("one")?, tree.stat("two")?);
        let linked = one.ino() == two.ino() && one.nlink() == 2;
        ensure(linked, || "two names became two files".into())
    })?;
    let tree = lab.view("b")?;
    ensure(tree.stat("one")?.nlink() == 2, || {
        "the view has two files".into()
    })
}

fn special(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        symlink("../up and out", tree.at("link")).io_context(|| "symlink")?;
        symlink("missing", tree.at("dangling")).io_context(|| "symlink")?;
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("block", FileType::BlockDevice, rustix::fs::makedev(7, 200)),
            ("fifo", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
        ] {
            let mode = Mode::from_raw_mode(0o640);
            rustix::fs::mknodat(CWD, tree.at(name), kind, mode, device)
                .io_context(|| format!("mknod {name}"))?;
        }
        Ok(())
    })?;
    let want = lab.view("a")?.fingerprint()?;
    ensure(want.len() == 7, || format!("{want:?}"))?;
    lab.layer("b", Some("a"), |tree| {
        for name in ["null", "link"] {
            rustix::fs::chownat(
                CWD,
                tree.at(name),
                Some(rustix::fs::Uid::from_raw(5)),
                None,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .io_context(|| format!("chown {name}"))?;
        }
        Ok(())
    })?;
    let tree = lab.view("b")?;
    has_owner(&tree, "null", 5, 0)?;
    has_owner(&tree, "link", 5, 0)?;
    for (path, line) in &want {
        let name = path.to_string_lossy();
        if name != "null" && name != "link" {
            let found = tree.fingerprint()?.get(path).cloned();
            ensure(found.as_ref() == Some(line), || {
                format!("{name}: want {line}, found {found:?}")
            })?;
        }
    }
    let target = fs::read_link(tree.at("link")).io_context(|| "readlink")?;
    ensure(target.as_os_str() == "../up and out", || {
        format!("{target:?}")
    })
}

fn attributes(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    // Capabilities of a file, version 2: what images carry most.
    let mut capability = [0u8; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    let values: [(&str, &[u8]); 3] = [
        ("security.capability", &capability),
        ("user.note", b"a\0b"),
        ("trusted.note", b"t"),
    ];
    lab.layer("a", None, |tree| {
        tree.write("f", "x")?;
        for (name, value) in values {
            rustix::fs::setxattr(tree.at("f"), name, value, XattrFlags::empty())
                .io_context(|| format!("set {name}"))?;
        }
        Ok(())
    })?;
    lab.layer("b", Some("a"), |tree| {
        // Copied up where layers are.
        fs::set_permissions(tree.at("f"), fs::Permissions::from_mode(0o700)).io_context(|| "chmod")
    })?;
    let tree = lab.view("b")?;
    for (name, value) in values {
        let mut found = [0u8; 64];
        let length = rustix::fs::getxattr(tree.at("f"), name, &mut found[..])
            .io_context(|| format!("get {name}"))?;
        ensure(found[..length] == *value, || {
            format!("{name}: {:?}", &found[..length])
        })?;
    }
    Ok(())
}

fn fresh_root(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let mounts = lab.prepare("a", None)?;
    let tree = Tree::mount(&mounts)?;
    let stat = tree.stat(".")?;
    let found = (stat.mode() & 0o7777, stat.uid(), stat.gid());
    ensure(found == (0o755, 0, 0), || {
        format!("mode {:o}, owner {}:{}", found.0, found.1, found.2)
    })?;
    let empty = tree.fingerprint()?.len() == 1;
    ensure(empty, || format!("not empty: {:?}", tree.fingerprint()))
}

fn kept_root(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        set_owner(tree, ".", 7, 8)?;
        fs::set_permissions(tree.at("."), fs::Permissions::from_mode(0o1750))
            .io_context(|| "chmod the root")
    })?;
    let check = |tree: &Tree| {
        has_owner(tree, ".", 7, 8)?;
        let mode = tree.stat(".")?.mode() & 0o7777;
        ensure(mode == 0o1750, || format!("mode {mode:o}"))
    };
    check(&lab.view("a")?)?;
    lab.layer("b", Some("a"), check)?;
    check(&lab.view("b")?)
}

fn siblings(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("base", None, |tree| tree.write("f", "base"))?;
    let one = Tree::mount(&lab.prepare("one", Some("base"))?)?;
    let two = Tree::mount(&lab.prepare("two", Some("base"))?)?;
    one.write("f", "one")?;
    one.write("only", "one")?;
    ensure(two.read("f")? == "base" && !two.exists("only"), || {
        "one's writes are in two".into()
    })?;
    two.remove("f")?;
    ensure(one.read("f")? == "one", || "two's removal is in one".into())?;
    ensure(lab.view("base")?.read("f")? == "base", || {
        "the parent changed".into()
    })
}

fn view_read_only(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("dir")?;
        tree.write("dir/f", "1")
    })?;
    lab.layer("b", Some("a"), |tree| tree.write("g", "2"))?;
    for name in ["a", "b"] {
        let tree = lab.view(name)?;
        let tries = [
            ("write", fs::write(tree.at("dir/f"), "2").is_ok()),
            ("create", fs::write(tree.at("new"), "2").is_ok()),
            ("remove", fs::remove_file(tree.at("dir/f")).is_ok()),
            ("mkdir", fs::create_dir(tree.at("newdir")).is_ok()),
            ("chown", chown(tree.at("dir"), Some(1), None).is_ok()),
        ];
        for (what, worked) in tries {
            ensure(!worked, || format!("{what} worked in a view of {name}"))?;
        }
        ensure(tree.read("dir/f")? == "1", || "content".into())?;
    }
    Ok(())
}

fn empty_view(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let mounts = lab.driver()?.view(&key("v"), None, &Labels::new())?;
    let tree = Tree::mount(&mounts)?;
    let all = tree.fingerprint()?;
    ensure(all.len() == 1, || format!("not empty: {all:?}"))?;
    ensure(fs::write(tree.at("f"), "x").is_err(), || "written".into())?;
    drop(tree);
    let error = expect_kind(
        lab.driver()?
            .commit(&key("c"), &key("v"), &Default::default()),
        ErrorKind::FailedPrecondition,
        "commit of a view",
    );
    error.and_then(|()| lab.driver()?.remove(&key("v")))
}

fn names_and_times(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let odd = ["with space", "new\nline", "ünï", "a:b,c\\d", "-rf", "\u{1}"];
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    lab.layer("a", None, |tree| {
        for name in odd {
            tree.write(name, name)?;
            fs::File::options()
                .write(true)
                .open(tree.at(name))
                .and_then(|file| file.set_modified(time))
                .io_context(|| format!("set the time of {name:?}"))?;
        }
        Ok(())
    })?;
    lab.layer("b", Some("a"), |_| Ok(()))?;
    let tree = lab.view("b")?;
    for name in odd {
        ensure(tree.read(name)? == name, || format!("{name:?}"))?;
        let found = tree.stat(name)?.modified().io_context(|| "time")?;
        ensure(found == time, || format!("{name:?}: {found:?}"))?;
    }
    Ok(())
}

fn many_layers(factory: &Factory) -> Result<()> {
    const LAYERS: usize = 128;
    let lab = Lab::new(factory)?;
    let flat = lab.dir.join("flat");
    fs::create_dir(&flat).io_context(|| "make the reference")?;
    fs::set_permissions(&flat, fs::Permissions::from_mode(0o755)).io_context(|| "chmod")?;
    // The same changes to a layer and to the reference.
    let change = |root: &std::path::Path, n: usize| -> Result<()> {
        let write = |name: String, text: String| {
            fs::write(root.join(&name), text).io_context(|| format!("write {name}"))
        };
        write("shared".into(), n.to_string())?;
        write(format!("file-{n}"), n.to_string())?;
        if n % 4 == 3 {
            fs::remove_file(root.join(format!("file-{}", n - 2))).io_context(|| "remove")?;
        }
        if n.is_multiple_of(8) {
            fs::create_dir_all(root.join(format!("dir-{n}/in"))).io_context(|| "mkdir")?;
            write(format!("dir-{n}/in/f"), n.to_string())?;
        }
        if n % 16 == 15 {
            fs::remove_dir_all(root.join(format!("dir-{}", n - 7))).io_context(|| "rmdir")?;
        }
        Ok(())
    };
    let mut below: Option<String> = None;
    for n in 0..LAYERS {
        let name = format!("layer-{n}");
        lab.layer(&name, below.as_deref(), |tree| {
            // Whole trees now and then, for time's sake.
            let check = |when: &str| match n % 8 {
                0 | 7 => compare(
                    &fingerprint(&flat)?,
                    &tree.fingerprint()?,
                    &format!("layer {n}, {when}"),
                ),
                _ => Ok(()),
            };
            check("before")?;
            change(&tree.at("."), n)?;
            change(&flat, n)?;
            check("after")
        })?;
        below = Some(name);
    }
    let top = lab.view(&format!("layer-{}", LAYERS - 1))?;
    compare(&fingerprint(&flat)?, &top.fingerprint()?, "the view")
}
