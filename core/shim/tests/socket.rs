//! The socket: who may speak there, what is refused, and that nothing said
//! there harms a container.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use containerkit::logs::LogFiles;
use containerkit::oci_spec::runtime::Process;
use containerkit::shim::{
    Ask, Attached, Channel, ExecStreams, ExitRecord, Hold, Input, Link, Listener, PACKET_LIMIT,
    PROTOCOL, Shim, Standby, StartedExec, Tell, read_execs, read_exit,
};
use containerkit::{ErrorKind, ExecFailure};
use serde_json::{Value, json};
use support::*;

/// Its streams in the shim's hands.
fn held(mut world: World, stdin: bool) -> World {
    let log = LogFiles {
        folder: world.path("log"),
        max_size: 1 << 20,
        max_file: 2,
    };
    world.request.hold = Some(Hold {
        stdin,
        log: Some(log),
    });
    world
}

fn link(world: &World) -> Link {
    Link::open(&world.request.state_dir, &world.request.id).unwrap()
}

fn raw(world: &World) -> Channel {
    Channel::connect(&world.request.state_dir.join("shim"), "socket").unwrap()
}

fn process(world: &World, script: &str) -> Process {
    let mut process = world.spec["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", script]);
    process["terminal"] = false.into();
    serde_json::from_value(process).unwrap()
}

fn terminal_of(world: &World, script: &str) -> Process {
    let mut process = process(world, script);
    process.set_terminal(Some(true));
    process
}

fn nulls() -> ExecStreams {
    ExecStreams::Given([null(), null(), null()])
}

fn end_of(link: &Link, started: &StartedExec) -> ExitRecord {
    loop {
        match link.hear().unwrap() {
            Some(Tell::ExecExited { exec, exit }) if exec == started.exec => return exit,
            Some(_) => {}
            None => panic!("the shim is gone"),
        }
    }
}

fn exit_of(link: &Link) -> ExitRecord {
    loop {
        match link.hear().unwrap() {
            Some(Tell::Exited { exit }) => return exit,
            Some(_) => {}
            None => panic!("no word of the exit"),
        }
    }
}

fn finish(world: &World, mut shim: Shim, status: u8) {
    assert_eq!(shim.wait_exit().unwrap().status(), status);
    shim.finish().unwrap();
    assert!(!world.request.state_dir.join("shim/socket").exists());
    world.assert_gone();
}

#[test]
fn garbage_ends_its_connection_and_nothing_else() {
    let world = World::new("while ! test -e /end; do sleep 0.02; done; exit 3");
    let (shim, _) = world.start();
    let hello = format!("{{\"type\":\"hello\",\"version\":{PROTOCOL}}}");
    let long = vec![b' '; PACKET_LIMIT + 1];
    let packets: [&[u8]; 8] = [
        b"",
        b"{",
        b"\xff\xff\xff\xff",
        b"[]",
        b"{\"type\":\"resize\",\"rows\":-1}",
        b"{\"type\":\"signal\",\"number\":\"KILL\"}",
        &long,
        b"{\"type\":\"signal\",\"number\":9}",
    ];
    for greeted in [false, true] {
        for packet in packets {
            // A greeted client may kill.
            if greeted && packet.ends_with(b"9}") {
                continue;
            }
            let channel = raw(&world);
            if greeted {
                rustix::io::write(channel.as_fd(), hello.as_bytes()).unwrap();
                channel.receive::<Value>().unwrap().unwrap();
            }
            let file = null();
            if packet.len() < 100 {
                // With descriptors that nobody asked for.
                let _ = channel.send(&Value::from("x"), &[file.as_fd(), file.as_fd()]);
            }
            let _ = rustix::io::write(channel.as_fd(), packet);
            let mut heard = Vec::new();
            while let Ok(Some((value, _))) = channel.receive::<Value>() {
                heard.push(value);
            }
            assert!(
                heard.iter().all(|value| value["type"] == "refused"),
                "{heard:?}"
            );
        }
    }
    // Many at once, most of whom say nothing.
    let silent: Vec<Channel> = (0..90).map(|_| raw(&world)).collect();
    let link = link(&world);
    let started = link
        .exec(&process(&world, "touch /end; exit 5"), nulls())
        .unwrap();
    assert_eq!(end_of(&link, &started).status(), 5);
    assert_eq!(exit_of(&link).status(), 3);
    drop(silent);
    finish(&world, shim, 3);
}

