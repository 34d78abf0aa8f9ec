//! Layers written side by side and blind make the tree that layers written
//! one after another make.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Mutex;

use containerkit::snapshot::*;
use containerkit::{
    Driver, DriverContext, Error, LabelChanges, Labels, Mount, Page, Result, SnapshotKey, Usage,
    mounter,
};
use containerkit_image::event::ignore;
use containerkit_image::{
    Event, Image, ImportOptions, PlatformChoice, UnpackOptions, import, resolve, unpack,
};
use containerkit_overlay::Overlay;
use support::images::{Layout, PLAIN, host};
use support::store::{Copying, Memory};
use support::trees::{Links, tree};
use support::{Entry, dir, entry, file, link, symlink, tar};

/// An overlay that cannot do what writing side by side needs.
struct Plain(Overlay);

impl Snapshotter for Plain {
    fn capabilities(&self) -> SnapshotterCapabilities {
        SnapshotterCapabilities::default()
    }
    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.0.stat(key)
    }
    fn update(&self, key: &SnapshotKey, changes: &LabelChanges) -> Result<SnapshotInfo> {
        self.0.update(key, changes)
    }
    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        self.0.usage(key)
    }
    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        self.0.mounts(key)
    }
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.0.prepare(key, parent, labels)
    }
    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.0.view(key, parent, labels)
    }
    fn commit(
        &self,
        name: &SnapshotKey,
        active: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<SnapshotInfo> {
        match &options.parent {
            Some(_) => Err(Error::unimplemented("rebase")),
            None => self.0.commit(name, active, options),
        }
    }
    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        self.0.remove(key)
    }
    fn walk(&self, filter: &SnapshotFilter, page: &Page) -> Result<Vec<SnapshotInfo>> {
        self.0.walk(filter, page)
    }
    fn cleanup(&self) -> Result<Usage> {
        self.0.cleanup()
    }
}

struct Bed {
    tmp: tempfile::TempDir,
    store: Memory,
}

impl Bed {
    fn new() -> Bed {
        Bed {
            tmp: tempfile::tempdir().unwrap(),
            store: Memory::default(),
        }
    }

    fn overlay(&self, name: &str) -> Overlay {
        let root = self.tmp.path().join(name);
        fs::create_dir_all(&root).unwrap();
        Overlay::open(DriverContext::new(
            name.parse().unwrap(),
            &root,
            root.join("state"),
        ))
        .unwrap()
    }

    fn image(&self, layers: &[Vec<u8>]) -> Image {
        let mut layout = Layout::new();
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| (PLAIN, layer.clone(), layer.clone()))
            .collect();
        let manifest = layout.image(host(), &layers);
        layout.index(&[manifest]);
        let dir = tempfile::tempdir().unwrap();
        let path = layout.write(dir.path());
        let options = ImportOptions::new(dir.path());
        let imported = import(&self.store, &path, &options, &ignore).unwrap();
        resolve(&self.store, &imported[0].target, &PlatformChoice::host()).unwrap()
    }

    fn options(&self, name: &str) -> UnpackOptions<'static> {
        UnpackOptions::new(self.tmp.path().join(format!("{name}.locks")))
    }
}

/// The tree of a committed snapshot, as a container sees it.
fn seen(snapshotter: &dyn Snapshotter, top: &SnapshotKey, links: Links) -> String {
    let key: SnapshotKey = "look".parse().unwrap();
    let mounts = snapshotter.view(&key, Some(top), &Labels::new()).unwrap();
    let mounted = mounter::mount_detached(&mounts).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
    let found = tree(&root.join("."), links);
    drop(mounted);
    snapshotter.remove(&key).unwrap();
    found
}

/// How a layer was written.
fn ways(events: &[Event], layers: usize) -> Vec<usize> {
    (1..=layers)
        .map(|number| {
            events
                .iter()
                .filter(|event| matches!(event, Event::Unpacking { layer, .. } if *layer == number))
                .count()
        })
        .collect()
}

