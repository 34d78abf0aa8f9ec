//! Runtimes that misbehave, as shell scripts, and what the driver makes of
//! them: one clear line, in time, and nothing left behind. Then what went
//! wrong with real ones.

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerkit::runtime::{
    CreateRequest, DeleteMode, ExecRequest, KillScope, RuntimeStatus, StartedProcess, Stdio,
};
use containerkit::{ContainerId, Driver, DriverContext, Error, ErrorKind, Result, Runtime};
use containerkit_runc::Runc;
use serde_json::{Map, Value, json};

/// A place with a fake runtime and a bundle.
struct Place {
    folder: tempfile::TempDir,
    options: Map<String, Value>,
}

impl Place {
    fn new(script: &str) -> Place {
        let folder = tempfile::tempdir().expect("tempdir");
        for name in ["root", "state", "bundle"] {
            std::fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        std::fs::write(folder.path().join("bundle/config.json"), "{}").expect("config");
        let fake = folder.path().join("fake");
        // $PIDFILE, $LOG and $VERB as the driver gave them.
        let parse = r#"#!/bin/sh
for word in "$@"; do
    case "$previous" in
        --pid-file) PIDFILE=$word ;;
        --log) LOG=$word ;;
        --log-format) ;;
        --root) ROOT=$word ;;
    esac
    case "$word" in
        create|run|exec|start|state|list|kill|delete|ps|--version|features) : "${VERB:=$word}" ;;
    esac
    previous=$word
done
"#;
        std::fs::write(&fake, format!("{parse}{script}\n")).expect("fake");
        std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).expect("chmod");
        let options = json!({"binary": fake, "timeout_seconds": 1});
        Place {
            options: options.as_object().expect("object").clone(),
            folder,
        }
    }

    fn real() -> Place {
        let mut place = Place::new("");
        place.options = Map::new();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Result<Runc> {
        let context = DriverContext::new(
            "fake".parse().expect("name"),
            self.path("root"),
            self.path("state"),
        );
        Runc::open(context.with_options(self.options.clone()))
    }

    fn create(&self) -> Result<Error> {
        let request = CreateRequest {
            bundle: self.path("bundle"),
            stdio: null(),
        };
        match self.open()?.create(&id(), request) {
            Ok(process) => panic!("created {process:?}"),
            Err(error) => Ok(one_line(error)),
        }
    }

    /// Nothing of a call is left in the state.
    fn is_clean(&self) {
        for name in ["calls", "locks", "inits"] {
            let left = std::fs::read_dir(self.path("state").join(name))
                .map_or(0, |entries| entries.count());
            assert_eq!(left, 0, "{name}");
        }
    }
}

fn id() -> ContainerId {
    "victim".parse().expect("id")
}

fn null() -> Stdio {
    let open = || {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null");
        OwnedFd::from(file.expect("null"))
    };
    Stdio::Fds {
        stdin: open(),
        stdout: open(),
        stderr: open(),
    }
}

