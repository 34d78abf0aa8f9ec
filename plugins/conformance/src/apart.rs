//! A suite in a process of its own.
//!
//! Suites of one process disturb each other: a process that one of them starts
//! has, until it executes its program, the descriptors and mounts of all, and
//! to a driver that is a snapshot in use or a pipe that does not end. So a
//! test program runs itself again for each suite, with the one test that
//! holds it.

use std::ffi::OsString;
use std::io::Write;
use std::process::Command;

use crate::{CaseResult, Outcome, folders::Scratch, report};

/// Names, in the process that runs a suite, the suite and the report's file.
const INNER: &str = "CONTAINERKIT_SUITE";

/// A mount namespace for the suite: one that somebody makes elsewhere would
/// keep a copy of the suite's mounts, which it does not see go.
const OWN_MOUNTS: [&str; 4] = ["unshare", "--mount", "--propagation", "private"];

/// Runs a suite in a process of its own: this test program, asked for the
/// test of this thread alone. A program whose tests do not run side by side
/// (`--test-threads=1`) runs it here, where nothing can disturb it.
///
/// # Panics
/// When that process does not end with a report.
pub fn apart(run: impl FnOnce() -> Vec<CaseResult>) -> Vec<CaseResult> {
    match std::thread::current().name() {
        Some(test) if test != "main" => apart_as(&Suite::of(test), run),
        _ => run(),
    }
}

/// A suite of a test, and how to start the process for it.
#[derive(Clone, Debug)]
pub struct Suite {
    test: String,
    label: String,
    wrapper: Vec<OsString>,
}

impl Suite {
    /// The only suite of a test, by the test's full name (`module::test`).
    pub fn of(test: &str) -> Suite {
        Suite {
            test: test.to_owned(),
            label: "suite".to_owned(),
            wrapper: Vec::new(),
        }
    }

    /// One of several suites of the test. The test asks for all of them before
    /// it judges any: in the process of one, the others are empty.
    #[must_use]
    pub fn labelled(mut self, label: &str) -> Suite {
        self.label = label.to_owned();
        self
    }

    /// Started by a command that executes its arguments, as `unshare` does.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Suite {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }
}

/// [`apart`], told which suite of which test it is.
///
/// # Panics
/// When that process does not end with a report.
pub fn apart_as(suite: &Suite, run: impl FnOnce() -> Vec<CaseResult>) -> Vec<CaseResult> {
    if let Some(inner) = std::env::var_os(INNER) {
        let inner = inner.into_string().unwrap_or_default();
        let Some((label, file)) = inner.split_once(' ') else {
            panic!("{INNER}={inner:?}: want a label, a space and a file");
        };
        if label != suite.label {
            return Vec::new();
        }
        let written = std::fs::File::create(file)
            .and_then(|mut file| file.write_all(report::write(&run()).as_bytes()));
        // What the test goes on with is its first process's work.
        std::process::exit(i32::from(written.is_err()));
    }
    let scratch = Scratch::new().unwrap_or_else(|error| panic!("{error}"));
    let file = scratch.path().join("report");
    let this = std::env::current_exe().unwrap_or_else(|error| panic!("own path: {error}"));
    let mut words = match rustix::process::geteuid().is_root() {
        true => OWN_MOUNTS.iter().map(OsString::from).collect(),
        false => Vec::new(),
    };
    words.extend(suite.wrapper.iter().cloned());
    words.push(this.into_os_string());
    words.extend([suite.test.as_str(), "--exact", "--nocapture"].map(OsString::from));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .env(INNER, format!("{} {}", suite.label, file.display()))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("start {:?}: {error}", words[0]));
    let results = std::fs::read_to_string(&file)
        .ok()
        .and_then(|text| report::read(&text).ok())
        .filter(|results| !results.is_empty());
    match results {
        Some(results) if output.status.success() => results,
        _ => panic!(
            "the process of suite {} of {} ended without a report: {}\n{}{}",
            suite.label,
            suite.test,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// The [`Suite::under`] of crun, which refuses a machine that mounts the empty
/// cgroup 2 hierarchy beside the controllers of cgroup 1: a mount namespace
/// without it. Empty elsewhere.
pub fn for_crun() -> &'static [&'static str] {
    const HYBRID: &str = "/sys/fs/cgroup/unified/cgroup.controllers";
    // crun takes even an empty folder of that name for a hierarchy and makes its
    // groups there as plain folders: a tmpfs of the namespace takes them along.
    const SCRIPT: &str = "umount /sys/fs/cgroup/unified && \
        mount -t tmpfs none /sys/fs/cgroup/unified && exec \"$0\" \"$@\"";
    const WRAPPER: &[&str] = &[
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        SCRIPT,
    ];
    match std::path::Path::new(HYBRID).exists() {
        true => WRAPPER,
        false => &[],
    }
}

/// Prints how each case went and how long it took, for a test's output.
pub fn show(title: &str, results: &[CaseResult]) {
    for result in results {
        let mark = match result.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail(_) => "FAIL",
            Outcome::Unsupported => "unsupported",
        };
        println!(
            "{title} {} {mark} {:?} {}",
            result.id, result.time, result.name
        );
    }
}
