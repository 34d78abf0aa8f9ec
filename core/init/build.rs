//! Compiles `program/` into one static executable, which the library embeds.
//!
//! It runs in any image, also in one without a C library, so it must be
//! static; cargo cannot link one package of a workspace statically and the
//! others not, and a `panic` strategy is a whole profile's. The program has no
//! dependencies: one call of the compiler is all that it takes.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=program");
    let var = |name: &str| std::env::var(name).expect("cargo sets it");
    let output = Path::new(&var("OUT_DIR")).join("containerkit-init");
    let mut command = Command::new(var("RUSTC"));
    command
        .args(["--edition=2024", "--crate-name=containerkit_init"])
        .args(["--crate-type=bin", "--target", &var("TARGET")])
        .args(["-C", "target-feature=+crt-static"])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "lto=fat",
            "-C",
            "codegen-units=1",
            "-C",
            "strip=symbols",
        ])
        .arg("-o")
        .arg(&output)
        .arg("program/main.rs");
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        command.arg(format!("-Clinker={linker}"));
    }
    let status = command.status().expect("run the compiler");
    assert!(
        status.success(),
        "containerkit-init cannot be compiled: {command:?}"
    );
}
