//! Instances from a real shared object: `examples/probe.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::{DriverKind, Drivers, Error, ErrorKind, InstanceName, Opened, Runtime};
use containerkit_config::{Config, LoadedDrivers, Status, check};

/// Built with the tests; by hand when only this one is run.
fn probe() -> PathBuf {
    let exe = std::env::current_exe().expect("exe");
    let profile = exe.ancestors().nth(2).expect("target/PROFILE");
    let path = profile.join("examples/libprobe.so");
    assert!(
        path.exists(),
        "{} is missing: cargo build -p containerkit-config --examples",
        path.display()
    );
    path
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("drivers")).expect("mkdir");
        // A link: each test has a path of its own to one file.
        std::os::unix::fs::symlink(probe(), dir.path().join("drivers/libprobe.so")).expect("link");
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, text: &str) -> Arc<Config> {
        let dir = self.dir.path().display();
        let text = format!(
            "root = \"{dir}/top/root\"\nstate = \"{dir}/top/state\"\n\
             driver_path = [\"{dir}/empty\", \"{dir}/drivers\"]\n{text}"
        );
        let config = Config::from_toml(&text, Path::new("/c.toml")).expect("config");
        Arc::new(config)
    }

    fn drivers(&self, text: &str) -> LoadedDrivers {
        LoadedDrivers::new(self.config(text))
    }
}

fn name(text: &str) -> InstanceName {
    text.parse().expect("name")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

fn runtime(drivers: &LoadedDrivers, text: &str) -> Result<Opened<dyn Runtime>, Error> {
    drivers.runtime(Some(&name(text)))
}

const ALL: &str = r#"
[default]
runtime = "a"
snapshotter = "s"
content = "c"
[runtime]
a = { driver = "libprobe.so", options.word = "one" }
b = { driver = "libprobe.so", options.word = "two" }
[snapshotter]
s = { driver = "libprobe.so" }
[content]
c = { driver = "libprobe.so" }
"#;

#[test]
fn instances_of_one_file_have_options_and_folders_of_their_own() {
    let place = Place::new();
    let drivers = place.drivers(ALL);
    assert!(!place.path("top").exists());
    let one = drivers.runtime(None).expect("default");
    let two = runtime(&drivers, "b").expect("b");
    assert_eq!(one.stamp.instance, name("a"));
    assert_eq!(
        (one.stamp.driver.as_str(), one.stamp.version.as_str()),
        ("probe", "1.2.3")
    );
    for (opened, instance, word) in [(&one, "a", "one"), (&two, "b", "two")] {
        let info = opened.info().expect("info");
        let dir = place.path("top");
        assert_eq!(info.name, instance);
        assert_eq!(
            info.version,
            format!(
                "{0}/root/runtime/{instance}|{0}/state/runtime/{instance}|{word}",
                dir.display()
            )
        );
    }
    // Nothing else was opened; what was has the modes of the design.
    assert!(!place.path("top/root/snapshotter").exists());
    drivers.snapshotter(None).expect("snapshotter");
    drivers.content(None).expect("content");
    for (path, want) in [
        ("top/root", 0o711),
        ("top/state", 0o711),
        ("top/root/runtime", 0o700),
        ("top/root/runtime/a", 0o700),
        ("top/root/content/c", 0o700),
        ("top/root/snapshotter", 0o711),
        ("top/root/snapshotter/s", 0o711),
        ("top/state/snapshotter/s", 0o711),
        ("top/state/runtime/b", 0o700),
    ] {
        assert_eq!(mode(&place.path(path)), want, "{path}");
    }
    // One instance is one object, asked for from any number of threads.
    let drivers = &drivers;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let one = &one;
            scope.spawn(move || {
                let again = runtime(drivers, "a").expect("again");
                assert!(Arc::ptr_eq(&again.driver, &one.driver));
            });
        }
    });
}

#[test]
fn a_folder_that_a_killed_process_left_closed_is_opened() {
    let place = Place::new();
    let own = place.path("top/root/snapshotter/s");
    std::fs::create_dir_all(&own).expect("mkdir");
    for path in [own.as_path(), own.parent().expect("parent")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    }
    place.drivers(ALL).snapshotter(None).expect("snapshotter");
    assert_eq!(mode(&own), 0o711);
    assert_eq!(mode(own.parent().expect("parent")), 0o711);
}

