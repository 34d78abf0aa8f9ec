//! `attach`: the streams of a running container, for any number of clients
//! that come and go.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use containerkit_tests::kit::{Kit, Ran, signal, until};
use containerkit_tests::user::User;
use rustix::process::Signal;

/// A client that has its pipes from the shim.
fn attached(kit: &Kit, args: &[&str]) -> Child {
    let child = kit
        .command([&["attach"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Pipes that this process has not are from the shim.
    let pipes = |pid: u32| -> Vec<PathBuf> {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        open.into_iter()
            .flatten()
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("pipe:"))
            .collect()
    };
    until("the client is attached", || {
        let standard: Vec<PathBuf> = (0..3)
            .filter_map(|n| std::fs::read_link(format!("/proc/{}/fd/{n}", child.id())).ok())
            .collect();
        let ours = pipes(std::process::id());
        pipes(child.id())
            .iter()
            .any(|pipe| !standard.contains(pipe) && !ours.contains(pipe))
    });
    child
}

/// Reads until this was read.
fn sees(child: &mut Child, text: &str) {
    let stdout = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).ends_with(text) {
        assert_eq!(
            stdout.read(&mut byte).unwrap(),
            1,
            "the end, after {seen:?}"
        );
        seen.push(byte[0]);
    }
}

fn ended(child: Child) -> Ran {
    Ran::new(&child.wait_with_output().unwrap())
}

fn ticking(kit: &Kit, end: &str) {
    let script =
        format!("while ! test -e /end; do echo out; echo err >&2; sleep 0.05; done; {end}");
    kit.detached(&["--name", "c", "busybox", "sh", "-c", &script]);
}

fn finish(kit: &Kit) {
    kit.run(["delete", "-f", "c"]).ok();
    kit.assert_clean();
}

#[test]
fn several_clients_see_both_outputs_and_are_told_of_the_end() {
    let kit = Kit::with_busybox();
    ticking(&kit, "echo last; exit 7");
    let mut clients: Vec<Child> = (0..3).map(|_| attached(&kit, &["c"])).collect();
    for client in &mut clients {
        sees(client, "out\n");
    }
    kit.run(["exec", "c", "touch", "/end"]).ok();
    for client in clients {
        let ran = ended(client);
        assert_eq!(ran.status, 7, "{ran:?}");
        assert!(ran.stdout.ends_with("last\n"), "{ran:?}");
        assert!(ran.stderr.lines().all(|line| line == "err"), "{ran:?}");
        assert!(!ran.stderr.is_empty());
    }
    kit.run(["attach", "c"]).refused(1, &["c", "stopped"]);
    kit.run(["attach", "nobody"]).refused(1, &["nobody"]);
    kit.run(["attach"]).refused(2, &[]);
    finish(&kit);
}

#[test]
fn input_comes_from_any_client_and_ends_with_one_that_ends_it() {
    let kit = Kit::with_busybox();
    kit.detached(&[
        "--name",
        "c",
        "-i",
        "busybox",
        "sh",
        "-c",
        "cat; echo eof; exit 3",
    ]);
    let mut killed = attached(&kit, &["c"]);
    killed.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
    sees(&mut killed, "one\n");
    // A client that is killed is not the end of the input.
    killed.kill().unwrap();
    ended(killed);
    let mut silent = attached(&kit, &["--no-stdin", "c"]);
    silent.stdin.take();
    let mut first = attached(&kit, &["c"]);
    first.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    sees(&mut first, "two\n");
    let mut last = attached(&kit, &["c"]);
    last.stdin
        .as_mut()
        .unwrap()
        .write_all(&[b'x'; 32 << 10])
        .unwrap();
    last.stdin.take();
    // To wait for a client is to end its input.
    for client in [last, first] {
        let ran = ended(client);
        assert_eq!(ran.status, 3, "{ran:?}");
        let end = ran.stdout.len().saturating_sub(20);
        assert!(ran.stdout.ends_with("xeof\n"), "{:?}", &ran.stdout[end..]);
    }
    let ran = ended(silent);
    assert!(
        ran.status == 3 && ran.stdout.starts_with("two\n"),
        "{}",
        ran.status
    );
    finish(&kit);
}

#[test]
fn what_has_no_open_input_has_an_empty_one() {
    let kit = Kit::with_busybox();
    kit.detached(&[
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        "cat; while ! test -e /end; do sleep 0.05; done; echo end",
    ]);
    let mut client = attached(&kit, &["c"]);
    let _ = client.stdin.as_mut().unwrap().write_all(b"not for it\n");
    until("its input has ended", || {
        kit.run(["exec", "c", "touch", "/end"]).status == 0
    });
    let ran = ended(client);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "end\n"));
    finish(&kit);
}

