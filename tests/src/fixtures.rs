//! The drivers of `tests/fixtures`, built when a test first asks, once for
//! all tests of a machine by cargo's own judgement.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder that cargo builds this workspace in.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let found = exe
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .expect("a test binary lies in cargo's target folder");
    found.to_path_buf()
}

/// The folder with the fixtures' shared objects; `libfixture_memory.so` is one.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/Cargo.toml");
        build(&manifest, &target_dir().join("fixtures"), &[])
    })
}

/// One of the fixtures' shared objects.
pub fn library(name: &str) -> PathBuf {
    dir().join(format!("libfixture_{name}.so"))
}

/// Builds a workspace, offline, and returns the folder of its products. One
/// process at a time: another test binary may want the same.
pub fn build(manifest: &Path, target: &Path, arguments: &[&str]) -> PathBuf {
    std::fs::create_dir_all(target).expect("make the target folder");
    let lock = std::fs::File::create(target.join("containerkit-test.lock")).expect("open the lock");
    lock.lock().expect("lock the build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .args(arguments)
        .output()
        .expect("run cargo");
    assert!(
        output.status.success(),
        "build {}:\n{}",
        manifest.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("debug")
}
