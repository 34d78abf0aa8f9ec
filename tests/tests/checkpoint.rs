//! Checkpoint and restore: what is asked of runc, and what is said where criu
//! is missing.
//!
//! criu itself is not in Debian 12; the runtime here is a script that writes
//! down how it is called, answers `checkpoint` and `restore` in runc's way and
//! leaves everything else to runc.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use containerkit_tests::kit::{Kit, Ran};
use serde_json::Value;

const RUNTIME: &str = r#"#!/bin/sh
# runc with processes that can be saved: by their end, and a new beginning.
echo "$@" >>CALLS
words=" $* "
image=${words#* --image-path }; image=${image%% *}
for id; do :; done
case "$words" in
*" checkpoint "*)
	if [ -e FAIL ]; then
		echo '{"level":"error","msg":"criu failed: type NOTIFY errno 0"}' >&2
		exit 1
	fi
	echo pages >"$image/pages-1.img"
	case "$words" in *" --leave-running "*) exit 0 ;; esac
	exec runc "$1" "$2" kill "$id" 9 ;;
*" restore "*)
	[ -e "$image/pages-1.img" ] || exit 1
	for word; do
		case "$skip$word" in
		skip*) skip= ;;
		--image-path | --work-path) skip=skip ;;
		--tcp-established | --ext-unix-sk | --shell-job) ;;
		restore) set -- "$@" run ;;
		*) set -- "$@" "$word" ;;
		esac
		shift
	done ;;
esac
exec runc "$@"
"#;

struct Saving {
    kit: Kit,
    path: String,
}

impl Saving {
    fn new() -> Saving {
        let kit = Kit::with_busybox();
        let tools = kit.path("tools");
        std::fs::create_dir(&tools).unwrap();
        let calls = kit.path("calls").display().to_string();
        let fail = kit.path("fail").display().to_string();
        let script = RUNTIME.replace("CALLS", &calls).replace("FAIL", &fail);
        program(&tools.join("runc-saves"), &script);
        program(&tools.join("criu"), "#!/bin/sh\nexit 1\n");
        let binary = tools.join("runc-saves").display().to_string();
        kit.configure(&format!(
            "version = 1\n[runtime.runc]\noptions = {{ binary = \"{binary}\" }}\n"
        ));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", tools.display());
        Saving { kit, path }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.kit.command(args);
        command.env("PATH", &self.path);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::new(&self.command(args).output().unwrap())
    }

    fn row(&self, id: &str) -> Value {
        self.run(&["inspect", id]).ok().json()[0].clone()
    }

    /// The words of the last call of a verb, without the folders before it.
    fn call(&self, verb: &str) -> String {
        let calls = std::fs::read_to_string(self.kit.path("calls")).unwrap();
        let verb = format!(" {verb} ");
        let last = calls.lines().rfind(|line| line.contains(&verb)).unwrap();
        last.split_once(&verb).unwrap().1.to_owned()
    }
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_container_is_saved_and_restored() {
    let saving = Saving::new();
    let made = saving.run(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let id = made.ok().stdout.trim().to_owned();
    let dir = saving.kit.path("saved");
    let dir = dir.to_str().unwrap();

    let flags = [
        "--leave-running",
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
    ];
    let other = saving.kit.path("other").display().to_string();
    let args = [
        &["checkpoint", "--work-path", "/tmp"],
        &flags[..],
        &["c", &other],
    ]
    .concat();
    assert_eq!(saving.run(&args).ok().stdout, "c\n");
    assert_eq!(saving.row("c")["status"], "running");
    let said = saving.call("checkpoint");
    let want = format!(
        "--image-path {other} --work-path /tmp --tcp-established --ext-unix-sk --shell-job --leave-running {id}"
    );
    assert_eq!(said, want);

    // A failure changes nothing.
    std::fs::write(saving.kit.path("fail"), "").unwrap();
    saving
        .run(&["checkpoint", "c", dir])
        .refused(1, &["c", "criu failed"]);
    assert!(!Path::new(dir).exists());
    assert_eq!(saving.row("c")["status"], "running");
    std::fs::remove_file(saving.kit.path("fail")).unwrap();
    saving
        .run(&["checkpoint", "c", &other])
        .refused(1, &["other", "not empty"]);

    saving.run(&["checkpoint", "c", dir]).ok();
    let found = saving.row("c");
    assert_eq!(
        (&found["status"], &found["exit_code"]),
        (&"stopped".into(), &137.into())
    );
    let mode = std::fs::metadata(dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    saving
        .run(&["checkpoint", "c", "/tmp/never"])
        .refused(1, &["c", "stopped"]);

    let told = saving.run(&["--format", "json", "restore", "c", dir]).ok();
    assert_eq!(told.json(), serde_json::json!(["c"]));
    assert_eq!(saving.row("c")["status"], "running");
    let said = saving.call("restore");
    assert!(said.contains(&format!("--image-path {dir} ")), "{said}");
    assert!(said.contains(" --detach ") && said.ends_with(&id), "{said}");
    saving
        .run(&["restore", "c", dir])
        .refused(1, &["c", "running"]);
    saving
        .run(&["restore", "c", "/tmp"])
        .refused(1, &["/tmp", "no checkpoint"]);

    saving
        .run(&["create", "--name", "d", "busybox", "true"])
        .ok();
    saving
        .run(&["restore", "d", dir])
        .refused(1, &["checkpoint of container c"]);
    let events = saving.run(&["events", "--no-stream"]).ok().stdout;
    let count = |kind: &str| events.lines().filter(|line| line.contains(kind)).count();
    assert_eq!(
        (count(" checkpoint "), count(" restore ")),
        (2, 1),
        "{events}"
    );
    saving.run(&["delete", "-f", "c", "d"]).ok();
    saving.kit.assert_clean();
}

#[test]
fn without_criu_it_is_named_and_nothing_changes() {
    let kit = Kit::with_busybox();
    kit.run(["run", "-d", "--name", "c", "busybox", "sleep", "1000"])
        .ok();
    let pid = kit.run(["inspect", "c"]).ok().json()[0]["pid"].clone();
    let dir = kit.path("saved");
    let bare = |args: &[&str]| {
        let mut command = kit.command(args);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ran::new(&command.output().unwrap())
    };
    if Path::new("/usr/sbin/criu").exists() {
        return;
    }
    let refused = bare(&["checkpoint", "c", dir.to_str().unwrap()]);
    let refused = refused.refused(1, &["runc cannot checkpoint", "criu"]);
    assert!(refused.stderr.contains("hint: install criu"), "{refused:?}");
    assert!(!dir.exists());
    let found = kit.run(["inspect", "c"]).ok().json()[0].clone();
    assert_eq!((&found["status"], &found["pid"]), (&"running".into(), &pid));

    kit.run(["stop", "-t", "0", "c"]).ok();
    std::fs::create_dir(&dir).unwrap();
    let id = found["id"].as_str().unwrap();
    let stamp = serde_json::json!({
        "version": 1, "id": id, "name": "c", "at": found["created"],
        "runtime": found["drivers"]["runtime"],
    });
    std::fs::write(dir.join("checkpoint.json"), stamp.to_string()).unwrap();
    bare(&["restore", "c", dir.to_str().unwrap()]).refused(1, &["runc cannot restore", "criu"]);
    let found = kit.run(["inspect", "c"]).ok().json()[0].clone();
    assert_eq!(found["status"], "stopped");
    kit.run(["delete", "c"]).ok();
    kit.assert_clean();
}