/// Unpacks in each way and compares; how often each layer was begun, and the
/// tree. `None`: every way refuses the image.
fn compare(name: &str, layers: &[Vec<Entry>]) -> Option<(Vec<usize>, String)> {
    let tars: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
    compare_tars(name, &tars)
}

fn compare_tars(name: &str, tars: &[Vec<u8>]) -> Option<(Vec<usize>, String)> {
    let bed = Bed::new();
    let image = bed.image(tars);
    let plain = Plain(bed.overlay("plain"));
    let wide = bed.overlay("wide");
    let one_by_one = unpack(&bed.store, &plain, &image, &bed.options("plain"));
    let events = Mutex::new(Vec::new());
    let progress = |event| events.lock().unwrap().push(event);
    let mut options = bed.options("wide");
    options.progress = &progress;
    options.workers = 3;
    let side_by_side = unpack(&bed.store, &wide, &image, &options);
    let copies = bed.tmp.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let copying = Copying::new(copies);
    let copied = unpack(&bed.store, &copying, &image, &bed.options("copies"));
    let (one_by_one, side_by_side, copied) = match (one_by_one, side_by_side, copied) {
        (Ok(one), Ok(side), Ok(copied)) => (one?, side?, copied?),
        (Err(one), Err(side), Err(copied)) => {
            assert_eq!(one.kind(), side.kind(), "{name}: {one}; {side}");
            assert_eq!(one.kind(), copied.kind(), "{name}: {one}; {copied}");
            for snapshotter in [&plain as &dyn Snapshotter, &wide] {
                let left = SnapshotFilter {
                    kind: Some(SnapshotKind::Active),
                    ..SnapshotFilter::default()
                };
                let left = snapshotter.walk(&left, &Page::default()).unwrap();
                assert!(left.is_empty(), "{name}: {left:?}");
            }
            return None;
        }
        (one, side, copied) => panic!("{name}: {one:?}; {side:?}; {copied:?}"),
    };
    assert_eq!(one_by_one, side_by_side);
    let want = seen(&plain, &one_by_one, Links::Told);
    let found = seen(&wide, &side_by_side, Links::Told);
    assert_eq!(found, want, "{name}: side by side");
    let copied = tree(&copying.path(&copied), Links::Untold);
    assert_eq!(
        seen(&wide, &side_by_side, Links::Untold),
        copied,
        "{name}: copies"
    );
    let left = fs::read_dir(bed.tmp.path().join("wide.locks"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "{name}: locks");
    let snapshots = wide
        .walk(&SnapshotFilter::default(), &Page::default())
        .unwrap();
    assert_eq!(
        snapshots.len(),
        tars.len(),
        "{name}: nothing else: {snapshots:?}"
    );
    let ways = ways(&events.into_inner().unwrap(), tars.len());
    Some((ways, found))
}

fn base() -> Vec<Entry> {
    vec![
        Entry {
            mtime: 900_000_000,
            ..dir("", 0o750)
        },
        dir("usr", 0o755),
        dir("usr/lib", 0o2775),
        file("usr/lib/libc", "c"),
        symlink("usr/lib", "lib"),
        Entry {
            uid: 5,
            mtime: 123_456_789,
            ..dir("root", 0o700)
        }
        .xattr("user.note", "kept")
        .pax("mtime", "123456789.987654321"),
        file("root/.profile", "x"),
        dir("opt", 0o755),
        dir("opt/a", 0o711),
        dir("opt/a/b", 0o1777),
        file("opt/a/b/f", "f"),
        file("opt/a/g", "g"),
        file("plain", "plain"),
        link("plain", "twin"),
    ]
}

#[test]
fn each_trap_gives_the_tree_of_one_layer_after_another() {
    // Once: written blind and set right. Twice: through a mount after all.
    let cases: Vec<(&str, usize, Vec<Entry>)> = vec![
        (
            "a path through a symlink below",
            2,
            vec![file("lib/x", "x")],
        ),
        (
            "a folder where a symlink was",
            1,
            vec![dir("lib", 0o755), file("lib/x", "x")],
        ),
        (
            "a symlink used and then replaced",
            2,
            vec![file("lib/x", "x"), dir("lib", 0o700), file("lib/y", "y")],
        ),
        ("an implied folder", 1, vec![file("root/new", "x")]),
        (
            "a deep implied folder",
            1,
            vec![file("opt/a/b/c/d/new", "x"), file("none/at/all", "x")],
        ),
        (
            "implied, then told",
            1,
            vec![file("root/new", "x"), dir("root", 0o711)],
        ),
        (
            "a hard link into a layer below",
            2,
            vec![file("new", "n"), link("plain", "third")],
        ),
        (
            "a hard link in its own layer",
            1,
            vec![file("root/one", "1"), link("root/one", "two")],
        ),
        (
            "a hard link through a symlink below",
            2,
            vec![
                dir("usr", 0o755),
                dir("usr/lib", 0o755),
                file("usr/lib/new", "n"),
                link("lib/new", "hard"),
            ],
        ),
        (
            "whiteouts",
            1,
            vec![
                file(".wh.plain", ""),
                file("opt/a/.wh.b", ""),
                file("opt/a/.wh.none", ""),
                file("none/.wh.at", ""),
                file("plain/.wh.x", ""),
            ],
        ),
        (
            "a whiteout through a symlink below",
            2,
            vec![file("lib/.wh.libc", "")],
        ),
        (
            "a whiteout and what comes back",
            1,
            vec![file("opt/.wh.a", ""), file("opt/a/b/new", "n")],
        ),
        (
            "what comes and then a whiteout",
            1,
            vec![file("opt/a/b/new", "n"), file("opt/.wh.a", "")],
        ),
        (
            "a whiteout inside what is then hidden",
            1,
            vec![file("opt/a/.wh.g", ""), file("opt/.wh.a", "")],
        ),
        (
            "opaque folders",
            1,
            vec![
                file("opt/.wh..wh..opq", ""),
                file("opt/a/new", "n"),
                file("none/.wh..wh..opq", ""),
                file("plain/.wh..wh..opq", ""),
            ],
        ),
        (
            "opaque after it was used",
            1,
            vec![file("opt/a/new", "n"), file("opt/.wh..wh..opq", "")],
        ),
        (
            "an opaque root",
            2,
            vec![file("new", "n"), file(".wh..wh..opq", "")],
        ),
        (
            "a whiteout in an opaque folder",
            1,
            vec![file("opt/a/.wh.g", ""), file("opt/a/.wh..wh..opq", "")],
        ),
        (
            "a file over a folder",
            1,
            vec![file("opt/a", "file"), file("root/.wh..wh..opq", "")],
        ),
        (
            "a folder over a file",
            1,
            vec![dir("plain", 0o700), file("plain/in", "x")],
        ),
        (
            "an implied folder over a file",
            1,
            vec![file("plain/in", "x")],
        ),
        (
            "a file over a folder and a folder again",
            1,
            vec![
                file("opt/a", "file"),
                dir("opt/a", 0o711),
                file("opt/a/h", "h"),
            ],
        ),
        (
            "a told root",
            1,
            vec![dir("./", 0o711).xattr("user.root", "r"), file("new", "n")],
        ),
        (
            "a folder's attributes are the last layer's",
            1,
            vec![dir("root", 0o700).xattr("user.other", "o")],
        ),
        (
            "a symlink of its own layer",
            1,
            vec![
                symlink("opt/a", "way"),
                file("way/new", "n"),
                file("way/.wh.g", ""),
            ],
        ),
        (
            "a symlink that leaves a folder below",
            2,
            vec![symlink("opt/../root", "way"), file("way/new", "n")],
        ),
        (
            "a setgid folder hands down its group",
            1,
            vec![file("usr/lib/sub/new", "n")],
        ),
    ];
    for (name, times, layer) in cases {
        // On a layer, and on two, the lower of which counts.
        let (ways, _) = compare(name, &[base(), layer.clone()]).expect(name);
        assert_eq!(ways, [1, times], "{name}");
        let between = vec![dir("etc", 0o755), file("etc/x", "x")];
        let (ways, _) = compare(name, &[base(), between, layer.clone()]).expect(name);
        assert_eq!(ways, [1, 1, times], "{name}");
        // And alone: there is nothing below.
        compare(name, &[layer]);
    }
}

/// Deletions below are told from what never was, layer by layer.
#[test]
fn layers_between_hide_what_is_below_them() {
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("gone", vec![file("opt/.wh.a", "")]),
        ("opaque", vec![file("opt/.wh..wh..opq", "")]),
        ("a file", vec![file("opt/a", "x")]),
        ("a symlink", vec![symlink("../root", "opt/a")]),
        ("told", vec![dir("opt", 0o700), dir("opt/a", 0o700)]),
    ];
    for (name, between) in cases {
        for above in [
            vec![file("opt/a/b/new", "n")],
            vec![file("opt/a/.wh.b", ""), file("opt/a/.wh.g", "")],
            vec![file("opt/a/b/.wh..wh..opq", "")],
        ] {
            compare(name, &[base(), between.clone(), above]).expect(name);
        }
    }
}

