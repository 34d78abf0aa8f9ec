//! Files that are wrong, and the order of those that are right.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use containerkit::{DriverKind, ErrorKind, InstanceName, Result};
use log::LevelFilter;
use serde_json::json;

use crate::environment::Environment;
use crate::{Config, Flags};

fn from(text: &str) -> Result<Config> {
    Config::from_toml(text, Path::new("/c.toml"))
}

fn name(text: &str) -> InstanceName {
    text.parse().expect("instance name")
}

/// A folder with a file, drop-ins and an environment.
struct Place {
    dir: tempfile::TempDir,
    environment: Vec<(&'static str, OsString)>,
}

impl Place {
    fn new(main: Option<&str>, drop_ins: &[(&str, &str)]) -> Place {
        let dir = tempfile::tempdir().expect("tempdir");
        if let Some(main) = main {
            std::fs::write(dir.path().join("containerkit.toml"), main).expect("write");
        }
        std::fs::create_dir(dir.path().join("conf.d")).expect("mkdir");
        for (name, text) in drop_ins {
            std::fs::write(dir.path().join("conf.d").join(name), text).expect("write");
        }
        Place {
            dir,
            environment: Vec::new(),
        }
    }

    fn main(&self) -> PathBuf {
        self.dir.path().join("containerkit.toml")
    }

    fn set(mut self, name: &'static str, value: &str) -> Place {
        self.environment.push((name, value.into()));
        self
    }

    fn load(&self, flags: &Flags) -> Result<Config> {
        let environment = Environment::from_lookup(|name| {
            let found = self.environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.clone())
        });
        Config::load_with(flags, &environment, &self.main())
    }
}

#[test]
fn the_built_in_default_is_whole() {
    let config = Place::new(None, &[]).load(&Flags::default()).expect("load");
    assert_eq!(config.version, 1);
    assert_eq!(config.root, Path::new("/var/lib/containerkit"));
    assert_eq!(config.state, Path::new("/run/containerkit"));
    assert_eq!(config.log_level, LevelFilter::Warn);
    assert_eq!(
        config.driver_path,
        [Path::new("/usr/lib/containerkit/drivers")]
    );
    assert!(config.files.is_empty());
    let instances: Vec<String> = config
        .instances
        .iter()
        .map(|((kind, name), instance)| format!("{kind}.{name}={}", instance.driver))
        .collect();
    assert_eq!(
        instances,
        [
            "runtime.crun=libcontainerkit_runc.so",
            "runtime.runc=libcontainerkit_runc.so",
            "snapshotter.overlay=libcontainerkit_overlay.so",
            "content.local=libcontainerkit_local.so",
        ]
    );
    let crun = config
        .instance(DriverKind::Runtime, &name("crun"))
        .expect("crun");
    assert_eq!(crun.options["binary"], "crun");
    assert_eq!(
        config.instance_root(DriverKind::Content, &name("local")),
        Path::new("/var/lib/containerkit/content/local")
    );
    assert_eq!(
        config.instance_state(DriverKind::Runtime, &name("crun")),
        Path::new("/run/containerkit/runtime/crun")
    );
    // The default as a file is the default.
    assert_eq!(
        plain(&from(Config::default_toml()).expect("file")),
        plain(&config)
    );
}

