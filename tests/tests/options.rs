//! The flags of `run` and `create`: all of the contract are there, what is
//! wrong is refused before anything is made, and what is right holds.

#![allow(clippy::unwrap_used)]

use std::fs;

use containerkit_tests::kit::{Kit, Ran};
use serde_json::Value;

/// The flags that the command line promises.
const FLAGS: [&str; 44] = [
    "--rm",
    "--interactive",
    "--tty",
    "--name",
    "--env",
    "--env-file",
    "--workdir",
    "--user",
    "--volume",
    "--mount",
    "--tmpfs",
    "--read-only",
    "--memory",
    "--cpus",
    "--pids-limit",
    "--cap-add",
    "--cap-drop",
    "--privileged",
    "--security-opt",
    "--ulimit",
    "--hostname",
    "--net",
    "--publish",
    "--entrypoint",
    "--label",
    "--annotation",
    "--device",
    "--init",
    "--stop-signal",
    "--runtime",
    "--snapshotter",
    "--rootfs",
    "--spec",
    "--pull",
    "--cidfile",
    "--pidfile",
    "--log-opt",
    "-e",
    "-i",
    "-t",
    "-u",
    "-v",
    "-w",
    "-p",
];

fn run(kit: &Kit, flags: &[&str], script: &str) -> Ran {
    let words = ["busybox", "sh", "-c", script];
    kit.run([&["run", "--rm"], flags, &words].concat())
}

fn lines(kit: &Kit, flags: &[&str], script: &str) -> Vec<String> {
    let ran = run(kit, flags, script).ok();
    ran.stdout.lines().map(str::to_owned).collect()
}

fn is_privileged_for_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    mask & (1 << 24) != 0
}

#[test]
fn every_flag_of_the_contract_is_there() {
    let kit = Kit::new();
    for command in ["run", "create"] {
        let help = kit.run([command, "--help"]).ok().stdout;
        let words: Vec<&str> = help.split([' ', ',', '\n']).collect();
        for flag in FLAGS {
            assert!(words.contains(&flag), "{command} {flag}");
        }
    }
    assert!(kit.run(["run", "--help"]).ok().stdout.contains("--detach"));
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_made() {
    let kit = Kit::with_busybox();
    let path = |name: &str| kit.path(name).display().to_string();
    fs::write(path("broken"), "{ no json").unwrap();
    fs::write(path("exists"), "").unwrap();
    let seccomp = format!("seccomp={}", path("broken"));
    let (missing, inside) = (path("missing"), path("missing/file"));
    let (broken, exists) = (path("broken"), path("exists"));
    let mut wrong: Vec<(&str, &str, &[&str])> = vec![
        ("--memory", "1q", &["--memory", "1q"]),
        ("--memory", "1k", &["6m"]),
        ("--cpus", "0", &["CPUs"]),
        ("--pids-limit", "few", &["--pids-limit", "few"]),
        ("--device", "/dev/no-such-device", &["/dev/no-such-device"]),
        ("--device", "/dev/null:/x:q", &["--device"]),
        ("--ulimit", "nofile=2:1", &["nofile"]),
        ("--ulimit", "speed=9", &["speed"]),
        (
            "--security-opt",
            "seccomp=/no/such/profile",
            &["/no/such/profile"],
        ),
        ("--security-opt", &seccomp, &["broken"]),
        ("--security-opt", "nonsense", &["nonsense"]),
        ("--cap-add", "NO_SUCH", &["NO_SUCH"]),
        ("--stop-signal", "NOPE", &["NOPE"]),
        ("--pull", "sometimes", &["sometimes"]),
        ("--userns", "a:b:c", &["a:b:c"]),
        ("--spec", &missing, &["missing"]),
        ("--spec", &broken, &["broken"]),
        ("--rootfs", &missing, &["missing"]),
        ("--mount", "type=odd,target=/x", &["odd"]),
        ("--volume", "relative", &["relative"]),
        ("--tmpfs", "relative", &["relative"]),
        ("--publish", "many", &["many"]),
        ("--log-opt", "max-size=big", &["max-size"]),
        ("--log-opt", "colour=red", &["colour"]),
        ("--annotation", "bare", &["bare"]),
        ("--label", "bare", &["bare"]),
        ("--env-file", &missing, &["missing"]),
        ("--cidfile", &exists, &["exists"]),
        ("--cidfile", &inside, &["missing"]),
        ("--pidfile", &inside, &["missing"]),
        ("--net", "no-such-network", &["no-such-network"]),
        ("--hostname", "-x-", &["-x-"]),
        ("--user", "4294967296", &["4294967296"]),
        ("--workdir", "relative", &["relative"]),
        ("--runtime", "no-such", &["no-such"]),
        ("--snapshotter", "no-such", &["no-such"]),
        ("--name", "../x", &["../x"]),
    ];
    if !is_privileged_for_limits() {
        // What this machine may not raise is said, and not tried.
        wrong.push((
            "--ulimit",
            "nofile=99999999:99999999",
            &["nofile", "hard limit"],
        ));
    }
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        wrong.push(("--security-opt", "apparmor=mine", &["AppArmor"]));
    }
    for (flag, value, words) in &wrong {
        let given = format!("{flag}={value}");
        let image: &[&str] = match *flag {
            "--rootfs" => &["true"],
            _ => &["busybox", "true"],
        };
        kit.run([&["run", &given], image].concat())
            .refused(125, words);
        let made = kit.run([&["create", &given], image].concat());
        assert!([1, 2].contains(&made.status), "{made:?}");
    }
    kit.run(["run", "--pull", "never", "no-such-image"])
        .refused(125, &["no-such-image"]);
    kit.run(["run", "--spec", &broken, "--init", "busybox"])
        .refused(125, &["--init"]);
    kit.run(["run", "--spec", &broken, "--memory", "64m", "busybox"])
        .refused(125, &["--memory"]);
    let told = kit
        .run(["events", "--no-stream", "--filter", "type=create"])
        .ok();
    assert_eq!(told.stdout, "", "something was made");
    kit.assert_clean();
}

