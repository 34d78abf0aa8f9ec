//! `exec`: a further process in a running container, from any process, with
//! its own streams, status and record.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use containerkit::shim::read_execs;
use containerkit_tests::kit::{Kit, Ran, parent, signal, until};
use containerkit_tests::steps::Steps;
use containerkit_tests::user::User;
use rustix::process::{Pid, Signal, kill_process};

/// A kit with a container `c` that does nothing until it is asked to end.
fn with_idle() -> Kit {
    let kit = Kit::with_busybox();
    let idle = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    kit.detached(&[
        "--name",
        "c",
        "-e",
        "OF=container",
        "busybox",
        "sh",
        "-c",
        idle,
    ]);
    kit
}

fn supervisor(kit: &Kit) -> u32 {
    parent(kit.inspected("c")["pid"].as_u64().unwrap() as u32).unwrap()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn finish(kit: &Kit) {
    kit.run(["delete", "-f", "c"]).ok();
    kit.run(["delete", "-f", "c"]).ok();
    kit.assert_clean();
}

#[test]
fn an_exec_has_its_own_streams_status_user_folder_and_environment() {
    let kit = with_idle();
    let id = kit.inspected("c")["id"].as_str().unwrap().to_owned();
    let script = "echo $OF $ADDED; id -u; pwd; echo err >&2; exit 7";
    let args = [
        "exec",
        "-e",
        "ADDED=here",
        "-u",
        "app",
        "-w",
        "/tmp",
        &id[..8],
    ];
    let ran = kit.run([&args[..], &["sh", "-c", script]].concat());
    assert_eq!(ran.status, 7, "{ran:?}");
    assert_eq!(ran.stdout, "container here\n1000\n/tmp\n");
    assert_eq!(ran.stderr, "err\n");
    // Every word after the id is the command's.
    let ran = kit.run(["exec", "c", "echo", "-t", "--root", "x"]).ok();
    assert_eq!(ran.stdout, "-t --root x\n");
    let ran = kit.run_with_input(["exec", "-i", "c", "cat"], b"typed\0\xff");
    assert_eq!((ran.status, ran.stdout.len()), (0, 9), "{ran:?}");
    let ran = kit.run_with_input(["exec", "c", "cat"], b"not for it").ok();
    assert_eq!(ran.stdout, "");
    for (script, status) in [("kill -9 $$", 137), ("kill -15 $$", 143), ("exit 255", 255)] {
        assert_eq!(kit.run(["exec", "c", "sh", "-c", script]).status, status);
    }
    let events = kit
        .run(["events", "--no-stream", "--filter", "type=exec"])
        .ok();
    assert!(events.stdout.lines().count() >= 7, "{events:?}");
    finish(&kit);
}

#[test]
fn what_cannot_be_executed_has_the_statuses_of_a_shell() {
    let kit = with_idle();
    kit.run(["exec", "c", "/no/such"])
        .refused(127, &["/no/such"]);
    kit.run(["exec", "c", "no-such"]).refused(127, &["no-such"]);
    kit.run(["exec", "c", "/etc/noexec"])
        .refused(126, &["/etc/noexec"]);
    kit.run(["exec", "c", "/etc"]).refused(126, &["/etc"]);
    kit.run(["exec", "nobody", "true"])
        .refused(125, &["nobody"]);
    kit.run(["exec", "c"]).refused(125, &[]);
    kit.run(["exec", "--bogus", "c", "true"])
        .refused(125, &["--bogus"]);
    kit.run(["exec", "-u", "stranger", "c", "true"])
        .refused(125, &["stranger"]);
    kit.run(["exec", "-w", "/no/such", "c", "true"])
        .refused(125, &["\"/no/such\": no such folder"]);
    // In the runtime's own words, but one line, and none of its noise.
    kit.run(["exec", "-w", "/etc/passwd", "c", "true"])
        .refused(125, &[]);
    kit.run(["create", "--name", "new", "busybox", "true"]).ok();
    kit.run(["exec", "new", "true"])
        .refused(125, &["new", "created"]);
    kit.run(["delete", "new"]).ok();
    kit.run(["kill", "c"]).ok();
    kit.run(["wait", "c"]);
    kit.run(["exec", "c", "true"])
        .refused(125, &["c", "stopped"]);
    finish(&kit);
}

#[test]
fn a_paused_container_takes_no_further_process() {
    let kit = with_idle();
    kit.run(["pause", "c"]).ok();
    kit.run(["exec", "c", "true"])
        .refused(125, &["c", "paused"]);
    kit.run(["resume", "c"]).ok();
    kit.run(["exec", "c", "true"]).ok();
    finish(&kit);
}

#[test]
fn a_mebibyte_then_an_exit_is_a_mebibyte() {
    let kit = with_idle();
    let script = "head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2; exit 3";
    let ran = kit.run(["exec", "c", "sh", "-c", script]);
    assert_eq!(ran.status, 3);
    assert_eq!((ran.stdout.len(), ran.stderr.len()), (1 << 20, 1 << 20));
    finish(&kit);
}

/// Once keyed by path, one of the two was never read and the process hung.
#[test]
fn one_sink_for_both_outputs_keeps_their_order_and_never_blocks() {
    let kit = with_idle();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = "for i in $(seq 1 9000); do echo $i; echo $i >&2; done";
    let mut child = kit
        .command(["exec", "c", "sh", "-c", script])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    let expected: String = (1..=9000).map(|n| format!("{n}\n{n}\n")).collect();
    assert!(text == expected, "{} bytes", text.len());
    assert!(child.wait().unwrap().success());
    finish(&kit);
}

#[test]
fn a_grandchild_that_holds_the_streams_holds_up_nobody() {
    let kit = with_idle();
    let out = kit.path("out");
    let file = File::create(&out).unwrap();
    let (_reader, errors) = std::io::pipe().unwrap();
    let begun = Instant::now();
    let status = kit
        .command(["exec", "c", "sh", "-c", "sleep 1000 & echo said; exit 4"])
        .stdout(file)
        .stderr(errors)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(4));
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(std::fs::read_to_string(out).unwrap(), "said\n");
    finish(&kit);
}