fn one_line(error: Error) -> Error {
    let text = error.to_string();
    assert!(text.len() < 2048, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    error
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    matches!(state, Some(state) if state != 'Z' && state != 'X')
}

#[test]
fn refused_arguments_are_told_in_the_runtimes_words() {
    let mut place = Place::real();
    place.options = json!({"args": ["--no-such-flag"]})
        .as_object()
        .expect("object")
        .clone();
    // Its words went to the container's streams, with the whole usage.
    let error = place.create().expect("open");
    let text = error.to_string();
    assert!(text.contains("not defined: -no-such-flag"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`args`")));
    place.is_clean();
}

#[test]
fn a_missing_runtime_is_named_with_the_mend() {
    let mut place = Place::new("");
    for (binary, want) in [
        ("/no/such/runc", "\"/no/such/runc\""),
        ("no-such-runtime", "it is not in"),
        ("/etc", "not an executable file"),
        ("/etc/passwd", "not an executable file"),
    ] {
        place.options.insert("binary".into(), binary.into());
        let error = one_line(place.open().err().expect("missing"));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(want), "{error}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("apt install runc")),
            "{error:?}"
        );
    }
    // It was there at open and is gone now.
    let place = Place::new("");
    let runtime = place.open().expect("open");
    std::fs::remove_file(place.path("fake")).expect("remove");
    let error = one_line(runtime.list().expect_err("gone"));
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[test]
fn options_are_checked() {
    for (name, value) in [
        ("binary", json!("relative/runc")),
        ("binary", json!("")),
        ("binary", json!("a\u{0}b")),
        ("binary", json!(7)),
        ("args", json!("--debug")),
        ("args", json!(["ok", ""])),
        ("root", json!("relative")),
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(-1)),
        ("timeout_seconds", json!(999_999)),
        ("systemd_cgroup", json!("yes")),
        ("no_such", json!(true)),
    ] {
        let mut place = Place::new("");
        place.options.insert(name.into(), value);
        let error = one_line(place.open().err().expect(name));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

#[test]
fn a_runtime_without_its_library_says_which() {
    // What the dynamic loader does: a line on stderr, which in `create` is
    // the container's own, and status 127.
    let place = Place::new(
        "echo 'fake: error while loading shared libraries: libyajl.so.2: cannot open' >&2; exit 127",
    );
    let error = place.create().expect("open");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("libyajl.so.2"), "{error}");
    place.is_clean();
}

#[test]
fn a_runtime_that_hangs_is_killed_with_its_helpers() {
    let place =
        Place::new(r#"echo $$ > "${0%fake}pid"; sleep 300 & echo $! > "${0%fake}helper"; wait"#);
    let runtime = place.open().expect("open");
    let begun = Instant::now();
    let error = one_line(runtime.state(&id()).expect_err("hangs"));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    assert!(
        text.contains("fake state") && text.contains("1 s"),
        "{text}"
    );
    for name in ["pid", "helper"] {
        let pid = std::fs::read_to_string(place.path(name)).expect(name);
        let pid = pid.trim().parse().expect("pid");
        std::thread::sleep(Duration::from_millis(20));
        assert!(!alive(pid), "{name} {pid} lives");
    }
}

#[test]
fn a_create_that_hangs_leaves_no_container() {
    // It makes its folder and hangs; a forced delete removes it.
    let place = Place::new(
        r#"case $VERB in
            create) mkdir "$ROOT/victim"; echo created > "${0%fake}trace"; exec sleep 300 ;;
            delete) echo deleted >> "${0%fake}trace"; rmdir "$ROOT/victim" ;;
        esac"#,
    );
    let error = place.create().expect("open");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let trace = std::fs::read_to_string(place.path("trace")).expect("trace");
    assert_eq!(trace, "created\ndeleted\n");
    place.is_clean();
}

#[test]
fn a_gigabyte_of_output_is_not_taken_into_memory() {
    for (script, create) in [
        ("exec yes", false),
        ("exec yes >&2", false),
        (r#"exec yes > "$LOG""#, true),
    ] {
        let place = Place::new(script);
        let begun = Instant::now();
        let error = match create {
            true => place.create().expect("open"),
            false => one_line(place.open().expect("open").list().expect_err("flood")),
        };
        assert_eq!(
            error.kind(),
            ErrorKind::ResourceExhausted,
            "{script}: {error}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{script}: {:?}",
            begun.elapsed()
        );
        place.is_clean();
    }
}

#[test]
fn a_forged_pid_file_is_not_believed() {
    let me = std::process::id();
    for content in [
        "1",
        "0",
        "-1",
        &me.to_string(),
        "",
        "garbage",
        "12 34",
        "4294967297",
        "99999999999999999999999",
        &"1".repeat(100_000),
    ] {
        let place = Place::new(&format!(
            "[ $VERB != create ] || printf '%s' '{content}' > \"$PIDFILE\""
        ));
        let error = place.create().expect("open");
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains("pid file"), "{error}");
        place.is_clean();
    }
    for script in [
        // Success without a pid file; a folder; a fifo; a symlink to a good number.
        "exit 0",
        r#"[ $VERB != create ] || mkdir "$PIDFILE""#,
        r#"[ $VERB != create ] || mkfifo "$PIDFILE""#,
        r#"[ $VERB != create ] || { echo $$ > "$PIDFILE.x"; ln -s "$PIDFILE.x" "$PIDFILE"; }"#,
    ] {
        let place = Place::new(script);
        let begun = Instant::now();
        let error = place.create().expect("open");
        assert!(error.to_string().contains("pid file"), "{script}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{script}");
        place.is_clean();
    }
}

#[test]
fn nonsense_for_json_is_an_error_in_one_line() {
    for output in [
        "",
        "{",
        "not json \\033[31m\\n\\n",
        "[1,2]",
        "{\"id\":\"../../etc\",\"status\":\"running\"}",
        "{\"id\":\"other\",\"status\":\"running\",\"pid\":5,\"bundle\":\"/b\"}",
        "{\"id\":\"victim\",\"status\":\"levitating\",\"pid\":5,\"bundle\":\"/b\"}",
    ] {
        let place = Place::new(&format!("printf '%b' '{}'", output));
        let error = one_line(place.open().expect("open").state(&id()).expect_err(output));
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Internal | ErrorKind::InvalidArgument
            ),
            "{output}: {error}"
        );
    }
    let place = Place::new("echo '{}'");
    one_line(place.open().expect("open").list().expect_err("no list"));
    let place = Place::new(
        r#"echo '[{"id":"../x","status":"running"},{"id":"a","pid":1,"status":"stopped","bundle":"/b"}]'"#,
    );
    let list = place.open().expect("open").list().expect("list");
    assert_eq!(list.len(), 1, "{list:?}");
}