#[test]
fn security_options_hold() {
    let kit = Kit::with_busybox();
    let status = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t '";
    let status = status.replace(" | tr -d '\\t '", "");
    let fields = |flags: &[&str]| -> Vec<String> {
        lines(&kit, flags, &status)
            .iter()
            .map(|line| line.replace('\t', ""))
            .collect()
    };
    assert_eq!(fields(&[]), ["NoNewPrivs:0", "Seccomp:2"]);
    let unconfined = ["--security-opt", "seccomp=unconfined"];
    assert_eq!(fields(&unconfined), ["NoNewPrivs:0", "Seccomp:0"]);
    let without_new = ["--security-opt", "no-new-privileges"];
    assert_eq!(fields(&without_new), ["NoNewPrivs:1", "Seccomp:2"]);

    let profile = kit.path("profile.json");
    let rule = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    });
    fs::write(&profile, rule.to_string()).unwrap();
    let option = format!("seccomp={}", profile.display());
    let ran = run(
        &kit,
        &["--security-opt", &option],
        "mkdir /x || echo refused",
    )
    .ok();
    assert_eq!(ran.stdout, "refused\n");
    run(&kit, &[], "mkdir /x").ok();
    kit.assert_clean();
}

#[test]
fn devices_init_users_and_names_hold() {
    let kit = Kit::with_busybox();
    let env_file = kit.path("env");
    fs::write(&env_file, "# comment\nFROM_FILE=yes\n").unwrap();
    let env_file = env_file.display().to_string();
    let script = "echo x >/mine && echo written; echo x >/theirs || echo read-only; \
                  echo $FROM_FILE $GIVEN; hostname; echo $PPID; cat /scratch/x";
    let flags = [
        "--device",
        "/dev/null:/mine",
        "--device",
        "/dev/kmsg:/theirs:r",
        "--env-file",
        &env_file,
        "-e",
        "GIVEN=too",
        "--hostname",
        "inside",
        "--init",
        "--tmpfs",
        "/scratch:mode=700",
    ];
    let said = run(&kit, &flags, script);
    let said: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(said, ["written", "read-only", "yes too", "inside", "1"]);
    // Orphans are reaped: nobody becomes a zombie of process 1.
    let script = "(sleep 0.01 &) ; sleep 0.3; ps -o stat,comm | grep -c '^Z' || true";
    assert_eq!(lines(&kit, &["--init"], script), ["0"]);

    let found = lines(
        &kit,
        &["--userns", "0:700000:65536"],
        "cat /proc/self/uid_map; id -u",
    );
    let map: Vec<&str> = found[0].split_whitespace().collect();
    assert_eq!(
        (map, found[1].as_str()),
        (vec!["0", "700000", "65536"], "0")
    );
    kit.assert_clean();
}

