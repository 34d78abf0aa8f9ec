//! Deleting what has ended: by the driver itself where nothing special is to
//! be done, else by runc, and the same is left either way: nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use containerkit::runtime::{CreateRequest, DeleteMode, StartedProcess, Stdio};
use containerkit::{ContainerId, Driver, DriverContext, ErrorKind, Runtime};
use containerkit_runc::Runc;
use serde_json::{Value, json};

/// runc behind a script that writes down its commands.
struct Place {
    folder: tempfile::TempDir,
    runtime: Runc,
    group: String,
}

impl Place {
    fn new() -> Place {
        // Else the init is somebody's who reaps it before it is looked at.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
        let folder = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| folder.path().join(name);
        for name in ["root", "state", "bundle/rootfs/bin", "bundle/rootfs/proc"] {
            std::fs::create_dir_all(at(name)).expect("mkdir");
        }
        std::fs::copy("/bin/busybox", at("bundle/rootfs/bin/true")).expect("busybox-static");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n",
            at("commands").display()
        );
        // By its name the driver knows what it may do.
        std::fs::write(at("runc.sh"), script).expect("script");
        std::fs::set_permissions(at("runc.sh"), PermissionsExt::from_mode(0o755)).expect("chmod");
        let context = DriverContext::new("test".parse().expect("name"), at("root"), at("state"));
        let options = json!({ "binary": at("runc.sh") });
        let options = options.as_object().expect("object").clone();
        Place {
            runtime: Runc::open(context.with_options(options)).expect("open"),
            group: containerkit::fs::unique_name("ended"),
            folder,
        }
    }

    /// A container whose init has ended and is reaped.
    fn ended(&self, hooks: Value) -> StartedProcess {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "hooks": hooks,
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
                "cgroupsPath": format!("/{}", self.group),
            },
        });
        let bundle = self.path("bundle");
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("config");
        let stdio = null();
        let request = CreateRequest { bundle, stdio };
        let process = self.runtime.run(&id(), request).expect("run");
        let pidfd = process.pidfd.as_ref().expect("pidfd");
        let mut fds = [rustix::event::PollFd::new(
            pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).expect("poll");
        let pidfd = rustix::process::WaitId::PidFd(pidfd.as_fd());
        rustix::process::waitid(pidfd, rustix::process::WaitIdOptions::EXITED).expect("reap");
        process
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn asked_runc_to_delete(&self) -> bool {
        let commands = std::fs::read_to_string(self.path("commands")).expect("commands");
        commands.lines().any(|line| line.contains(" delete "))
    }

    /// The container's cgroups that are there, in whatever hierarchy.
    fn groups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups");
        mounts
            .flatten()
            .map(|mount| mount.path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|mount| mount.join(&self.group))
            .filter(|group| group.exists())
            .collect()
    }

    fn is_gone(&self) {
        assert_eq!(self.groups(), Vec::<PathBuf>::new());
        for name in ["state/root", "state/inits", "state/locks", "state/calls"] {
            let left = std::fs::read_dir(self.path(name)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{name}");
        }
        let error = self.runtime.state(&id()).expect_err("deleted");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

fn id() -> ContainerId {
    "ended".parse().expect("id")
}

fn null() -> Stdio {
    let open = || -> OwnedFd {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null");
        file.expect("null").into()
    };
    Stdio::Fds {
        stdin: open(),
        stdout: open(),
        stderr: open(),
    }
}

#[test]
fn a_plain_one_needs_no_command() {
    for mode in [DeleteMode::Stopped, DeleteMode::Force] {
        let place = Place::new();
        place.ended(Value::Null);
        assert!(!place.groups().is_empty());
        place.runtime.delete(&id(), mode).expect("delete");
        assert!(!place.asked_runc_to_delete(), "{mode:?}");
        place.is_gone();
    }
}

#[test]
fn a_hook_after_the_end_is_runcs_to_call() {
    let place = Place::new();
    let witness = place.path("hooked");
    place.ended(json!({"poststop": [
        {"path": "/bin/sh", "args": ["sh", "-c", format!("echo yes >{}", witness.display())]},
    ]}));
    let deleted = place.runtime.delete(&id(), DeleteMode::Stopped);
    deleted.expect("delete");
    assert_eq!(std::fs::read_to_string(witness).expect("the hook"), "yes\n");
    assert!(place.asked_runc_to_delete());
    place.is_gone();
}

#[test]
fn cgroups_within_the_containers_are_removed_by_runc() {
    let place = Place::new();
    place.ended(Value::Null);
    for group in place.groups() {
        std::fs::create_dir(group.join("inner")).expect("a cgroup in the cgroup");
    }
    place
        .runtime
        .delete(&id(), DeleteMode::Force)
        .expect("delete");
    assert!(place.asked_runc_to_delete());
    place.is_gone();
}

#[test]
fn a_record_that_is_not_its_own_is_not_followed() {
    let place = Place::new();
    place.ended(Value::Null);
    let record = place.path("state/root/ended/state.json");
    let text = std::fs::read_to_string(&record).expect("state.json");
    let mut state: Value = serde_json::from_str(&text).expect("json");
    let victim = Path::new("/sys/fs/cgroup/pids").join(containerkit::fs::unique_name("victim"));
    let there = std::fs::create_dir_all(&victim).is_ok();
    state["init_process_start"] = json!(1);
    state["cgroup_paths"]["victim"] = json!(victim.join("..").join("x"));
    std::fs::write(&record, state.to_string()).expect("write");
    let _ = place.runtime.delete(&id(), DeleteMode::Force);
    assert!(place.asked_runc_to_delete());
    if there {
        std::fs::remove_dir(victim).expect("still there");
    }
    place.is_gone();
}
