//! Many processes on one root, some of them killed at any instruction.
//!
//! This program starts itself with a root and a seed as arguments; such a
//! child works on a few shared keys until it is killed or told to end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerkit::mounter::mount_detached;
use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotKind};
use containerkit::{
    Driver, DriverContext, ErrorKind, Labels, Page, Result, SnapshotKey, Snapshotter,
};
use containerkit_overlay::Overlay;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, root, seed, rounds] = &arguments[..]
        && word == "worker"
    {
        let seed = seed.parse().expect("seed");
        return worker(Path::new(root), seed, rounds.parse().expect("rounds"));
    }
    for (name, test) in [
        ("killed_processes_leave_nothing_broken", killed as fn()),
        ("sixteen_processes_share_the_same_keys", shared),
    ] {
        let start = Instant::now();
        test();
        println!("{name} ... ok ({:?})", start.elapsed());
    }
}

fn open(root: &Path) -> Overlay {
    let name = "overlay".parse().expect("name");
    Overlay::open(DriverContext::new(name, root, root.join("state"))).expect("open")
}

fn key(text: &str) -> SnapshotKey {
    text.parse().expect("key")
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Works on four active and six committed keys; `rounds` 0 is for ever.
fn worker(root: &Path, seed: u64, rounds: u64) {
    let overlay = open(root);
    println!("ready");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut round = 0;
    while rounds == 0 || round < rounds {
        round += 1;
        if let Err(error) = step(&overlay, &mut dice) {
            let expected = matches!(
                error.kind(),
                ErrorKind::NotFound
                    | ErrorKind::AlreadyExists
                    | ErrorKind::FailedPrecondition
                    | ErrorKind::Conflict
            );
            assert!(expected, "{:?}: {error}", error.kind());
        }
    }
}

fn step(overlay: &Overlay, dice: &mut Dice) -> Result<()> {
    let active = key(&format!("a{}", dice.roll(4)));
    let number = dice.roll(6);
    let committed = key(&format!("c{number}"));
    match dice.roll(10) {
        0..=3 => {
            let below = key(&format!("c{}", dice.roll(6)));
            let parent = (dice.roll(2) == 0).then_some(&below);
            overlay.prepare(&active, parent, &labels(&active))?;
            let upper = overlay.upper(&active)?;
            // Another process may be removing it.
            let _ = fs::write(upper.join("file"), active.as_str());
            Ok(())
        }
        4 | 5 => {
            let options = CommitOptions {
                labels: labels(&committed),
                parent: (dice.roll(3) == 0).then(|| key(&format!("c{}", dice.roll(6)))),
            };
            overlay.commit(&committed, &active, &options).map(drop)
        }
        6 => overlay.remove(&active),
        7 => overlay.remove(&committed),
        8 => match overlay.mounts(&active).and_then(|m| mount_detached(&m)) {
            Ok(_tree) => Ok(()),
            // Its folders went away between the two calls.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(()),
            Err(error) => Err(error),
        },
        _ => overlay.cleanup().map(drop),
    }
}

fn labels(key: &SnapshotKey) -> Labels {
    [("of".to_string(), key.to_string())].into()
}

struct Workers(Vec<Child>);

impl Workers {
    fn start(&mut self, root: &Path, seed: u64, rounds: u64) {
        let mut child = Command::new(std::env::current_exe().expect("exe"))
            .args(["worker".into(), root.display().to_string()])
            .args([seed.to_string(), rounds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut ready = [0; 6];
        let pipe = child.stdout.as_mut().expect("pipe");
        std::io::Read::read_exact(pipe, &mut ready).expect("the worker opens");
        self.0.push(child);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn fresh_root() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().expect("tempdir");
    let root = temp.path().join("root");
    fs::create_dir(&root).expect("mkdir");
    (temp, root)
}

/// Everything that is there is whole, and nothing else is there.
fn check(root: &Path) {
    let overlay = open(root);
    overlay.cleanup().expect("cleanup");
    let all = overlay
        .walk(&SnapshotFilter::default(), &Page::default())
        .expect("walk");
    for info in &all {
        assert_eq!(overlay.stat(&info.key).expect("stat"), *info);
        if let Some(parent) = &info.parent {
            let parent = overlay.stat(parent).expect("parent");
            assert_eq!(parent.kind, SnapshotKind::Committed);
        }
        assert_eq!(info.labels, labels(&info.key), "labels belong to the key");
        let mounts = match info.kind {
            SnapshotKind::Committed => {
                let view = key("check");
                let mounts = overlay.view(&view, Some(&info.key), &Labels::new());
                let tree = mount_detached(&mounts.expect("view")).expect("mount a view");
                drop(tree);
                overlay.remove(&view).expect("remove the view");
                continue;
            }
            _ => overlay.mounts(&info.key).expect("mounts"),
        };
        mount_detached(&mounts).expect("mount");
    }
    let folders: BTreeSet<_> = fs::read_dir(root.join("snapshots"))
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(folders.len(), all.len(), "{folders:?} for {all:?}");
    let trash = fs::read_dir(root.join("trash")).expect("list").count();
    assert_eq!(trash, 0, "trash is left");
    assert_eq!(overlay.cleanup().expect("cleanup").inodes, 0);
}

fn killed() {
    let (_temp, root) = fresh_root();
    open(&root);
    let mut dice = Dice(0x00c0_ffee);
    for round in 0..50 {
        let mut workers = Workers(Vec::new());
        workers.start(&root, round * 2 + 1, 0);
        workers.start(&root, round * 2 + 2, 0);
        for child in &mut workers.0 {
            std::thread::sleep(Duration::from_micros(dice.roll(15_000)));
            child.kill().expect("kill");
            let status = child.wait().expect("wait");
            assert!(!status.success() && status.code().is_none(), "it panicked");
        }
        check(&root);
    }
}

fn shared() {
    let (_temp, root) = fresh_root();
    // All sixteen find a root without a database.
    let mut workers = Workers(Vec::new());
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..16)
            .map(|seed| {
                let root = &root;
                scope.spawn(move || {
                    let mut one = Workers(Vec::new());
                    one.start(root, seed + 100, 30);
                    std::mem::take(&mut one.0)
                })
            })
            .collect();
        for thread in started {
            workers.0.extend(thread.join().expect("start"));
        }
    });
    for child in &mut workers.0 {
        assert!(child.wait().expect("wait").success(), "a worker panicked");
    }
    check(&root);
}
