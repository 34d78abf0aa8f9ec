//! Records what a driver is built from, for its declaration: the compiler's
//! version, and a number for the sources of everything that crosses.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=CONTAINERKIT_RUSTC={}", version.trim());
    println!("cargo::rustc-env=CONTAINERKIT_SOURCES={}", sources());
}

/// Equal numbers: the same types, field by field. The dependency that lays
/// them out, abi_stable, is of one exact version by the manifest. 0, which
/// equals nothing, when a file cannot be read.
fn sources() -> u32 {
    let mut files = vec![PathBuf::from("Cargo.toml")];
    let mut hasher = DefaultHasher::new();
    for name in ["TARGET", "CARGO_ENCODED_RUSTFLAGS"] {
        println!("cargo::rerun-if-env-changed={name}");
        std::env::var_os(name).hash(&mut hasher);
    }
    if !list(Path::new("src/abi"), &mut files) {
        return 0;
    }
    files.sort();
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        let Ok(text) = std::fs::read(&file) else {
            return 0;
        };
        (file, text).hash(&mut hasher);
    }
    (hasher.finish() as u32).max(1)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().all(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return list(&path, files);
        }
        files.push(path);
        true
    })
}
