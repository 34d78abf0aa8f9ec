//! Running a test a second time in other surroundings.

use std::process::Command;

/// Runs `test` of this program again, by `command` and with `set` in its
/// environment, and fails as it fails. `true` in the run that does the work.
pub(crate) fn inner(test: &str, set: (&str, &str), command: &[&str]) -> bool {
    const INNER: &str = "CONTAINERKIT_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("the test's own path");
    let mut words: Vec<std::ffi::OsString> = command.iter().map(Into::into).collect();
    words.push(this.into());
    words.extend([test, "--exact", "--nocapture"].map(Into::into));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .env(INNER, "1")
        .env(set.0, set.1)
        .output()
        .expect("the test again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// crun refuses a machine that mounts the empty cgroup2 beside the v1
/// controllers; there the test runs again without that mount.
pub(crate) fn without_unified(test: &str) -> bool {
    match containerkit_conformance::apart::for_crun() {
        [] => true,
        wrapper => inner(test, ("UNIFIED", "no"), wrapper),
    }
}
