//! `driver check`: drivers that keep their contracts pass, and each breach is
//! found by its case, whatever it does to the process.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use containerkit_tests::fixtures::{library, misbehave};
use containerkit_tests::kit::{Kit, Ran};
use serde_json::Value;

/// What a check of this library says, with the deeds of its instances.
fn check(kit: &Kit, library: &Path, kind: &str, deeds: &[&str], flags: &[&str]) -> Ran {
    let mut args = vec!["driver", "check", library.to_str().unwrap(), "--kind", kind];
    let options = kit.path("options.toml");
    if !deeds.is_empty() {
        std::fs::write(&options, format!("deeds = {deeds:?}\n")).unwrap();
        args.extend(["--options", options.to_str().unwrap()]);
    }
    args.extend(flags);
    kit.run(args)
}

/// The ids of the cases with this result, and what was said of each.
fn cases(report: &Value, result: &str) -> Vec<(String, String)> {
    let all = report["cases"].as_array().unwrap().iter();
    all.filter(|case| case["result"] == result)
        .map(|case| {
            let text = |name: &str| case[name].as_str().unwrap().to_owned();
            (text("id"), text("detail"))
        })
        .collect()
}

#[test]
fn a_driver_that_keeps_its_contract_passes() {
    let kit = Kit::new();
    for (name, kind) in [("overlay", "snapshotter"), ("local", "content")] {
        let report = kit
            .run(["driver", "check", name, "--format", "json"])
            .ok()
            .json();
        assert_eq!(report["kind"], kind);
        assert_eq!(report["failed"], 0, "{report}");
        let passed = cases(&report, "pass").len();
        assert_eq!(report["passed"], passed, "{report}");
        let of_kind = [
            "DRV-G-",
            if kind == "content" {
                "DRV-C-"
            } else {
                "DRV-S-"
            },
        ];
        for case in report["cases"].as_array().unwrap() {
            let id = case["id"].as_str().unwrap();
            assert!(of_kind.iter().any(|start| id.starts_with(start)), "{id}");
            assert!(case["seconds"].is_number(), "{case}");
        }
    }
    // Nothing stays of a check.
    let left = std::fs::read_dir(kit.state().join("checks")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_driver_that_keeps_nothing_fails() {
    let kit = Kit::new();
    // It lives in memory and gives paths that are not there.
    let ran = check(&kit, &library("memory"), "snapshotter", &[], &[]);
    ran.refused(
        1,
        &[
            "libfixture_memory.so (snapshotter)",
            "cases failed",
            "DRV-S-",
        ],
    );
    let ran = check(&kit, &library("memory"), "runtime", &[], &[]);
    ran.refused(
        1,
        &["checked as a runtime, it is a driver of snapshotter and content"],
    );
}

/// Fails exactly by these cases, in a check that goes to its end.
#[track_caller]
fn found(deeds: &[&str], want: &[&str], words: &str) {
    let kit = Kit::new();
    let flags = ["--format", "json", "--timeout", "30"];
    let ran = check(&kit, &misbehave(), "content", deeds, &flags);
    let report = ran.json();
    let failed = cases(&report, "fail");
    let ids: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, want, "{deeds:?}: {failed:?}");
    assert!(
        failed.iter().any(|(_, why)| why.contains(words)),
        "{deeds:?}: want {words:?} in {failed:?}"
    );
    let all = report["cases"].as_array().unwrap().len();
    assert!(all > 40, "{all} cases");
    ran.refused(1, &[&format!("{} of {all} cases failed", want.len())]);
}

#[test]
fn what_is_done_to_the_process_is_found() {
    // What is put back when an instance is dropped is seen while it is open.
    found(&["chdir@walk"], &["DRV-G-08"], "changed the current folder");
    found(&["umask@info"], &["DRV-G-08"], "changed Umask");
    const CHANGED: [&str; 2] = ["DRV-G-08", "DRV-C-32"];
    found(&["environment@reader"], &CHANGED, "CONTAINERKIT_FIXTURE");
    found(&["handler@commit"], &CHANGED, "changed SigCgt");
    found(&["print@walk"], &["DRV-G-15"], "a driver was here");
}

#[test]
fn what_is_left_is_found() {
    found(&["leak@walk"], &["DRV-G-14"], "left 5 descriptors");
    found(&["thread@open"], &["DRV-G-14"], "and 5 threads");
    found(
        &["inherit@info"],
        &["DRV-G-09", "DRV-G-14"],
        "close-on-exec",
    );
    found(&["litter@open"], &["DRV-G-05"], "litter");
    found(&["far@open"], &["DRV-G-05"], "it wrote /var/tmp/litter");
    let reaped = ["DRV-G-08", "DRV-G-14"];
    found(&["reap@open"], &reaped, "it reaped a child process");
}

#[test]
fn wrong_answers_and_panics_are_found() {
    found(&["again@walk"], &["DRV-C-22"], "its listing tells");
    found(&["panic@drop"], &["DRV-G-17"], "panicked while dropping");
}

/// The general cases abort an ingest, and so does one of the kind's.
const ABORTING: [&str; 8] = [
    "DRV-G-05", "DRV-G-07", "DRV-G-08", "DRV-G-09", "DRV-G-10", "DRV-G-14", "DRV-G-15", "DRV-C-25",
];

#[test]
fn a_crash_ends_one_case_and_the_next_begins() {
    for (deed, words) in [
        ("segfault@abort", "signal 11"),
        ("exit@abort", "ended the process with status 3"),
        ("overflow@abort", "signal"),
    ] {
        let kit = Kit::new();
        let flags = ["--format", "json"];
        let ran = check(&kit, &misbehave(), "content", &[deed], &flags);
        let failed = cases(&ran.json(), "fail");
        for id in ABORTING {
            let why = failed.iter().find(|(failed, _)| failed == id);
            let (_, why) = why.unwrap_or_else(|| panic!("{deed}: {id} in {failed:?}"));
            assert!(why.contains(words), "{deed}: {id}: {why}");
        }
        assert!(cases(&ran.json(), "pass").len() > 20);
    }
}

#[test]
fn a_hang_is_told_by_its_method() {
    let kit = Kit::new();
    let flags = ["--format", "json", "--timeout", "4"];
    // A store that does not open has no cases at all.
    let ran = check(&kit, &misbehave(), "content", &["hang@open"], &flags);
    let report = ran.json();
    assert_eq!(report["passed"], 0, "{report}");
    let (_, why) = &cases(&report, "fail")[0];
    assert!(why.contains("open has not returned"), "{why}");
    ran.refused(1, &["cases failed"]);
}
