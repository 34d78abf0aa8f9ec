//! Commit, removal, mounts, and many at a time.

use std::fs;

use containerkit::fs::unique_name;
use containerkit::mounter::{hold, mount_all, unmount};
use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotKind};
use containerkit::{Error, ErrorKind, IoContext, Labels, Page, Result};

use super::lab::{Lab, Tree, key};
use super::{Factory, Row};
use crate::{ensure, equal, expect_kind};

pub(super) const CASES: [Row; 16] = [
    (
        "DRV-S-40",
        "mounts are told again as prepare told them",
        mounts_again,
    ),
    ("DRV-S-41", "a committed snapshot has no mounts", no_mounts),
    (
        "DRV-S-42",
        "only an active snapshot is committed, once",
        commit_once,
    ),
    (
        "DRV-S-43",
        "a failed commit leaves the active one",
        failed_commit,
    ),
    (
        "DRV-S-44",
        "a parent with children is not removed",
        parents_stay,
    ),
    (
        "DRV-S-45",
        "the middle of a chain is not removed",
        intermediate,
    ),
    (
        "DRV-S-46",
        "what is held is neither committed nor removed",
        held,
    ),
    (
        "DRV-S-47",
        "what is mounted is neither committed nor removed",
        mounted,
    ),
    ("DRV-S-48", "what was mounted can be removed", unmounted),
    ("DRV-S-49", "usage counts the snapshot's own files", usage),
    ("DRV-S-50", "cleanup touches nothing that is there", cleanup),
    ("DRV-S-51", "one of many that want a key gets it", contended),
    ("DRV-S-52", "many work side by side", side_by_side),
    (
        "DRV-S-58",
        "a removed layer's files are gone after cleanup",
        space,
    ),
    (
        "DRV-S-61",
        "what was committed a moment ago can be removed",
        remove_after_commit,
    ),
    (
        "DRV-S-65",
        "lives leave folder, umask, signals and descriptors as they were",
        guest,
    ),
];

fn mounts_again(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("base", None, |_| Ok(()))?;
    let driver = lab.driver()?;
    for parent in [None, Some(key("base"))] {
        for kind in [SnapshotKind::Active, SnapshotKind::View] {
            let name = key(&unique_name("k"));
            let none = Labels::new();
            let first = match kind {
                SnapshotKind::View => driver.view(&name, parent.as_ref(), &none)?,
                _ => driver.prepare(&name, parent.as_ref(), &none)?,
            };
            let again = driver.mounts(&name)?;
            ensure(first == again, || format!("{first:?} became {again:?}"))?;
            Tree::mount(&again)?;
        }
    }
    Ok(())
}

fn no_mounts(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |_| Ok(()))?;
    let mounts = lab.driver()?.mounts(&key("a"));
    expect_kind(mounts, ErrorKind::FailedPrecondition, "mounts")
}

fn commit_once(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let none = CommitOptions::default();
    lab.layer("a", None, |_| Ok(()))?;
    driver.view(&key("v"), Some(&key("a")), &Labels::new())?;
    for name in ["a", "v"] {
        let commit = driver.commit(&key("x"), &key(name), &none);
        expect_kind(commit, ErrorKind::FailedPrecondition, name)?;
    }
    let again = driver.commit(&key("x"), &key("a-active"), &none);
    expect_kind(again, ErrorKind::NotFound, "the committed active key")?;
    // The active key is free at once.
    lab.prepare("a-active", Some("a"))?;
    expect_kind(driver.stat(&key("x")), ErrorKind::NotFound, "the new name")
}

fn failed_commit(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("taken", None, |_| Ok(()))?;
    let tree = Tree::mount(&lab.prepare("a", Some("taken"))?)?;
    tree.write("f", "1")?;
    drop(tree);
    let commit = driver.commit(&key("taken"), &key("a"), &CommitOptions::default());
    expect_kind(commit, ErrorKind::AlreadyExists, "commit")?;
    let tree = Tree::mount(&driver.mounts(&key("a"))?)?;
    tree.write("g", "2")?;
    drop(tree);
    driver.commit(&key("b"), &key("a"), &CommitOptions::default())?;
    let tree = lab.view("b")?;
    ensure(tree.read("f")? == "1" && tree.read("g")? == "2", || {
        "content".into()
    })
}

fn parents_stay(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("a", None, |tree| tree.write("f", "1"))?;
    for (name, view) in [("child", false), ("view", true)] {
        if view {
            driver.view(&key(name), Some(&key("a")), &Labels::new())?;
        } else {
            lab.prepare(name, Some("a"))?;
        }
        let removed = driver.remove(&key("a"));
        let text = match &removed {
            Err(error) => error.to_string(),
            Ok(()) => String::new(),
        };
        expect_kind(removed, ErrorKind::FailedPrecondition, name)?;
        ensure(text.contains("remove") && text.contains(name), || {
            format!("{text:?} says neither remove nor {name}")
        })?;
        driver.remove(&key(name))?;
    }
    driver.remove(&key("a"))?;
    expect_kind(driver.stat(&key("a")), ErrorKind::NotFound, "a")
}