#[test]
fn both_speak_the_lower_version_and_new_words_are_refused() {
    let world = World::new("exec sleep 1000");
    let (shim, _) = world.start();
    let channel = raw(&world);
    channel.send(&Ask::Hello { version: 99 }, &[]).unwrap();
    let answer = channel.receive::<Tell>().unwrap().unwrap().0;
    assert_eq!(answer, Tell::Welcome { version: PROTOCOL });
    channel
        .send(&json!({ "type": "dance", "x": [1] }), &[])
        .unwrap();
    let (answer, _) = channel.receive::<Value>().unwrap().unwrap();
    assert_eq!(answer["error"]["kind"], ErrorKind::Unimplemented.code());
    // Keys that are not known are passed over.
    channel
        .send(
            &json!({ "type": "signal", "number": 9, "scope": "all" }),
            &[],
        )
        .unwrap();
    while channel.receive::<Value>().unwrap().is_some() {}
    finish(&world, shim, 137);
}

/// A shim of another version, as far as a client can see.
#[test]
fn a_shim_of_an_older_version_is_spoken_to_and_of_a_newer_one_refused() {
    for (version, ok) in [(1, true), (0, false), (PROTOCOL + 1, false)] {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::new(dir.path()).unwrap();
        let shim = std::thread::spawn(move || {
            let channel = loop {
                if let Some(channel) = listener.accept() {
                    break channel;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            let (hello, _) = channel.receive::<Value>().unwrap().unwrap();
            assert_eq!(hello["type"], "hello");
            channel.send(&Tell::Welcome { version }, &[]).unwrap();
            let _ = channel.receive::<Value>();
        });
        let id = "c".parse().unwrap();
        match Link::open(dir.path(), &id) {
            Ok(link) => assert_eq!((link.version(), ok), (version, true)),
            Err(error) => {
                assert!(!ok, "{error}");
                assert_eq!(error.kind(), ErrorKind::Incompatible);
            }
        }
        shim.join().unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Link::open(dir.path(), &"c".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn what_makes_no_process_is_refused_and_leaves_no_record() {
    let world = World::new("exec sleep 1000");
    let (shim, _) = world.start();
    let refused = |fds: &[OwnedFd]| {
        let channel = raw(&world);
        channel
            .send(&Ask::Hello { version: PROTOCOL }, &[])
            .unwrap();
        channel.receive::<Value>().unwrap().unwrap();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        channel.send(&Ask::Exec, &fds).unwrap();
        let (answer, _) = channel.receive::<Value>().unwrap().unwrap();
        assert_eq!(answer["type"], "refused", "{answer}");
    };
    refused(&[]);
    // Neither a pipe, which would be read for ever, nor a file that changes.
    let (reader, _writer) = std::io::pipe().unwrap();
    refused(&[reader.into(), null(), null(), null()]);
    refused(&[tempfile::tempfile().unwrap().into(), null(), null(), null()]);
    let link = link(&world);
    let mut missing = process(&world, "");
    missing.set_args(Some(vec!["/bin/missing".into()]));
    let error = link.exec(&missing, nulls()).unwrap_err();
    assert_eq!(error.exec_failure(), Some(ExecFailure::NotFound), "{error}");
    assert_eq!(read_execs(&world.request.state_dir), Ok(Vec::new()));
    // The connection is good for another try.
    let started = link.exec(&process(&world, "exit 4"), nulls()).unwrap();
    assert_eq!(end_of(&link, &started).status(), 4);
    let error = link.exec(&process(&world, ""), nulls()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    shim.signal(9).unwrap();
    finish(&world, shim, 137);
}

#[test]
fn connections_that_do_nothing_keep_nobody_out() {
    let world = World::new("exec sleep 1000");
    let (shim, _) = world.start();
    let first = link(&world);
    let running = first.exec(&process(&world, "exec sleep 1000"), nulls());
    let _running = running.unwrap();
    let idle: Vec<Link> = (0..250).map(|_| link(&world)).collect();
    let late = link(&world);
    let started = late.exec(&process(&world, "exit 4"), nulls()).unwrap();
    assert_eq!(end_of(&late, &started).status(), 4);
    // The oldest of the idle went, those that wait for a process did not.
    let oldest = idle.first().unwrap();
    oldest
        .exec(&process(&world, "exit 0"), nulls())
        .unwrap_err();
    let newest = idle.last().unwrap();
    newest.exec(&process(&world, "exit 0"), nulls()).unwrap();
    first.signal(9).unwrap();
    shim.signal(9).unwrap();
    finish(&world, shim, 137);
}

#[test]
fn who_comes_when_all_places_are_taken_waits_and_is_served() {
    let world = World::new("exec sleep 1000");
    let (shim, _) = world.start();
    let busy: Vec<Link> = (0..97).map(|_| link(&world)).collect();
    for link in &busy {
        link.exec(&process(&world, "exec sleep 1000"), nulls())
            .unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let link = link(&world);
                // Where only so many processes may run at once, it tries again.
                let started = loop {
                    match link.exec(&process(&world, "exit 4"), nulls()) {
                        Err(error) if error.kind() == ErrorKind::ResourceExhausted => {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        started => break started.unwrap(),
                    }
                };
                assert_eq!(end_of(&link, &started).status(), 4);
            });
        }
    });
    drop(busy);
    shim.signal(9).unwrap();
    finish(&world, shim, 137);
}

#[test]
fn signals_of_a_connection_are_for_what_it_asked_for() {
    let world = World::new("exec sleep 1000");
    let (shim, started) = world.start();
    let follower = link(&world);
    follower.follow().unwrap();
    let link = link(&world);
    let exec = link
        .exec(&process(&world, "exec sleep 1000"), nulls())
        .unwrap();
    assert!(lives(exec.pid) && exec.pid != started.pid);
    link.signal(34).unwrap();
    assert_eq!(end_of(&link, &exec).status(), 128 + 34);
    assert!(lives(started.pid));
    assert_eq!(
        follower.hear().unwrap(),
        Some(Tell::ExecStarted {
            exec: exec.exec,
            pid: exec.pid
        })
    );
    assert_eq!(end_of(&follower, &exec).status(), 128 + 34);
    follower.signal(9).unwrap();
    assert_eq!(exit_of(&follower).status(), 137);
    assert_eq!(exit_of(&link).status(), 137);
    finish(&world, shim, 137);
}

#[test]
fn what_is_the_launching_clients_is_nobody_elses() {
    let world = World::new("exec sleep 1000");
    let (shim, _) = world.start();
    let error = link(&world).attach(Input::Wanted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    shim.signal(9).unwrap();
    finish(&world, shim, 137);
}

#[test]
fn pipes_of_an_attached_client_end_with_the_streams_they_are_of() {
    let world = held(
        World::new("read x; exec >&-; echo $x >&2; read y; exit 6"),
        true,
    );
    let (shim, _) = world.start();
    let link = link(&world);
    let Attached {
        terminal,
        stdin,
        stdout,
        stderr,
    } = link.attach(Input::Wanted).unwrap();
    assert!(!terminal);
    let mut stdin = fs::File::from(stdin.unwrap());
    stdin.write_all(b"typed\n").unwrap();
    // The container has closed this one, and lives.
    assert_eq!(read_all(stdout), "");
    let late = self::link(&world);
    let attached = late.attach(Input::Unwanted).unwrap();
    assert!(attached.stdin.is_none());
    assert_eq!(read_all(attached.stdout), "");
    assert!(read_exit(&world.request.state_dir).unwrap().is_none());
    // Said before or after the pipe is closed.
    link.close_stdin().unwrap();
    drop(stdin);
    assert_eq!(exit_of(&link).status(), 6);
    assert_eq!(read_all(stderr.unwrap()), "typed\n");
    finish(&world, shim, 6);
}

#[test]
fn a_terminal_that_is_held_is_attached_from_its_first_byte_on() {
    let world = held(
        World::new("echo first; read x; echo got $x; stty size; exit 2").terminal(),
        true,
    );
    let (link, theirs) = Link::pair(&world.request.id).unwrap();
    let lock = world.prepare();
    let stdio = [null(), null(), null()];
    let shim = std::path::Path::new(SHIM);
    let mut shim = Standby::start(shim, &world.request.runtime, "")
        .and_then(|standby| standby.launch(&world.request, stdio, lock, Some(theirs)))
        .unwrap();
    assert!(shim.wait_started().unwrap().console.is_none());
    let attached = link.attached().unwrap();
    assert!(attached.terminal && attached.stderr.is_none());
    link.resize(20, 60).unwrap();
    let mut stdin = fs::File::from(attached.stdin.unwrap());
    stdin.write_all(b"it\n").unwrap();
    let text = read_all(attached.stdout);
    assert!(text.starts_with("first\r\n"), "{text:?}");
    assert!(text.ends_with("got it\r\n20 60\r\n"), "{text:?}");
    assert_eq!(exit_of(&link).status(), 2);
    finish(&world, shim, 2);
}

/// Descriptors, threads and KiB of memory that a process has written to. What
/// it has only read counts as its own or not as others run the same program.
fn weight(pid: u32) -> (usize, usize, u64) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = maps
        .lines()
        .filter(|line| line.starts_with("Private_Dirty"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    (count("fd"), count("task"), private)
}

fn cycle(world: &World, n: u32) {
    let link = link(world);
    let attached = link.attach(Input::Wanted).unwrap();
    link.resize(20 + (n % 20) as u16, 80).unwrap();
    if let Some(stdin) = attached.stdin {
        fs::File::from(stdin).write_all(b"x").unwrap();
    }
    if n.is_multiple_of(2) {
        let mut byte = [0];
        let mut stdout = fs::File::from(attached.stdout);
        stdout.read_exact(&mut byte).unwrap();
    }
}

fn exec_cycle(world: &World, n: u32) {
    let link = link(world);
    let script = format!("exit {}", n % 7);
    let (process, streams) = match n % 3 {
        0 => (terminal_of(world, &script), ExecStreams::Terminal),
        1 => {
            let (_, stderr) = std::io::pipe().unwrap();
            let streams = ExecStreams::Given([null(), null(), stderr.into()]);
            (self::process(world, &script), streams)
        }
        _ => (self::process(world, &script), nulls()),
    };
    let started = link.exec(&process, streams).unwrap();
    if !n.is_multiple_of(5) {
        assert_eq!(end_of(&link, &started).status(), (n % 7) as u8);
    }
}

/// As in the leaks that others had: of each attach, each resize, each exec.
#[test]
fn ten_thousand_cycles_leave_descriptors_threads_and_memory_flat() {
    for (terminal, cycles) in [(false, 6500), (true, 3500)] {
        let script = "while :; do echo out; sleep 0.002; done & exec cat >/dev/null";
        let mut world = held(World::new(script), true);
        if terminal {
            world = world.terminal();
        }
        let (shim, started) = world.start();
        let supervisor = parent(started.pid).unwrap();
        let settled = || {
            // What was hung up on is dropped in the next round.
            drop(link(&world));
            weight(supervisor)
        };
        for n in 0..200 {
            cycle(&world, n);
        }
        for n in 0..6 {
            exec_cycle(&world, n);
        }
        until("the execs are over", || {
            read_execs(&world.request.state_dir)
                .unwrap()
                .iter()
                .all(|e| e.exit.is_some())
        });
        let (fds, threads, memory) = settled();
        for n in 0..cycles {
            cycle(&world, n);
        }
        for n in 0..60 {
            exec_cycle(&world, n);
        }
        until("descriptors are as before", || settled().0 <= fds);
        let (_, now, grown) = settled();
        // Two: itself, and the watch over calls of the driver.
        assert_eq!(now, threads);
        assert!(threads <= 2, "{threads} threads");
        assert!(grown <= memory + 400, "{memory} KiB before, {grown} after");
        shim.signal(9).unwrap();
        finish(&world, shim, 137);
    }
}