/// The dump without the comments that say where values came from.
fn plain(config: &Config) -> String {
    let lines = config.dump();
    lines
        .lines()
        .map(|line| line.split("  # ").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let long = format!("{} = 1", "k".repeat(100_000));
    let pin = "a".repeat(63);
    let short_pin = format!("[runtime.runc]\nsha256 = \"{pin}\"");
    let upper_pin = format!("[runtime.runc]\nsha256 = \"{}\"", "A".repeat(64));
    let other_pin = format!("[runtime.runc]\nsha256 = \"sha512:{}\"", "a".repeat(128));
    let table: &[(&str, &str)] = &[
        // unknown keys
        (
            "rot = \"/x\"",
            "/c.toml:1:1: unknown key \"rot\"; did you mean \"root\"?",
        ),
        (
            "\n  bananas = 1",
            "/c.toml:2:3: unknown key \"bananas\"; known: version, root, state",
        ),
        (
            "[defualt]\nruntime = \"runc\"",
            "/c.toml:1:2: unknown key \"defualt\"; did you mean \"default\"?",
        ),
        (
            "[default]\nruntme = \"runc\"",
            "/c.toml:2:1: unknown key \"runtme\" in [default]; did you mean \"runtime\"?",
        ),
        (
            "[default]\nnetwork = \"cni\"",
            "/c.toml:2:1: unknown key \"network\" in [default]; known: runtime, snapshotter, content",
        ),
        (
            "[runtime.runc]\ndrivr = \"x\"",
            "/c.toml:2:1: unknown key \"drivr\" in [runtime.runc]; did you mean \"driver\"?",
        ),
        (
            "[runtime.runc]\noption = { a = 1 }",
            "/c.toml:2:1: unknown key \"option\" in [runtime.runc]; did you mean \"options\"?",
        ),
        (
            "[snapshoter.x]\n",
            "/c.toml:1:2: unknown key \"snapshoter\"; did you mean \"snapshotter\"?",
        ),
        (
            "default.runtme = \"runc\"",
            "/c.toml:1:9: unknown key \"runtme\"",
        ),
        ("\"a\\nb\" = 1", "/c.toml:1:1: unknown key \"a\\nb\""),
        (&long, "bytes); known:"),
        // the first mistake of the file, not of the alphabet
        ("zzz = 1\naaa = 1", "/c.toml:1:1: unknown key \"zzz\""),
        // wrong types
        (
            "root = 1",
            "/c.toml:1:8: root: want a string, found an integer",
        ),
        (
            "state = [\"/x\"]",
            "/c.toml:1:9: state: want a string, found an array",
        ),
        (
            "log_level = true",
            "/c.toml:1:13: log_level: want a string, found a boolean",
        ),
        (
            "driver_path = \"/x\"",
            "/c.toml:1:15: driver_path: want an array of strings, found a string",
        ),
        (
            "driver_path = [\"/x\",\n 7]",
            "/c.toml:2:2: driver_path: want a string, found an integer",
        ),
        (
            "default = 1",
            "/c.toml:1:11: default: want a table, found an integer",
        ),
        (
            "runtime = \"runc\"",
            "/c.toml:1:11: runtime: want a table, found a string",
        ),
        (
            "[runtime]\nrunc = \"x\"",
            "/c.toml:2:8: runtime.runc: want a table, found a string",
        ),
        (
            "[[runtime]]\na = 1",
            "runtime: want a table, found an array",
        ),
        (
            "[runtime.runc]\noptions = 1",
            "/c.toml:2:11: runtime.runc.options: want a table, found an integer",
        ),
        (
            "[runtime.runc]\noptions.x = 1979-05-27",
            "/c.toml:2:13: runtime.runc.options.x: want a string, found a date",
        ),
        (
            "[runtime.runc]\noptions.x = [inf]",
            "/c.toml:2:14: runtime.runc.options.x: want a finite number",
        ),
        (
            "[runtime.runc]\noptions.x = 99999999999999999999",
            "options.x: the integer has more than 64 bits",
        ),
        (
            "version = \"1\"",
            "/c.toml:1:11: version: want an integer, found a string",
        ),
        (
            "version = 1.0",
            "/c.toml:1:11: version: want an integer, found a float",
        ),
        // versions
        (
            "new_key = 1\nversion = 2",
            "/c.toml:2:11: version: this file has version 2; this containerkit reads up to 1",
        ),
        (
            "version = 99999999999999999999999",
            "version: this file has version 99999999999999999999; this",
        ),
        (
            "version = 0",
            "/c.toml:1:11: version: 0 never was; this containerkit reads version 1",
        ),
        ("version = -1", "version: -1 never was"),
        // values
        (
            "root = \"var/lib\"",
            "/c.toml:1:8: root: \"var/lib\" is relative; want an absolute path",
        ),
        (
            "state = \"\"",
            "/c.toml:1:9: state: it is empty; want an absolute path",
        ),
        (
            "root = \"/a\\u0000b\"",
            "/c.toml:1:8: root: \"/a\\0b\" has a control character",
        ),
        (
            "driver_path = [\"../x\"]",
            "/c.toml:1:16: driver_path: \"../x\" is relative",
        ),
        (
            "root = \"/run/containerkit\"",
            "state: it is the same folder as root (/c.toml:1:8)",
        ),
        (
            "log_level = \"wran\"",
            "/c.toml:1:13: log_level: unknown level \"wran\"; did you mean \"warn\"?",
        ),
        (
            "log_level = \"loud\"",
            "unknown level \"loud\"; known: error, warn, info, debug, trace",
        ),
        (
            "[default]\nruntime = \"crum\"",
            "/c.toml:2:11: default.runtime: no runtime instance \"crum\" is configured; did you mean \"crun\"?",
        ),
        (
            "[default]\nsnapshotter = \"zfs\"",
            "/c.toml:2:15: default.snapshotter: no snapshotter instance \"zfs\" is configured; known: overlay",
        ),
        (
            "[default]\ncontent = \"../x\"",
            "/c.toml:2:11: default.content: driver instance \"../x\"",
        ),
        (
            "[runtime.Runc]\ndriver = \"x\"",
            "/c.toml:1:10: runtime: driver instance \"Runc\": want lowercase letters",
        ),
        (
            "[runtime.\"../x\"]\ndriver = \"x\"",
            "/c.toml:1:10: runtime: driver instance \"../x\"",
        ),
        (
            "[runtime]\ndriver = \"x.so\"",
            "/c.toml:2:1: runtime: \"driver\" stands without an instance; write [runtime.NAME]",
        ),
        (
            "[snapshotter.overley]\noptions.x = 1",
            "/c.toml:1:14: [snapshotter.overley] has no `driver`; did you mean [snapshotter.overlay]?",
        ),
        (
            "[runtime.runc]\ndriver = \"lib/x.so\"",
            "/c.toml:2:10: runtime.runc.driver: \"lib/x.so\" is a relative path; want a bare file name or an absolute path",
        ),
        ("[runtime.runc]\ndriver = \"../x.so\"", "is a relative path"),
        (
            "[runtime.runc]\ndriver = \"\"",
            "/c.toml:2:10: runtime.runc.driver: \"\" is no file name",
        ),
        ("[runtime.runc]\ndriver = \"..\"", "\"..\" is no file name"),
        (
            "[runtime.runc]\ndriver = \"a\\nb\"",
            "/c.toml:2:10: runtime.runc.driver: \"a\\nb\" has a control character",
        ),
        (&short_pin, "/c.toml:2:10: runtime.runc.sha256: digest "),
        (&upper_pin, "want lowercase hex characters"),
        (&other_pin, "/c.toml:2:10: runtime.runc.sha256: digest "),
        // not TOML
        ("root = ", "/c.toml:1:"),
        ("root = \"/x\"\nroot = \"/y\"", "/c.toml:2:1: duplicate key"),
        ("[runtime.runc]\n[runtime.runc]", "/c.toml:2:"),
        ("= 1", "/c.toml:1:1: "),
        ("a = \"\u{1}\"", "/c.toml:1:"),
        ("[", "/c.toml:1:"),
    ];
    for (text, want) in table {
        let error = from(text).expect_err(text);
        let line = error.to_string();
        assert!(line.contains(want), "{line}\nwant: {want}");
        assert!(
            line.starts_with("/c.toml:") || line.starts_with("the built-in default, line "),
            "{line}"
        );
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(line.len() < 1000, "{line}");
        let kind = if line.contains("this containerkit reads up to") {
            ErrorKind::Incompatible
        } else {
            ErrorKind::InvalidArgument
        };
        assert_eq!(error.kind(), kind, "{line}");
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let place = Place::new(None, &[]);
    let flags = |path: &Path| Flags {
        config: Some(path.to_path_buf()),
        ..Flags::default()
    };
    let path = place.dir.path().join("x.toml");
    let error = place.load(&flags(&path)).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().starts_with("--config: configuration /"),
        "{error}"
    );

    std::fs::write(&path, b"root = \"/a\"\nstate = \"\xff\"").expect("write");
    let error = place.load(&flags(&path)).expect_err("utf-8").to_string();
    assert!(error.contains("x.toml:2:10: it is not UTF-8"), "{error}");

    std::fs::write(&path, vec![b'\n'; (1 << 20) + 1]).expect("write");
    let error = place.load(&flags(&path)).expect_err("big");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    std::fs::write(&path, vec![b'\n'; 1 << 20]).expect("write");
    place.load(&flags(&path)).expect("just fits");

    let fifo = place.dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("fifo");
    for bad in [fifo.as_path(), place.dir.path()] {
        let error = place.load(&flags(bad)).expect_err("no file");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }
    place.load(&flags(Path::new("/dev/null"))).expect("empty");

    let named = Place::new(None, &[]).set("CONTAINERKIT_CONFIG", "/no/such.toml");
    let error = named
        .load(&Flags::default())
        .expect_err("missing")
        .to_string();
    assert!(error.starts_with("$CONTAINERKIT_CONFIG: "), "{error}");
    let other = Place::new(None, &[("a.toml", "")]);
    std::os::unix::fs::symlink("/no/such", other.dir.path().join("conf.d/b.toml")).expect("link");
    let error = other
        .load(&Flags::default())
        .expect_err("dangling")
        .to_string();
    assert!(error.contains("conf.d/b.toml"), "{error}");
}

#[test]
fn later_layers_cover_earlier_ones_key_by_key() {
    let place = Place::new(
        Some(
            "root = \"/file\"\nstate = \"/state\"\nlog_level = \"info\"\n\
             [default]\nruntime = \"crun\"\n[runtime.crun]\noptions.root = \"/r\"\n",
        ),
        &[
            ("20-b.toml", "root = \"/b\"\n"),
            ("10-a.toml", "root = \"/a\"\nlog_level = \"debug\"\n"),
            ("30-c.conf", "this is no TOML"),
            (".hidden.toml", "nor this"),
        ],
    );
    let config = place.load(&Flags::default()).expect("load");
    assert_eq!(config.root, Path::new("/b"));
    assert_eq!(config.state, Path::new("/state"));
    assert_eq!(config.log_level, LevelFilter::Debug);
    assert_eq!(config.default.runtime, name("crun"));
    assert_eq!(config.default.snapshotter, name("overlay"));
    assert_eq!(config.files.len(), 3);
    assert!(config.files[1].ends_with("conf.d/10-a.toml"));
    let crun = config
        .instance(DriverKind::Runtime, &name("crun"))
        .expect("crun");
    assert_eq!(
        json!(crun.options),
        json!({ "binary": "crun", "root": "/r" })
    );
    assert_eq!(crun.driver, "libcontainerkit_runc.so");

    let place = place
        .set("CONTAINERKIT_ROOT", "/environment")
        .set("CONTAINERKIT_STATE", "")
        .set("CONTAINERKIT_LOG_LEVEL", "error")
        .set("CONTAINERKIT_RUNTIME", "runc");
    let config = place.load(&Flags::default()).expect("load");
    assert_eq!(config.root, Path::new("/environment"));
    assert_eq!(config.state, Path::new("/state"));
    assert_eq!(config.log_level, LevelFilter::Error);
    assert_eq!(config.default.runtime, name("runc"));

    let flags = Flags {
        root: Some("/flag".into()),
        state: Some("relative".into()),
        log_level: Some(LevelFilter::Trace),
        config: None,
    };
    let config = place.load(&flags).expect("load");
    assert_eq!(config.root, Path::new("/flag"));
    let here = std::env::current_dir().expect("cwd");
    assert_eq!(config.state, here.join("relative"));
    assert_eq!(config.log_level, LevelFilter::Trace);
    let dump = config.dump();
    for want in [
        "root = \"/flag\"  # --root",
        "runtime = \"runc\"  # $CONTAINERKIT_RUNTIME",
        "snapshotter = \"overlay\"  # the built-in default, line ",
        "containerkit.toml:7:9",
    ] {
        assert!(dump.contains(want), "{dump}");
    }
}

#[test]
fn a_file_that_everybody_writes_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(Some(""), &[("a.toml", "")]);
    assert!(
        place
            .load(&Flags::default())
            .expect("load")
            .warnings
            .is_empty()
    );
    let path = place.dir.path().join("conf.d/a.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    let warnings = place.load(&Flags::default()).expect("load").warnings;
    assert_eq!(
        warnings,
        [format!(
            "configuration {} can be written by everybody",
            path.display()
        )]
    );
}

#[test]
fn a_file_of_the_flag_goes_before_that_of_the_environment() {
    let system = Place::new(Some("root = \"/system\""), &[]);
    let variable = Place::new(
        Some("root = \"/variable\""),
        &[("a.toml", "state = \"/v\"")],
    );
    let flag = Place::new(Some("root = \"/flag\""), &[("a.toml", "state = \"/f\"")]);
    let root = |place: &Place, flags: &Flags| {
        let config = place.load(flags).expect("load");
        (config.root, config.state)
    };
    assert_eq!(root(&system, &Flags::default()).0, Path::new("/system"));
    let text = variable.main();
    let system = system.set("CONTAINERKIT_CONFIG", &text.to_string_lossy());
    assert_eq!(
        root(&system, &Flags::default()),
        (PathBuf::from("/variable"), PathBuf::from("/v"))
    );
    let flags = Flags {
        config: Some(flag.main()),
        ..Flags::default()
    };
    assert_eq!(
        root(&system, &flags),
        (PathBuf::from("/flag"), PathBuf::from("/f"))
    );
}

#[test]
fn drop_ins_count_without_a_main_file() {
    let place = Place::new(
        None,
        &[("zfs.toml", "[snapshotter.zfs]\ndriver = \"libzfs.so\"\n")],
    );
    let config = place.load(&Flags::default()).expect("load");
    let zfs = config
        .instance(DriverKind::Snapshotter, &name("zfs"))
        .expect("zfs");
    assert!(
        zfs.origin.to_string().ends_with("conf.d/zfs.toml:2:10"),
        "{}",
        zfs.origin
    );
    assert_eq!(config.default.snapshotter, name("overlay"));
    // A mistake in a drop-in names the drop-in.
    let place = Place::new(None, &[("a.toml", "\nrot = 1")]);
    let error = place
        .load(&Flags::default())
        .expect_err("mistake")
        .to_string();
    assert!(error.contains("conf.d/a.toml:2:1: unknown key"), "{error}");
}

#[test]
fn another_driver_starts_an_instance_anew() {
    let pin = "b".repeat(64);
    let place = Place::new(
        Some(&format!(
            "[runtime.crun]\nsha256 = \"{pin}\"\noptions.root = \"/r\"\n"
        )),
        &[],
    );
    let config = place.load(&Flags::default()).expect("load");
    let crun = config
        .instance(DriverKind::Runtime, &name("crun"))
        .expect("crun");
    assert_eq!(crun.sha256.as_ref().expect("pin").hex(), pin);
    assert_eq!(crun.options.len(), 2);

    std::fs::write(
        place.dir.path().join("conf.d/a.toml"),
        "[runtime.crun]\ndriver = \"/opt/libyouki.so\"\n",
    )
    .expect("write");
    let config = place.load(&Flags::default()).expect("load");
    let crun = config
        .instance(DriverKind::Runtime, &name("crun"))
        .expect("crun");
    assert_eq!(crun.driver, "/opt/libyouki.so");
    assert_eq!(crun.sha256, None);
    assert!(crun.options.is_empty());
}

#[test]
fn the_environment_is_checked_too() {
    for (key, value, want) in [
        (
            "CONTAINERKIT_ROOT",
            "x",
            "$CONTAINERKIT_ROOT: \"x\" is relative",
        ),
        (
            "CONTAINERKIT_STATE",
            "a\nb",
            "$CONTAINERKIT_STATE: want UTF-8 without control",
        ),
        (
            "CONTAINERKIT_LOG_LEVEL",
            "inof",
            "$CONTAINERKIT_LOG_LEVEL: unknown level \"inof\"; did you mean \"info\"?",
        ),
        (
            "CONTAINERKIT_CONTENT",
            "loca",
            "$CONTAINERKIT_CONTENT: default.content: no content instance \"loca\" is configured; did you mean \"local\"?",
        ),
        (
            "CONTAINERKIT_RUNTIME",
            "A B",
            "$CONTAINERKIT_RUNTIME: driver instance \"A B\"",
        ),
    ] {
        let place = Place::new(None, &[]).set(key, value);
        let error = place.load(&Flags::default()).expect_err(value).to_string();
        assert!(error.starts_with(want), "{error}\n{want}");
    }
}

#[test]
fn an_unknown_instance_is_told_with_the_known_ones() {
    let config = from("").expect("load");
    let error = config
        .instance(DriverKind::Runtime, &name("crn"))
        .expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "no runtime instance \"crn\" is configured; did you mean \"crun\"?"
    );
    let error = config
        .instance(DriverKind::Snapshotter, &name("btrfs"))
        .expect_err("unknown");
    assert!(error.to_string().ends_with("; known: overlay"), "{error}");
}

