//! Two hundred containers at once: started, running, told of, killed, removed.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use containerkit::process::Stat;
use containerkit_tests::kit::{Kit, Ran};

const COUNT: usize = 200;
/// Commands at a time.
const WORKERS: usize = 8;

/// Does it for each number, several at a time.
fn each(work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= COUNT {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

#[test]
fn two_hundred_containers_live_and_die_together() {
    let kit = Kit::with_busybox();
    each(|number| {
        let name = format!("c{number}");
        let flags = ["run", "-d", "--name", &name, "--pids-limit", "100"];
        kit.run([&flags[..], &["busybox", "sleep", "1000"]].concat())
            .ok();
    });
    let rows = kit.run(["ps", "--format", "json"]).ok().json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), COUNT);
    let mut ids = Vec::new();
    for row in rows {
        assert_eq!(row["status"], "running");
        let init = Stat::read(row["pid"].as_u64().unwrap() as u32).unwrap();
        let shim = Stat::read(init.parent).unwrap();
        assert_eq!(shim.name, "containerkit-sh", "{row}");
        ids.push(row["id"].as_str().unwrap().to_owned());
    }
    let stats = kit.run(["stats", "--no-stream", "--format", "json"]).ok();
    assert_eq!(stats.json().as_array().unwrap().len(), COUNT);

    // One waits for all, while several kill them.
    let waiter = kit
        .command([&["wait".to_owned()], &ids[..]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    each(|number| {
        kit.run(["kill", &ids[number]]).ok();
    });
    let waited = Ran::new(&waiter.wait_with_output().unwrap()).ok();
    assert_eq!(waited.stdout, "137\n".repeat(COUNT));
    each(|number| {
        let verb = match number % 2 {
            0 => &["delete", "-f"][..],
            _ => &["delete"],
        };
        kit.run([verb, &[&ids[number]]].concat()).ok();
    });
    kit.assert_clean();
    for id in &ids {
        let cgroups = containerkit::shim::cgroups_at(&format!("/containerkit/{id}")).unwrap();
        assert!(cgroups.is_empty(), "{cgroups:?}");
    }
}
