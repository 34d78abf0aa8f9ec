//! What a collection costs: seconds for 10,000 blobs and 2,000 snapshots, and
//! for ten times as many. Half of them are garbage. Arguments: the two
//! numbers, for another size.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use containerkit::content::{Expected, ingest};
use containerkit::record::{DriverStamp, LeaseRecord, Records};
use containerkit::snapshot::CommitOptions;
use containerkit::{
    ContentStore, Driver, DriverContext, Labels, Opened, SnapshotKey, Snapshotter, Timestamp,
};
use containerkit_image::gc::{self, GcOptions, Mode, Stores};
use containerkit_local::Local;
use containerkit_overlay::Overlay;
use containerkit_records::SqliteRecords;

/// Layers of one image.
const CHAIN: usize = 10;

fn context(root: &Path, name: &str) -> DriverContext {
    let folder = root.join(name);
    containerkit::fs::ensure_dir(&folder, 0o711).unwrap();
    let mut context = DriverContext::new(name.parse().unwrap(), folder.clone(), folder);
    if name == "local" {
        // What is measured is collecting, not storing.
        context.options.insert("fsync".into(), false.into());
    }
    context
}

fn stamp(name: &str) -> DriverStamp {
    DriverStamp {
        instance: name.parse().unwrap(),
        driver: name.into(),
        version: "1".into(),
    }
}

fn fill(records: &SqliteRecords, local: &Local, overlay: &Overlay, blobs: usize, snapshots: usize) {
    let mut lease = LeaseRecord {
        id: "bench".parse().unwrap(),
        expires: None,
        created: Timestamp::now(),
        holder: None,
        blobs: Vec::new(),
        snapshots: Vec::new(),
    };
    for n in 0..blobs {
        let data = n.to_le_bytes();
        let name = "bench".parse().unwrap();
        let info = ingest(
            local,
            &name,
            &Expected::default(),
            &Labels::new(),
            &mut &data[..],
        );
        if n % 2 == 0 {
            lease.blobs.push(info.unwrap().digest);
        }
    }
    let mut parent: Option<SnapshotKey> = None;
    for n in 0..snapshots {
        let below = parent.take().filter(|_| n % CHAIN != 0);
        let (active, key) = ("active".parse().unwrap(), format!("sha256:{n:064x}"));
        let key: SnapshotKey = key.parse().unwrap();
        overlay
            .prepare(&active, below.as_ref(), &Labels::new())
            .unwrap();
        overlay
            .commit(&key, &active, &CommitOptions::default())
            .unwrap();
        if n % CHAIN == CHAIN - 1 && (n / CHAIN).is_multiple_of(2) {
            lease
                .snapshots
                .push(("overlay".parse().unwrap(), key.clone()));
        }
        parent = Some(key);
    }
    records.put_lease(&lease).unwrap();
}

fn measure(blobs: usize, snapshots: usize) {
    let dir = tempfile::tempdir().unwrap();
    let records = SqliteRecords::open(dir.path()).unwrap();
    let local = Local::open(context(dir.path(), "local")).unwrap();
    let overlay = Overlay::open(context(dir.path(), "overlay")).unwrap();
    fill(&records, &local, &overlay, blobs, snapshots);
    let stores = Stores {
        records: &records,
        contents: vec![Opened {
            stamp: stamp("local"),
            driver: std::sync::Arc::new(local) as std::sync::Arc<dyn ContentStore>,
        }],
        snapshotters: vec![Opened {
            stamp: stamp("overlay"),
            driver: std::sync::Arc::new(overlay) as std::sync::Arc<dyn Snapshotter>,
        }],
    };
    let mut seconds = Vec::new();
    for mode in [Mode::Tell, Mode::Remove, Mode::Remove] {
        let start = Instant::now();
        let options = GcOptions {
            mode,
            ..GcOptions::default()
        };
        let collected = gc::collect(&stores, &options).unwrap();
        seconds.push((start.elapsed().as_secs_f64(), collected.removed().0));
    }
    println!(
        "{blobs} blobs, {snapshots} snapshots: told in {:.2} s, {} removed in {:.2} s, nothing left to remove in {:.2} s",
        seconds[0].0, seconds[1].1, seconds[1].0, seconds[2].0
    );
    assert_eq!(seconds[2].1, 0);
}

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    match numbers.as_slice() {
        [blobs, snapshots] => measure(*blobs, *snapshots),
        _ => {
            measure(10_000, 2_000);
            measure(100_000, 20_000);
        }
    }
}