const RICH: &str = r#"
version = 1
root = "/srv/a, b: \"c\" \\ d é #x"
state = "/run/x"
log_level = "trace"
driver_path = []
[default]
runtime = "a.b"
[runtime."a.b"]
driver = "/opt/x y.so"
sha256 = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
[runtime."a.b".options]
"odd key" = "tab\there\u007f"
n = 0x1F
f = 1.5
yes = true
list = ["a", "b"]
table = { "x.y" = "1", z = { w = [1, 2] } }
"#;

#[test]
fn a_dump_reads_back_as_the_same_configuration() {
    for text in ["", RICH, "[runtime.crun]\noptions.root = \"/r\"\n"] {
        let config = from(text).expect("load");
        let again = from(&config.dump()).expect("dump reads back");
        assert_eq!(plain(&again), plain(&config));
        assert_eq!(again.root, config.root);
        assert_eq!(again.driver_path, config.driver_path);
        assert_eq!(again.default, config.default);
        assert_eq!(again.instances.len(), config.instances.len());
        for (key, instance) in &config.instances {
            let other = &again.instances[key];
            assert_eq!(other.driver, instance.driver);
            assert_eq!(other.sha256, instance.sha256);
            assert_eq!(other.options, instance.options);
        }
    }
}

#[test]
fn a_dump_looks_like_this() {
    let config = from("root = \"/r\"\n[runtime.crun]\noptions.root = \"/x\"\n").expect("load");
    let dump = config.dump();
    let head: Vec<&str> = dump.lines().take(3).collect();
    assert_eq!(head[0], "version = 1");
    assert_eq!(head[1], "root = \"/r\"  # /c.toml:1:8");
    assert!(head[2].starts_with("state = \"/run/containerkit\"  # the built-in default, line "));
    assert!(
        dump.contains("\n[runtime.crun]\ndriver = \"libcontainerkit_runc.so\"  # the built-in")
    );
    assert!(
        dump.contains("\noptions.root = \"/x\"  # /c.toml:3:9\n"),
        "{dump}"
    );
}

