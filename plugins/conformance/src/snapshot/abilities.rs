//! What a snapshotter can do by capability.

use std::fs;
use std::os::unix::fs::MetadataExt;

use containerkit::idmap::{IdMap, IdMapping};
use containerkit::snapshot::{CommitOptions, QUOTA_LABEL};
use containerkit::{Context, ErrorKind, IoContext, Labels, Result};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::lab::{Lab, Tree, key, labels};
use super::{Factory, Row};
use crate::{agree, ensure, equal, expect_kind};

pub(super) const CASES: [Row; 8] = [
    ("DRV-S-17", "capabilities and methods agree", capabilities),
    (
        "DRV-S-53",
        "REBASE: layers are committed on a later parent",
        rebase,
    ),
    (
        "DRV-S-54",
        "REBASE: not what was prepared on another parent",
        bad_rebase,
    ),
    (
        "DRV-S-55",
        "DIRECT_UPPER: a layer is written without a mount",
        direct,
    ),
    (
        "DRV-S-56",
        "DIRECT_UPPER: whiteouts and opaque folders count",
        whiteouts,
    ),
    (
        "DRV-S-57",
        "DIRECT_UPPER: only active snapshots",
        direct_active,
    ),
    ("DRV-S-59", "IDMAP: mounts can be id-mapped", id_mapped),
    ("DRV-S-60", "QUOTA: the label limits what is written", quota),
];

fn capabilities(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let can = driver.capabilities();
    lab.layer("base", None, |_| Ok(()))?;
    lab.prepare("a", None)?;
    agree("upper", can.direct_upper, driver.upper(&key("a")))?;
    let rebased = driver.commit(&key("b"), &key("a"), &on("base"));
    agree("commit on another parent", can.rebase, rebased)?;
    equal(driver.capabilities(), can, "capabilities, which are fixed")
}

fn on(parent: &str) -> CommitOptions {
    CommitOptions {
        parent: Some(key(parent)),
        ..CommitOptions::default()
    }
}

fn rebase(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    for (name, file) in [("x1", "one"), ("x2", "two"), ("x3", "three")] {
        let tree = Tree::mount(&lab.prepare(name, None)?)?;
        tree.mkdir("etc")?;
        tree.write(&format!("etc/{file}"), name)?;
        tree.write("last", name)?;
    }
    driver.commit(&key("l1"), &key("x1"), &CommitOptions::default())?;
    let second = driver.commit(&key("l2"), &key("x2"), &on("l1"));
    if !driver.capabilities().rebase {
        expect_kind(second, ErrorKind::Unimplemented, "rebase without REBASE")?;
        return Err(crate::lacking("rebase"));
    }
    let second = second?;
    ensure(second.parent == Some(key("l1")), || format!("{second:?}"))?;
    driver.commit(&key("l3"), &key("x3"), &on("l2"))?;
    let tree = lab.view("l3")?;
    for (file, text) in [("etc/one", "x1"), ("etc/two", "x2"), ("last", "x3")] {
        ensure(tree.read(file)? == text, || {
            format!("{file}: {:?}", tree.read(file))
        })?;
    }
    let removed = driver.remove(&key("l1"));
    expect_kind(removed, ErrorKind::FailedPrecondition, "its parent")
}

fn bad_rebase(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    if !driver.capabilities().rebase {
        return Err(crate::lacking("rebase"));
    }
    lab.layer("a", None, |_| Ok(()))?;
    lab.layer("b", None, |_| Ok(()))?;
    lab.prepare("x", Some("a"))?;
    lab.prepare("y", None)?;
    let commit = |active: &str, parent: &str| driver.commit(&key("c"), &key(active), &on(parent));
    expect_kind(
        commit("x", "b"),
        ErrorKind::FailedPrecondition,
        "another parent",
    )?;
    expect_kind(commit("y", "no"), ErrorKind::NotFound, "a missing parent")?;
    expect_kind(
        commit("y", "x"),
        ErrorKind::FailedPrecondition,
        "an active parent",
    )?;
    expect_kind(commit("y", "y"), ErrorKind::FailedPrecondition, "itself")?;
    let same = commit("x", "a")?;
    ensure(same.parent == Some(key("a")), || format!("{same:?}"))
}

