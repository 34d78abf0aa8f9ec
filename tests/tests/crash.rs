//! SIGKILL at every step of what changes a store: the next command repairs.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use containerkit_tests::fixtures::checkout;

/// What a release build makes of a step: nothing.
#[test]
fn a_release_has_no_steps() {
    let workspace = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    assert!(
        !workspace.contains("debug-assertions"),
        "a profile turns steps on"
    );
    let dir = tempfile::tempdir().unwrap();
    let source = checkout().join("core/kit/src/step.rs");
    let object = |assertions: &str| {
        let object = dir.path().join(format!("step-{assertions}.o"));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "obj"])
            .args(["-C", &format!("debug-assertions={assertions}"), "-o"])
            .args([&object, &source])
            .output()
            .expect("run rustc");
        (output.status.success(), std::fs::read(&object))
    };
    // With the hook it needs a crate that this bare call does not have.
    assert!(!object("on").0, "the hook is not behind debug assertions");
    let (made, object) = object("off");
    assert!(made);
    let object = object.unwrap();
    let word = b"CONTAINERKIT_STEP";
    assert!(!object.windows(word.len()).any(|part| part == word));
}
