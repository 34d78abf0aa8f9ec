//! Keys, kinds, labels, times and listings.

use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotKind};
use containerkit::value::all_pages;
use containerkit::{ErrorKind, LabelChanges, Labels, Page, Result, Snapshotter, Timestamp};

use super::lab::{Lab, Tree, key, labels};
use super::{Factory, Row};
use crate::{ensure, equal, expect_kind};

pub(super) const CASES: [Row; 18] = [
    ("DRV-S-01", "a fresh root has no snapshots", fresh),
    ("DRV-S-02", "stat of an active snapshot", stat_active),
    ("DRV-S-03", "stat of a committed snapshot", stat_committed),
    ("DRV-S-04", "parents are told along a chain", transitivity),
    ("DRV-S-05", "a taken key is refused", duplicates),
    ("DRV-S-06", "times begin equal and move with updates", times),
    ("DRV-S-07", "labels are set, removed and replaced", update),
    ("DRV-S-08", "labels out of bounds are refused", bad_labels),
    (
        "DRV-S-09",
        "commit's labels replace the active's",
        commit_labels,
    ),
    ("DRV-S-10", "a removed key can be used again", reuse),
    (
        "DRV-S-11",
        "walk filters by kind, parent and labels",
        walk_filters,
    ),
    ("DRV-S-12", "walk pages in key order", walk_pages),
    (
        "DRV-S-13",
        "stat and remove work between pages",
        walk_and_change,
    ),
    ("DRV-S-14", "a missing key is not found", missing),
    (
        "DRV-S-15",
        "a parent must be there and committed",
        bad_parents,
    ),
    ("DRV-S-16", "another instance sees the same", reopened),
    ("DRV-S-18", "keys of every form stay apart", forms),
    (
        "DRV-S-19",
        "a walk begins after any name, in pages of any size",
        walk_anywhere,
    ),
];

fn info(lab: &Lab<'_>, name: &str) -> Result<SnapshotInfo> {
    lab.driver()?.stat(&key(name))
}

fn fresh(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let all = lab
        .driver()?
        .walk(&SnapshotFilter::default(), &Page::default())?;
    ensure(all.is_empty(), || format!("found {all:?}"))?;
    let usage = lab.driver()?.cleanup()?;
    ensure(usage.inodes == 0, || format!("cleanup deleted {usage:?}"))
}

fn stat_active(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let mounts = lab.prepare("a", None)?;
    ensure(!mounts.is_empty(), || "prepare gave no mounts".into())?;
    let info = info(&lab, "a")?;
    let good = info.key == key("a") && info.kind == SnapshotKind::Active && info.parent.is_none();
    ensure(good, || format!("{info:?}"))?;
    lab.driver()?.view(&key("v"), None, &Labels::new())?;
    let view = lab.driver()?.stat(&key("v"))?;
    ensure(view.kind == SnapshotKind::View, || format!("{view:?}"))
}

fn stat_committed(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let committed = lab.layer("a", None, |tree| tree.write("f", "1"))?;
    let found = info(&lab, "a")?;
    ensure(found == committed, || {
        format!("{found:?} is not {committed:?}")
    })?;
    let good =
        found.key == key("a") && found.kind == SnapshotKind::Committed && found.parent.is_none();
    ensure(good, || format!("{found:?}"))?;
    expect_kind(
        info(&lab, "a-active"),
        ErrorKind::NotFound,
        "the active key",
    )
}

fn transitivity(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |_| Ok(()))?;
    lab.layer("b", Some("a"), |_| Ok(()))?;
    lab.prepare("c", Some("b"))?;
    for (name, parent) in [("c", Some("b")), ("b", Some("a")), ("a", None)] {
        let found = info(&lab, name)?.parent;
        ensure(found == parent.map(key), || {
            format!("parent of {name}: {found:?}")
        })?;
    }
    Ok(())
}

fn duplicates(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let none = Labels::new();
    lab.layer("base", None, |_| Ok(()))?;
    lab.prepare("a", Some("base"))?;
    driver.view(&key("v"), Some(&key("base")), &none)?;
    for taken in ["base", "a", "v"] {
        expect_kind(lab.prepare(taken, None), ErrorKind::AlreadyExists, taken)?;
        let view = driver.view(&key(taken), Some(&key("base")), &none);
        expect_kind(view, ErrorKind::AlreadyExists, taken)?;
        let commit = driver.commit(&key(taken), &key("a"), &CommitOptions::default());
        expect_kind(commit, ErrorKind::AlreadyExists, taken)?;
    }
    let kept = info(&lab, "a")?;
    ensure(
        kept.kind == SnapshotKind::Active && kept.parent == Some(key("base")),
        || format!("after the failures: {kept:?}"),
    )
}

