//! Files that are wrong, and the order of those that are right.

mod dump;
mod layers;
mod noise;
mod policy;
mod registry;

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
