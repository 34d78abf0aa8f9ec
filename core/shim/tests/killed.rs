//! SIGKILL of the client, of the supervisor, of the guard, and of all.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerkit::lock::{FileLock, Wait, is_held};
use containerkit::runtime::DeleteMode;
use containerkit::shim::{
    ExitSource, Shim, ShimRequest, cgroups_at, kill_cgroups, read_exit, read_init, read_intent,
    recover, remove_cgroups,
};
use containerkit::{DriverContext, ErrorKind};
use containerkit_plugin::host::Library;
use rustix::process::Signal;
use support::*;

const CLIENT: &str = "CONTAINERKIT_SHIM_TEST_CLIENT";

/// Not a test of its own: the client that the tests below kill.
#[test]
fn client() {
    let Ok(file) = std::env::var(CLIENT) else {
        return;
    };
    let request: ShimRequest = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let lock = FileLock::acquire(&request.state_dir.join("lock"), "container", Wait::No).unwrap();
    let stdio = [null(), null(), null()];
    let mut shim = Shim::launch(Path::new(SHIM), &request, stdio, lock).unwrap();
    let _started = shim.wait_started().unwrap();
    let _ = shim.wait_exit();
    std::thread::sleep(std::time::Duration::from_secs(1000));
}

/// A client in a process of its own, once its container runs.
fn client_of(world: &World) -> std::process::Child {
    let client = launch_client(world);
    until("the container runs", || {
        read_init(&world.request.state_dir).unwrap().is_some()
    });
    client
}

fn launch_client(world: &World) -> std::process::Child {
    drop(world.prepare());
    let file = world.path("request.json");
    fs::write(&file, serde_json::to_vec(&world.request).unwrap()).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "client"])
        .env(CLIENT, &file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn status(world: &World) -> Option<u8> {
    read_exit(&world.request.state_dir)
        .unwrap()
        .map(|exit| exit.status())
}

fn init_of(world: &World) -> u32 {
    read_init(&world.request.state_dir)
        .unwrap()
        .unwrap()
        .process
        .pid
}

/// A cleanup that tells whether it could take the container's lock.
fn with_cleanup(world: World) -> (World, PathBuf) {
    let told = world.path("cleaned");
    let lock = world.lock_path();
    let script = format!(
        "flock -n {} echo free >{t}.new; mv {t}.new {t}",
        lock.display(),
        t = told.display()
    );
    (world.cleanup(&script), told)
}

fn assert_cleaned(world: &World, told: &Path) {
    until("the cleanup", || told.exists());
    assert_eq!(fs::read_to_string(told).unwrap(), "free\n");
    until("the end of all", || world.processes().is_empty());
    world.assert_gone();
}

#[test]
fn a_killed_client_leaves_the_container_running_and_its_end_is_cleaned_up() {
    for terminal in [false, true] {
        let mut world = World::new("while ! test -e /stop; do sleep 0.02; done; exit 6");
        if terminal {
            world = world.terminal();
        }
        let (world, told) = with_cleanup(world);
        let mut client = client_of(&world);
        client.kill().unwrap();
        client.wait().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(lives(init_of(&world)), "it ended with its client");
        assert!(is_held(&world.lock_path()).unwrap(), "nobody is in charge");
        assert!(!told.exists());
        fs::write(world.request.rootfs().join("stop"), "").unwrap();
        assert_cleaned(&world, &told);
        assert_eq!(status(&world), Some(6));
    }
}

#[test]
fn a_client_killed_while_it_starts_a_container_leaves_nothing_for_long() {
    for delay in (0..45).step_by(3) {
        let (world, told) = with_cleanup(World::new("exit 0"));
        let mut client = launch_client(&world);
        let log = world.request.state_dir.join("shim.log");
        until("a shim", || log.exists());
        std::thread::sleep(std::time::Duration::from_millis(delay));
        client.kill().unwrap();
        client.wait().unwrap();
        // The lock may be on its way, with no process that has it.
        until("the end of all", || {
            !is_held(&world.lock_path()).unwrap() && world.processes().is_empty()
        });
        // Before the packet was sent there was nobody to clean up after.
        assert!(told.exists() || read_intent(&world.request.state_dir).unwrap().is_none());
        world.assert_gone();
    }
}

#[test]
fn a_client_killed_after_the_exit_is_cleaned_up_after() {
    let (world, told) = with_cleanup(World::new("exit 0"));
    let mut client = client_of(&world);
    until("the exit", || status(&world).is_some());
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!told.exists(), "the client lives");
    client.kill().unwrap();
    client.wait().unwrap();
    assert_cleaned(&world, &told);
}