#[test]
fn a_container_that_goes_while_a_runtime_lists_is_no_error() {
    // It fails twice, and nothing is there to be asked for one by one.
    let place = Place::new(
        r#"for n in 1 2; do
    mkdir "$ROOT/../failed.$n" 2>/dev/null && { echo "cannot open status" >&2; exit 1; }
done
echo '[{"id":"a","pid":1,"status":"stopped","bundle":"/b"}]'"#,
    );
    let list = place.open().expect("open").list().expect("list");
    assert_eq!(list.len(), 1, "{list:?}");
    let place = Place::new("echo 'always broken' >&2; exit 1");
    let error = one_line(place.open().expect("open").list().expect_err("broken"));
    assert!(error.to_string().contains("always broken"), "{error}");
}

#[test]
fn control_characters_of_a_runtime_do_not_reach_the_terminal() {
    let place = Place::new(r#"printf 'bad \033[2J\007 thing\r\n' >&2; exit 1"#);
    let error = one_line(place.open().expect("open").start(&id()).expect_err("fails"));
    assert!(
        error.to_string().contains(r"bad \u{1b}[2J\u{7} thing"),
        "{error}"
    );
    let place =
        Place::new(r#"printf '{"level":"error","msg":"%04000d\\u001b[1m"}\n' 7 > "$LOG"; exit 1"#);
    place.create().expect("open");
}

#[test]
fn the_runtimes_own_last_error_is_what_one_reads() {
    let place = Place::new(
        r#"echo '{"level":"error","msg":"first"}
{"level":"warning","msg":"noise"}
{"level":"error","msg":"the real reason"}' > "$LOG"; exit 1"#,
    );
    let error = place.create().expect("open").to_string();
    assert!(error.contains("the real reason"), "{error}");
    assert!(
        !error.contains("first") && !error.contains("exit status"),
        "{error}"
    );
    // A failure without a word still tells what there is.
    let place = Place::new("[ \"$VERB\" = --version ] || kill -9 $$");
    let error = place.create().expect("open").to_string();
    assert!(error.contains("killed by signal 9"), "{error}");
}

#[test]
fn a_runtime_gets_no_descriptor_and_no_socket_activation() {
    let test = "a_runtime_gets_no_descriptor_and_no_socket_activation";
    if !common::inner(test, ("LISTEN_FDS", "3"), &["env", "NOTIFY_SOCKET=/x"]) {
        return;
    }
    let place = Place::new(
        r#"[ "$VERB" = state ] || exit 0
        for f in /proc/$$/fd/*; do n=${f##*/}; [ "$n" -gt 9 ] || echo "$n $(readlink $f)"; done > "${0%fake}fds"
        env > "${0%fake}env"; pwd > "${0%fake}cwd"; exit 1"#,
    );
    let runtime = place.open().expect("open");
    // An inheritable descriptor, as a careless host may have; read-only and
    // harmless to whatever else is forked meanwhile.
    let leak = rustix::fs::open(
        "/etc/hostname",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .expect("leak");
    runtime.state(&id()).expect_err("fails");
    drop(leak);
    let fds = std::fs::read_to_string(place.path("fds")).expect("fds");
    assert!(!fds.contains("hostname"), "{fds}");
    let cwd = std::fs::read_to_string(place.path("cwd")).expect("cwd");
    assert_eq!(cwd, "/\n");
    let env = std::fs::read_to_string(place.path("env")).expect("env");
    assert!(
        !env.contains("LISTEN_") && !env.contains("NOTIFY_SOCKET"),
        "{env}"
    );
}

#[test]
fn what_a_killed_call_left_is_swept_at_open() {
    let place = Place::new("exit 0");
    let left = place.path("state/calls/call.1.2.3");
    std::fs::create_dir_all(&left).expect("mkdir");
    std::fs::write(left.join("process.json"), "secret").expect("write");
    place.open().expect("open");
    assert!(!left.exists());
}

#[test]
fn the_runtimes_state_is_private_and_inside_the_instance() {
    let place = Place::real();
    place.open().expect("open").list().expect("list");
    let mode = std::fs::metadata(place.path("state/root"))
        .expect("the runtime's root")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// A bundle that sleeps.
fn sleeper(folder: &Path) -> PathBuf {
    let bundle = folder.join("sleeper");
    std::fs::create_dir_all(bundle.join("rootfs/bin")).expect("mkdir");
    std::fs::create_dir_all(bundle.join("rootfs/proc")).expect("mkdir");
    std::fs::create_dir_all(bundle.join("rootfs/dev")).expect("mkdir");
    std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/sleep")).expect("busybox-static");
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "100"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "cgroupsPath": format!("/{}", containerkit::fs::unique_name("regression")),
        },
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).expect("config");
    bundle
}

/// Damages the runtime's own record of a running container, deletes by force
/// and expects that neither container nor process is left.
fn force_deletes_what_is_damaged(place: &Place, record: &str) {
    let runtime = place.open().expect("open");
    for damage in ["garbage", "", "{}", "{\"id\":\"victim\"}"] {
        let request = CreateRequest {
            bundle: sleeper(place.folder.path()),
            stdio: null(),
        };
        let process = runtime.run(&id(), request).expect("run");
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
        let cgroups = cgroups.expect("cgroups");
        let group = cgroups
            .split('/')
            .find(|part| part.starts_with("regression."));
        let group = group.expect("a cgroup of its own").trim_end();
        let group = group.lines().next().expect("a line");
        // In v1 one folder a controller, in v2 one.
        let groups = ["", "pids", "memory", "freezer", "systemd"]
            .map(|mount| Path::new("/sys/fs/cgroup").join(mount).join(group));
        assert!(groups.iter().any(|group| group.exists()), "{groups:?}");
        let file = place.path("state/root/victim").join(record);
        assert!(file.exists(), "{file:?}");
        std::fs::write(file, damage).expect("damage");
        let deleted = runtime.delete(&id(), DeleteMode::Force);
        let lives = alive(process.pid);
        if lives {
            let pidfd = process.pidfd.as_ref().expect("pidfd");
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
        deleted.unwrap_or_else(|error| panic!("{damage:?}: {error}"));
        assert!(!lives, "{damage:?}: the init lives");
        let error = runtime.state(&id()).expect_err("deleted");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{damage:?}: {error}");
        let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
        assert!(left.is_empty(), "{damage:?}: {left:?}");
        place.is_clean();
    }
}

#[test]
fn force_deletes_when_runcs_state_is_damaged() {
    force_deletes_what_is_damaged(&Place::real(), "state.json");
}

/// crun deletes such a container, says that all is well, and leaves its init.
#[test]
fn force_deletes_when_cruns_state_is_damaged() {
    if common::without_unified("force_deletes_when_cruns_state_is_damaged") {
        let mut place = Place::real();
        place.options.insert("binary".into(), "crun".into());
        force_deletes_what_is_damaged(&place, "status");
    }
}

/// The exit status of a process that this subreaper waits for.
fn exit_status(process: &StartedProcess) -> Option<i32> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(process.pid.cast_signed()).expect("pid");
    let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    status
        .unwrap_or_else(|errno| panic!("the status is lost: {errno}"))
        .and_then(|status| status.exit_status())
}

fn short_programs_keep_their_status(place: &Place) {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
    let runtime = place.open().expect("open");
    let bundle = sleeper(place.folder.path());
    let config = bundle.join("config.json");
    let long = std::fs::read_to_string(&config).expect("config");
    std::fs::write(&config, long.replace("\"100\"", "\"0\"")).expect("config");
    let request = || CreateRequest {
        bundle: bundle.clone(),
        stdio: null(),
    };
    for _ in 0..20 {
        let process = runtime.run(&id(), request()).expect("run");
        assert_eq!(exit_status(&process), Some(0));
        runtime.delete(&id(), DeleteMode::Force).expect("delete");
    }
    std::fs::write(&config, long).expect("config");
    let init = runtime.run(&id(), request()).expect("run");
    for _ in 0..20 {
        let process =
            json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "0"], "cwd": "/"});
        let request = ExecRequest {
            process: serde_json::from_value(process).expect("process"),
            stdio: null(),
        };
        let process = runtime.exec(&id(), request).expect("exec");
        assert_eq!(exit_status(&process), Some(0));
    }
    runtime.kill(&id(), 9, KillScope::Init).expect("kill");
    assert_eq!(exit_status(&init), None);
    runtime.delete(&id(), DeleteMode::Force).expect("delete");
}