/// What every way refuses, the blind one refuses too and leaves nothing.
#[test]
fn a_bad_layer_leaves_nothing() {
    for (name, bad) in [
        ("outside", vec![file("../x", "x")]),
        ("no target", vec![link("nowhere", "x")]),
        ("a folder as target", vec![link("opt", "x")]),
        (
            "endless",
            vec![symlink("loop", "loop"), file("loop/x", "x")],
        ),
    ] {
        assert!(
            compare(
                name,
                &[base(), vec![file("a", "a")], bad, vec![file("b", "b")]]
            )
            .is_none(),
            "{name}"
        );
    }
}

/// A small generator, the same numbers each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn name(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let parts: Vec<&str> = (0..depth)
            .map(|_| ["a", "b", "c", "a.b"][self.roll(4) as usize])
            .collect();
        parts.join("/")
    }

    fn entry(&mut self) -> Entry {
        let name = self.name();
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", &name));
        let wh = |what: &str| file(&format!("{parent}/.wh.{what}"), "");
        let mut made = match self.roll(12) {
            0..3 => dir(&name, [0o755, 0o700, 0o2775, 0o1777][self.roll(4) as usize]),
            3..7 => file(&name, &format!("{}", self.roll(1000))),
            7 => {
                let up = if self.roll(3) == 0 { "../" } else { "" };
                symlink(&format!("{up}{}", self.name()), &name)
            }
            8 => link(&self.name(), &name),
            9 => wh(last),
            10 => wh(".wh..opq"),
            _ => entry(b'6', &name),
        };
        made.mtime = 1_000_000_000 + self.roll(1000);
        if self.roll(4) == 0 {
            made.uid = 1 + self.roll(3);
        }
        if made.flag == b'5' && self.roll(4) == 0 {
            made = made.xattr("user.x", format!("{}", self.roll(9)));
        }
        made
    }
}

#[test]
fn random_layers_are_equal_in_every_way() {
    let mut unpacked = 0;
    let mut blind = 0;
    for seed in 1..=150u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers: Vec<Vec<Entry>> = (0..2 + dice.roll(3))
            .map(|_| (0..1 + dice.roll(7)).map(|_| dice.entry()).collect())
            .collect();
        let shown: Vec<Vec<String>> = layers
            .iter()
            .map(|layer| {
                layer
                    .iter()
                    .map(|e| {
                        format!(
                            "{} {} {}",
                            e.flag as char,
                            String::from_utf8_lossy(&e.path),
                            String::from_utf8_lossy(&e.link)
                        )
                    })
                    .collect()
            })
            .collect();
        if let Some((ways, _)) = compare(&format!("seed {seed}: {shown:#?}"), &layers) {
            unpacked += 1;
            blind += ways.iter().skip(1).filter(|times| **times == 1).count();
        }
    }
    assert!(unpacked > 50, "{unpacked} images were unpacked");
    assert!(blind > 50, "{blind} upper layers were written blind");
}