fn times(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let before = Timestamp::now();
    lab.prepare("a", None)?;
    let after = Timestamp::now();
    let active = info(&lab, "a")?;
    ensure(
        before <= active.created && active.created <= after && active.created == active.updated,
        || format!("{active:?}, prepared between {before} and {after}"),
    )?;
    let before = Timestamp::now();
    let committed = lab
        .driver()?
        .commit(&key("b"), &key("a"), &CommitOptions::default())?;
    ensure(
        before <= committed.created && committed.created == committed.updated,
        || format!("{committed:?}, committed after {before}"),
    )?;
    let changes = LabelChanges {
        set: [("l".to_string(), Some("1".to_string()))].into(),
        ..LabelChanges::default()
    };
    let updated = lab.driver()?.update(&key("b"), &changes)?;
    ensure(
        updated.created == committed.created && updated.updated > committed.updated,
        || format!("{updated:?} after {committed:?}"),
    )
}

fn update(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.driver()?
        .prepare(&key("a"), None, &labels(&[("l1", "1"), ("l2", "2")]))?;
    let before = info(&lab, "a")?;
    ensure(before.labels == labels(&[("l1", "1"), ("l2", "2")]), || {
        format!("{before:?}")
    })?;
    let set = |pairs: &[(&str, Option<&str>)], replace_all| LabelChanges {
        replace_all,
        set: pairs
            .iter()
            .map(|(name, value)| ((*name).into(), value.map(str::to_owned)))
            .collect(),
    };
    let odd = "ünï, 'quoted' \"twice\" = %_\\";
    for (changes, want) in [
        (
            set(&[("l2", Some("changed"))], false),
            labels(&[("l1", "1"), ("l2", "changed")]),
        ),
        (
            set(&[("l1", None), ("absent", None), ("l3", Some(odd))], false),
            labels(&[("l2", "changed"), ("l3", odd)]),
        ),
        (set(&[("l4", Some(""))], true), labels(&[("l4", "")])),
        (set(&[], true), Labels::new()),
    ] {
        let answer = lab.driver()?.update(&key("a"), &changes)?;
        ensure(answer.labels == want, || {
            format!("want {want:?}: {answer:?}")
        })?;
        let found = info(&lab, "a")?;
        ensure(found == answer, || format!("{found:?} is not {answer:?}"))?;
        ensure(
            found.key == before.key
                && found.kind == before.kind
                && found.parent == before.parent
                && found.created == before.created,
            || format!("{found:?} changed more than labels of {before:?}"),
        )?;
    }
    Ok(())
}

fn bad_labels(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.prepare("a", None)?;
    let long = "x".repeat(5000);
    for (name, value) in [("", "v"), ("n\n", "v"), ("n", "\u{1b}"), ("n", &long)] {
        let bad = labels(&[(name, value)]);
        let kind = ErrorKind::InvalidArgument;
        expect_kind(driver.prepare(&key("b"), None, &bad), kind, "prepare")?;
        expect_kind(driver.view(&key("b"), None, &bad), kind, "view")?;
        let changes = LabelChanges {
            set: [(name.to_string(), Some(value.to_string()))].into(),
            ..LabelChanges::default()
        };
        expect_kind(driver.update(&key("a"), &changes), kind, "update")?;
        let options = CommitOptions {
            labels: bad,
            ..CommitOptions::default()
        };
        expect_kind(
            driver.commit(&key("c"), &key("a"), &options),
            kind,
            "commit",
        )?;
    }
    let all = driver.walk(&SnapshotFilter::default(), &Page::default())?;
    ensure(
        all.len() == 1 && all[0].kind == SnapshotKind::Active && all[0].labels.is_empty(),
        || format!("left behind: {all:?}"),
    )
}

fn commit_labels(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.driver()?
        .prepare(&key("a"), None, &labels(&[("of", "active")]))?;
    let options = CommitOptions {
        labels: labels(&[("is", "committed")]),
        ..CommitOptions::default()
    };
    let info = lab.driver()?.commit(&key("b"), &key("a"), &options)?;
    ensure(info.labels == options.labels, || format!("{info:?}"))
}

fn reuse(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let none = Labels::new();
    lab.layer("base", None, |_| Ok(()))?;
    for _ in 0..2 {
        lab.prepare("k", Some("base"))?;
        driver.remove(&key("k"))?;
        driver.view(&key("k"), Some(&key("base")), &none)?;
        driver.remove(&key("k"))?;
        lab.layer("k", Some("base"), |tree| tree.write("f", "1"))?;
        driver.remove(&key("k"))?;
    }
    lab.layer("k", None, |_| Ok(()))?;
    let tree = lab.view("k")?;
    ensure(!tree.exists("f"), || {
        "files of the one before are back".into()
    })
}

