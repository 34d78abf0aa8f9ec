//! Programs of others, which check what ours made.

use std::process::Command;

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; run tests/scripts/setup.sh"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The output of openssl, which must succeed.
#[track_caller]
pub fn openssl(args: &[&str]) -> String {
    run("openssl", args)
}

/// The output of a script in the system's Python, which has PyNaCl and
/// `cryptography`.
#[track_caller]
pub fn python(script: &str, args: &[&str]) -> String {
    let mut all = vec!["-c", script];
    all.extend(args);
    run("/usr/bin/python3", &all)
}
