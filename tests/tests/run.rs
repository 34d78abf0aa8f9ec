//! `run --rm`, end to end: statuses, streams, options, and nothing left.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use containerkit_tests::kit::{Kit, Ran};

fn run(kit: &Kit, args: &[&str]) -> Ran {
    kit.run([&["run", "--rm"], args].concat())
}

#[test]
fn the_status_is_the_processes_own() {
    let kit = Kit::with_busybox();
    for status in [0, 1, 7, 124, 125, 126, 127, 128, 200, 255] {
        let ran = run(&kit, &["busybox", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(ran.status, status, "{ran:?}");
    }
    let ran = run(&kit, &["busybox", "sh", "-c", "kill -9 $$; sleep 1"]);
    // A pid namespace's init cannot kill itself with SIGKILL.
    assert_eq!(ran.status, 0, "{ran:?}");
    kit.assert_clean();
}

#[test]
fn what_cannot_be_executed_is_126_or_127() {
    let kit = Kit::with_busybox();
    run(&kit, &["busybox", "/no/such/program"]).refused(127, &["/no/such/program"]);
    run(&kit, &["busybox", "nosuchprogram"]).refused(127, &["nosuchprogram"]);
    run(&kit, &["busybox", "/etc/noexec"]).refused(126, &["/etc/noexec"]);
    run(&kit, &["nosuchimage", "true"]).refused(125, &["docker.io/library/nosuchimage:latest"]);
    run(&kit, &["--bogus", "busybox"]).refused(125, &["--bogus"]);
    run(&kit, &["busybox:../x", "true"]).refused(125, &["reference"]);
    kit.assert_clean();
}

#[test]
fn streams_pass_through_untouched() {
    let kit = Kit::with_busybox();
    let ran = run(&kit, &["busybox", "sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );

    let input: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let ran = kit
        .run_with_input(["run", "--rm", "-i", "busybox", "wc", "-c"], &input)
        .ok();
    assert_eq!(ran.stdout.trim(), "3000000");

    let ran = kit
        .run_with_input(["run", "--rm", "busybox", "cat"], b"unseen")
        .ok();
    assert_eq!(ran.stdout, "", "without -i there is no input");

    let ran = run(&kit, &["busybox", "sh", "-c", "seq 1 200000"]).ok();
    assert_eq!(ran.stdout.lines().count(), 200_000);
    kit.assert_clean();
}

#[test]
fn the_images_config_and_the_flags_decide() {
    let kit = Kit::with_busybox();
    assert_eq!(run(&kit, &["busybox"]).ok().stdout, "default\n");
    let out = |args: &[&str]| run(&kit, args).ok().stdout.trim().to_string();
    assert_eq!(out(&["busybox", "sh", "-c", "echo $FROM_IMAGE"]), "yes");
    assert_eq!(
        out(&[
            "-e",
            "FROM_IMAGE=no",
            "busybox",
            "sh",
            "-c",
            "echo $FROM_IMAGE"
        ]),
        "no"
    );
    assert_eq!(out(&["--entrypoint", "echo", "busybox", "a", "b"]), "a b");
    assert_eq!(out(&["-w", "/home/app", "busybox", "pwd"]), "/home/app");
    assert_eq!(out(&["-u", "app", "busybox", "id", "-u"]), "1000");
    assert_eq!(
        out(&["-u", "app", "busybox", "sh", "-c", "echo $HOME"]),
        "/home/app"
    );
    assert_eq!(
        out(&["-u", "1234:2345", "busybox", "sh", "-c", "id -u; id -g"]),
        "1234\n2345"
    );
    assert_eq!(out(&["--hostname", "box", "busybox", "hostname"]), "box");
}

#[test]
fn words_after_the_image_are_the_containers() {
    let kit = Kit::with_busybox();
    let ran = run(&kit, &["busybox", "echo", "--root", "/x", "-t", "--rm"]).ok();
    assert_eq!(ran.stdout, "--root /x -t --rm\n");
    // Global flags after the command.
    let ran = kit
        .run(["run", "--format", "json", "--rm", "busybox", "true"])
        .ok();
    assert_eq!(ran.stdout, "");
}

#[test]
fn mounts_and_limits_hold() {
    let kit = Kit::with_busybox();
    let shared = kit.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("in"), "from host").unwrap();
    let volume = format!("{}:/data", shared.display());
    let ran = run(
        &kit,
        &[
            "-v",
            &volume,
            "busybox",
            "sh",
            "-c",
            "cat /data/in; echo back > /data/out",
        ],
    );
    assert_eq!(ran.ok().stdout, "from host");
    assert_eq!(
        std::fs::read_to_string(shared.join("out")).unwrap(),
        "back\n"
    );
    let read_only = format!("{volume}:ro");
    let ran = run(&kit, &["-v", &read_only, "busybox", "touch", "/data/no"]);
    assert_ne!(ran.status, 0);
    assert_ne!(
        run(&kit, &["--read-only", "busybox", "touch", "/no"]).status,
        0
    );
    run(
        &kit,
        &[
            "--read-only",
            "--tmpfs",
            "/scratch",
            "busybox",
            "touch",
            "/scratch/yes",
        ],
    )
    .ok();
    let ran = run(
        &kit,
        &["--ulimit", "nofile=100", "busybox", "sh", "-c", "ulimit -n"],
    )
    .ok();
    assert_eq!(ran.stdout.trim(), "100");
    for (flag, value) in [
        ("--memory", "1q"),
        ("--memory", "-5"),
        ("--cpus", "many"),
        ("--pids-limit", "x"),
        ("--ulimit", "nofile"),
        ("-u", "4294967296"),
        ("--tmpfs", "relative"),
        ("-v", "/a:b"),
        ("--cap-add", "CAP_NOPE"),
        ("--security-opt", "seccomp=/no/such/file"),
        ("-w", "relative"),
        ("-w", "/proc/self/fd/8"),
        ("--name", "../x"),
        ("--label", "novalue"),
        ("--runtime", "nosuch"),
        ("--snapshotter", "nosuch"),
    ] {
        run(
            &kit,
            &[
                &format!("{flag}={value}")
                    .replace("-u=", "--user=")
                    .replace("-w=", "--workdir=")
                    .replace("-v=", "--volume="),
                "busybox",
                "true",
            ],
        )
        .refused(125, &[]);
    }
    kit.assert_clean();
}

#[test]
fn the_default_sandbox_is_the_usual_one() {
    let kit = Kit::with_busybox();
    let status = run(&kit, &["busybox", "cat", "/proc/self/status"])
        .ok()
        .stdout;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    assert_eq!(field("CapInh:"), "0000000000000000", "{status}");
    assert_eq!(field("CapEff:"), "00000000a80425fb", "{status}");
    assert_eq!(field("Seccomp:"), "2", "{status}");
    for mask in ["SigBlk:", "SigIgn:"] {
        assert_eq!(field(mask), "0000000000000000", "{status}");
    }
    let fds = run(&kit, &["busybox", "sh", "-c", "ls /proc/$$/fd; true"])
        .ok()
        .stdout;
    let fds: Vec<&str> = fds.split_whitespace().filter(|fd| *fd != "10").collect();
    assert_eq!(fds, ["0", "1", "2"], "no descriptor leaks");
    let interfaces = run(&kit, &["busybox", "ls", "/sys/class/net"]).ok().stdout;
    assert_eq!(interfaces.trim(), "lo");
    assert_ne!(
        run(&kit, &["busybox", "mount", "-t", "tmpfs", "x", "/tmp"]).status,
        0
    );
    run(
        &kit,
        &[
            "--privileged",
            "busybox",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/tmp",
        ],
    )
    .ok();
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do \
        [ ! -e $f ] || { echo seen; head -c1 $f; }; done; ls /sys/firmware";
    let masked = run(&kit, &["busybox", "sh", "-c", script]).ok().stdout;
    assert!(
        masked.lines().all(|line| line == "seen") && !masked.is_empty(),
        "{masked}"
    );
}

#[test]
fn two_roots_see_nothing_of_each_other() {
    let (one, two) = (Kit::with_busybox(), Kit::new());
    assert_eq!(
        two.run(["image", "ls", "--format", "json"]).ok().json(),
        serde_json::json!([])
    );
    two.run(["run", "--rm", "busybox", "true"])
        .refused(125, &["busybox"]);
    run(&one, &["--name", "same", "busybox", "true"]).ok();
}

/// Starts `run` and waits until its container prints `up`.
fn start(
    kit: &Kit,
    args: &[&str],
) -> (
    std::process::Child,
    std::io::BufReader<std::process::ChildStdout>,
) {
    use std::io::BufRead;
    let mut child = kit
        .command([&["run", "--rm"], args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    if line != "up\n" {
        let output = child.wait_with_output().unwrap();
        panic!("{line:?} {}", String::from_utf8_lossy(&output.stderr));
    }
    (child, out)
}

/// The pid of the only container, once it runs: a program may speak before
/// its shim has written down its pid.
fn running(kit: &Kit) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = kit.run(["ps", "--format", "json"]).ok().json();
        if rows[0]["status"] == "running" {
            return u32::try_from(rows[0]["pid"].as_u64().unwrap()).unwrap();
        }
        assert!(Instant::now() < deadline, "{rows}");
    }
}

/// One who is gone already is fine.
fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

#[test]
fn ctrl_c_ends_a_container_that_does_not_listen() {
    let kit = Kit::with_busybox();
    for number in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let (mut child, _out) = start(&kit, &["busybox", "sh", "-c", "echo up; sleep 1000"]);
        let begun = Instant::now();
        signal(child.id(), number);
        assert_eq!(child.wait().unwrap().code(), Some(137));
        assert!(begun.elapsed() < Duration::from_secs(10));
        kit.assert_clean();
    }
}

#[test]
fn a_signal_reaches_a_container_that_listens() {
    let kit = Kit::with_busybox();
    for (name, number) in [
        ("TERM", rustix::process::Signal::TERM),
        ("INT", rustix::process::Signal::INT),
        ("USR1", rustix::process::Signal::USR1),
    ] {
        let script = format!("trap 'exit 42' {name}; echo up; while :; do sleep 0.05; done");
        let (mut child, _out) = start(&kit, &["busybox", "sh", "-c", &script]);
        running(&kit);
        signal(child.id(), number);
        assert_eq!(child.wait().unwrap().code(), Some(42), "{name}");
    }
    kit.assert_clean();
}

#[test]
fn a_signal_reaches_a_container_through_its_reaper() {
    let kit = Kit::with_busybox();
    let script = "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done";
    let (mut child, _out) = start(&kit, &["--init", "busybox", "sh", "-c", script]);
    signal(child.id(), rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    kit.assert_clean();
}

#[test]
fn a_killed_client_leaves_its_container_running_and_its_name_taken() {
    let kit = Kit::with_busybox();
    let (mut child, _out) = start(
        &kit,
        &[
            "--name",
            "web",
            "busybox",
            "sh",
            "-c",
            "echo up; while [ ! -e /stop ]; do sleep 0.05; done",
        ],
    );
    signal(child.id(), rustix::process::Signal::KILL);
    child.wait().unwrap();
    run(&kit, &["--name", "web", "busybox", "true"]).refused(125, &["web"]);
    let pid = running(&kit);
    signal(pid, rustix::process::Signal::KILL);
    // The shim removes what the client cannot any more.
    kit.assert_clean();
    run(&kit, &["--name", "web", "busybox", "true"]).ok();
    kit.assert_clean();
}

/// Pids whose executable is this build's shim and whose container is in this kit.
fn shims(kit: &Kit) -> Vec<u32> {
    let state = kit.state();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let log = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
        if exe.ends_with("containerkit-shim") && log.starts_with(&state) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn when_everything_of_a_container_is_killed_its_name_is_free_again() {
    let kit = Kit::with_busybox();
    let (mut child, _out) = start(
        &kit,
        &[
            "--name",
            "web",
            "busybox",
            "sh",
            "-c",
            "echo up; sleep 1000",
        ],
    );
    let pids = shims(&kit);
    assert!(!pids.is_empty());
    signal(child.id(), rustix::process::Signal::KILL);
    for pid in pids {
        signal(pid, rustix::process::Signal::KILL);
    }
    child.wait().unwrap();
    run(&kit, &["--name", "web", "busybox", "true"]).ok();
    kit.assert_clean();
}

#[test]
fn an_orphan_without_a_name_is_repaired_by_a_later_command() {
    let kit = Kit::with_busybox();
    for args in [&["busybox"][..], &["--name", "x", "busybox"]] {
        let (mut child, _out) = start(&kit, &[args, &["sh", "-c", "echo up; sleep 1000"]].concat());
        let init = running(&kit);
        for pid in shims(&kit).into_iter().chain([child.id()]) {
            signal(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
        run(&kit, &["busybox", "true"]).ok();
        kit.assert_clean();
        let alive = std::fs::read_to_string(format!("/proc/{init}/cmdline")).unwrap_or_default();
        assert!(!alive.contains("sleep"), "{alive}");
    }
}

#[test]
fn a_client_that_fails_after_the_start_leaves_nothing() {
    let kit = Kit::with_busybox();
    for flag in ["--pidfile", "--cidfile"] {
        run(&kit, &[flag, "/nosuch/file", "busybox", "true"]).refused(125, &[flag, "/nosuch"]);
    }
    // Nobody reads the terminal's output any more.
    for _ in 0..5 {
        let mut child = kit
            .command(["run", "--rm", "-t", "busybox", "yes"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        kit.assert_clean();
    }
}

#[test]
fn a_kept_container_is_listed_and_deleted() {
    let kit = Kit::with_busybox();
    assert_eq!(
        kit.run(["run", "--name", "kept", "busybox", "sh", "-c", "exit 3"])
            .status,
        3
    );
    assert_eq!(
        kit.run(["ps", "--format", "json"]).ok().json(),
        serde_json::json!([])
    );
    let rows = kit.run(["ps", "-a", "--format", "json"]).ok().json();
    assert_eq!(
        (&rows[0]["status"], &rows[0]["exit_code"]),
        (&"stopped".into(), &3.into()),
        "{rows}"
    );
    let full = kit.run(["inspect", "kept"]).ok().json();
    assert_eq!(full[0]["exit"]["source"], "reaped", "{full}");
    kit.run(["image", "rm", "busybox"]).refused(1, &["kept"]);
    kit.run(["delete", "kept"]).ok();
    kit.run(["delete", "kept"]).refused(1, &["kept"]);
    kit.run(["delete", "-f", "kept"]).ok();
    kit.assert_clean();
}

#[test]
fn a_rootfs_folder_runs_without_an_image() {
    let kit = Kit::with_busybox();
    let dir = kit.path("mounted");
    std::fs::create_dir(&dir).unwrap();
    kit.run(["image", "mount", "busybox", dir.to_str().unwrap()])
        .ok();
    assert!(dir.join("bin/busybox").exists());
    assert!(
        std::fs::write(dir.join("no"), "x").is_err(),
        "an image's mount is read-only"
    );
    kit.run(["image", "unmount", dir.to_str().unwrap()]).ok();
    kit.run(["image", "unmount", dir.to_str().unwrap()])
        .refused(1, &["mounted"]);
    kit.assert_clean();
}

#[test]
fn random_kills_of_run_leave_a_store_that_works() {
    let kit = Kit::with_busybox();
    let mut seed = 12345u64;
    for _ in 0..25 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = kit
            .command(["run", "--rm", "--name", "victim", "busybox", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros((seed >> 33) % 120_000));
        let _ = child.kill();
        child.wait().unwrap();
        // The killed one's container may still be ending.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let ran = run(&kit, &["--name", "victim", "busybox", "true"]);
            if ran.status == 0 {
                break;
            }
            assert!(
                ran.stderr.contains("victim") && Instant::now() < deadline,
                "{ran:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    kit.assert_clean();
    kit.run(["content", "verify"]).ok();
}

#[test]
fn control_characters_of_wrong_words_are_shown_escaped() {
    let kit = Kit::new();
    let word = "a\n\u{1b}[31m";
    for (status, words) in [
        (2, vec![word]),
        (2, vec!["image", word]),
        (2, vec!["image", "ls", "--x\n\u{1b}[31m"]),
        (2, vec!["--format", word, "image", "ls"]),
        (125, vec!["run", "--x\n\u{1b}[31m", "busybox"]),
    ] {
        kit.run(&words).refused(status, &[r"\n\u{1b}[31m"]);
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let kit = Kit::new();
    kit.run(["image", "ls"]).ok();
    // The checkout may be where others cannot go.
    let binary = kit.path("containerkit");
    std::fs::copy(
        containerkit_tests::kit::built().join("containerkit"),
        &binary,
    )
    .unwrap();
    for mode in [0o755, 0o700] {
        std::fs::set_permissions(kit.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(kit.root(), PermissionsExt::from_mode(mode)).unwrap();
        let output = std::process::Command::new(&binary)
            .arg("--root")
            .arg(kit.root())
            .arg("--state")
            .arg(kit.state())
            .args(["run", "--rm", "busybox", "true"])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let ran = Ran::new(&output).refused(125, &["ermission denied"]);
        assert!(ran.stderr.contains("hint: run it as root"), "{ran:?}");
    }
}