#[test]
fn a_signal_to_the_command_is_for_the_process_alone() {
    let kit = with_idle();
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = kit
        .command(["exec", "c", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = [0; 6];
    std::io::Read::read_exact(&mut stdout, &mut seen).unwrap();
    signal(&child, Signal::TERM);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), &*rest),
        (Some(9), "caught\n")
    );
    assert_eq!(kit.inspected("c")["status"], "running");
    finish(&kit);
}

#[test]
fn a_process_outlives_the_command_that_asked_for_it() {
    let kit = with_idle();
    let script = "while ! test -e /go; do sleep 0.05; done; echo err >&2; echo done >/done; exit 6";
    for terminal in [false, true] {
        let mut args = vec!["exec"];
        args.extend(terminal.then_some("-t"));
        args.extend(["c", "sh", "-c", script]);
        let (reader, errors) = std::io::pipe().unwrap();
        let mut child = kit
            .command(args)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let begun = |kit: &Kit| {
            let top = kit.run(["top", "c"]).ok().stdout;
            top.contains("/done")
        };
        until("it runs", || begun(&kit));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(reader);
        kit.run(["exec", "c", "touch", "/go"]).ok();
        until("it is done", || {
            kit.run(["exec", "c", "cat", "/done"]).status == 0
        });
        kit.run(["exec", "c", "rm", "/go", "/done"]).ok();
    }
    let ran = kit
        .run(["exec", "-d", "c", "sh", "-c", "echo there >/detached"])
        .ok();
    assert_eq!(ran.stdout, "");
    until("the detached one ran", || {
        kit.run(["exec", "c", "cat", "/detached"]).stdout == "there\n"
    });
    let ran = kit
        .run(["--format", "json", "exec", "-d", "c", "sleep", "1000"])
        .ok();
    assert!(ran.json()["pid"].as_u64().unwrap() > 1, "{ran:?}");
    finish(&kit);
}

