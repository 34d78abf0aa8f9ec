//! Containers that nobody kills: their status, streams and terminal, and
//! nothing left behind.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use containerkit::shim::{Channel, ExitSource, Shim, read_exit, read_intent};
use containerkit::{Access, ErrorKind, ExecFailure, Mount};
use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::termios::Winsize;
use support::*;

#[test]
fn exit_codes_and_signals_are_those_of_the_init() {
    for (script, code, signal, status) in [
        ("exit 0", Some(0), None, 0),
        ("exit 3", Some(3), None, 3),
        ("exit 255", Some(255), None, 255),
    ] {
        let world = World::new(script);
        let (mut shim, started) = world.start();
        assert!(started.console.is_none());
        let exit = shim.wait_exit().unwrap();
        assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
        assert_eq!((exit.status(), exit.source), (status, ExitSource::Reaped));
        assert_eq!(read_exit(&world.request.state_dir), Ok(Some(exit.clone())));
        assert_eq!(shim.wait_exit(), Ok(exit), "a second wait");
        shim.finish().unwrap();
        world.assert_gone();
    }
}

/// A folder that an earlier run, or a crash, left its files in.
#[test]
fn a_container_can_be_run_again_and_has_its_own_exit() {
    let mut world = World::new("exit 3");
    for status in [3, 4] {
        if status == 4 {
            world.spec["process"]["args"][2] = "exit 4".into();
            fs::write(world.request.state_dir.join("tty.sock"), "").unwrap();
            world = world.terminal();
        }
        let (mut shim, _) = world.start();
        assert_eq!(shim.wait_exit().unwrap().status(), status);
        shim.finish().unwrap();
    }
    world.assert_gone();
}

#[test]
fn a_signal_of_the_client_reaches_the_init() {
    // A real-time signal too: those have no name in most programs.
    for (number, status) in [(9, 137), (34, 7)] {
        let world = World::new("trap 'exit 7' 34; while true; do sleep 0.01; done");
        let (mut shim, _) = world.start();
        std::thread::sleep(std::time::Duration::from_millis(100));
        shim.signal(number).unwrap();
        assert_eq!(shim.wait_exit().unwrap().status(), status);
        shim.finish().unwrap();
        world.assert_gone();
    }
}

