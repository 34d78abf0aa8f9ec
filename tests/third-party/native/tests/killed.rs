//! Processes killed at any instruction leave nothing broken: this program
//! starts itself as workers on a few shared keys, and kills them.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerkit_native::Native;
use containerkit_plugin::snapshot::{CommitOptions, SnapshotFilter, SnapshotKind};
use containerkit_plugin::{
    Driver, DriverContext, ErrorKind, Labels, Page, Result, SnapshotKey, Snapshotter, mounter,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, root, seed] = &arguments[..]
        && word == "worker"
    {
        worker(Path::new(root), seed.parse().expect("seed"));
    }
    let root = std::env::temp_dir().join(containerkit_plugin::fs::unique_name("native-killed"));
    std::fs::create_dir(&root).expect("mkdir");
    let result = std::panic::catch_unwind(|| killed(&root));
    containerkit_plugin::fs::remove_tree_path(&root).expect("remove");
    if result.is_err() {
        std::process::exit(1);
    }
    println!("killed_processes_leave_nothing_broken ... ok");
}

fn open(root: &Path) -> Native {
    let name = "native".parse().expect("name");
    Native::open(DriverContext::new(name, root, root.join("state"))).expect("open")
}

fn key(text: &str) -> SnapshotKey {
    text.parse().expect("key")
}

fn killed(root: &Path) {
    open(root);
    for round in 0..30u64 {
        let mut workers = Vec::new();
        for n in 0..2 {
            let mut child = Command::new(std::env::current_exe().expect("exe"))
                .arg("worker")
                .arg(root)
                .arg((round * 2 + n + 1).to_string())
                .stdout(Stdio::piped())
                .spawn()
                .expect("spawn");
            let pipe = child.stdout.as_mut().expect("pipe");
            pipe.read_exact(&mut [0; 6]).expect("the worker opens");
            workers.push(child);
        }
        for (n, mut child) in workers.into_iter().enumerate() {
            let pause = (round * 7919 + n as u64 * 104_729) % 30;
            std::thread::sleep(Duration::from_millis(pause));
            child.kill().expect("kill");
            let status = child.wait().expect("wait");
            assert_eq!(status.code(), None, "the worker panicked");
        }
        check(root);
    }
}

fn worker(root: &Path, seed: u64) -> ! {
    let native = open(root);
    println!("ready");
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    loop {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        if let Err(error) = step(&native, dice) {
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

fn step(native: &Native, dice: u64) -> Result<()> {
    let active = key(&format!("a{}", (dice >> 8) % 3));
    let committed = key(&format!("c{}", (dice >> 16) % 3));
    match dice % 8 {
        0..=2 => {
            let parent = (!(dice >> 24).is_multiple_of(3)).then_some(&committed);
            let mounts = native.prepare(&active, parent, &Labels::new())?;
            // Straight into the bind's source; it may be on its way out.
            let _ = std::fs::write(Path::new(&mounts[0].source).join("file"), "x");
            Ok(())
        }
        3 | 4 => native
            .commit(&committed, &active, &CommitOptions::default())
            .map(drop),
        5 => native.remove(&active),
        6 => native.remove(&committed),
        _ => native.cleanup().map(drop),
    }
}

/// Everything that is there is whole, and nothing else is there.
fn check(root: &Path) {
    let native = open(root);
    let count = |name: &str| std::fs::read_dir(root.join(name)).expect("list").count();
    // The `cp` of a killed worker lives on for a moment and may still write.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let cleaned = native.cleanup();
        if count("making") + count("trash") == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "something is left: {cleaned:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let all = native
        .walk(&SnapshotFilter::default(), &Page::default())
        .expect("walk");
    for info in &all {
        assert_eq!(native.stat(&info.key).expect("stat"), *info);
        if let Some(parent) = &info.parent {
            let kind = native.stat(parent).expect("parent").kind;
            assert_eq!(kind, SnapshotKind::Committed);
        }
        if info.kind != SnapshotKind::Committed {
            let mounts = native.mounts(&info.key).expect("mounts");
            mounter::mount_detached(&mounts).expect("mount");
        }
    }
    assert_eq!(count("snapshots"), all.len());
}