/// Bounded room for each client, and the rest is skipped.
#[test]
fn a_client_that_does_not_read_holds_up_neither_container_nor_others() {
    let kit = Kit::with_busybox();
    let script = "while ! test -e /go; do sleep 0.05; done; seq 1 1000000; echo all; exit 5";
    kit.detached(&["--name", "c", "busybox", "sh", "-c", script]);
    let stopped = attached(&kit, &["c"]);
    let other = attached(&kit, &["c"]);
    signal(&stopped, Signal::STOP);
    let reader = std::thread::spawn(move || ended(other));
    kit.run(["exec", "c", "touch", "/go"]).ok();
    assert_eq!(kit.run(["wait", "c"]).status, 5);
    let seen = reader.join().unwrap();
    assert_eq!(seen.status, 5);
    assert!(
        seen.stdout.ends_with("all\n") || seen.stderr.contains("skipped"),
        "{}",
        seen.stderr
    );
    signal(&stopped, Signal::CONT);
    let late = ended(stopped);
    assert_eq!(late.status, 5, "{}", late.stderr);
    assert!(
        late.stdout.starts_with("1\n2\n"),
        "{} bytes",
        late.stdout.len()
    );
    assert!(late.stderr.contains("skipped"), "{}", late.stderr);
    assert_eq!(
        kit.run(["logs", "--tail", "2", "c"]).ok().stdout,
        "1000000\nall\n"
    );
    finish(&kit);
}

#[test]
fn signals_are_the_containers_and_a_hangup_or_the_third_leaves_it() {
    let kit = Kit::with_busybox();
    let script =
        "trap 'echo again' TERM; trap 'exit 9' USR1; echo rea''dy; while :; do sleep 0.05; done";
    kit.detached(&["--name", "c", "busybox", "sh", "-c", script]);
    until("its traps are set", || {
        kit.run(["logs", "c"]).stdout == "ready\n"
    });
    let mut client = attached(&kit, &["c"]);
    for _ in 0..2 {
        signal(&client, Signal::TERM);
        sees(&mut client, "again\n");
    }
    signal(&client, Signal::TERM);
    assert_eq!(ended(client).status, 143);
    let hung_up = attached(&kit, &["c"]);
    signal(&hung_up, Signal::HUP);
    assert_eq!(ended(hung_up).status, 129);
    let deaf = attached(&kit, &["--no-signals", "c"]);
    signal(&deaf, Signal::TERM);
    assert_eq!(ended(deaf).status, 143);
    assert_eq!(kit.inspected("c")["status"], "running");
    let last = attached(&kit, &["c"]);
    signal(&last, Signal::USR1);
    assert_eq!(ended(last).status, 9);
    finish(&kit);
}

#[test]
fn a_terminal_in_the_background_is_attached_left_and_attached_again() {
    let kit = Kit::with_busybox();
    kit.detached(&["--name", "c", "-it", "busybox", "sh"]);
    let mut user = User::runs(&kit, &["attach", "c"]);
    user.types("until [ \"$(stty size)\" = '33 101' ]; do sleep 0.05; done; echo si''zed\n");
    user.sees("sized");
    user.resizes(20, 60);
    user.types("until [ \"$(stty size)\" = '20 60' ]; do sleep 0.05; done; echo resi''zed\n");
    user.sees("resized");
    user.types("\u{10}\u{11}");
    assert_eq!(user.status(), Some(0));
    assert_eq!(kit.inspected("c")["status"], "running");
    let mut user = User::runs(&kit, &["attach", "--detach-keys", "ctrl-x", "c"]);
    user.types("echo a''gain\n");
    user.sees("again");
    user.types("\u{18}");
    assert_eq!(user.status(), Some(0));
    // The end of a pipe is not the end of a session.
    let typed = kit.run_with_input(
        ["attach", "--detach-keys", "ctrl-x", "c"],
        b"echo pip''ed\n\x18",
    );
    assert_eq!(typed.status, 0, "{typed:?}");
    let mut user = User::runs(&kit, &["attach", "c"]);
    user.types("echo more; exit 5\n");
    assert_eq!(user.status(), Some(5));
    let log = kit.run(["logs", "c"]).ok().stdout;
    for text in ["resized\r\n", "again\r\n", "piped\r\n", "more\r\n"] {
        assert!(log.contains(text), "{text:?} in {log:?}");
    }
    kit.run(["attach", "--detach-keys", "ctrl-1", "c"])
        .refused(1, &["ctrl-1"]);
    finish(&kit);
}