fn intermediate(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("a", None, |tree| tree.write("a", "1"))?;
    lab.layer("b", Some("a"), |tree| tree.write("b", "1"))?;
    lab.layer("c", Some("b"), |tree| tree.write("c", "1"))?;
    for name in ["a", "b"] {
        let removed = driver.remove(&key(name));
        expect_kind(removed, ErrorKind::FailedPrecondition, name)?;
    }
    let tree = lab.view("c")?;
    ensure(["a", "b", "c"].iter().all(|name| tree.exists(name)), || {
        format!("{:?}", tree.fingerprint())
    })?;
    drop(tree);
    let views = SnapshotFilter {
        kind: Some(SnapshotKind::View),
        ..SnapshotFilter::default()
    };
    for view in driver.walk(&views, &Page::default())? {
        driver.remove(&view.key)?;
    }
    for name in ["c", "b", "a"] {
        driver.remove(&key(name))?;
    }
    Ok(())
}

fn held(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |_| Ok(()))?;
    for (name, parent) in [("a", None), ("b", Some("base"))] {
        let mounts = lab.prepare(name, parent)?;
        let lock = hold(&mounts)?;
        let tree = Tree::mount(&mounts)?;
        tree.write("f", "1")?;
        let commit = driver.commit(&key("x"), &key(name), &CommitOptions::default());
        expect_kind(commit, ErrorKind::FailedPrecondition, "commit")?;
        expect_kind(
            driver.remove(&key(name)),
            ErrorKind::FailedPrecondition,
            "remove",
        )?;
        drop((tree, lock));
        let tree = Tree::mount(&driver.mounts(&key(name))?)?;
        ensure(tree.read("f")? == "1", || "content".into())?;
        drop(tree);
        driver.remove(&key(name))?;
    }
    Ok(())
}

fn mounted(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |_| Ok(()))?;
    let target = lab.dir.join("target");
    fs::create_dir(&target).io_context(|| "make a mount point")?;
    for (name, parent) in [("a", None), ("b", Some("base"))] {
        mount_all(&lab.prepare(name, parent)?, &target)?;
        let commit = driver.commit(&key("x"), &key(name), &CommitOptions::default());
        expect_kind(commit, ErrorKind::FailedPrecondition, "commit")?;
        expect_kind(
            driver.remove(&key(name)),
            ErrorKind::FailedPrecondition,
            "remove",
        )?;
        unmount(&target)?;
        let committed = key(&format!("{name}-committed"));
        driver.commit(&committed, &key(name), &CommitOptions::default())?;
        driver.remove(&committed)?;
    }
    Ok(())
}

fn unmounted(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |tree| tree.mkdir("dir"))?;
    for view in [false, true] {
        let mounts = if view {
            driver.view(&key("k"), Some(&key("base")), &Labels::new())?
        } else {
            lab.prepare("k", Some("base"))?
        };
        for _ in 0..2 {
            let lock = hold(&mounts)?;
            let tree = Tree::mount(&mounts)?;
            if !view {
                tree.write("dir/f", "1")?;
            }
            drop((tree, lock));
        }
        driver.remove(&key("k"))?;
    }
    Ok(())
}

fn usage(factory: &Factory) -> Result<()> {
    const BIG: u64 = 1 << 20;
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let fill = |tree: &Tree| {
        let data: Vec<u8> = (0..BIG).map(|n| (n * 31 % 251) as u8).collect();
        fs::write(tree.at("big"), data).io_context(|| "write")
    };
    lab.layer("a", None, fill)?;
    let committed = driver.usage(&key("a"))?;
    ensure(
        committed.size >= BIG && committed.size < 2 * BIG && committed.inodes >= 2,
        || format!("committed: {committed:?}"),
    )?;
    ensure(driver.usage(&key("a"))? == committed, || {
        "it changed".into()
    })?;
    let tree = Tree::mount(&lab.prepare("b", None)?)?;
    let before = driver.usage(&key("b"))?;
    fill(&tree)?;
    fs::File::open(tree.at("big"))
        .and_then(|file| file.sync_all())
        .io_context(|| "fsync")?;
    fs::hard_link(tree.at("big"), tree.at("again")).io_context(|| "link")?;
    let after = driver.usage(&key("b"))?;
    let grown = after.size.saturating_sub(before.size);
    ensure(
        (BIG..2 * BIG).contains(&grown) && after.inodes == before.inodes + 1,
        || format!("active: {before:?} became {after:?}"),
    )
}