#[test]
fn a_driver_that_is_nowhere_is_told_with_every_place() {
    let place = Place::new();
    let drivers = place.drivers("[runtime.x]\ndriver = \"libnone.so\"\n");
    for error in [
        runtime(&drivers, "x").map(drop).expect_err("open"),
        drivers
            .resolve(DriverKind::Runtime, &name("x"))
            .map(drop)
            .expect_err("resolve"),
    ] {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
        assert!(
            text.starts_with(
                "runtime x (/c.toml:5:10): the driver libnone.so is not there; tried "
            ),
            "{text}"
        );
        for folder in ["empty", "drivers"] {
            let tried = place.path(folder).join("libnone.so");
            assert!(
                text.contains(&format!("{} (not there)", tried.display())),
                "{text}"
            );
        }
        assert!(!text.contains('\n'));
        assert!(error.hint().is_some());
    }
    assert!(!place.path("top").exists());
    let error = runtime(&drivers, "y").expect_err("unknown").to_string();
    assert!(
        error.starts_with("no runtime instance \"y\" is configured; known:"),
        "{error}"
    );

    // Hundreds of folders still make one line.
    let many: Vec<String> = (0..500).map(|n| format!("\"/nowhere/{n}\"")).collect();
    let text = format!(
        "driver_path = [{}]\n[runtime.x]\ndriver = \"libnone.so\"",
        many.join(",")
    );
    let config = Config::from_toml(&text, Path::new("/c.toml")).expect("config");
    let drivers = LoadedDrivers::new(Arc::new(config));
    let text = runtime(&drivers, "x").expect_err("nowhere").to_string();
    assert!(
        text.len() < 3000 && text.contains(", and "),
        "{}",
        text.len()
    );
}

#[test]
fn what_is_no_driver_is_refused_with_its_place() {
    let place = Place::new();
    std::fs::write(place.path("drivers/libtext.so"), "hello").expect("write");
    let text = format!(
        "[runtime]\n\
         text = {{ driver = \"libtext.so\" }}\n\
         wrong = {{ driver = \"libprobe.so\", sha256 = \"{}\" }}\n\
         option = {{ driver = \"libprobe.so\", options.wrd = \"x\" }}\n\
         kind = {{ driver = \"libprobe.so\", options.word = 3 }}\n\
         gone = {{ driver = \"libprobe.so\", options.fail = \"not_found\" }}\n\
         panic = {{ driver = \"libprobe.so\", options.fail = \"panic\" }}\n",
        "0".repeat(64)
    );
    let drivers = place.drivers(&text);
    for (instance, want) in [
        ("text", "runtime text (/c.toml:5:19): driver "),
        ("wrong", "runtime wrong (/c.toml:6:20): driver "),
        (
            "option",
            "/c.toml:7:44: runtime.option.options: \"wrd\": driver probe has no such option; did you mean \"word\"?",
        ),
        (
            "kind",
            "/c.toml:8:42: runtime.kind.options: \"word\": want a string",
        ),
        ("gone", "runtime gone (/c.toml:9:19): driver "),
        ("panic", "runtime panic (/c.toml:10:20): driver "),
    ] {
        let error = runtime(&drivers, instance).expect_err(instance);
        let text = error.to_string();
        assert!(text.starts_with(want), "{text}\n{want}");
        assert!(!text.contains('\n'), "{text}");
        assert_ne!(error.kind(), ErrorKind::NotFound, "{text}");
    }
    // A failure is not kept: the next call tries again.
    std::fs::remove_file(place.path("drivers/libtext.so")).expect("remove");
    std::os::unix::fs::symlink(probe(), place.path("drivers/libtext.so")).expect("link");
    runtime(&drivers, "text").expect("mended");
}

#[test]
fn a_pin_that_fits_is_served() {
    let place = Place::new();
    let drivers = place.drivers(ALL);
    let (library, info) = drivers
        .library(DriverKind::Content, &name("c"))
        .expect("library");
    assert_eq!(info.name, "probe");
    let pin = library.sha256().expect("sha256");
    let text = format!(
        "[runtime.p]\ndriver = \"libprobe.so\"\nsha256 = \"{}\"\n",
        pin.hex()
    );
    let pinned = place.drivers(&text);
    runtime(&pinned, "p").expect("pinned");
    let resolved = pinned
        .resolve(DriverKind::Runtime, &name("p"))
        .expect("resolved");
    assert_eq!(resolved.pin, Some(pin));
    assert_eq!(resolved.path, place.path("drivers/libprobe.so"));
    assert_eq!(resolved.tried.len(), 2);
    assert_eq!(resolved.context.root, place.path("top/root/runtime/p"));
}

#[test]
fn a_shim_is_told_all_it_needs_and_nothing_is_opened() {
    let place = Place::new();
    // One whose constructor fails: it is not called here.
    let drivers = place.drivers(
        "[default]\nruntime = \"r\"\n\
         [runtime.r]\ndriver = \"libprobe.so\"\noptions.fail = \"not_found\"\n\
         [runtime.bad]\ndriver = \"libprobe.so\"\noptions.x = 1\n",
    );
    let (runtime, stamp) = drivers.runtime_ref(None).expect("reference");
    assert_eq!(runtime.library, place.path("drivers/libprobe.so"));
    assert_eq!(runtime.root, place.path("top/root/runtime/r"));
    assert_eq!(runtime.options["fail"], "not_found");
    assert!(runtime.root.is_dir() && runtime.state.is_dir());
    assert_eq!(
        (stamp.instance, stamp.driver.as_str()),
        (name("r"), "probe")
    );
    let error = drivers.runtime_ref(Some(&name("bad"))).expect_err("option");
    assert!(error.to_string().starts_with("/c.toml:"), "{error}");
}