#[test]
fn a_kept_container_in_the_foreground_is_logged_and_others_may_attach() {
    let kit = Kit::with_busybox();
    let script = "echo begun; while ! test -e /end; do sleep 0.05; done; head -c 1048576 /dev/zero; echo err >&2; exit 4";
    let run = kit
        .command(["run", "--name", "c", "busybox", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it is logged", || {
        kit.run(["logs", "c"]).stdout == "begun\n"
    });
    let client = attached(&kit, &["c"]);
    kit.run(["exec", "c", "touch", "/end"]).ok();
    let (ran, client) = (ended(run), ended(client));
    assert_eq!((ran.status, client.status), (4, 4));
    assert_eq!(ran.stdout.len(), 6 + (1 << 20));
    assert_eq!(
        (ran.stderr.as_str(), client.stderr.as_str()),
        ("err\n", "err\n")
    );
    assert_eq!(client.stdout.len(), 1 << 20);
    assert_eq!(kit.run(["logs", "c"]).ok().stdout.len(), ran.stdout.len());
    finish(&kit);
}

#[test]
fn a_kept_terminal_in_the_foreground_can_be_left_and_taken_up() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(&kit, &["run", "--name", "c", "-it", "busybox", "sh"]);
    user.types("stty size; x=kept; echo o''ne\n");
    user.sees("33 101");
    user.sees("one");
    user.types("\u{10}\u{11}");
    assert_eq!(user.status(), Some(0));
    let mut user = User::runs(&kit, &["attach", "c"]);
    user.types("echo still $x\n");
    user.sees("still kept");
    user.types("exit 6\n");
    assert_eq!(user.status(), Some(6));
    assert!(kit.run(["logs", "c"]).ok().stdout.contains("still kept"));
    finish(&kit);
}

#[test]
fn what_a_command_runs_for_itself_is_its_own_until_it_is_gone() {
    let kit = Kit::with_busybox();
    let mut run = kit
        .command(["run", "--rm", "--name", "c", "busybox", "sleep", "1000"])
        .spawn()
        .unwrap();
    until("it runs", || {
        let ran = kit.run(["inspect", "c"]);
        ran.status == 0 && ran.json()[0]["status"] == "running"
    });
    kit.run(["attach", "c"]).refused(1, &["streams"]);
    kit.run(["logs", "c"]).refused(1, &["no log"]);
    kit.run(["kill", "c"]).ok();
    assert_eq!(run.wait().unwrap().code(), Some(137));
    kit.assert_clean();

    // A terminal falls to the shim, and is there for who comes.
    let mut user = User::runs(
        &kit,
        &["run", "--rm", "--name", "c", "-it", "busybox", "sh"],
    );
    user.types("x=kept; echo rea''dy\n");
    user.sees("ready");
    user.child.kill().unwrap();
    user.child.wait().unwrap();
    let mut user = User::runs(&kit, &["attach", "c"]);
    user.types("echo still $x\n");
    user.sees("still kept");
    user.types("exit 3\n");
    assert_eq!(user.status(), Some(3));
    kit.assert_clean();
}

#[test]
fn a_reader_that_leaves_a_kept_container_ends_the_command_alone() {
    let kit = Kit::with_busybox();
    let mut run = kit
        .command([
            "run",
            "--name",
            "c",
            "busybox",
            "sh",
            "-c",
            "while :; do echo y; sleep 0.01; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    run.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(141));
    assert_eq!(kit.inspected("c")["status"], "running");
    finish(&kit);
}
