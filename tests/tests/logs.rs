//! `logs`: what containers wrote, while and after they run.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use containerkit_tests::kit::{Kit, Ran, parent, until};
use rustix::process::{Pid, Signal, kill_process};

fn finish(kit: &Kit) {
    kit.run(["delete", "-f", "c"]).ok();
    kit.assert_clean();
}

fn files(kit: &Kit, id: &str) -> Vec<u64> {
    let dir = kit.root().join("containers").join(id).join("log");
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.metadata().unwrap().len())
        .collect()
}

fn numbers(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

#[test]
fn both_outputs_are_kept_apart_after_the_end_and_over_starts() {
    let kit = Kit::with_busybox();
    let script = "echo out; echo err >&2; printf unfinished";
    let id = kit.detached(&["--name", "c", "busybox", "sh", "-c", script]);
    assert_eq!(kit.run(["wait", "c"]).status, 0);
    let ran = kit.run(["logs", &id[..9]]).ok();
    assert_eq!(ran.stdout, "out\nunfinished");
    assert_eq!(ran.stderr, "err\n");
    let ran = kit.run(["logs", "-t", "c"]).ok();
    for line in ran.stdout.lines() {
        let (time, text) = line.split_once(' ').unwrap();
        assert!(time.parse::<containerkit::Timestamp>().is_ok(), "{line}");
        assert!(["out", "unfinished"].contains(&text), "{line}");
    }
    let rows = kit.run(["--format", "json", "logs", "c"]).ok().stdout;
    let rows: Vec<serde_json::Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    let err = rows.iter().find(|row| row["type"] == "stderr").unwrap();
    assert!(err["text"] == "err" && err["time"].is_string(), "{err}");
    kit.run(["start", "c"]).ok();
    kit.run(["wait", "c"]);
    until("the second run's output", || {
        kit.run(["logs", "c"]).ok().stdout == "out\nunfinishedout\nunfinished"
    });
    kit.run(["delete", "c"]).ok();
    kit.run(["logs", "c"]).refused(1, &["\"c\""]);
    kit.assert_clean();
}

#[test]
fn the_tail_and_the_past_are_cut_where_one_says() {
    let kit = Kit::with_busybox();
    kit.detached(&["--name", "c", "busybox", "seq", "1", "1000"]);
    kit.run(["wait", "c"]);
    let out = |args: &[&str]| kit.run([&["logs"], args, &["c"]].concat()).ok().stdout;
    assert_eq!(out(&[]), numbers(1000));
    assert_eq!(out(&["--tail", "3"]), "998\n999\n1000\n");
    assert_eq!(out(&["-n", "0"]), "");
    assert_eq!(out(&["--tail", "all"]), numbers(1000));
    assert_eq!(out(&["--since", "1h"]), numbers(1000));
    assert_eq!(out(&["--since", "2100-01-01T00:00:00Z"]), "");
    assert_eq!(out(&["--until", "2000-01-01T00:00:00Z"]), "");
    for bad in ["-1", "x", ""] {
        kit.run(["logs", "--tail", bad, "c"])
            .refused(1, &["--tail"]);
    }
    kit.run(["logs", "--since", "never", "c"])
        .refused(1, &["never"]);
    finish(&kit);
}

#[test]
fn a_follower_misses_nothing_while_files_rotate_and_ends_with_the_container() {
    let kit = Kit::with_busybox();
    let script = "for i in $(seq 1 60); do seq $((i*50-49)) $((i*50)); sleep 0.01; done; exit 3";
    let limits = ["--log-opt", "max-size=4k", "--log-opt", "max-file=100"];
    let args = [&limits[..], &["--name", "c", "busybox", "sh", "-c", script]].concat();
    let id = kit.detached(&args);
    let follow = |more: &[&str]| {
        let mut command = kit.command([&["logs", "-f"], more, &["c"]].concat());
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let (all, tail) = (follow(&[]), follow(&["--tail", "1"]));
    let ran = Ran::new(&all.wait_with_output().unwrap());
    assert_eq!(ran.status, 0);
    assert!(ran.stdout == numbers(3000), "{} bytes", ran.stdout.len());
    let ran = Ran::new(&tail.wait_with_output().unwrap());
    assert!(ran.stdout.ends_with("2999\n3000\n"));
    assert!(files(&kit, &id).len() > 20);
    assert_eq!(kit.run(["logs", "-f", "c"]).ok().stdout, numbers(3000));
    finish(&kit);
}

#[test]
fn one_that_writes_without_end_is_read_up_to_now() {
    let kit = Kit::with_busybox();
    let limits = ["--log-opt", "max-size=64k", "--log-opt", "max-file=2"];
    kit.detached(&[&limits[..], &["--name", "c", "busybox", "yes"]].concat());
    until("it has written", || {
        !kit.run(["logs", "--tail", "3", "c"]).ok().stdout.is_empty()
    });
    assert_eq!(
        kit.run(["logs", "--tail", "3", "c"]).ok().stdout,
        "y\ny\ny\n"
    );
    kit.run(["logs", "c"]).ok();
    finish(&kit);
}

#[test]
fn size_and_number_of_files_are_bounded() {
    let kit = Kit::with_busybox();
    let limits = ["--log-opt", "max-size=64k", "--log-opt", "max-file=2"];
    let args = [
        &limits[..],
        &["--name", "c", "busybox", "seq", "1", "200000"],
    ]
    .concat();
    let id = kit.detached(&args);
    kit.run(["wait", "c"]);
    let sizes = files(&kit, &id);
    assert_eq!(sizes.len(), 2, "{sizes:?}");
    assert!(sizes.iter().sum::<u64>() < 4 * (64 << 10), "{sizes:?}");
    let left = kit.run(["logs", "c"]).ok().stdout;
    assert!(left.ends_with("199999\n200000\n"), "{} bytes", left.len());
    finish(&kit);
}

#[test]
fn a_mebibyte_without_a_newline_then_an_exit_is_kept_whole() {
    let kit = Kit::with_busybox();
    kit.detached(&[
        "--name",
        "c",
        "busybox",
        "head",
        "-c",
        "1048576",
        "/dev/zero",
    ]);
    assert_eq!(kit.run(["wait", "c"]).status, 0);
    let ran = kit.run(["logs", "c"]).ok();
    assert!(ran.stdout.len() == 1 << 20 && ran.stdout.bytes().all(|b| b == 0));
    finish(&kit);
}

/// The exit is recorded after the output, so that whoever waits finds it.
#[test]
fn the_output_of_the_shortest_container_is_there_when_its_exit_is() {
    let kit = Kit::with_busybox();
    for n in 0..15 {
        let text = format!("short {n}");
        kit.detached(&["--name", "c", "busybox", "echo", &text]);
        assert_eq!(kit.run(["wait", "c"]).status, 0);
        assert_eq!(kit.run(["logs", "c"]).ok().stdout, format!("{text}\n"));
        kit.run(["delete", "-f", "c"]).ok();
    }
    kit.assert_clean();
}

#[test]
fn a_grandchild_outside_that_holds_the_output_does_not_keep_the_exit() {
    let kit = Kit::with_busybox();
    // Moved out of the container's cgroup, where nobody ends it.
    let args = ["--name", "c", "--pid", "host", "busybox", "sh", "-c"];
    let script = "echo $$; while ! test -e /end; do sleep 0.05; done; echo last; exit 3";
    let id = kit.detached(&[&args[..], &[script]].concat());
    let pid = kit.inspected(&id)["pid"].as_u64().unwrap();
    let held = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    kit.run(["exec", "c", "touch", "/end"]).ok();
    assert_eq!(kit.run(["wait", "c"]).status, 3);
    assert!(kit.run(["logs", "c"]).ok().stdout.ends_with("last\n"));
    drop(held);
    finish(&kit);
}

#[test]
fn what_keeps_no_log_says_so() {
    let kit = Kit::with_busybox();
    kit.detached(&[
        "--name",
        "c",
        "--log-opt",
        "driver=none",
        "busybox",
        "sleep",
        "1000",
    ]);
    kit.run(["logs", "c"]).refused(1, &["c", "driver=none"]);
    kit.run(["delete", "-f", "c"]).ok();
    kit.run(["create", "--name", "c", "busybox", "true"]).ok();
    assert_eq!(kit.run(["logs", "c"]).ok().stdout, "");
    finish(&kit);
}

#[test]
fn a_follower_ends_with_a_killed_shim_and_with_a_removed_container() {
    let kit = Kit::with_busybox();
    for how in ["supervisor", "all", "delete"] {
        kit.detached(&[
            "--name",
            "c",
            "busybox",
            "sh",
            "-c",
            "echo said; exec sleep 1000",
        ]);
        until("it has spoken", || {
            kit.run(["logs", "c"]).stdout == "said\n"
        });
        let follower = kit
            .command(["logs", "-f", "c"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = kit.inspected("c")["pid"].as_u64().unwrap() as u32;
        let supervisor = parent(pid).unwrap();
        let kill = |pid: u32| {
            kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        };
        match how {
            "supervisor" => kill(supervisor),
            "all" => {
                let guard = parent(supervisor).unwrap();
                kill(guard);
                kill(supervisor);
            }
            _ => drop(kit.run(["delete", "-f", "c"]).ok()),
        }
        let ran = Ran::new(&follower.wait_with_output().unwrap());
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (0, "said\n"),
            "{how}: {ran:?}"
        );
        finish(&kit);
    }
}