#[test]
fn short_programs_keep_their_status_with_runc() {
    let test = "short_programs_keep_their_status_with_runc";
    if common::inner(test, ("SUBREAPER", "yes"), &["env"]) {
        short_programs_keep_their_status(&Place::real());
    }
}

/// `crun run --detach` reaps an init that ends at once.
#[test]
fn short_programs_keep_their_status_with_crun() {
    if common::without_unified("short_programs_keep_their_status_with_crun") {
        let mut place = Place::real();
        place.options.insert("binary".into(), "crun".into());
        short_programs_keep_their_status(&place);
    }
}

#[test]
fn a_folder_of_a_killed_creation_does_not_take_the_name() {
    let place = Place::real();
    let runtime = place.open().expect("open");
    std::fs::create_dir_all(place.path("state/root/victim")).expect("mkdir");
    let request = CreateRequest {
        bundle: sleeper(place.folder.path()),
        stdio: null(),
    };
    let result = runtime.run(&id(), request);
    let status = runtime.state(&id()).map(|state| state.status);
    runtime.kill(&id(), 9, KillScope::All).expect("kill");
    runtime.delete(&id(), DeleteMode::Force).expect("delete");
    result.expect("run");
    assert_eq!(status.expect("state"), RuntimeStatus::Running);
    place.is_clean();
}

