//! SIGKILL at every step of a container's life, of whichever process comes to
//! it: command, shim or guard. Each time the next command tells the truth and
//! `delete -f` cleans up, twice.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use containerkit::process::Stat;
use containerkit_tests::kit::Kit;
use containerkit_tests::steps::Steps;
use serde_json::Value;

/// A command that is killed at each of its steps.
struct Fate<'a> {
    args: &'a [&'a str],
    /// Before each kill.
    before: &'a dyn Fn(&Kit),
    /// Steps that it comes by, in this order.
    through: &'a [&'a str],
}

impl Fate<'_> {
    #[track_caller]
    fn everywhere(&self) {
        let kit = Kit::with_busybox();
        let steps = Steps::new(kit.path("steps"));
        (self.before)(&kit);
        let (ran, reached) = steps.count(&mut kit.command(self.args));
        ran.ok();
        kit.run(["delete", "-f", "c"]).ok();
        let mut names = reached.iter().map(|step| step.name.as_str());
        for step in self.through {
            assert!(names.any(|name| name == *step), "{step} in {reached:#?}");
        }
        for (index, step) in reached.iter().enumerate() {
            // The same step again, with nothing in between.
            let again = index > 0 && step.name == "lock.held" && reached[index - 1] == *step;
            if !again {
                self.at(&kit, &steps, index + 1);
            }
        }
    }

    #[track_caller]
    fn at(&self, kit: &Kit, steps: &Steps, number: usize) {
        (self.before)(kit);
        let ran = steps.kill(&mut kit.command(self.args), number);
        // Told when the test fails.
        println!(
            "{:?} killed at {number}: {:?}",
            self.args,
            steps.reached().last()
        );
        let ids = ids(kit);
        let rows = kit.run(["ps", "-a", "--format", "json"]).ok().json();
        for row in rows.as_array().unwrap() {
            check(kit, row);
        }
        for _ in 0..2 {
            kit.run(["delete", "-f", "c"]).ok();
        }
        kit.assert_clean();
        // The cleanup that a killed command's shim became may be there still, to
        // find that there is nothing for it to do.
        let end = Instant::now() + Duration::from_secs(20);
        let mut left = remains(kit, &ids);
        while left.iter().any(|one| one.ends_with(" containerkit")) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            left = remains(kit, &ids);
        }
        assert_eq!(left, [] as [String; 0], "{ran:?}");
    }
}

/// What `ps` says is true: who runs has a process, who does not has none.
fn check(kit: &Kit, row: &Value) {
    let id = row["id"].as_str().unwrap();
    match row["status"].as_str().unwrap() {
        "running" | "paused" => {
            let pid = row["pid"].as_u64().unwrap() as u32;
            let Ok(init) = Stat::read(pid) else {
                // It was about to end.
                assert!([0, 137].contains(&kit.run(["wait", id]).status), "{row}");
                return;
            };
            assert_eq!(Stat::read(init.parent).unwrap().name, "containerkit-sh");
        }
        "stopped" => {
            let status = kit.run(["wait", id]).status;
            let told = &row["exit_code"];
            assert_eq!(told.as_i64(), Some(i64::from(status)), "{row}");
            assert!([0, 137, 255].contains(&status), "{row}");
        }
        "created" => assert_eq!(row["pid"], Value::Null),
        other => panic!("{other}: {row}"),
    }
}

/// The containers that there are, half made ones too.
fn ids(kit: &Kit) -> BTreeSet<String> {
    let folders = [kit.state(), kit.root()].map(|folder| folder.join("containers"));
    let entries = folders.iter().flat_map(std::fs::read_dir);
    entries
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

/// Cgroups, processes and sockets of containers that are gone.
fn remains(kit: &Kit, ids: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for id in ids {
        let cgroups = containerkit::shim::cgroups_at(&format!("/containerkit/{id}")).unwrap();
        found.extend(cgroups.iter().map(|path| path.display().to_string()));
    }
    let here = kit.path("").display().to_string();
    for stat in Stat::all().filter(|stat| !stat.has_ended()) {
        let folder = Path::new("/proc").join(stat.pid.to_string());
        let files = std::fs::read_dir(folder.join("fd")).into_iter().flatten();
        let links = files.flatten().map(|file| file.path());
        let links = links.chain([folder.join("cwd"), folder.join("root")]);
        let ours = links
            .filter_map(|link| std::fs::read_link(link).ok())
            .any(|target| target.to_string_lossy().contains(&here));
        if ours && stat.pid != std::process::id() {
            found.push(format!("process {} {}", stat.pid, stat.name));
        }
    }
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    found.extend(
        sockets
            .lines()
            .filter(|l| l.contains(&here))
            .map(str::to_owned),
    );
    found
}

fn create(kit: &Kit) {
    kit.run(["create", "--name", "c", "busybox", "sleep", "1000"])
        .ok();
}

fn start(kit: &Kit) {
    kit.run(["run", "-d", "--name", "c", "busybox", "sleep", "1000"])
        .ok();
}

/// Ended, and to run for long the second time.
fn end(kit: &Kit) {
    let script = "[ -e /again ] && exec sleep 1000; touch /again";
    kit.run(["run", "--name", "c", "busybox", "sh", "-c", script])
        .ok();
}

#[test]
fn create_is_killed_everywhere() {
    Fate {
        args: &["create", "--name", "c", "busybox", "true"],
        before: &|_| {},
        through: &["container.recorded", "container.prepared", "container.kept"],
    }
    .everywhere();
}

#[test]
fn start_is_killed_everywhere() {
    Fate {
        args: &["start", "c"],
        before: &create,
        through: &["container.run", "container.launch"],
    }
    .everywhere();
}

#[test]
fn the_second_start_is_killed_everywhere() {
    Fate {
        args: &["start", "c"],
        before: &end,
        through: &["container.run", "container.launch"],
    }
    .everywhere();
}

#[test]
fn a_run_is_killed_everywhere() {
    Fate {
        args: &["run", "--rm", "--name", "c", "busybox", "true"],
        before: &|_| {},
        through: &[
            "container.recorded",
            "container.launch",
            "container.unrecorded",
        ],
    }
    .everywhere();
}

#[test]
fn delete_is_killed_everywhere() {
    for (args, before) in [
        (&["delete", "c"][..], &end as &dyn Fn(&Kit)),
        (&["delete", "-f", "c"], &start),
    ] {
        Fate {
            args,
            before,
            through: &[
                "container.remove",
                "container.unsnapshot",
                "container.unrecorded",
            ],
        }
        .everywhere();
    }
}

#[test]
fn exec_is_killed_everywhere() {
    Fate {
        args: &["exec", "c", "true"],
        before: &start,
        through: &["exec.ask", "exec.started"],
    }
    .everywhere();
}

#[test]
fn stop_and_update_are_killed_everywhere() {
    for args in [
        &["stop", "-t", "0", "c"][..],
        &["update", "--memory", "64m", "c"],
        &["pause", "c"],
    ] {
        Fate {
            args,
            before: &start,
            through: &[],
        }
        .everywhere();
    }
}
