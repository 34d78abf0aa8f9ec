//! What the tests of this driver share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use containerkit::content::{Expected, ingest};
use containerkit::{Algorithm, Digest, Driver, DriverContext, IngestRef, Labels, Result};
use containerkit_local::Local;

pub fn open(root: &Path) -> Result<Local> {
    Local::open(DriverContext::new("local".parse()?, root, root))
}

pub fn name(text: &str) -> IngestRef {
    text.parse().unwrap()
}

pub fn sized(data: &[u8]) -> Expected {
    Expected {
        size: Some(data.len() as u64),
        digest: Some(Algorithm::Sha256.digest(data)),
    }
}

/// Ingests under the ref `put`, without a word on what to expect.
pub fn put(store: &Local, data: &[u8]) -> Digest {
    let any = Expected::default();
    let info = ingest(store, &name("put"), &any, &Labels::new(), &mut &*data);
    info.unwrap().digest
}

pub fn blob(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs")
        .join(digest.algorithm().name())
        .join(digest.hex())
}

pub fn ingest_dir(root: &Path, reference: &str) -> PathBuf {
    root.join("ingest")
        .join(Algorithm::Sha256.digest(reference.as_bytes()).hex())
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

pub fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that differ everywhere, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// The root that a re-executed test works in; `None` in the parent.
pub fn child_root() -> Option<PathBuf> {
    std::env::var_os("LOCAL_TEST_CHILD").map(PathBuf::from)
}

/// This test binary again, running only `test` as a child on `root`, started
/// by `sh` after the words in `before`.
pub fn child(test: &str, root: &Path, before: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{before} exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("LOCAL_TEST_CHILD", root);
    command
}