#[test]
fn a_container_being_made_conflicts_with_its_name_only() {
    let place = Place::new(r#"[ $VERB != create ] || sleep 0.5"#);
    let runtime = place.open().expect("open");
    let request = || CreateRequest {
        bundle: place.path("bundle"),
        stdio: null(),
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| runtime.create(&id(), request()));
        std::thread::sleep(Duration::from_millis(150));
        let begun = Instant::now();
        let error = runtime.create(&id(), request()).expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(begun.elapsed() < Duration::from_millis(300));
        first.join().expect("join").expect_err("no pid file");
    });
    place.is_clean();
}

/// The lock of a `create` whose caller was killed stayed for good.
#[test]
fn the_lock_of_a_killed_creation_goes_with_the_container() {
    for mode in [DeleteMode::Force, DeleteMode::Stopped] {
        let place = Place::real();
        let runtime = place.open().expect("open");
        let lock = place.path("state/locks").join(id().as_str());
        std::fs::create_dir_all(place.path("state/locks")).expect("mkdir");
        std::fs::write(&lock, "").expect("write");
        let _ = runtime.delete(&id(), mode);
        assert!(!lock.exists(), "{mode:?}");
        // One in use stays.
        let held =
            containerkit::lock::FileLock::acquire(&lock, "container", containerkit::lock::Wait::No)
                .expect("lock");
        let _ = runtime.delete(&id(), mode);
        assert!(lock.exists(), "{mode:?}");
        held.remove().expect("remove");
    }
}