#[test]
fn a_dump_in_json_has_the_keys_of_toml() {
    let config = from(RICH).expect("load");
    let value = config.to_json();
    assert_eq!(value["default"]["runtime"], "a.b");
    assert_eq!(value["runtime"]["a.b"]["options"]["n"], 31);
    assert_eq!(value["runtime"]["crun"]["options"]["binary"], "crun");
    assert_eq!(value["files"], json!(["/c.toml"]));
    // But for `files` it is what the TOML says.
    let toml: toml::Table = config.dump().parse().expect("dump");
    let mut toml = serde_json::to_value(toml).expect("json");
    for kind in ["runtime", "snapshotter", "content"] {
        for (name, instance) in toml[kind].as_object_mut().expect("table") {
            let options = instance.get("options").cloned().unwrap_or(json!({}));
            instance["options"] = options;
            assert_eq!(*instance, value[kind][name], "{kind}.{name}");
        }
    }
    for key in [
        "version",
        "root",
        "state",
        "log_level",
        "driver_path",
        "default",
    ] {
        assert_eq!(toml[key], value[key]);
    }
}

#[test]
fn the_schema_knows_every_key() {
    let schema = Config::schema();
    let text = Config::default_toml();
    let table: toml::Table = text.parse().expect("default");
    for key in table.keys() {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
    for key in ["driver", "sha256", "options"] {
        assert!(schema["$defs"]["instance"]["properties"].get(key).is_some());
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn noise_never_panics() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let place = Place::new(None, &[]);
    let path = place.dir.path().join("noise.toml");
    let flags = Flags {
        config: Some(path.clone()),
        ..Flags::default()
    };
    let words = [
        "[",
        "]",
        "=",
        "\"",
        "'",
        ".",
        "runtime",
        "default",
        "{",
        "}",
        "\n",
        ",",
        "1",
        "é",
        "\0",
        "options",
        "driver",
        "version",
        "#",
        "\\u",
        "inf",
        "1979-05-27",
    ];
    for round in 0..1500 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => (0..random() % 300).map(|_| random() as u8).collect(),
            1 => (0..random() % 60)
                .flat_map(|_| words[random() % words.len()].bytes())
                .collect(),
            _ => [Config::default_toml(), RICH].concat().into_bytes(),
        };
        if round % 3 == 2 {
            for _ in 0..1 + random() % 8 {
                if bytes.is_empty() {
                    break;
                }
                let at = random() % bytes.len();
                match random() % 3 {
                    0 => bytes[at] = random() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
        }
        let result = match String::from_utf8(bytes) {
            Ok(text) => from(&text),
            Err(error) => {
                std::fs::write(&path, error.as_bytes()).expect("write");
                place.load(&flags)
            }
        };
        if let Err(error) = result {
            let line = error.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.len() < 2000, "{line}");
        }
    }
    // Deep nesting ends at a limit and not at the end of the stack.
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
    ] {
        std::fs::write(&path, text).expect("write");
        let error = place.load(&flags).expect_err("deep").to_string();
        assert!(error.len() < 2000, "{error}");
    }
}

