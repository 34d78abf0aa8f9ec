//! Ingests MiB of data into a store at DIR and prints MB/s beside bare
//! hashing: `cargo run --release --example speed DIR [MIB]`.

use std::time::Instant;

use containerkit::content::Expected;
use containerkit::{Algorithm, ContentStore, Driver, DriverContext, Error, IoContext, Labels};
use containerkit_local::Local;

fn main() -> containerkit::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args
        .next()
        .ok_or_else(|| Error::invalid("usage: speed DIR [MIB]"))?;
    let count: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(500);
    std::fs::create_dir_all(&dir).io_context(|| format!("make {dir}"))?;
    let mut chunk = vec![0u8; 1 << 20];
    for (index, byte) in chunk.iter_mut().enumerate() {
        *byte = (index * 31 % 251) as u8;
    }
    let rate = |start: Instant| (count << 20) as f64 / 1e6 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut hasher = Algorithm::Sha256.hasher();
    for n in 0..count {
        chunk[..8].copy_from_slice(&n.to_le_bytes());
        hasher.update(&chunk);
    }
    let digest = hasher.finish();
    println!("hash alone       {:8.0} MB/s", rate(start));

    for fsync in [false, true] {
        let options = [("fsync".to_owned(), fsync.into())].into_iter().collect();
        let context = DriverContext::new("local".parse()?, &dir, &dir).with_options(options);
        let store = Local::open(context)?;
        let start = Instant::now();
        let mut writer = store.writer(&"speed".parse()?, &Expected::default())?;
        for n in 0..count {
            chunk[..8].copy_from_slice(&n.to_le_bytes());
            writer.write(&chunk)?;
        }
        let written = rate(start);
        let commit = Instant::now();
        writer.commit(&Expected::default(), &Labels::new())?;
        println!(
            "ingest fsync={fsync:<5} {:6.0} MB/s (writes {written:.0} MB/s, commit {:.3} s)",
            rate(start),
            commit.elapsed().as_secs_f64()
        );
        store.delete(&digest)?;
    }
    Ok(())
}