#[test]
fn the_status_of_all_tells_good_and_bad() {
    let place = Place::new();
    let text = String::from(
        "[default]\nruntime = \"a\"\n\
         [runtime.a]\ndriver = \"libprobe.so\"\n\
         [runtime.runc]\ndriver = \"libnone.so\"\n\
         [runtime.crun]\ndriver = \"libprobe.so\"\noptions.fail = \"not_found\"\n\
         [snapshotter.overlay]\ndriver = \"libprobe.so\"\n\
         [content.local]\ndriver = \"libprobe.so\"\n",
    );
    let drivers = place.drivers(&text);
    let all = drivers.status_all();
    let names: Vec<String> = all
        .iter()
        .map(|status| format!("{}.{}", status.kind, status.instance))
        .collect();
    assert_eq!(
        names,
        [
            "runtime.a",
            "runtime.crun",
            "runtime.runc",
            "snapshotter.overlay",
            "content.local",
        ]
    );
    let good = serde_json::to_value(&all[0]).expect("json");
    for (key, want) in [
        ("kind", "runtime"),
        ("instance", "a"),
        ("driver", "probe"),
        ("version", "1.2.3"),
        ("status", "ok"),
    ] {
        assert_eq!(good[key], want, "{good}");
    }
    assert_eq!(good["default"], true);
    assert_eq!(good["reason"], serde_json::Value::Null);
    assert_eq!(good["capabilities"], serde_json::json!(["PAUSE"]));
    assert!(
        good["abi"]
            .as_str()
            .is_some_and(|abi| abi.starts_with("1."))
    );
    assert!(good["sha256"].as_str().is_some_and(|hash| hash.len() == 71));

    // Loaded and not opened; and not even loaded.
    assert_eq!(all[1].status, Status::Failed);
    assert_eq!(all[1].driver.as_deref(), Some("probe"));
    assert!(
        all[1]
            .reason
            .as_ref()
            .is_some_and(|why| why.contains("no program to run"))
    );
    assert_eq!(all[2].status, Status::Failed);
    assert_eq!((&all[2].path, &all[2].driver), (&None, &None));
    assert!(
        all[2]
            .reason
            .as_ref()
            .is_some_and(|why| why.contains("libnone.so"))
    );
}

#[test]
fn a_check_finds_all_and_writes_nothing() {
    let place = Place::new();
    let config = place.config(
        "[runtime.runc]\ndriver = \"libprobe.so\"\n\
         [runtime.crun]\ndriver = \"libprobe.so\"\noptions.binary = \"crun\"\n\
         [snapshotter.overlay]\ndriver = \"libnone.so\"\n\
         [content.local]\ndriver = \"libprobe.so\"\noptions.fail = \"not_found\"\n",
    );
    let problems = check(&config);
    let found: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}.{}", problem.kind, problem.instance))
        .collect();
    assert_eq!(found, ["runtime.crun", "snapshotter.overlay"]);
    let text = problems[0].error.to_string();
    assert!(
        text.starts_with(
            "/c.toml:8:9: runtime.crun.options: \"binary\": driver probe has no such option"
        ),
        "{text}"
    );
    assert!(!place.path("top").exists());
}

#[test]
fn a_trace_tells_the_search_without_loading() {
    let place = Place::new();
    std::fs::write(place.path("drivers/libtext.so"), "hello").expect("write");
    let drivers = place.drivers(
        "[runtime.runc]\ndriver = \"libprobe.so\"\n[runtime.crun]\ndriver = \"libtext.so\"\n\
         [snapshotter.overlay]\ndriver = \"libnone.so\"\n",
    );
    let all = drivers.trace();
    let of = |kind: DriverKind, instance: &str| {
        let mut found = all.iter();
        found
            .find(|trace| trace.kind == kind && trace.instance == name(instance))
            .expect("traced")
    };
    let good = of(DriverKind::Runtime, "runc");
    assert_eq!(good.tried.len(), 2);
    let declared = good
        .declaration
        .as_ref()
        .expect("found")
        .as_ref()
        .expect("declares");
    assert_eq!(declared.kinds.len(), 3);
    assert!(matches!(
        of(DriverKind::Runtime, "crun").declaration,
        Some(Err(_))
    ));
    let none = of(DriverKind::Snapshotter, "overlay");
    assert!(none.path.is_none() && none.declaration.is_none() && none.tried.len() >= 2);
}

#[test]
fn two_instances_on_one_folder_are_refused() {
    let place = Place::new();
    let drivers = place.drivers(ALL);
    runtime(&drivers, "a").expect("a");
    std::os::unix::fs::symlink("a", place.path("top/root/runtime/b")).expect("link");
    let error = runtime(&drivers, "b").expect_err("same root");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("one root"), "{error}");
}
