//! A shim that stands by: its driver is loaded, its container still to come.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use containerkit::ErrorKind;
use containerkit::process::Stat;
use containerkit::shim::{Standby, read_intent};
use rustix::process::Signal;
use support::*;

fn stand_by(world: &World) -> Standby {
    Standby::start(Path::new(SHIM), &world.request.runtime, "debug").unwrap()
}

/// The supervisor of a guard, once there is one.
fn supervisor_of(guard: u32) -> u32 {
    let find = || {
        let tasks = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
        tasks.split_whitespace().next()?.parse().ok()
    };
    until("there is a supervisor", || find().is_some());
    find().unwrap()
}

/// One that waits for its container, and its supervisor.
fn waiting(world: &World) -> (Standby, u32) {
    let standby = stand_by(world);
    let supervisor = supervisor_of(standby.id());
    until("it waits", || waits(supervisor));
    (standby, supervisor)
}

/// Whether a process has loaded a driver and waits for a packet.
fn waits(pid: u32) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.contains("libcontainerkit_runc.so") && Stat::read(pid).is_ok_and(|stat| stat.state == 'S')
}

#[test]
fn it_loads_its_driver_before_it_has_a_container() {
    let world = World::new("exit 3");
    let (standby, _) = waiting(&world);
    let stdio = [null(), null(), null()];
    let mut shim = standby
        .launch(&world.request, stdio, world.prepare(), None)
        .unwrap();
    assert!(shim.wait_started().unwrap().console.is_none());
    assert_eq!(shim.wait_exit().unwrap().status(), 3);
    shim.finish().unwrap();
    // What it said before it had a log, once.
    let log = world.log();
    assert_eq!(
        log.matches(": loaded, containerkit-plugin").count(),
        1,
        "{log}"
    );
    world.assert_gone();
}

#[test]
fn dropped_it_ends_at_once_and_leaves_nothing() {
    let world = World::new("exit 0");
    let (late, supervisor) = waiting(&world);
    for standby in [stand_by(&world), late] {
        let guard = standby.id();
        drop(standby);
        assert!(!lives(guard));
    }
    assert!(!lives(supervisor));
    world.assert_gone();
}

#[test]
fn one_of_its_processes_killed_the_launch_is_an_error_and_nothing_began() {
    for kill_guard in [false, true] {
        let world = World::new("exit 0");
        let (standby, supervisor) = waiting(&world);
        let guard = standby.id();
        let killed = if kill_guard { guard } else { supervisor };
        kill(killed, Signal::KILL);
        until("it is dead", || !lives(killed));
        let stdio = [null(), null(), null()];
        let launched = standby.launch(&world.request, stdio, world.prepare(), None);
        let error = match launched {
            Ok(mut shim) => shim.wait_started().unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        until("both are gone", || !lives(guard) && !lives(supervisor));
        assert_eq!(read_intent(&world.request.state_dir).unwrap(), None);
        world.assert_gone();
    }
}

#[test]
fn what_keeps_the_driver_from_loading_is_told_by_the_launch() {
    let mut world = World::new("exit 0");
    world.request.runtime.library = world.path("no-driver.so");
    let standby = stand_by(&world);
    let stdio = [null(), null(), null()];
    let mut shim = standby
        .launch(&world.request, stdio, world.prepare(), None)
        .unwrap();
    let error = shim.wait_started().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("no-driver.so"), "{error}");
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn it_is_for_one_runtime() {
    let mut world = World::new("exit 0");
    let standby = stand_by(&world);
    let guard = standby.id();
    world.request.runtime.instance = "other".parse().unwrap();
    let stdio = [null(), null(), null()];
    let launched = standby.launch(&world.request, stdio, world.prepare(), None);
    assert_eq!(launched.unwrap_err().kind(), ErrorKind::Internal);
    assert!(!lives(guard));
    world.assert_gone();
}

#[test]
fn the_guard_stays_in_its_cgroups() {
    let world = World::new("exit 0");
    let standby = stand_by(&world);
    let cgroups = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let before = cgroups(std::process::id());
    for _ in 0..20 {
        assert_eq!(cgroups(standby.id()), before);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