#[test]
fn inspect_tells_all_that_was_asked_for() {
    let kit = Kit::with_busybox();
    let volume = kit.path("volume");
    fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/data:ro", volume.display());
    let (cid, pid) = (kit.path("cid"), kit.path("pid"));
    let (cidfile, pidfile) = (cid.display().to_string(), pid.display().to_string());
    let flags = [
        "run",
        "-d",
        "--name",
        "c",
        "--label",
        "a=b",
        "--annotation",
        "org.x=y",
        "-v",
        &bind,
        "--stop-signal",
        "USR1",
        "--cidfile",
        &cidfile,
        "--pidfile",
        &pidfile,
        "--entrypoint",
        "sleep",
        "busybox",
        "1000",
    ];
    let id = kit.run(flags).ok().stdout.trim().to_owned();
    let all = kit.run(["inspect", "c", &id[..12]]).ok().json();
    assert_eq!(all.as_array().unwrap().len(), 2);
    let row = &all[0];
    for key in [
        "id",
        "name",
        "image",
        "status",
        "pid",
        "exit_code",
        "created",
        "runtime",
        "snapshotter",
        "exit",
        "bundle",
        "snapshot",
        "mounts",
        "networks",
        "labels",
        "spec",
        "oom_killed",
    ] {
        assert!(row.get(key).is_some(), "{key} in {row}");
    }
    assert_eq!(row["image"], "docker.io/library/busybox:latest");
    assert_eq!(
        (&row["exit"], &row["exit_code"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(row["labels"], serde_json::json!({ "a": "b" }));
    assert_eq!(row["spec"]["annotations"]["org.x"], "y");
    assert_eq!(
        row["spec"]["process"]["args"],
        serde_json::json!(["sleep", "1000"])
    );
    assert_eq!(row["stop_signal"], 10);
    assert_eq!(row["networks"], serde_json::json!([]));
    let mounts = row["mounts"].as_array().unwrap();
    assert!(
        mounts.iter().any(|mount| mount["destination"] == "/data"),
        "{mounts:?}"
    );
    assert!(row["bundle"].as_str().unwrap().ends_with("/bundle"));
    assert_eq!(fs::read_to_string(cid).unwrap(), id);
    assert_eq!(fs::read_to_string(pid).unwrap(), row["pid"].to_string());

    // The default stop signal would end it too; this one does it alone.
    kit.run(["stop", "c"]).ok();
    let ended = kit.run(["inspect", "c"]).ok().json()[0].clone();
    let exit = ended["exit"].as_object().unwrap();
    for key in ["code", "signal", "source", "at"] {
        assert!(exit.contains_key(key), "{key} in {exit:?}");
    }
    assert_eq!(
        (&ended["status"], &ended["pid"]),
        (&"stopped".into(), &Value::Null)
    );
    assert!(
        [138, 137].contains(&ended["exit_code"].as_u64().unwrap()),
        "{ended}"
    );
    kit.run(["delete", "c"]).ok();
    kit.assert_clean();
}

#[test]
fn a_whole_spec_and_a_folder_run() {
    let kit = Kit::with_busybox();
    kit.run([
        "create",
        "--name",
        "model",
        "--hostname",
        "own",
        "busybox",
        "true",
    ])
    .ok();
    let mut spec = kit.run(["inspect", "model"]).ok().json()[0]["spec"].clone();
    spec["process"]["args"] = serde_json::json!(["sh", "-c", "hostname; echo $MINE; cat /file"]);
    spec["process"]["env"] = serde_json::json!(["PATH=/bin", "MINE=yes"]);
    let file = kit.path("spec.json");
    fs::write(&file, spec.to_string()).unwrap();
    let file = file.display().to_string();
    let ran = kit.run(["run", "--rm", "--spec", &file, "busybox"]);
    assert!(ran.stdout.starts_with("own\nyes\n"), "{ran:?}");

    let rootfs = kit.path("rootfs");
    fs::create_dir(&rootfs).unwrap();
    let folder = rootfs.display().to_string();
    kit.run(["cp", "model:/.", &folder]).ok();
    fs::write(rootfs.join("file"), "of the folder\n").unwrap();
    let args = ["run", "--rm", "--rootfs", &folder, "cat", "/file"];
    assert_eq!(kit.run(args).ok().stdout, "of the folder\n");
    let args = ["run", "--rm", "--rootfs", &folder, "--spec", &file];
    assert_eq!(kit.run(args).ok().stdout, "own\nyes\nof the folder\n");
    kit.run(["delete", "model"]).ok();
    kit.assert_clean();
}