#[test]
fn every_process_has_a_record_of_its_own_and_few_are_kept() {
    let kit = with_idle();
    let id = kit.inspected("c")["id"].as_str().unwrap().to_owned();
    let dir = kit.state().join("containers").join(&id);
    for status in [0, 3, 137] {
        let script = match status {
            137 => "kill -9 $$".to_owned(),
            status => format!("exit {status}"),
        };
        assert_eq!(kit.run(["exec", "c", "sh", "-c", &script]).status, status);
    }
    let exits = |dir: &std::path::Path| -> Vec<Option<u8>> {
        let records = read_execs(dir).unwrap();
        records
            .iter()
            .map(|r| r.exit.as_ref().map(|exit| exit.status()))
            .collect()
    };
    assert_eq!(exits(&dir), [Some(0), Some(3), Some(137)]);
    for _ in 0..40 {
        kit.run(["exec", "c", "true"]).ok();
    }
    assert!(exits(&dir).len() <= 33, "{}", exits(&dir).len());
    finish(&kit);
}

#[test]
fn many_at_once_get_each_its_own_status() {
    let kit = with_idle();
    let children: Vec<_> = (1..=16)
        .map(|n: i32| {
            let script = format!("echo {n}; exit {n}");
            let child = kit
                .command(["exec", "c", "sh", "-c", &script])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            (n, child)
        })
        .collect();
    for (n, child) in children {
        let ran = Ran::new(&child.wait_with_output().unwrap());
        assert_eq!((ran.status, ran.stdout), (n, format!("{n}\n")));
    }
    finish(&kit);
}

/// A name that looks like the end of one in `/proc/PID/stat`.
#[test]
fn a_program_called_like_a_stat_line_is_waited_for() {
    let kit = with_idle();
    let script = "printf '#!/bin/sh\\nexit 6\\n' >'/tmp/a) R 1 (b'; chmod 755 '/tmp/a) R 1 (b'";
    kit.run([
        "exec",
        "c",
        "busybox",
        "sh",
        "-c",
        &script.replace("chmod", "busybox chmod"),
    ])
    .ok();
    assert_eq!(kit.run(["exec", "c", "/tmp/a) R 1 (b"]).status, 6);
    finish(&kit);
}

#[test]
fn a_terminal_of_an_exec_has_the_users_size_and_can_be_left() {
    let kit = with_idle();
    let mut user = User::runs(&kit, &["exec", "-it", "c", "sh"]);
    user.types("stty size; test -t 0 && test -t 1 && echo all-''tty\n");
    user.sees("33 101");
    user.sees("all-tty");
    user.resizes(20, 60);
    user.types("until [ \"$(stty size)\" = '20 60' ]; do sleep 0.05; done; echo resi''zed\n");
    user.sees("resized");
    user.types("exit 7\n");
    assert_eq!(user.status(), Some(7));
    let mut user = User::runs(
        &kit,
        &[
            "exec",
            "-it",
            "c",
            "sh",
            "-c",
            "echo in; read x; echo $x >/read",
        ],
    );
    user.sees("in");
    user.types("\u{10}\u{11}");
    assert_eq!(user.status(), Some(0));
    assert!(
        kit.run(["top", "c"]).ok().stdout.contains("/read"),
        "it has gone"
    );
    finish(&kit);
}

