//! Containers that are kept: made, started, stopped, started again, waited
//! for and deleted, by any number of commands.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use containerkit_tests::kit::{Kit, Ran, parent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn row(kit: &Kit, id: &str) -> Value {
    let rows = kit.run(["inspect", id]).ok().json();
    rows[0].clone()
}

fn status(kit: &Kit, id: &str) -> String {
    row(kit, id)["status"].as_str().unwrap().to_owned()
}

fn run_detached(kit: &Kit, args: &[&str]) -> String {
    let ran = kit.run([&["run", "-d"], args].concat()).ok();
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn a_container_is_made_started_stopped_and_started_again() {
    let kit = Kit::with_busybox();
    let script = "echo again >>/count; trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let made = kit
        .run([
            "create", "--name", "c", "--label", "a=b", "busybox", "sh", "-c", script,
        ])
        .ok();
    let id = made.stdout.trim();
    assert_eq!(id.len(), 64);
    assert_eq!(status(&kit, "c"), "created");
    assert!(kit.run(["ps", "-q"]).ok().stdout.is_empty());
    for round in 1..=2 {
        assert_eq!(kit.run(["start", "c"]).ok().stdout, "c\n");
        assert_eq!(status(&kit, &id[..10]), "running", "round {round}");
        kit.run(["start", "c"]).refused(1, &["c", "running"]);
        kit.run(["delete", "c"]).refused(1, &["c", "running"]);
        assert_eq!(kit.run(["stop", "c"]).ok().stdout, "c\n");
        let found = row(&kit, "c");
        assert_eq!(found["status"], "stopped");
        assert_eq!(found["exit_code"], 7);
        assert_eq!(found["exit"]["source"], "reaped");
        assert_eq!(found["pid"], Value::Null);
        kit.run(["stop", "c"]).ok();
        kit.run(["kill", "c"]).refused(1, &["c", "stopped"]);
        assert_eq!(kit.run(["wait", "c"]).status, 7);
    }
    // The snapshot is kept from run to run.
    let upper = kit.run(["snapshot", "usage", id]).status;
    assert_eq!(upper, 0);
    kit.run(["delete", "c"]).ok();
    kit.run(["delete", "c"]).refused(1, &["\"c\""]);
    kit.run(["delete", "-f", "c"]).ok();
    kit.run(["delete", "-f", "c"]).ok();
    kit.assert_clean();
}

#[test]
fn a_start_that_fails_leaves_what_was_there() {
    let kit = Kit::with_busybox();
    kit.run(["run", "--name", "gone", "busybox", "/no/such"])
        .refused(127, &["/no/such"]);
    kit.assert_clean();
    kit.run([
        "run",
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        "rm /bin/sh; exit 3",
    ]);
    assert_eq!(row(&kit, "c")["exit_code"], 3);
    let ran = kit.run(["start", "c"]);
    assert_ne!(ran.status, 0, "{ran:?}");
    let found = row(&kit, "c");
    assert_eq!(
        (&found["status"], &found["exit_code"]),
        (&"stopped".into(), &3.into())
    );
    kit.run(["delete", "c"]).ok();
    kit.assert_clean();
}

#[test]
fn waiters_agree_late_ones_too() {
    let kit = Kit::with_busybox();
    let id = run_detached(
        &kit,
        &[
            "--rm",
            "--name",
            "w",
            "busybox",
            "sh",
            "-c",
            "sleep 0.5; exit 42",
        ],
    );
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let mut command = kit.command(["wait", "w"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for waiter in waiters {
        let ran = Ran::new(&waiter.wait_with_output().unwrap());
        assert_eq!((ran.status, ran.stdout.as_str()), (42, "42\n"));
    }
    let end = Instant::now() + Duration::from_secs(20);
    while !kit.run(["ps", "-aq"]).ok().stdout.is_empty() {
        assert!(Instant::now() < end, "not removed");
    }
    for late in ["w", &id, &id[..8]] {
        assert_eq!(kit.run(["wait", late]).status, 42, "{late}");
    }
    kit.run(["run", "--name", "one", "busybox", "true"]).ok();
    kit.run(["run", "--name", "two", "busybox", "false"]);
    let both = kit.run(["wait", "one", "two"]).ok();
    assert_eq!(both.stdout, "0\n1\n");
    kit.run(["wait", "nobody"]).refused(1, &["nobody"]);
    kit.run(["delete", "one", "nobody", "two", "none"])
        .refused(1, &["nobody", "none"]);
    kit.assert_clean();
}

#[test]
fn a_waiter_may_come_before_the_start() {
    let kit = Kit::with_busybox();
    kit.run(["create", "--name", "c", "busybox", "sh", "-c", "exit 5"])
        .ok();
    let waiter = kit
        .command(["wait", "c"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    kit.run(["start", "c"]).ok();
    assert_eq!(Ran::new(&waiter.wait_with_output().unwrap()).status, 5);
}

#[test]
fn signals_are_names_or_numbers() {
    let kit = Kit::with_busybox();
    let script = "trap 'exit 10' USR1; trap 'exit 36' 36; while :; do sleep 0.05; done";
    for (signal, expected) in [
        ("USR1", 10),
        ("SIGUSR1", 10),
        ("10", 10),
        ("36", 36),
        ("KILL", 137),
    ] {
        let id = run_detached(&kit, &["busybox", "sh", "-c", script]);
        // The trap is set a moment after the start.
        let pid = row(&kit, &id)["pid"].as_u64().unwrap();
        wait_for_handler(pid);
        kit.run(["kill", "-s", signal, &id]).ok();
        assert_eq!(kit.run(["wait", &id]).status, expected, "{signal}");
        kit.run(["delete", &id]).ok();
    }
    kit.run(["kill", "-s", "NOSUCH", "x"])
        .refused(1, &["NOSUCH"]);
    kit.run(["kill", "-s", "0", "x"]).refused(1, &["0"]);
    kit.assert_clean();
}

fn wait_for_handler(pid: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap_or("0");
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        if mask & (1 << 9) != 0 && mask & (1 << 35) != 0 {
            return;
        }
        assert!(Instant::now() < end, "no handler");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stop_kills_what_does_not_listen() {
    let kit = Kit::with_busybox();
    let a = run_detached(&kit, &["--name", "a", "busybox", "sleep", "1000"]);
    run_detached(
        &kit,
        &[
            "--rm",
            "--name",
            // No hexadecimal digit, with which the other's id may begin.
            "removed",
            "--stop-signal",
            "KILL",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let begun = Instant::now();
    kit.run(["stop", "-t", "1", "removed", "a"]).ok();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(row(&kit, &a)["exit"]["signal"], 9);
    kit.run(["inspect", "removed"]).refused(1, &["\"removed\""]);
    kit.run(["delete", "a"]).ok();
    kit.assert_clean();
}

#[test]
fn a_stopped_shim_lets_go_of_what_is_deleted_by_force() {
    let kit = Kit::with_busybox();
    for of in ["supervisor", "guard"] {
        run_detached(&kit, &["--name", "c", "busybox", "sleep", "1000"]);
        let init = row(&kit, "c")["pid"].as_u64().unwrap();
        let supervisor = parent(u32::try_from(init).unwrap()).unwrap();
        let stopped = match of {
            "guard" => parent(supervisor).unwrap(),
            _ => supervisor,
        };
        let pid = Pid::from_raw(stopped.cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        kit.run(["delete", "-f", "c"]).ok();
        kit.assert_clean();
    }
}

#[test]
fn ps_filters_and_names_are_unique() {
    let kit = Kit::with_busybox();
    run_detached(
        &kit,
        &[
            "--name", "web-1", "--label", "tier=web", "busybox", "sleep", "1000",
        ],
    );
    kit.run([
        "run", "--name", "job-1", "--label", "tier=job", "busybox", "false",
    ]);
    kit.run(["create", "--name", "new", "busybox", "true"]).ok();
    let names = |args: &[&str]| -> Vec<String> {
        let found = kit
            .run([&["ps", "--format", "json"], args].concat())
            .ok()
            .json();
        let rows = found.as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&[]), ["web-1"]);
    assert_eq!(names(&["-a"]), ["new", "job-1", "web-1"]);
    assert_eq!(names(&["-n", "2"]), ["new", "job-1"]);
    assert_eq!(names(&["--filter", "status=stopped"]), ["job-1"]);
    assert_eq!(names(&["-a", "--filter", "label=tier"]), ["job-1", "web-1"]);
    assert_eq!(names(&["-a", "--filter", "label=tier=web"]), ["web-1"]);
    assert_eq!(names(&["-a", "--filter", "name=job"]), ["job-1"]);
    assert_eq!(names(&["-a", "--filter", "ancestor=busybox"]).len(), 3);
    assert!(names(&["-a", "--filter", "ancestor=other"]).is_empty());
    kit.run(["ps", "--filter", "status=happy"])
        .refused(1, &["happy"]);
    kit.run(["ps", "--filter", "x"]).refused(1, &["\"x\""]);
    kit.run(["create", "--name", "web-1", "busybox"])
        .refused(1, &["web-1"]);
    kit.run(["run", "--name", "web-1", "busybox"])
        .refused(125, &["web-1"]);
    let short = kit.run(["ps", "-q"]).ok().stdout;
    let full = kit.run(["ps", "-q", "--no-trunc"]).ok().stdout;
    assert!(full.starts_with(short.trim()) && full.trim().len() == 64);
    kit.run(["delete", "-f", "web-1", "job-1", "new"]).ok();
    kit.assert_clean();
}

#[test]
fn a_reboot_ends_runs_and_keeps_containers() {
    let kit = Kit::with_busybox();
    kit.run(["create", "--name", "new", "busybox", "sh", "-c", "exit 4"])
        .ok();
    kit.run(["run", "--name", "done", "busybox", "sh", "-c", "exit 3"]);
    run_detached(&kit, &["--name", "busy", "busybox", "sleep", "1000"]);
    let pid = row(&kit, "busy")["pid"].as_u64().unwrap().to_string();
    kit.run(["kill", "busy"]).ok();
    kit.run(["wait", "busy"]);
    kit.run(["stop", "busy"]).ok();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    // As if the power had gone while it ran: nothing in `state`, and no exit.
    std::fs::remove_dir_all(kit.state()).unwrap();
    let id = row(&kit, "busy")["id"].as_str().unwrap().to_owned();
    let _ = std::fs::remove_file(kit.root().join("containers").join(&id).join("exit.json"));
    std::fs::remove_dir_all(kit.state()).unwrap();

    assert_eq!(status(&kit, "new"), "created");
    let busy = row(&kit, "busy");
    assert_eq!(
        (&busy["status"], &busy["exit_code"]),
        (&"stopped".into(), &255.into())
    );
    assert_eq!(busy["exit"]["source"], "unknown");
    assert_eq!(kit.run(["wait", "busy"]).status, 255);
    kit.run(["start", "-a", "new"]);
    assert_eq!(kit.run(["wait", "new"]).status, 4);
    kit.run(["start", "busy"]).ok();
    assert_eq!(status(&kit, "busy"), "running");
    kit.run(["delete", "-f", "new", "done", "busy"]).ok();
    kit.assert_clean();
}

#[test]
fn events_tell_all_in_order() {
    let kit = Kit::with_busybox();
    let mut follower = kit
        .command(["events", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kit.run(["run", "--rm", "--name", "e", "busybox", "true"])
        .ok();
    let seen = kit.run(["events", "--no-stream", "--format", "json"]).ok();
    let events: Vec<Value> = seen
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mine: Vec<&str> = events
        .iter()
        .filter(|event| event["name"] == "e")
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert!(
        mine.starts_with(&["create", "start"]) && mine.ends_with(&["delete"]),
        "{mine:?}"
    );
    assert!(events.iter().all(|event| event["time"].is_string()));
    let seqs: Vec<u64> = events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
    let filtered = kit
        .run(["events", "--no-stream", "--filter", "type=delete"])
        .ok();
    assert_eq!(filtered.stdout.lines().count(), 1, "{filtered:?}");
    let later = kit
        .run(["events", "--no-stream", "--since", "2100-01-01T00:00:00Z"])
        .ok();
    assert_eq!(later.stdout, "");
    kit.run(["events", "--since", "yesterday"])
        .refused(1, &["yesterday"]);

    // Asked politely, a follower ends well; what came while it was there, it saw.
    let pid = rustix::process::Pid::from_raw(follower.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(follower.wait().unwrap().success());
    let mut followed = String::new();
    std::io::Read::read_to_string(&mut follower.stdout.take().unwrap(), &mut followed).unwrap();
    assert!(followed.contains("\"type\":\"delete\""), "{followed}");
}

#[test]
fn stats_and_top_tell_what_runs() {
    let kit = Kit::with_busybox();
    let script = "dd if=/dev/zero of=/tmp/x bs=1M count=8 2>/dev/null; while :; do :; done";
    let limits = ["--memory", "64m", "--pids-limit", "20"];
    let args = [&limits[..], &["--name", "s", "busybox", "sh", "-c", script]].concat();
    run_detached(&kit, &args);
    std::thread::sleep(Duration::from_millis(500));
    let found = kit
        .run(["stats", "--no-stream", "--format", "json", "s"])
        .ok()
        .json();
    let stats = &found[0];
    assert_eq!(
        (stats["name"].as_str(), stats["memory_limit"].as_u64()),
        (Some("s"), Some(64 << 20))
    );
    assert_eq!(stats["pids_limit"], 20);
    assert!(stats["cpu_percent"].as_f64().unwrap() > 1.0, "{stats}");
    assert!(stats["memory_usage"].as_u64().unwrap() > 1 << 20, "{stats}");
    assert_eq!(
        (&stats["pids"], &stats["oom_kills"]),
        (&1.into(), &0.into()),
        "{stats}"
    );
    let table = kit.run(["stats", "--no-stream"]).ok().stdout;
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(!table.contains('\u{1b}'), "{table:?}");

    let pid = row(&kit, "s")["pid"].as_u64().unwrap();
    let top = kit.run(["--format", "json", "top", "s"]).ok().json();
    assert_eq!(top[0]["pid"], pid);
    assert!(
        top[0]["args"].as_str().unwrap().starts_with("sh -c dd"),
        "{top}"
    );
    let top = kit.run(["top", "s", "-o", "user,nspid,comm"]).ok().stdout;
    let lines: Vec<Vec<&str>> = top
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["USER", "NSPID", "COMMAND"], ["root", "1", "sh"]]);
    kit.run(["top", "s", "-o", "nosuch"])
        .refused(1, &["nosuch"]);
    kit.run(["kill", "s"]).ok();
    kit.run(["wait", "s"]);
    kit.run(["top", "s"]).refused(1, &["s", "stopped"]);
    kit.run(["stats", "--no-stream", "s"])
        .refused(1, &["s", "stopped"]);
    assert_eq!(
        kit.run(["stats", "--no-stream"])
            .ok()
            .stdout
            .lines()
            .count(),
        1
    );
    kit.run(["delete", "s"]).ok();
    kit.assert_clean();
}
