//! Runtimes that end or hang while they are opened: in a shim that has no
//! container yet.

#![allow(clippy::unwrap_used)]

use containerkit_tests::fixtures::misbehave;
use containerkit_tests::kit::{Kit, until};

fn configure(kit: &Kit, deed: &str) {
    kit.configure(&format!(
        "version = 1\n[runtime.bad]\ndriver = {:?}\n\
         call_timeout = 0\noptions = {{ deeds = [{deed:?}] }}\n",
        misbehave()
    ));
}

#[test]
fn a_runtime_that_ends_its_shim_is_told_of() {
    let kit = Kit::with_busybox();
    let run = |deed: &str| {
        configure(&kit, deed);
        kit.run(["run", "--rm", "--runtime", "bad", "busybox", "true"])
    };
    for (deed, words) in [
        ("segfault@open", "SIGSEGV"),
        ("abort@open", "SIGABRT"),
        ("exit@open", "ended"),
    ] {
        for _ in 0..3 {
            run(deed).refused(125, &["the shim", words]);
        }
    }
    kit.configure("version = 1\n");
    kit.assert_clean();
}

/// Processes with this in their environment, the command itself aside.
fn shims_of(who: &str) -> Vec<u32> {
    let of = |pid: &u32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&read("environ")).contains(who)
            && read("comm").starts_with(b"containerkit-sh")
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(of)
        .collect()
}

#[test]
fn a_runtime_that_hangs_before_it_has_a_container_outlives_no_command() {
    let kit = Kit::with_busybox();
    configure(&kit, "hang@open");
    kit.run(["create", "--name", "taken", "busybox", "true"])
        .ok();
    let who = format!("SHIM_OF={}", kit.root().display());
    let command = |name: &str| {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--runtime",
            "bad",
            "busybox",
            "true",
        ];
        let mut command = kit.command(words);
        command.env("SHIM_OF", kit.root());
        command
    };
    // The command fails.
    let output = command("taken").output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(shims_of(&who), Vec::<u32>::new());
    // The command is killed when it waits for the start.
    let mut child = command("late").spawn().unwrap();
    until("it waits for its shim", || {
        let rows = kit.run(["ps", "--all", "--format", "json"]).ok().json();
        let names: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["name"])
            .collect();
        names.iter().any(|name| **name == "late") && shims_of(&who).len() == 2
    });
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of its shim", || shims_of(&who).is_empty());
    kit.run(["delete", "--force", "late"]).ok();
    kit.run(["delete", "taken"]).ok();
    kit.configure("version = 1\n");
    kit.assert_clean();
}
