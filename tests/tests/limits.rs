//! Limits of containers that live: pause, resume, update, and what the kernel
//! does when memory runs out.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use containerkit_tests::kit::{Kit, until};
use serde_json::Value;

fn row(kit: &Kit, id: &str) -> Value {
    kit.run(["inspect", id]).ok().json()[0].clone()
}

fn run_detached(kit: &Kit, name: &str, flags: &[&str], script: &str) -> String {
    let words = ["busybox", "sh", "-c", script];
    let args = [&["run", "-d", "--name", name], flags, &words].concat();
    kit.run(args).ok().stdout.trim().to_owned()
}

/// The value of the first of these files in the container's cgroups.
fn cgroup_value(pid: u64, names: &[&str]) -> String {
    let folders: Vec<PathBuf> = containerkit::shim::own_cgroups(pid as u32).unwrap();
    let mut files = folders
        .iter()
        .flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let found = files.find(|file| file.exists()).unwrap();
    std::fs::read_to_string(found).unwrap().trim().to_owned()
}

fn memory_limit(pid: u64) -> String {
    cgroup_value(pid, &["memory.limit_in_bytes", "memory.max"])
}

fn kinds(kit: &Kit, name: &str) -> Vec<String> {
    let told = kit.run(["events", "--no-stream", "--format", "json"]).ok();
    let events = told.stdout.lines();
    events
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["name"] == name)
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    let kit = Kit::with_busybox();
    let shared = kit.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/out", shared.display());
    let script = "while :; do echo >>/out/count; sleep 0.01; done";
    let id = run_detached(&kit, "p", &["-v", &volume], script);
    let count = shared.join("count");
    until("it runs", || size(&count) > 0);
    kit.run(["resume", "p"])
        .refused(1, &["p", "running", "paused"]);
    assert_eq!(kit.run(["pause", "p"]).ok().stdout, "p\n");
    let before = size(&count);
    let rows = kit.run(["ps", "--format", "json"]).ok().json();
    assert_eq!(
        (&rows[0]["id"], &rows[0]["status"]),
        (&id.as_str().into(), &"paused".into())
    );
    let filtered = kit.run(["ps", "-q", "--filter", "status=paused"]).ok();
    assert!(!filtered.stdout.is_empty() && id.starts_with(filtered.stdout.trim()));
    assert!(
        kit.run(["ps", "-q", "--filter", "status=running"])
            .ok()
            .stdout
            .is_empty()
    );
    kit.run(["pause", "p"]).refused(1, &["p", "paused"]);
    kit.run(["delete", "p"]).refused(1, &["p", "running"]);
    assert_eq!(size(&count), before, "it went on");
    let told = kit.run(["--format", "json", "resume", "p"]).ok().json();
    assert_eq!(told, serde_json::json!(["p"]));
    assert_eq!(row(&kit, "p")["status"], "running");
    until("it goes on", || size(&count) > before);

    // Frozen ones can be ended: politely, at once, and with force.
    kit.run(["pause", "p"]).ok();
    kit.run(["stop", "-t", "0", "p"]).ok();
    assert_eq!(row(&kit, "p")["exit_code"], 137);
    for verb in ["pause", "resume"] {
        kit.run([verb, "p"]).refused(1, &["p", "stopped"]);
        kit.run([verb, "nobody"]).refused(1, &["nobody"]);
    }
    kit.run(["start", "p"]).ok();
    kit.run(["pause", "p"]).ok();
    kit.run(["kill", "p"]).ok();
    assert_eq!(kit.run(["wait", "p"]).status, 137);
    kit.run(["start", "p"]).ok();
    assert_eq!(row(&kit, "p")["status"], "running");
    kit.run(["pause", "p"]).ok();
    kit.run(["delete", "-f", "p"]).ok();
    let told = kinds(&kit, "p");
    assert_eq!(told.iter().filter(|kind| *kind == "pause").count(), 4);
    assert_eq!(told.iter().filter(|kind| *kind == "resume").count(), 1);
    kit.assert_clean();
}