#[test]
fn a_large_file_of_anything_takes_time_in_proportion() {
    let many = |part: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for n in 0.. {
            let next = part(n);
            if text.len() + next.len() > 1 << 18 {
                return text;
            }
            text.push_str(&next);
        }
        text
    };
    let started = std::time::Instant::now();
    let lines = many(&|n| format!("[runtime.r{n}]\ndriver='x'\n"));
    assert!(from(&lines).expect("instances").instances.len() > 8_000);
    let row = many(&|n| format!("o{n}=1,"));
    from(&format!("runtime.runc.options={{{row}o=1}}")).expect("one line");
    let options = many(&|n| format!("options.k{n} = [1]\n"));
    from(&format!("[runtime.runc]\n{options}")).expect("options");
    for bad in [
        many(&|n| format!("k{n} = 1\n")),
        many(&|n| format!("[runtime.r{n}]\n")),
        many(&|_| "[[runtime]]\n".into()),
        many(&|_| "a.".into()),
        many(&|_| "[a]\n".into()),
        many(&|_| "\"".into()),
        format!("root = \"{}\"", many(&|_| "é".into())),
    ] {
        let error = from(&bad).expect_err("bad").to_string();
        assert!(error.len() < 2000, "{}", error.len());
    }
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(15), "{took:?}");
}