fn names(driver: &dyn Snapshotter, filter: &SnapshotFilter) -> Result<Vec<String>> {
    let page = Page::default();
    let found = driver.walk(filter, &page)?;
    for info in &found {
        ensure(filter.matches(info), || format!("{filter:?} gave {info:?}"))?;
        let stat = driver.stat(&info.key)?;
        ensure(stat == *info, || {
            format!("walk says {info:?}, stat {stat:?}")
        })?;
    }
    Ok(found.into_iter().map(|info| info.key.to_string()).collect())
}

fn walk_filters(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    lab.layer("a", None, |_| Ok(()))?;
    lab.layer("a2", Some("a"), |_| Ok(()))?;
    driver.prepare(
        &key("b"),
        Some(&key("a")),
        &labels(&[("env", "x"), ("n", "1")]),
    )?;
    driver.prepare(&key("c"), None, &labels(&[("env", "y")]))?;
    driver.view(&key("v"), Some(&key("a2")), &labels(&[("env", "x")]))?;
    let none = SnapshotFilter::default();
    let kind = |kind| SnapshotFilter {
        kind: Some(kind),
        ..SnapshotFilter::default()
    };
    let parent = |parent: Option<&str>| SnapshotFilter {
        parent: Some(parent.map(key)),
        ..SnapshotFilter::default()
    };
    let label = |pairs: &[(&str, Option<&str>)]| SnapshotFilter {
        labels: pairs
            .iter()
            .map(|(name, value)| ((*name).into(), value.map(str::to_owned)))
            .collect(),
        ..SnapshotFilter::default()
    };
    let both = SnapshotFilter {
        kind: Some(SnapshotKind::Active),
        ..label(&[("env", Some("x"))])
    };
    let rows: [(SnapshotFilter, &[&str]); 13] = [
        (none, &["a", "a2", "b", "c", "v"]),
        (kind(SnapshotKind::Committed), &["a", "a2"]),
        (kind(SnapshotKind::Active), &["b", "c"]),
        (kind(SnapshotKind::View), &["v"]),
        (parent(None), &["a", "c"]),
        (parent(Some("a")), &["a2", "b"]),
        (parent(Some("v")), &[]),
        (parent(Some("nothing")), &[]),
        (label(&[("env", None)]), &["b", "c", "v"]),
        (label(&[("env", Some("x"))]), &["b", "v"]),
        (label(&[("env", Some("x")), ("n", None)]), &["b"]),
        (label(&[("env", Some("%"))]), &[]),
        (both, &["b"]),
    ];
    for (filter, want) in rows {
        let found = names(driver, &filter)?;
        ensure(found == want, || {
            format!("{filter:?}: want {want:?}, found {found:?}")
        })?;
    }
    Ok(())
}

fn walk_pages(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let mut want: Vec<String> = (0..25).map(|n| format!("k{}", (n * 7) % 25)).collect();
    for name in &want {
        driver.view(&key(name), None, &Labels::new())?;
    }
    want.sort();
    for limit in [1, 4, 25, 1000] {
        let mut found = Vec::new();
        let mut page = Page { after: None, limit };
        loop {
            let part = driver.walk(&SnapshotFilter::default(), &page)?;
            ensure(part.len() <= limit as usize, || {
                format!("{} on a page of {limit}", part.len())
            })?;
            let Some(last) = part.last() else { break };
            page.after = Some(last.key.to_string());
            found.extend(part.into_iter().map(|info| info.key.to_string()));
        }
        ensure(found == want, || format!("pages of {limit}: {found:?}"))?;
    }
    Ok(())
}

fn walk_and_change(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    for n in 0..9 {
        driver.view(&key(&format!("k{n}")), None, &Labels::new())?;
    }
    let mut page = Page {
        after: None,
        limit: 2,
    };
    let mut count = 0;
    loop {
        let part = driver.walk(&SnapshotFilter::default(), &page)?;
        let Some(last) = part.last() else { break };
        page.after = Some(last.key.to_string());
        for info in part {
            driver.stat(&info.key)?;
            driver.remove(&info.key)?;
            count += 1;
        }
    }
    ensure(count == 9, || format!("walked {count} of 9"))?;
    let left = all_pages(
        |page| driver.walk(&SnapshotFilter::default(), page),
        |info| info.key.to_string(),
    )?;
    ensure(left.is_empty(), || format!("left: {left:?}"))
}