fn cleanup(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("a", None, |tree| tree.write("f", "1"))?;
    let tree = Tree::mount(&lab.prepare("b", Some("a"))?)?;
    tree.write("g", "2")?;
    driver.view(&key("v"), Some(&key("a")), &Labels::new())?;
    lab.prepare("gone", Some("a"))?;
    driver.remove(&key("gone"))?;
    driver.cleanup()?;
    let second = driver.cleanup()?;
    ensure(second.inodes == 0, || {
        format!("the second deleted {second:?}")
    })?;
    tree.write("h", "3")?;
    drop(tree);
    let tree = Tree::mount(&driver.mounts(&key("b"))?)?;
    let good = tree.read("f")? == "1" && tree.read("g")? == "2" && tree.read("h")? == "3";
    ensure(good, || format!("{:?}", tree.fingerprint()))?;
    let all = driver.walk(&SnapshotFilter::default(), &Page::default())?;
    ensure(all.len() == 3, || format!("{all:?}"))
}

fn contended(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |_| Ok(()))?;
    for round in 0..4 {
        let name = key(&format!("k{round}"));
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        driver
                            .prepare(&name, Some(&key("base")), &Labels::new())
                            .map(drop)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(Error::internal("panicked")))
                })
                .collect()
        });
        let mut won = 0;
        for result in results {
            match result {
                Ok(()) => won += 1,
                lost => expect_kind(lost, ErrorKind::AlreadyExists, "a loser")?,
            }
        }
        ensure(won == 1, || format!("{won} got the key"))?;
        Tree::mount(&driver.mounts(&name)?)?;
    }
    Ok(())
}

fn side_by_side(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |tree| tree.write("base", "1"))?;
    let work = |thread: usize| {
        for round in 0..5 {
            let name = format!("t{thread}-{round}");
            lab_layer(driver, &name)?;
            driver.stat(&key(&name))?;
            if round % 2 == 0 {
                driver.remove(&key(&name))?;
            }
            driver.cleanup()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("panicked")))
        })
    })?;
    let all = driver.walk(&SnapshotFilter::default(), &Page::default())?;
    ensure(all.len() == 1 + 4 * 2, || format!("{} are left", all.len()))
}

fn lab_layer(driver: &dyn containerkit::Snapshotter, name: &str) -> Result<()> {
    let active = key(&format!("{name}-active"));
    let mounts = driver.prepare(&active, Some(&key("base")), &Labels::new())?;
    let tree = Tree::mount(&mounts)?;
    tree.write(name, "1")?;
    drop(tree);
    driver
        .commit(&key(name), &active, &CommitOptions::default())
        .map(drop)
}

fn space(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let size = || containerkit::fs::disk_usage(&lab.dir.join("root")).map(|usage| usage.inodes);
    lab.layer("base", None, |_| Ok(()))?;
    driver.cleanup()?;
    let before = size()?;
    lab.layer("a", Some("base"), |tree| {
        for n in 0..50 {
            tree.write(&format!("f{n}"), "x")?;
        }
        Ok(())
    })?;
    let filled = size()?;
    ensure(filled >= before + 50, || format!("{before}, then {filled}"))?;
    driver.remove(&key("a"))?;
    driver.cleanup()?;
    let after = size()?;
    ensure(after <= before + 5, || {
        format!("{before} inodes before, {after} after")
    })
}

fn remove_after_commit(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("base", None, |tree| tree.write("f", "1"))?;
    let before = driver.walk(&SnapshotFilter::default(), &Page::default())?;
    for _ in 0..3 {
        let tree = Tree::mount(&lab.prepare("a", Some("base"))?)?;
        tree.write("f", "2")?;
        tree.write("g", "2")?;
        drop(tree);
        driver.commit(&key("b"), &key("a"), &CommitOptions::default())?;
        // The active key is free at once, also for a child of what came of it.
        lab.prepare("a", Some("b"))?;
        driver.remove(&key("a"))?;
        driver.remove(&key("b"))?;
    }
    let after = driver.walk(&SnapshotFilter::default(), &Page::default())?;
    equal(after, before, "the snapshots afterwards")
}

fn guest(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    crate::guest::behaves(|_| {
        lab.layer("a", None, |tree| tree.write("f", "1"))?;
        drop(lab.view("a")?);
        let views = SnapshotFilter {
            kind: Some(SnapshotKind::View),
            ..SnapshotFilter::default()
        };
        for view in driver.walk(&views, &Page::default())? {
            driver.mounts(&view.key)?;
            driver.remove(&view.key)?;
        }
        driver.usage(&key("a"))?;
        driver.remove(&key("a"))?;
        driver.cleanup().map(drop)
    })
}