#[test]
fn limits_change_live_and_stay_for_the_next_start() {
    let kit = Kit::with_busybox();
    let flags = ["--memory", "64m", "--pids-limit", "30"];
    run_detached(&kit, "u", &flags, "sleep 1000");
    let pid = || row(&kit, "u")["pid"].as_u64().unwrap();
    let first = pid();
    assert_eq!(memory_limit(first), (64u64 << 20).to_string());
    let args = ["update", "--memory", "128m", "--cpus", "0.5", "u"];
    assert_eq!(kit.run(args).ok().stdout, "u\n");
    assert_eq!(memory_limit(first), (128u64 << 20).to_string());
    assert_eq!(cgroup_value(first, &["pids.max"]), "30", "not asked for");
    let json = kit.run(["--format", "json", "update", "--pids-limit", "40", "u"]);
    assert_eq!(json.ok().json(), serde_json::json!(["u"]));
    assert_eq!(cgroup_value(first, &["pids.max"]), "40");
    let resources = row(&kit, "u")["spec"]["linux"]["resources"].clone();
    assert_eq!(resources["memory"]["limit"], 128u64 << 20);
    assert_eq!(resources["cpu"]["quota"], 50_000);
    assert_eq!(resources["pids"]["limit"], 40);
    assert!(
        resources["devices"]
            .as_array()
            .is_some_and(|rules| !rules.is_empty())
    );

    // A frozen one too; a refused one changes nothing, recorded or not.
    kit.run(["pause", "u"]).ok();
    kit.run(["update", "--pids-limit", "41", "u"]).ok();
    kit.run(["resume", "u"]).ok();
    for (args, words) in [
        (
            &["update", "--memory", "1q", "u"][..],
            &["--memory", "1q"][..],
        ),
        (&["update", "--memory", "1k", "u"], &["6m"]),
        (&["update", "--cpus", "-1", "u"], &["--cpus"]),
        (
            &["update", "--pids-limit", "many", "u"],
            &["--pids-limit", "many"],
        ),
        (&["update", "u"], &["u", "limit"]),
        (&["update", "--memory", "64m", "nobody"], &["nobody"]),
    ] {
        kit.run(args).refused(1, words);
    }
    assert_eq!(memory_limit(first), (128u64 << 20).to_string());

    kit.run(["stop", "-t", "0", "u"]).ok();
    kit.run(["update", "--memory", "64m", "u"])
        .refused(1, &["u", "stopped"]);
    // As after a reboot: from what is kept.
    std::fs::remove_dir_all(kit.state()).unwrap();
    kit.run(["start", "u"]).ok();
    let second = pid();
    assert_ne!(second, first);
    assert_eq!(memory_limit(second), (128u64 << 20).to_string());
    assert_eq!(cgroup_value(second, &["pids.max"]), "41");
    kit.run(["delete", "-f", "u"]).ok();
    kit.assert_clean();
}

/// Takes more and more memory, in anonymous pages.
const HUNGRY: &str = "x=0123456789abcdef; while :; do x=$x$x; done";

#[test]
fn running_out_of_memory_is_told() {
    let kit = Kit::with_busybox();
    let flags = ["--memory", "16m", "--memory-swap", "16m"];
    let args = [
        &["run", "--name", "init"],
        &flags[..],
        &["busybox", "sh", "-c", HUNGRY],
    ]
    .concat();
    assert_eq!(kit.run(args).status, 137);
    let found = row(&kit, "init");
    assert_eq!(found["exit"]["oom_killed"], true, "{found}");
    assert_eq!(found["oom_killed"], true);
    assert_eq!(found["exit"]["signal"], 9);
    assert_eq!(kinds(&kit, "init"), ["create", "start", "oom", "exit"]);
    let told = kit
        .run(["events", "--no-stream", "--filter", "type=exit"])
        .ok();
    for word in [
        "exit_code=137",
        "signal=9",
        "source=reaped",
        "oom_killed=true",
    ] {
        assert!(told.stdout.contains(word), "{word} in {told:?}");
    }

    // A child alone is killed, and that is told while the rest goes on.
    let script = format!("sh -c '{HUNGRY}'; sleep 1000");
    run_detached(&kit, "child", &flags, &script);
    until("the event", || {
        kinds(&kit, "child").contains(&"oom".to_owned())
    });
    let found = row(&kit, "child");
    assert_eq!(
        (&found["status"], &found["oom_killed"]),
        (&"running".into(), &true.into())
    );
    kit.run(["stop", "-t", "0", "child"]).ok();
    let found = row(&kit, "child");
    assert_eq!(found["exit"]["oom_killed"], true);
    assert_eq!(
        kinds(&kit, "child")
            .iter()
            .filter(|kind| *kind == "oom")
            .count(),
        1
    );

    // The next run is another one.
    run_detached(&kit, "fed", &flags, "exit 3");
    assert_eq!(kit.run(["wait", "fed"]).status, 3);
    assert_eq!(row(&kit, "fed")["oom_killed"], false);
    kit.run(["delete", "-f", "init", "child", "fed"]).ok();
    kit.assert_clean();
}