#[test]
fn a_client_that_finishes_needs_no_cleanup() {
    let (world, told) = with_cleanup(World::new("exit 0"));
    let (mut shim, _) = world.start();
    shim.wait_exit().unwrap();
    shim.finish().unwrap();
    world.assert_gone();
    assert!(!told.exists());
}

#[test]
fn a_killed_supervisor_takes_the_container_with_it() {
    for host_pids in [false, true] {
        let mut world = World::new("(sleep 1000 &); sleep 1000 & trap '' TERM; sleep 1000; exit 1");
        if host_pids {
            world = world.host_pids();
        }
        let (mut shim, started) = world.start();
        kill(parent(started.pid).unwrap(), Signal::KILL);
        let exit = shim.wait_exit().unwrap();
        assert_eq!((exit.status(), exit.source), (137, ExitSource::Inferred));
        assert_eq!(read_exit(&world.request.state_dir), Ok(Some(exit.clone())));
        assert!(!lives(started.pid));
        shim.finish().unwrap();
        world.assert_gone();
        assert_eq!(recover(&world.request.state_dir), Ok(Some(exit)));
    }
}

#[test]
fn a_frozen_container_ends_with_its_killed_supervisor_too() {
    let world = World::new("sleep 1000");
    let (mut shim, started) = world.start();
    let mut frozen = false;
    for dir in world.cgroup_dirs() {
        frozen |= fs::write(dir.join("freezer.state"), "FROZEN").is_ok()
            || fs::write(dir.join("cgroup.freeze"), "1").is_ok();
    }
    assert!(frozen, "no freezer here");
    kill(parent(started.pid).unwrap(), Signal::KILL);
    assert_eq!(shim.wait_exit().unwrap().status(), 137);
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn killed_client_and_supervisor_are_cleaned_up_after() {
    let (world, told) = with_cleanup(World::new("sleep 1000"));
    let mut client = client_of(&world);
    let supervisor = parent(init_of(&world)).unwrap();
    client.kill().unwrap();
    kill(supervisor, Signal::KILL);
    client.wait().unwrap();
    assert_cleaned(&world, &told);
    assert_eq!(status(&world), Some(137));
}

/// The runtime is in the middle of its work and has told nobody of the
/// container yet.
#[test]
fn a_supervisor_killed_while_it_starts_leaves_nothing() {
    for delay in [0, 1, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30] {
        let world = World::new("sleep 1000");
        let mut shim = world.launch([null(), null(), null()]).unwrap();
        until("an intent", || {
            read_intent(&world.request.state_dir).is_ok_and(|intent| intent.is_some())
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let intent = read_intent(&world.request.state_dir).unwrap().unwrap();
        kill(intent.shim.pid, Signal::KILL);
        match shim.wait_started() {
            Ok(_) => assert_eq!(shim.wait_exit().unwrap().status(), 137),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
        shim.finish().unwrap();
        world.assert_gone();
    }
}

/// What the container ended with is known by then, and stays so.
#[test]
fn a_supervisor_killed_while_it_removes_the_container_keeps_its_exit() {
    for delay in [0, 1, 3, 6, 10] {
        let world = World::new("exit 3");
        let (mut shim, started) = world.start();
        let supervisor = parent(started.pid);
        until("the exit", || status(&world).is_some());
        std::thread::sleep(std::time::Duration::from_millis(delay));
        if let Some(supervisor) = supervisor {
            kill(supervisor, Signal::KILL);
        }
        assert_eq!(shim.wait_exit().unwrap().status(), 3);
        shim.finish().unwrap();
        world.assert_gone();
        assert_eq!(status(&world), Some(3));
    }
}

#[test]
fn a_killed_guard_is_missed_by_nobody() {
    let (world, told) = with_cleanup(World::new("while ! test -e /stop; do sleep 0.02; done"));
    let mut client = client_of(&world);
    let supervisor = parent(init_of(&world)).unwrap();
    kill(parent(supervisor).unwrap(), Signal::KILL);
    client.kill().unwrap();
    client.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(lives(init_of(&world)));
    fs::write(world.request.rootfs().join("stop"), "").unwrap();
    assert_cleaned(&world, &told);
    assert_eq!(status(&world), Some(0));

    // And with its client.
    let world = World::new("sleep 0.3; exit 8");
    let (mut shim, started) = world.start();
    kill(parent(parent(started.pid).unwrap()).unwrap(), Signal::KILL);
    assert_eq!(shim.wait_exit().unwrap().status(), 8);
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn when_the_whole_shim_is_killed_the_next_command_ends_the_container() {
    let world = World::new("sleep 1000");
    let (mut shim, started) = world.start();
    let supervisor = parent(started.pid).unwrap();
    kill(parent(supervisor).unwrap(), Signal::KILL);
    kill(supervisor, Signal::KILL);
    let error = shim.wait_exit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(shim);
    assert!(lives(started.pid), "nobody is left to kill it");
    // Its lock is free, and that is how one knows.
    let lock = FileLock::acquire(&world.lock_path(), "container", HANDOVER).unwrap();
    let exit = recover(&world.request.state_dir).unwrap().unwrap();
    assert_eq!((exit.status(), exit.source), (137, ExitSource::Inferred));
    assert!(!lives(started.pid));
    assert_eq!(recover(&world.request.state_dir), Ok(Some(exit)));
    drop(lock);
    assert!(world.cgroup_dirs().is_empty(), "{:?}", world.cgroup_dirs());
}

/// What the next command does with it, whatever the moment was.
#[test]
fn a_whole_shim_killed_while_it_starts_can_be_cleaned_up_after() {
    for delay in [0, 2, 5, 8, 11, 15, 20, 25, 30, 40] {
        let world = World::new("sleep 1000");
        let shim = world.launch([null(), null(), null()]).unwrap();
        let state_dir = &world.request.state_dir;
        until("an intent", || {
            read_intent(state_dir).is_ok_and(|intent| intent.is_some())
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let supervisor = read_intent(state_dir).unwrap().unwrap().shim.pid;
        kill(parent(supervisor).unwrap(), Signal::KILL);
        kill(supervisor, Signal::KILL);
        drop(shim);
        let lock = FileLock::acquire(&world.lock_path(), "container", HANDOVER).unwrap();
        recover(state_dir).unwrap();
        let planned = cgroups_at(&world.cgroup).unwrap();
        kill_cgroups(&planned, std::time::Duration::from_secs(10)).unwrap();
        let runtime = &world.request.runtime;
        let context = DriverContext::new(runtime.instance.clone(), &runtime.root, &runtime.state)
            .with_options(runtime.options.clone());
        let deleted = Library::load(&runtime.library, None)
            .unwrap()
            .runtime(context)
            .unwrap()
            .delete(&world.request.id, DeleteMode::Force);
        assert!(
            deleted
                .as_ref()
                .map_or_else(|e| e.kind() == ErrorKind::NotFound, |()| true),
            "{deleted:?}"
        );
        remove_cgroups(&cgroups_at(&world.cgroup).unwrap());
        drop(lock);
        until("the end of all", || world.processes().is_empty());
        world.assert_gone();
    }
}

/// Not a test of its own: the cleanup of the test below, which measures how
/// long it had to wait.
#[test]
fn recovering_cleanup() {
    let Ok(file) = std::env::var(CLIENT) else {
        return;
    };
    let request: ShimRequest = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let _lock = FileLock::acquire(&request.state_dir.join("lock"), "container", HANDOVER).unwrap();
    let begun = std::time::Instant::now();
    recover(&request.state_dir).unwrap();
    let told = request.state_dir.join("recovered");
    fs::write(told, begun.elapsed().as_millis().to_string()).unwrap();
}

/// The cleanup is in the session that it looks for the runtime's commands in,
/// and, when the guard was killed, the very process that supervised.
#[test]
fn a_cleanup_does_not_wait_for_itself() {
    for without_guard in [false, true] {
        let mut world = World::new("while ! test -e /stop; do sleep 0.02; done");
        let exe = std::env::current_exe().unwrap().display().to_string();
        world.request.cleanup = [&exe, "--exact", "recovering_cleanup"]
            .map(str::to_owned)
            .to_vec();
        let told = world.request.state_dir.join("recovered");
        let mut client = client_of(&world);
        if without_guard {
            let supervisor = parent(init_of(&world)).unwrap();
            kill(parent(supervisor).unwrap(), Signal::KILL);
        }
        client.kill().unwrap();
        client.wait().unwrap();
        fs::write(world.request.rootfs().join("stop"), "").unwrap();
        until("the recovery", || {
            fs::read_to_string(&told).is_ok_and(|text| !text.is_empty())
        });
        let millis: u64 = fs::read_to_string(&told).unwrap().parse().unwrap();
        assert!(millis < 1000, "it waited for {millis} ms");
        until("the end of all", || world.processes().is_empty());
        world.assert_gone();
    }
}

/// A runtime that makes its cgroups and is killed, or fails, leaves no record
/// of them.
#[test]
fn a_failed_start_leaves_no_cgroups() {
    let mut world = World::new("sleep 1000");
    let fake = world.path("fake");
    // Its processes are not in reach of the shim's own cgroups.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *' run '*|*' create '*) ;; *) exit 1 ;; esac\n\
         for top in /sys/fs/cgroup /sys/fs/cgroup/*; do\n\
         test -e $top/cgroup.procs && mkdir -p $top{c}/below; done\n\
         touch {made}\nkill -9 $$\n",
        c = world.cgroup,
        made = world.path("made").display(),
    );
    fs::write(&fake, script).unwrap();
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = &mut world.request.runtime.options;
    options.insert("binary".into(), fake.display().to_string().into());
    let mut shim = world.launch([null(), null(), null()]).unwrap();
    shim.wait_started().unwrap_err();
    let _ = shim.finish();
    assert!(world.path("made").exists());
    world.assert_gone();
}

#[test]
fn a_real_runtime_killed_while_it_starts_leaves_no_cgroups() {
    for delay in [0, 5, 10, 15, 20, 25, 30, 40] {
        let world = World::new("sleep 1000");
        let mut shim = world.launch([null(), null(), null()]).unwrap();
        until("an intent", || {
            read_intent(&world.request.state_dir).is_ok_and(|intent| intent.is_some())
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let supervisor = read_intent(&world.request.state_dir).unwrap().unwrap();
        for runtime in children(supervisor.shim.pid) {
            // Not the container's init, should that be there already.
            let line = fs::read(format!("/proc/{runtime}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("--pid-file") {
                kill(runtime, Signal::KILL);
            }
        }
        if shim.wait_started().is_ok() {
            shim.signal(9).unwrap();
            shim.wait_exit().unwrap();
        }
        let _ = shim.finish();
        // What the killed runtime had forked ends by itself.
        until("the end of all", || world.processes().is_empty());
        world.assert_gone();
    }
}

/// Supervisor and guard share one socket: what one of them has read the other
/// does not get.
#[test]
fn a_client_that_is_done_early_ends_with_the_container() {
    for killed in [false, true] {
        let (world, told) = with_cleanup(World::new("sleep 0.5; exit 3"));
        let (shim, started) = world.start();
        let end = std::thread::spawn(move || shim.finish());
        std::thread::sleep(std::time::Duration::from_millis(200));
        if killed {
            kill(parent(started.pid).unwrap(), Signal::KILL);
        }
        until("the end", || end.is_finished());
        end.join().unwrap().unwrap();
        assert!(!told.exists());
        assert_eq!(status(&world), Some(if killed { 137 } else { 3 }));
        world.assert_gone();
    }
}