fn direct(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("a", None, |tree| tree.write("below", "1"))?;
    lab.prepare("x", Some("a"))?;
    let upper = driver.upper(&key("x"));
    if !driver.capabilities().direct_upper {
        expect_kind(
            upper,
            ErrorKind::Unimplemented,
            "upper without DIRECT_UPPER",
        )?;
        return Err(crate::lacking("upper"));
    }
    let upper = upper?;
    ensure(upper.is_absolute() && upper.is_dir(), || {
        format!("{upper:?}")
    })?;
    fs::write(upper.join("f"), "2").io_context(|| "write")?;
    driver.commit(&key("b"), &key("x"), &CommitOptions::default())?;
    let tree = lab.view("b")?;
    ensure(tree.read("f")? == "2" && tree.read("below")? == "1", || {
        format!("{:?}", tree.fingerprint())
    })
}

fn whiteouts(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    if !driver.capabilities().direct_upper {
        return Err(crate::lacking("upper"));
    }
    lab.layer("a", None, |tree| {
        tree.write("gone", "1")?;
        tree.mkdir("opaque")?;
        tree.write("opaque/hidden", "1")
    })?;
    lab.prepare("x", Some("a"))?;
    let upper = driver.upper(&key("x"))?;
    rustix::fs::mknodat(
        CWD,
        upper.join("gone"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .io_context(|| "make a whiteout")?;
    fs::create_dir(upper.join("opaque")).io_context(|| "mkdir")?;
    rustix::fs::setxattr(
        upper.join("opaque"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .io_context(|| "make opaque")?;
    driver.commit(&key("b"), &key("x"), &CommitOptions::default())?;
    let tree = lab.view("b")?;
    let good = !tree.exists("gone") && tree.exists("opaque") && !tree.exists("opaque/hidden");
    ensure(good, || format!("{:?}", tree.fingerprint()))
}

fn direct_active(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    if !driver.capabilities().direct_upper {
        return Err(crate::lacking("upper"));
    }
    lab.layer("a", None, |_| Ok(()))?;
    driver.view(&key("v"), Some(&key("a")), &Labels::new())?;
    for name in ["a", "v"] {
        let upper = driver.upper(&key(name));
        expect_kind(upper, ErrorKind::FailedPrecondition, name)?;
    }
    Ok(())
}

fn id_mapped(factory: &Factory) -> Result<()> {
    const OUTSIDE: u32 = 100_000;
    let lab = Lab::new(factory)?;
    if !lab.driver()?.capabilities().idmap {
        return Err(crate::lacking("idmap"));
    }
    lab.layer("a", None, |tree| tree.write("f", "1"))?;
    let ids = vec![IdMap {
        container: 0,
        host: OUTSIDE,
        count: 1000,
    }];
    let mapping = IdMapping::new(ids.clone(), ids)?;
    for view in [false, true] {
        let name = key(if view { "v" } else { "b" });
        let parent = Some(key("a"));
        let mounts = match view {
            true => lab.driver()?.view(&name, parent.as_ref(), &Labels::new())?,
            false => lab
                .driver()?
                .prepare(&name, parent.as_ref(), &Labels::new())?,
        };
        let tree = mapping
            .mounts(mounts)
            .and_then(|mounts| Tree::mount(&mounts))
            .context(|| format!("IDMAP is claimed, and the mount of {name} cannot be mapped"))?;
        let stat = tree.stat("f")?;
        equal(
            (stat.uid(), stat.gid()),
            (OUTSIDE, OUTSIDE),
            "the mapped owner",
        )?;
    }
    Ok(())
}

fn quota(factory: &Factory) -> Result<()> {
    const LIMIT: usize = 4 << 20;
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    if !driver.capabilities().quota {
        return Err(crate::lacking("quota"));
    }
    let limit = LIMIT.to_string();
    let mounts = driver.prepare(&key("a"), None, &labels(&[(QUOTA_LABEL, &limit)]))?;
    let tree = Tree::mount(&mounts)?;
    let write = |tree: &Tree, name: &str, size: usize| {
        let file = fs::File::create(tree.at(name))?;
        std::io::Write::write_all(&mut &file, &vec![1; size])?;
        file.sync_all()
    };
    write(&tree, "small", LIMIT / 4).io_context(|| "write less than the limit")?;
    ensure(write(&tree, "big", LIMIT * 2).is_err(), || {
        format!("{} bytes were written, the limit is {LIMIT}", LIMIT * 2)
    })?;
    drop(tree);
    let tree = Tree::mount(&lab.prepare("b", None)?)?;
    write(&tree, "big", LIMIT * 2).io_context(|| "write where no limit is")
}