/// A real-time signal has no name, and is a signal all the same.
#[test]
fn an_end_by_a_real_time_signal_has_its_number() {
    let world = World::new("exec sleep 1000").host_pids();
    let (mut shim, _) = world.start();
    shim.signal(35).unwrap();
    let exit = shim.wait_exit().unwrap();
    assert_eq!((exit.signal, exit.status()), (Some(35), 163));
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn signals_to_the_shim_are_for_the_container_and_a_hangup_is_not() {
    let world =
        World::new("trap 'exit 5' TERM; trap 'exit 6' HUP; while true; do sleep 0.01; done");
    let (mut shim, started) = world.start();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let supervisor = parent(started.pid).unwrap();
    let guard = parent(supervisor).unwrap();
    for pid in [supervisor, guard] {
        kill(pid, Signal::HUP);
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(lives(started.pid));
    // By the guard, which passes it on.
    kill(guard, Signal::TERM);
    assert_eq!(shim.wait_exit().unwrap().status(), 5);
    shim.finish().unwrap();
}

#[test]
fn streams_are_passed_as_they_are_and_end_with_the_container() {
    let world = World::new("cat; echo err >&2; cat /proc/1/comm >/dev/null; exit 4");
    let (stdin, mut input) = std::io::pipe().unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let (errors, stderr) = std::io::pipe().unwrap();
    let mut shim = world
        .launch([stdin.into(), stdout.into(), stderr.into()])
        .unwrap();
    shim.wait_started().unwrap();
    input.write_all(b"to be copied").unwrap();
    drop(input);
    assert_eq!(read_all(output.into()), "to be copied");
    assert_eq!(read_all(errors.into()), "err\n");
    assert_eq!(shim.wait_exit().unwrap().status(), 4);
    shim.finish().unwrap();
    world.assert_gone();
}

/// Two streams on one descriptor used to leave one of them unread.
#[test]
fn one_pipe_for_both_outputs_takes_more_than_its_buffer() {
    let world = World::new(
        "dd if=/dev/zero bs=1024 count=300 2>/dev/null; dd if=/dev/zero bs=1024 count=300 >&2",
    );
    let (output, both) = std::io::pipe().unwrap();
    let copy: OwnedFd = both.try_clone().unwrap().into();
    let mut shim = world.launch([null(), both.into(), copy]).unwrap();
    shim.wait_started().unwrap();
    let text = read_all(output.into());
    assert_eq!(text.bytes().filter(|byte| *byte == 0).count(), 600 * 1024);
    assert_eq!(shim.wait_exit().unwrap().status(), 0);
    shim.finish().unwrap();
}

#[test]
fn the_container_has_three_descriptors_and_an_ordinary_umask() {
    let world = World::new("umask; exec sleep 1000");
    // What a careless parent left open without close-on-exec.
    let leaked = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let mut shim = world.launch([null(), stdout.into(), null()]).unwrap();
    let started = shim.wait_started().unwrap();
    drop(leaked);
    let mut text = [0; 5];
    rustix::io::read(&output, &mut text).unwrap();
    assert_eq!(&text, b"0022\n");
    let mut fds: Vec<_> = fs::read_dir(format!("/proc/{}/fd", started.pid))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
    let supervisor = parent(started.pid).unwrap();
    for pid in [supervisor, parent(supervisor).unwrap()] {
        let passwd = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .any(|target| target == Path::new("/etc/passwd"));
        assert!(!passwd, "the shim inherited a descriptor");
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
            Path::new("/")
        );
    }
    shim.signal(9).unwrap();
    shim.wait_exit().unwrap();
    shim.finish().unwrap();
}

#[test]
fn a_terminal_has_the_size_and_the_input_that_its_client_gives() {
    let world = World::new("read x; echo got $x; stty size; exit 9").terminal();
    let mut shim = world.launch([null(), null(), null()]).unwrap();
    let started = shim.wait_started().unwrap();
    let console = started.console.unwrap();
    let size = Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&console, size).unwrap();
    rustix::io::write(&console, b"word\n").unwrap();
    // Read after the end: what was written is not lost.
    assert_eq!(shim.wait_exit().unwrap().status(), 9);
    let text = read_all(console);
    assert!(text.contains("got word"), "{text:?}");
    assert!(text.contains("33 77"), "{text:?}");
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn a_terminal_without_a_client_does_not_hold_the_container_up() {
    let world = World::new("dd if=/dev/zero bs=1024 count=2000; exit 3")
        .terminal()
        .cleanup("exit 0");
    let (shim, started) = world.start();
    drop((shim, started));
    until("the end", || {
        read_exit(&world.request.state_dir).unwrap().is_some()
    });
    let exit = read_exit(&world.request.state_dir).unwrap().unwrap();
    assert_eq!(exit.status(), 3);
    until("the end of all", || world.processes().is_empty());
    world.assert_gone();
}

#[test]
fn a_program_that_cannot_be_executed_is_the_runtimes_own_error() {
    for (program, failure) in [
        ("/bin/missing", ExecFailure::NotFound),
        ("/notexec", ExecFailure::NotExecutable),
    ] {
        for terminal in [false, true] {
            let mut world = World::with_args(&[program]);
            if terminal {
                world = world.terminal();
            }
            let mut shim = world.launch([null(), null(), null()]).unwrap();
            let error = shim.wait_started().unwrap_err();
            assert_eq!(error.exec_failure(), Some(failure), "{error:?}");
            let id = world.request.id.as_str();
            assert!(error.to_string().contains(id), "{error}");
            shim.finish().unwrap();
            assert_eq!(read_exit(&world.request.state_dir), Ok(None));
            world.assert_gone();
        }
    }
}

#[test]
fn a_start_that_fails_at_any_step_leaves_nothing() {
    type Break = fn(&mut World);
    let steps: [(&str, Break); 6] = [
        ("library", |w| w.request.runtime.library = w.path("no.so")),
        ("mount", |w| {
            w.request.mounts = vec![Mount::bind(w.path("none"), Access::ReadOnly)];
        }),
        ("options", |w| {
            let options = &mut w.request.runtime.options;
            options.insert("no such option".into(), true.into());
        }),
        ("bundle", |w| w.spec["ociVersion"] = 7.into()),
        // The cgroups are there when the kernel refuses this.
        ("limit", |w| {
            w.spec["linux"]["resources"]["pids"]["limit"] = 99_999_999_999_999_u64.into();
        }),
        ("spec", |w| {
            w.spec["mounts"][0]["source"] = "/no/such/source".into();
            w.spec["mounts"][0]["type"] = "bind".into();
            w.spec["mounts"][0]["options"] = serde_json::json!(["bind"]);
        }),
    ];
    for (step, break_it) in steps {
        let mut world = World::new("exit 0");
        break_it(&mut world);
        let (output, stdout) = std::io::pipe().unwrap();
        let mut shim = world.launch([null(), stdout.into(), null()]).unwrap();
        let error = shim.wait_started().expect_err(step);
        assert!(!error.to_string().contains('\n'), "{error}");
        shim.finish().unwrap();
        assert_eq!(read_all(output.into()), "", "{step}");
        world.assert_gone();
    }
}

#[test]
fn a_rootfs_is_mounted_for_the_container_alone_and_held_meanwhile() {
    let mut world = World::new("echo new >/file; cat /proc/mounts >/mounts; exec sleep 1000");
    let lower = world.path("lower");
    fs::rename(world.request.rootfs(), &lower).unwrap();
    for name in ["upper", "work", "bundle/rootfs"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let upper = world.path("upper");
    world.request.mounts = vec![Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir+={}", lower.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", world.path("work").display()),
        ],
    }];
    let (mut shim, _) = world.start();
    until("the container runs", || upper.join("mounts").exists());
    assert!(
        fs::read_dir(world.request.rootfs())
            .unwrap()
            .next()
            .is_none(),
        "it is seen outside"
    );
    let folder = fs::File::open(&upper).unwrap();
    let lock = || rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive);
    assert!(lock().is_err(), "nobody holds the snapshot");
    shim.signal(9).unwrap();
    assert_eq!(shim.wait_exit().unwrap().status(), 137);
    // Before `finish`: the snapshot can be removed while the runtime cleans up.
    lock().expect("the snapshot is free after the exit");
    assert!(!containerkit::mounter::is_upper_in_use(&upper).unwrap());
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "new\n");
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn orphans_are_reaped_while_it_runs_and_killed_at_its_end() {
    let world = World::new(
        "(sh -c 'sleep 0.05 & sleep 0.05 & sleep 0.05 &' &); sleep 0.3; \
         (sleep 1000 &); sleep 1001 & sleep 0.1; exit 3",
    )
    .host_pids();
    let (mut shim, started) = world.start();
    let supervisor = parent(started.pid).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let zombies: Vec<u32> = children(supervisor)
        .into_iter()
        .filter(|pid| !lives(*pid))
        .collect();
    assert!(zombies.is_empty(), "{zombies:?}");
    assert_eq!(shim.wait_exit().unwrap().status(), 3);
    for dir in world.cgroup_dirs() {
        let left = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        assert_eq!(left, "", "{}", dir.display());
    }
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn its_files_and_sockets_are_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("exec sleep 1000").terminal();
    let (mut shim, started) = world.start();
    for entry in fs::read_dir(&world.request.state_dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{:?}", entry.path());
    }
    let socket = fs::symlink_metadata(world.request.state_dir.join("shim/socket")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let supervisor = parent(started.pid).unwrap();
    let intent = read_intent(&world.request.state_dir).unwrap().unwrap();
    assert_eq!(supervisor, intent.shim.pid);
    // The runtime keeps its state where the instance says, and nowhere else.
    assert!(!files(&world.request.runtime.state).is_empty());
    for default in ["/run/runc", "/run/crun"] {
        assert!(!Path::new(default).join(world.request.id.as_str()).exists());
    }
    let unix = fs::read_to_string("/proc/net/unix").unwrap();
    for pid in [supervisor, parent(supervisor).unwrap()] {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else {
                continue;
            };
            let Some(inode) = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'))
            else {
                continue;
            };
            let abstract_name = unix
                .lines()
                .filter(|line| line.split_ascii_whitespace().nth(6) == Some(inode))
                .any(|line| line.contains('@'));
            assert!(!abstract_name, "socket {inode} of {pid}");
        }
    }
    shim.signal(9).unwrap();
    shim.wait_exit().unwrap();
    shim.finish().unwrap();
}

