//! What the stores themselves cost: one file of 512 MiB into the content store,
//! against hashing alone; and preparing, committing and removing snapshots, per
//! second, beside 10, 1,000 and 50,000 others. Arguments: a folder on the file
//! system to measure, and other numbers of snapshots.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use containerkit::content::{Expected, ingest};
use containerkit::snapshot::CommitOptions;
use containerkit::{
    Algorithm, ContentStore, Driver, DriverContext, Labels, SnapshotKey, Snapshotter,
};
use containerkit_local::Local;
use containerkit_overlay::Overlay;

/// MiB of the one file.
const FILE: usize = 512;
/// Snapshots that are measured at a time.
const ROUND: usize = 200;
/// How long to make others; a slow disk has fewer, and that is said.
const PATIENCE: Duration = Duration::from_secs(300);

fn context(root: &Path, name: &str) -> DriverContext {
    let folder = root.join(name);
    containerkit::fs::ensure_dir(&folder, 0o711).unwrap();
    DriverContext::new(name.parse().unwrap(), folder.clone(), folder)
}

fn key(text: &str, n: usize) -> SnapshotKey {
    format!("{text}-{n}").parse().unwrap()
}

/// The file is read from the page cache, as after a download.
fn content(root: &Path) {
    let path = root.join("file");
    let data: Vec<u8> = (0..1usize << 20).map(|n| (n * 31 % 251) as u8).collect();
    std::fs::write(&path, data.repeat(FILE)).unwrap();
    let megabytes = (FILE << 20) as f64 / 1e6;

    let start = Instant::now();
    let digest = Algorithm::Sha256.digest(&std::fs::read(&path).unwrap());
    let hashed = megabytes / start.elapsed().as_secs_f64();

    let store = Local::open(context(root, "local")).unwrap();
    let start = Instant::now();
    let expected = Expected {
        size: Some((FILE << 20) as u64),
        digest: Some(digest.clone()),
    };
    let mut file = std::fs::File::open(&path).unwrap();
    let name = "bench".parse().unwrap();
    ingest(&store, &name, &expected, &Labels::new(), &mut file).unwrap();
    let stored = megabytes / start.elapsed().as_secs_f64();
    println!(
        "ingest of one file of {FILE} MiB, fsync included: {stored:.0} MB/s; reading and SHA-256 alone: {hashed:.0} MB/s"
    );
    store.delete(&digest).unwrap();
    std::fs::remove_file(&path).unwrap();
}

/// How many a second.
fn rate(mut one: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..ROUND).for_each(&mut one);
    ROUND as f64 / start.elapsed().as_secs_f64()
}

fn snapshots(root: &Path, counts: &[usize]) {
    let overlay = Overlay::open(context(root, "overlay")).unwrap();
    let none = Labels::new();
    let committed = CommitOptions::default();
    let (begun, mut there) = (Instant::now(), 0);
    for count in counts {
        while there < *count {
            if begun.elapsed() > PATIENCE {
                println!("{count} snapshots take too long to make here");
                break;
            }
            let active = key("active", there);
            overlay.prepare(&active, None, &none).unwrap();
            overlay
                .commit(&key("there", there), &active, &committed)
                .unwrap();
            there += 1;
        }
        let parent = key("there", there / 2);
        let prepare = rate(|n| {
            drop(
                overlay
                    .prepare(&key("new", n), Some(&parent), &none)
                    .unwrap(),
            );
        });
        let commit = rate(|n| {
            drop(
                overlay
                    .commit(&key("done", n), &key("new", n), &committed)
                    .unwrap(),
            );
        });
        let remove = rate(|n| overlay.remove(&key("done", n)).unwrap());
        println!(
            "beside {there} snapshots, per second: prepare {prepare:.0}, commit {commit:.0}, remove {remove:.0}"
        );
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = match args.next() {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.unwrap();
    let numbers: Vec<usize> = args.filter_map(|n| n.parse().ok()).collect();
    content(dir.path());
    match numbers.as_slice() {
        [] => snapshots(dir.path(), &[10, 1_000, 50_000]),
        numbers => snapshots(dir.path(), numbers),
    }
}