#[test]
fn an_exec_works_after_the_launching_command_was_killed() {
    for keep in [false, true] {
        let kit = Kit::with_busybox();
        let mut args = vec!["run", "--name", "c"];
        args.extend((!keep).then_some("--rm"));
        args.extend([
            "busybox",
            "sh",
            "-c",
            "while ! test -e /end; do sleep 0.05; done; exit 5",
        ]);
        let mut run = kit.command(args).stdout(Stdio::null()).spawn().unwrap();
        until("it runs", || {
            let ran = kit.run(["inspect", "c"]);
            ran.status == 0 && ran.json()[0]["status"] == "running"
        });
        run.kill().unwrap();
        run.wait().unwrap();
        assert_eq!(kit.run(["exec", "c", "sh", "-c", "exit 8"]).status, 8);
        let waiter = kit
            .command(["wait", "c"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        kit.run(["exec", "c", "touch", "/end"]).ok();
        assert_eq!(
            Ran::new(&waiter.wait_with_output().unwrap()).status,
            5,
            "kept: {keep}"
        );
        if keep {
            kit.run(["delete", "c"]).ok();
        }
        kit.assert_clean();
    }
}

#[test]
fn a_killed_supervisor_ends_its_execs_and_all_agree() {
    let kit = with_idle();
    let id = kit.inspected("c")["id"].as_str().unwrap().to_owned();
    let exec = kit.command(["exec", "c", "sleep", "1000"]).spawn().unwrap();
    let attached = kit
        .command(["attach", "c"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = kit.state().join("containers").join(&id);
    until("the exec runs", || {
        read_execs(&dir)
            .unwrap()
            .iter()
            .any(|record| record.process.is_some())
    });
    kill(supervisor(&kit));
    for mut child in [exec, attached] {
        assert_eq!(child.wait().unwrap().code(), Some(137));
    }
    for _ in 0..2 {
        assert_eq!(kit.run(["wait", "c"]).status, 137);
    }
    assert_eq!(kit.inspected("c")["exit"]["source"], "inferred");
    let records = read_execs(&dir).unwrap();
    assert!(
        records
            .iter()
            .all(|record| record.exit.as_ref().is_some_and(|e| e.status() == 137))
    );
    kit.run(["exec", "c", "true"])
        .refused(125, &["c", "stopped"]);
    finish(&kit);
}

#[test]
fn a_whole_shim_killed_during_an_exec_is_put_in_order_by_the_next_command() {
    let kit = with_idle();
    let mut exec = kit.command(["exec", "c", "sleep", "1000"]).spawn().unwrap();
    until("the exec runs", || {
        kit.run(["top", "c"]).ok().stdout.contains("sleep 1000")
    });
    let supervisor = supervisor(&kit);
    let guard = parent(supervisor).unwrap();
    kill_process(Pid::from_raw(guard as i32).unwrap(), Signal::STOP).unwrap();
    kill(supervisor);
    kill(guard);
    let status = kit.run(["wait", "c"]).status;
    assert!(status == 137 || status == 255, "{status}");
    assert_eq!(kit.run(["wait", "c"]).status, status);
    assert_eq!(exec.wait().unwrap().code(), Some(137));
    finish(&kit);
}

/// The commands' own steps, then those of the supervisor.
#[test]
fn a_kill_at_any_step_of_an_exec_leaves_what_the_next_command_mends() {
    let kit = with_idle();
    let steps = Steps::new(kit.path("steps"));
    let exec = ["exec", "c", "sh", "-c", "exit 3"];
    let (ran, reached) = steps.count(&mut kit.command(exec));
    assert_eq!(ran.status, 3);
    for place in 1..=reached.len() {
        steps.kill(&mut kit.command(exec), place);
        assert_eq!(kit.run(exec).status, 3, "after step {place}");
    }
    finish(&kit);

    for step in ["exec.intended", "exec.made", "exec.recorded", "exec.ended"] {
        let idle = ["run", "-d", "--name", "c", "busybox", "sleep", "1000"];
        let ran = steps.kill(&mut kit.command(idle), step);
        assert_eq!(ran.status, 0, "{ran:?}");
        let ran = kit.run(exec);
        assert!([3, 125, 137].contains(&ran.status), "{step}: {ran:?}");
        for _ in 0..2 {
            assert_eq!(kit.run(["wait", "c"]).status, 137, "{step}");
        }
        kit.run(exec).refused(125, &["c", "stopped"]);
        assert_eq!(kit.inspected("c")["status"], "stopped");
        finish(&kit);
    }
}
