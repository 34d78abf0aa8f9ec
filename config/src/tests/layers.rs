//! The order of layers.

use super::*;

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
            "configuration {} can be written by others",
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