fn missing(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let (no, new) = (key("no"), key("new"));
    let kind = ErrorKind::NotFound;
    expect_kind(driver.stat(&no), kind, "stat")?;
    expect_kind(driver.usage(&no), kind, "usage")?;
    expect_kind(driver.mounts(&no), kind, "mounts")?;
    expect_kind(driver.remove(&no), kind, "remove")?;
    expect_kind(driver.update(&no, &LabelChanges::default()), kind, "update")?;
    let commit = driver.commit(&new, &no, &CommitOptions::default());
    expect_kind(commit, kind, "commit")?;
    if driver.capabilities().direct_upper {
        expect_kind(driver.upper(&no), kind, "upper")?;
    }
    let odd = key("some/odd:key");
    let errors = [
        driver.stat(&odd).err(),
        driver.mounts(&odd).err(),
        driver.remove(&odd).err(),
        driver.usage(&odd).err(),
        lab.prepare("new", Some("some/odd:key")).err(),
    ];
    for error in errors {
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        ensure(
            text.contains("some/odd:key") && !text.contains('\n'),
            || format!("want one line that names the key, got {text:?}"),
        )?;
    }
    Ok(())
}

fn bad_parents(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let none = Labels::new();
    lab.prepare("active", None)?;
    driver.view(&key("view"), None, &none)?;
    for (parent, kind) in [
        ("no", ErrorKind::NotFound),
        ("active", ErrorKind::FailedPrecondition),
        ("view", ErrorKind::FailedPrecondition),
    ] {
        expect_kind(lab.prepare("x", Some(parent)), kind, parent)?;
        let view = driver.view(&key("x"), Some(&key(parent)), &none);
        expect_kind(view, kind, parent)?;
    }
    expect_kind(info(&lab, "x"), ErrorKind::NotFound, "what failed")
}

fn reopened(factory: &Factory) -> Result<()> {
    let mut lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| tree.write("f", "1"))?;
    lab.driver()?
        .prepare(&key("b"), Some(&key("a")), &labels(&[("l", "1")]))?;
    let all = |lab: &Lab<'_>| {
        lab.driver()?
            .walk(&SnapshotFilter::default(), &Page::default())
    };
    let before = all(&lab)?;
    let mounts = lab.driver()?.mounts(&key("b"))?;
    lab.reopen()?;
    let after = all(&lab)?;
    ensure(before == after, || format!("{before:?} became {after:?}"))?;
    let again = lab.driver()?.mounts(&key("b"))?;
    ensure(mounts == again, || format!("{mounts:?} became {again:?}"))?;
    ensure(lab.view("a")?.read("f")? == "1", || {
        "a lost its file".into()
    })
}

fn forms(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    let long = "x".repeat(254);
    let mut keys = vec![
        "a".to_owned(),
        "A".to_owned(),
        "a/b".to_owned(),
        "a:b".to_owned(),
        "a-b".to_owned(),
        "a..b".to_owned(),
        ".a".to_owned(),
        "a/b/c/d/e/f".to_owned(),
        "root".to_owned(),
        "state".to_owned(),
        "sha256:x@y+z=".to_owned(),
        "-".to_owned(),
        format!("{long}1"),
        format!("{long}2"),
    ];
    for text in &keys {
        let mounts = lab.prepare(text, None)?;
        Tree::mount(&mounts)?.write("name", text)?;
    }
    keys.sort();
    let listed = names(driver, &SnapshotFilter::default())?;
    equal(&listed, &keys, "the list, in the order of keys")?;
    for text in &keys {
        let tree = Tree::mount(&driver.mounts(&key(text))?)?;
        equal(&tree.read("name")?, text, "the file of a snapshot")?;
        drop(tree);
        driver.remove(&key(text))?;
    }
    equal(
        names(driver, &SnapshotFilter::default())?.len(),
        0,
        "what is left",
    )
}

fn walk_anywhere(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let driver = lab.driver()?;
    for name in ["b", "d", "f", "h"] {
        let odd = labels(&[("odd", if name < "e" { "no" } else { "yes" })]);
        driver.view(&key(name), None, &odd)?;
    }
    let all = SnapshotFilter::default();
    let late = SnapshotFilter {
        labels: vec![("odd".into(), Some("yes".into()))],
        ..SnapshotFilter::default()
    };
    let rows: [(&SnapshotFilter, Option<&str>, u32, &[&str]); 9] = [
        (&all, None, u32::MAX, &["b", "d", "f", "h"]),
        (&all, Some("a"), 2, &["b", "d"]),
        (&all, Some("b"), 2, &["d", "f"]),
        (&all, Some("c"), 9, &["d", "f", "h"]),
        (&all, Some("h"), 9, &[]),
        (&all, Some("z"), 9, &[]),
        (&late, None, 1, &["f"]),
        (&late, Some("f"), 1, &["h"]),
        (&late, Some("a"), u32::MAX, &["f", "h"]),
    ];
    for (filter, after, limit, want) in rows {
        let page = Page {
            after: after.map(str::to_owned),
            limit,
        };
        let found = driver.walk(filter, &page)?;
        let found: Vec<String> = found.iter().map(|info| info.key.to_string()).collect();
        ensure(found == want, || {
            format!("{filter:?}, {page:?}: want {want:?}, found {found:?}")
        })?;
    }
    Ok(())
}
