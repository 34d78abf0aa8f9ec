//! The spec and the bundle against real runtimes: a busybox root file system
//! run by runc and by crun, and what the container sees.
//!
//! Needs root, runc, crun and a static `/bin/busybox`; `make test` sees to it.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use containerkit::bundle::{self, Bundle};
use containerkit::fs::Root;
use containerkit::spec::{MountRequest, NetworkMode, SpecRequest, build, parse, volume};
use containerkit::{ContainerId, ErrorKind};
use oci_spec::image::Config as ImageConfig;

/// A root file system with busybox, and a place for bundles; gone at the end.
struct House {
    dir: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("image");
        for name in ["bin", "etc", "tmp", "data", "work/sub"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("a static /bin/busybox");
        for applet in [
            "sh", "id", "cat", "env", "pwd", "hostname", "ls", "grep", "touch", "true", "ip",
            "mount", "unshare", "head", "wc", "echo", "stat", "tr", "mknod",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            rootfs.join("etc/group"),
            "root:x:0:\napp:x:1235:\nweb:x:33:app\n",
        )
        .unwrap();
        std::fs::write(rootfs.join("data/seed"), "from the image").unwrap();
        symlink("work/sub", rootfs.join("link")).unwrap();
        House { dir }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Builds the spec, makes bundle and volumes, runs it, takes all away.
    fn run(&self, runtime: Runtime, mut request: SpecRequest) -> Output {
        let id = ContainerId::generate().unwrap();
        let bundle_dir = self.dir.path().join(id.short());
        request.bundle = bundle_dir.clone();
        request.volumes_dir = self.dir.path().join(format!("{}-volumes", id.short()));
        let root = Root::open(&self.rootfs()).unwrap();
        let mut built = build(&request, &id, &root).expect("spec");
        for folder in &built.volumes {
            volume::populate(&root, folder).unwrap();
        }
        // A copy instead of a mount: one root file system a container.
        let spec_root = built.spec.root_mut().as_mut().unwrap();
        assert_eq!(spec_root.path(), Path::new("rootfs"));
        let bundle = Bundle::create(&bundle_dir, &built.spec, &built.files).unwrap();
        std::fs::remove_dir(bundle.rootfs()).unwrap();
        let copied = Command::new("cp")
            .args(["-a", "--"])
            .args([self.rootfs(), bundle.rootfs()])
            .status()
            .unwrap();
        assert!(copied.success());

        let state = self.dir.path().join("state");
        let guard = Cleanup {
            runtime,
            state: state.clone(),
            id: id.clone(),
        };
        let output = runtime
            .command(&state)
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(id.as_str())
            .stdin(std::process::Stdio::null())
            .output()
            .expect("start the runtime");
        drop(guard);
        bundle.remove().unwrap();
        assert!(!bundle_dir.exists());
        output
    }

    fn stdout(&self, runtime: Runtime, request: SpecRequest) -> String {
        let output = self.run(runtime, request);
        assert!(output.status.success(), "{runtime:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

struct Cleanup {
    runtime: Runtime,
    state: PathBuf,
    id: ContainerId,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = self
            .runtime
            .command(&self.state)
            .args(["delete", "--force", self.id.as_str()])
            .output();
    }
}

#[derive(Clone, Copy, Debug)]
enum Runtime {
    Runc,
    Crun,
}

const RUNTIMES: [Runtime; 2] = [Runtime::Runc, Runtime::Crun];

impl Runtime {
    fn command(self, state: &Path) -> Command {
        let mut command = match self {
            Runtime::Runc => Command::new("runc"),
            // crun refuses version 1 controllers beside a version 2 mount.
            Runtime::Crun if Path::new("/sys/fs/cgroup/unified").exists() => {
                let mut command = Command::new("unshare");
                command.args(["-m", "--propagation", "private", "sh", "-c"]);
                command.args(["umount /sys/fs/cgroup/unified; exec crun \"$@\"", "sh"]);
                command
            }
            Runtime::Crun => Command::new("crun"),
        };
        command.arg("--root").arg(state);
        command
    }
}

fn sh(script: &str) -> SpecRequest {
    SpecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..SpecRequest::default()
    }
}

fn has(output: &str, line: &str) {
    assert!(
        output.lines().any(|l| l == line),
        "no line {line:?} in:\n{output}"
    );
}

#[test]
fn the_default_container_is_what_people_expect() {
    let house = House::new();
    for runtime in RUNTIMES {
        let mut request = sh("
            id -u; id -g; pwd
            echo host=$(hostname)
            grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|Seccomp|NoNewPrivs):' /proc/self/status | tr '\t' ' '
            echo kcore=$(head -c 8 /proc/kcore | wc -c) keys=$(cat /proc/keys | wc -c)
            echo firmware=$(ls -A /sys/firmware | wc -l)
            touch /proc/sys/kernel/x /sys/x 2>/dev/null && echo WRITABLE
            echo 1 > /proc/sysrq-trigger 2>/dev/null && echo SYSRQ
            echo links=$(ls /sys/class/net | tr '\n' ' ')
            echo pids=$(ls -d /proc/[0-9]* | wc -l | tr -d ' ')
            touch /writable && echo rw
            cat /etc/hostname
            grep -c localhost /etc/hosts
            unshare -U true 2>/dev/null && echo USERNS
            mount -t tmpfs x /tmp 2>/dev/null && echo MOUNTED
            stat -c '%a' /dev/shm
            echo x > /dev/null && echo null
            mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg 2>/dev/null && echo KMSG
            ls /proc/self/fd | wc -l | tr -d ' '
            env
        ");
        request.hostname = Some("box-1".into());
        request.env = vec!["A=b c".into()];
        let text = house.stdout(runtime, request);
        for line in [
            "0",
            "/",
            "host=box-1",
            "CapInh: 0000000000000000",
            "CapPrm: 00000000a80425fb",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb",
            "CapAmb: 0000000000000000",
            "Seccomp: 2",
            "NoNewPrivs: 0",
            "kcore=0 keys=0",
            "firmware=0",
            "links=lo",
            "4",
            "rw",
            "box-1",
            "1777",
            "null",
            "A=b c",
            "HOME=/root",
            "HOSTNAME=box-1",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ] {
            has(&text, line);
        }
        for never in ["WRITABLE", "SYSRQ", "USERNS", "MOUNTED", "KMSG", "TERM="] {
            assert!(!text.contains(never), "{runtime:?}: {never} in:\n{text}");
        }
    }
}

#[test]
fn the_image_is_honoured_and_the_user_overrides() {
    let house = House::new();
    let mut image = ImageConfig::default();
    image
        .set_user(Some("app".into()))
        .set_env(Some(vec!["A=image".into(), "PATH=/bin".into()]))
        .set_entrypoint(Some(vec!["/bin/sh".into(), "-c".into()]))
        .set_cmd(Some(vec!["id; pwd; env; exit 7".into()]))
        .set_working_dir(Some("/link".into()))
        .set_stop_signal(Some("SIGQUIT".into()));
    for runtime in RUNTIMES {
        let request = SpecRequest {
            image: Some(image.clone()),
            env: vec!["A=mine".into()],
            ..SpecRequest::default()
        };
        let output = house.run(runtime, request.clone());
        assert_eq!(output.status.code(), Some(7), "{runtime:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        has(
            &text,
            "uid=1234(app) gid=1235(app) groups=33(web),1235(app)",
        );
        for line in ["/work/sub", "A=mine", "PATH=/bin", "HOME=/home/app"] {
            has(&text, line);
        }
        let text = house.stdout(
            runtime,
            SpecRequest {
                user: Some("77:88".into()),
                workdir: Some("/made/by/nobody".into()),
                command: vec!["id -u; id -g; id -G; pwd; env".into()],
                ..request
            },
        );
        for line in ["77", "88", "/made/by/nobody", "HOME=/"] {
            has(&text, line);
        }
    }
}

#[test]
fn volumes_mounts_limits_and_a_read_only_root() {
    let house = House::new();
    let shared = house.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("note"), "hello").unwrap();
    let mut image = ImageConfig::default();
    image.set_volumes(Some(vec!["/data".into(), "/../../new/volume".into()]));
    for runtime in RUNTIMES {
        let mut request = sh("
            pwd
            cat /data/seed; echo
            echo x >> /etc/hosts && echo HOSTS
            touch /data/x && echo volume
            touch /new/volume/x && echo made
            touch /root-is-writable 2>/dev/null && echo ROOT
            cat /mnt/note; echo
            touch /mnt/x 2>/dev/null && echo MNT
            grep -c ' /scratch tmpfs .*size=1024k' /proc/mounts
            touch /scratch/x && echo scratch
            ls -l /dev/mine | head -c 10; echo
            ulimit -n
            cd /sys/fs/cgroup
            echo memory=$(cat memory/memory.limit_in_bytes memory.max 2>/dev/null)
            echo pids=$(cat pids/pids.max pids.max 2>/dev/null)
            echo quota=$(cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null | head -c 5)
            grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status | tr '\t' ' '
        ");
        request.image = Some(image.clone());
        request.read_only = true;
        request.workdir = Some("/work/new".into());
        request.mounts = vec![
            parse::parse_volume(&format!("{}:/mnt:ro", shared.display())).unwrap(),
            parse::parse_tmpfs("/scratch:size=1m").unwrap(),
        ];
        request.devices = vec![parse::parse_device("/dev/zero:/dev/mine:r").unwrap()];
        request.ulimits = vec![parse::parse_ulimit("nofile=64:64").unwrap()];
        request.limits.memory = Some(64 << 20);
        request.limits.cpus = Some(0.5);
        request.limits.pids_limit = Some(50);
        request.security = vec![
            parse::parse_security("no-new-privileges").unwrap().unwrap(),
            parse::parse_security("seccomp=unconfined")
                .unwrap()
                .unwrap(),
        ];
        request.cap_drop = vec!["ALL".into()];
        request.cap_add = vec!["KILL".into()];
        let text = house.stdout(runtime, request);
        for line in [
            "/work/new",
            "from the image",
            "volume",
            "made",
            "hello",
            "1",
            "scratch",
            "crw-rw-rw-",
            "64",
            "memory=67108864",
            "pids=50",
            "quota=50000",
            "Seccomp: 0",
            "NoNewPrivs: 1",
            "CapBnd: 0000000000000020",
        ] {
            has(&text, line);
        }
        for never in ["ROOT", "MNT", "HOSTS"] {
            assert!(!text.contains(never), "{runtime:?}: {never} in:\n{text}");
        }
    }
}

#[test]
fn privileged_is_everything_this_process_can_give() {
    let house = House::new();
    for runtime in RUNTIMES {
        let mut request = sh("
            grep -E '^(Seccomp|CapBnd|CapInh):' /proc/self/status | tr '\t' ' '
            mount -t tmpfs x /tmp && echo mounted
            head -c 4 /proc/kcore | wc -c | tr -d ' '
        ");
        request.privileged = true;
        let text = house.stdout(runtime, request);
        let available = containerkit::spec::caps::CapabilitySet::available().unwrap();
        has(&text, &format!("CapBnd: {:016x}", available.bits()));
        for line in ["Seccomp: 0", "CapInh: 0000000000000000", "mounted"] {
            has(&text, line);
        }
    }
}

#[test]
fn the_hosts_network_is_shared_when_asked() {
    let house = House::new();
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    for runtime in RUNTIMES {
        let mut request = sh("ls -l /proc/self/ns/net");
        request.network = NetworkMode::Host;
        let text = house.stdout(runtime, request);
        assert!(text.contains(&*here.to_string_lossy()), "{text}");
    }
}

#[test]
fn a_mounted_bundle_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with space");
    let bundle = Bundle::create(&path, &Default::default(), &[]).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(bundle.rootfs())
        .status()
        .unwrap();
    assert!(mounted.success());
    std::fs::write(bundle.rootfs().join("precious"), "x").unwrap();
    let result = bundle.clone().remove();
    let survived = bundle.rootfs().join("precious").exists() && path.join("config.json").exists();
    let unmounted = Command::new("umount")
        .arg(bundle.rootfs())
        .status()
        .unwrap();
    assert!(unmounted.success());
    let error = result.expect_err("mounted");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("rootfs"), "{error}");
    assert!(survived);
    bundle::remove(&path).unwrap();
    assert!(!path.exists());
}

/// What must be refused before any runtime sees it.
#[test]
fn hostile_wishes_are_refused_in_one_line() {
    let house = House::new();
    let image_with = |change: fn(&mut ImageConfig) -> &mut ImageConfig| {
        let mut image = ImageConfig::default();
        change(&mut image);
        SpecRequest {
            image: Some(image),
            ..sh("true")
        }
    };
    let mount = |text: &str| SpecRequest {
        mounts: vec![MountRequest {
            target: text.into(),
            ..parse::parse_tmpfs("/x").unwrap()
        }],
        ..sh("true")
    };
    let cases: Vec<(&str, SpecRequest)> = vec![
        (
            "cwd",
            image_with(|i| i.set_working_dir(Some("/proc/self/fd/8".into()))),
        ),
        (
            "relative cwd",
            image_with(|i| i.set_working_dir(Some("work".into()))),
        ),
        ("uid", image_with(|i| i.set_user(Some("4294967296".into())))),
        (
            "negative uid",
            image_with(|i| i.set_user(Some("-1".into()))),
        ),
        ("hex uid", image_with(|i| i.set_user(Some("0x0".into())))),
        (
            "unknown user",
            image_with(|i| i.set_user(Some("nobody".into()))),
        ),
        (
            "signal",
            image_with(|i| i.set_stop_signal(Some("SIGX\n".into()))),
        ),
        (
            "volume",
            image_with(|i| i.set_volumes(Some(vec!["/proc/x".into()]))),
        ),
        (
            "volume root",
            image_with(|i| i.set_volumes(Some(vec!["/..".into()]))),
        ),
        (
            "relative volume",
            image_with(|i| i.set_volumes(Some(vec!["../etc".into()]))),
        ),
        (
            "nul in env",
            image_with(|i| i.set_env(Some(vec!["A=\0".into()]))),
        ),
        ("mount on root", mount("/")),
        ("mount in proc", mount("/proc/self")),
        ("relative mount", mount("x")),
        (
            "named volume",
            SpecRequest {
                mounts: vec![parse::parse_volume("data:/x").unwrap()],
                ..sh("true")
            },
        ),
        (
            "missing source",
            SpecRequest {
                mounts: vec![parse::parse_volume("/does/not/exist:/x").unwrap()],
                ..sh("true")
            },
        ),
        (
            "host name",
            SpecRequest {
                hostname: Some("a b".into()),
                ..sh("true")
            },
        ),
        (
            "capability",
            SpecRequest {
                cap_add: vec!["CAP_X\u{1b}".into()],
                ..sh("true")
            },
        ),
        (
            "memory",
            SpecRequest {
                limits: containerkit::spec::Limits {
                    memory: Some(1),
                    ..Default::default()
                },
                ..sh("true")
            },
        ),
        ("nothing to run", SpecRequest::default()),
    ];
    let root = Root::open(&house.rootfs()).unwrap();
    let id: ContainerId = "x".parse().unwrap();
    for (what, mut request) in cases {
        request.bundle = house.dir.path().join("b");
        request.volumes_dir = house.dir.path().join("v");
        let error = build(&request, &id, &root).expect_err(what).to_string();
        assert!(!error.chars().any(char::is_control), "{what}: {error}");
        assert!(error.len() < 1000, "{what}: {error}");
    }
    assert!(!house.dir.path().join("b").exists());
}

/// Labels of an image are no annotations: runtimes take orders from those.
#[test]
fn labels_of_an_image_are_not_instructions() {
    let house = House::new();
    let mut image = ImageConfig::default();
    image.set_labels(Some(
        [("run.oci.handler".to_owned(), "evil".to_owned())].into(),
    ));
    let request = SpecRequest {
        image: Some(image),
        bundle: "/b".into(),
        volumes_dir: "/v".into(),
        ..sh("true")
    };
    let root = Root::open(&house.rootfs()).unwrap();
    let built = build(&request, &"x".parse().unwrap(), &root).unwrap();
    assert_eq!(built.spec.annotations(), &None);
    assert!(!serde_json::to_string(&built.spec).unwrap().contains("evil"));
}