#[test]
fn by_hand_it_says_how_it_is_started() {
    let output = Command::new(SHIM)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("error: containerkit-shim: "), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_client_that_is_no_client_ends_it() {
    for packet in [
        &b""[..],
        b"{",
        b"{}",
        b"{\"version\":0}",
        b"{\"version\":1}",
        b"{\"version\":99}",
    ] {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut child = Command::new(SHIM)
            .stdin(OwnedFd::from(theirs))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if !packet.is_empty() {
            rustix::io::write(ours.as_fd(), packet).unwrap();
        }
        if packet.ends_with(b"99}") {
            let (answer, _) = ours.receive::<serde_json::Value>().unwrap().unwrap();
            assert_eq!(answer["type"], "failed");
            assert_eq!(answer["error"]["kind"], ErrorKind::Incompatible.code());
        }
        drop(ours);
        child.wait().unwrap();
    }
}

#[test]
fn a_missing_shim_is_an_error_with_its_path() {
    let world = World::new("exit 0");
    let lock = world.prepare();
    let missing = world.path("no-shim");
    let stdio = [null(), null(), null()];
    let error = Shim::launch(&missing, &world.request, stdio, lock).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-shim"), "{error}");
    let lock = world.prepare();
    let stdio = [null(), null(), null()];
    let mut shim = Shim::launch(Path::new("/bin/true"), &world.request, stdio, lock);
    if let Ok(shim) = &mut shim {
        let error = shim.wait_started().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // It went down with the packet that nobody had read.
    until("the lock is free", || {
        !containerkit::lock::is_held(&world.lock_path()).unwrap()
    });
    world.assert_gone();
}
