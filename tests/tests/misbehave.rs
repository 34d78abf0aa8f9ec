//! Drivers that do what no driver may: each is answered by one clear error
//! that names driver and method, or ends the command with it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use containerkit_plugin::content::Expected;
use containerkit_plugin::snapshot::{CommitOptions, SnapshotFilter};
use containerkit_plugin::value::all_pages;
use containerkit_plugin::{
    ContentStore, DriverContext, Error, ErrorKind, LabelChanges, Labels, Library, Page, Result,
    Runtime, SnapshotKey, Snapshotter,
};
use containerkit_tests::fixtures::{Edit, allocator, build_with_abort, misbehave, variant};
use containerkit_tests::kit::{Kit, Ran};
use serde_json::json;
use tempfile::TempDir;

/// A command's `content ls` on a store that does these deeds.
struct Store {
    kit: Kit,
}

impl Store {
    fn new(deeds: &[&str]) -> Store {
        let kit = Kit::new();
        kit.configure(&format!(
            "version = 1\n[default]\ncontent = \"bad\"\n[content.bad]\ndriver = {:?}\n\
             call_timeout = 1\noptions = {{ deeds = {deeds:?} }}\n",
            misbehave()
        ));
        Store { kit }
    }

    fn ls(&self) -> Ran {
        self.kit.run(["content", "ls"])
    }
}

#[test]
fn what_is_done_to_the_process_is_refused() {
    for (deed, words) in [
        ("chdir", "changed the current folder to \"/proc\""),
        ("umask", "changed the umask from"),
        (
            "environment",
            "changed the environment variable \"CONTAINERKIT_FIXTURE\"",
        ),
        (
            "sigchld",
            "changed what signal 17 does: it was the default, it is ignored",
        ),
        (
            "handler",
            "changed what signal 15 does: it was the default, it is handled",
        ),
        ("mask", "changed the blocked signals"),
        ("inherit", "without close-on-exec"),
    ] {
        let store = Store::new(&[&format!("{deed}@open")]);
        let words = [
            "content bad",
            "breaks its contract: while it was opened it",
            words,
        ];
        store.ls().refused(1, &words);
    }
    // Where the line goes is what was closed.
    let ran = Store::new(&["close@open"]).ls();
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr
            .contains("closed descriptor 1, which is not its own"),
        "{ran:?}"
    );
}

#[test]
fn what_hangs_ends_the_command_by_name() {
    for (deeds, words) in [
        (["hang@open"], "open has not returned for 1 s"),
        (["hang@walk"], "walk has not returned for 1 s"),
        (["spin@walk"], "walk has not returned for 1 s"),
        (["hang@drop"], "drop has not returned for 1 s"),
        (
            ["hang@capabilities"],
            "capabilities has not returned for 1 s",
        ),
    ] {
        let store = Store::new(&deeds);
        let begun = Instant::now();
        store
            .ls()
            .refused(1, &["content bad", "libfixture_misbehave.so", words]);
        assert!(begun.elapsed() < Duration::from_secs(30), "{deeds:?}");
    }
}

#[test]
fn a_slow_call_is_left_alone() {
    let kit = Kit::new();
    kit.configure("version = 1\ncall_timeout = 0\n");
    kit.run(["content", "ls"]).ok();
    let refused = |toml: &str, words: &[&str]| {
        kit.configure(toml);
        kit.run(["content", "ls"]).refused(1, words);
    };
    refused("call_timeout = -1\n", &["call_timeout", "0 (for ever) to"]);
    refused(
        "[content.local]\ncall_timeout = \"1m\"\n",
        &["content.local.call_timeout: want an integer of seconds"],
    );
}

#[test]
fn what_a_command_held_is_free_after_a_hang() {
    let store = Store::new(&["hang@commit"]);
    let ingest = ["content", "ingest", "--ref", "one"];
    let ran = store.kit.run_with_input(ingest, b"data");
    ran.refused(1, &["commit has not returned"]);
    store.kit.configure(&format!(
        "version = 1\n[default]\ncontent = \"bad\"\n[content.bad]\ndriver = {:?}\n",
        misbehave()
    ));
    store.kit.run_with_input(ingest, b"data").ok();
}

#[test]
fn a_driver_that_ends_the_process_ends_it_only() {
    let store = Store::new(&["exit@walk"]);
    assert_eq!(store.ls().status, 3);
    let store = Store::new(&["segfault@walk"]);
    assert_eq!(store.ls().status, 128 + 11);
    // What it did not come to do can be done by the next command.
    store.kit.run(["content", "status"]).ok();
}

#[test]
fn what_a_method_did_to_the_process_is_told_at_the_end() {
    for (deed, words) in [
        ("chdir", "changed the current folder to \"/proc\""),
        ("umask", "changed the umask from"),
        (
            "environment",
            "changed the environment variable \"CONTAINERKIT_FIXTURE\"",
        ),
    ] {
        let ran = Store::new(&[&format!("{deed}@walk")]).ls().ok();
        let line = ran.stderr.lines().find(|line| line.contains(words));
        let line = line.unwrap_or_else(|| panic!("{ran:?}"));
        assert!(
            line.starts_with("[error]")
                && line.contains("content bad (")
                && line.contains("breaks its contract: while it was in use it"),
            "{line}"
        );
    }
}

/// A command that fails with one line about a panic of the driver.
#[track_caller]
fn panicked(ran: &Ran, status: i32, method: &str) {
    let errors = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    let errors: Vec<&str> = errors.collect();
    assert_eq!((ran.status, errors.len()), (status, 1), "{ran:?}");
    for word in ["bad", &format!("panicked in {method}: asked to panic")] {
        assert!(errors[0].contains(word), "{word:?} in {ran:?}");
    }
    assert!(!ran.stderr.contains("backtrace"), "{ran:?}");
}

#[test]
fn a_panic_is_one_line_of_the_command() {
    for method in ["open", "capabilities", "walk"] {
        panicked(&Store::new(&[&format!("panic@{method}")]).ls(), 1, method);
    }
    // Nobody waits for the answer of a drop.
    let ran = Store::new(&["panic@drop"]).ls().ok();
    let line = ran.stderr.lines().next().unwrap_or_default();
    assert!(
        line.starts_with("[error]") && line.contains("panicked while dropping its value"),
        "{ran:?}"
    );
}

#[test]
fn a_runtime_that_misbehaves_is_named_by_the_command() {
    let kit = Kit::with_busybox();
    let run = |deed: &str| {
        kit.configure(&format!(
            "version = 1\n[default]\nruntime = \"bad\"\n[runtime.bad]\ndriver = {:?}\n\
             call_timeout = 5\noptions = {{ deeds = [{deed:?}] }}\n",
            misbehave()
        ));
        kit.run(["run", "--rm", "busybox", "sh", "-c", "exit 7"])
    };
    panicked(&run("panic@run"), 125, "run");
    for (deed, words) in [
        ("pid@run", "it returned pid 0"),
        ("negative@run", "it returned pid 4294967289"),
        ("hang@run", "run has not returned for 5 s"),
    ] {
        run(deed).refused(125, &["bad", words]);
    }
    // It takes the status of the runtime's command, or that of the container.
    let ran = run("reap@open");
    match ran.status {
        125 => drop(ran.refused(125, &["bad", "No child processes"])),
        255 => assert!(
            ran.stderr.contains("exit status is lost") && ran.stderr.contains("bad"),
            "{ran:?}"
        ),
        7 => {}
        _ => panic!("{ran:?}"),
    }
    // Descriptors that are lost are lost with the process.
    assert_eq!(run("leak@run").status, 7);
    kit.configure("version = 1\n");
    kit.assert_clean();
}

#[test]
fn answers_that_cannot_be_are_one_line_of_the_command() {
    let kit = Kit::new();
    let with = |kind: &str, deed: &str| {
        kit.configure(&format!(
            "version = 1\n[default]\n{kind} = \"bad\"\n[{kind}.bad]\ndriver = {:?}\n\
             options = {{ deeds = [{deed:?}] }}\n",
            misbehave()
        ));
    };
    for (deed, words) in [
        ("nul@prepare", "a mount holds a NUL"),
        ("many@prepare", "1000000 mounts"),
        ("long@prepare", "a mount with a text of"),
        ("options@prepare", "1000000 options of a mount"),
    ] {
        with("snapshotter", deed);
        let words = ["breaks its contract", words, "(driver bad, prepare)"];
        kit.run(["snapshot", "prepare", "k"]).refused(1, &words);
    }
    for deed in ["disorder@walk", "twice@walk"] {
        with("snapshotter", deed);
        let words = ["its listing tells a after", "(driver bad, walk)"];
        kit.run(["snapshot", "ls"]).refused(1, &words);
    }
    with("content", "none@nowhere");
    let ingest = ["content", "ingest", "--ref", "r"];
    kit.run_with_input(ingest, b"data").ok();
    let all = kit.run(["content", "ls", "--format", "json"]).ok().json();
    let digest = all[0]["digest"].as_str().unwrap();
    for (deed, args, words) in [
        ("size@info", ["content", "info", digest], "a size of 1844"),
        (
            "labels@info",
            ["content", "info", digest],
            "control characters",
        ),
    ] {
        with("content", deed);
        kit.run(args).refused(1, &["breaks its contract", words]);
    }
    with("content", "none@nowhere");
    assert_eq!(kit.run(["content", "get", digest]).ok().stdout, "data");
}

struct Place {
    dir: TempDir,
    library: Arc<Library>,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
            library: Library::load(&misbehave(), None).unwrap(),
        }
    }

    fn context(&self, name: &str, deeds: &[&str]) -> DriverContext {
        let root = self.dir.path().join(name);
        std::fs::create_dir_all(&root).unwrap();
        let options = json!({ "deeds": deeds });
        DriverContext::new(name.parse().unwrap(), &root, &root)
            .with_options(options.as_object().unwrap().clone())
    }

    fn content(&self, name: &str, deeds: &[&str]) -> Arc<dyn ContentStore> {
        self.library.content(self.context(name, deeds)).unwrap()
    }

    fn snapshotter(&self, name: &str, deeds: &[&str]) -> Arc<dyn Snapshotter> {
        self.library.snapshotter(self.context(name, deeds)).unwrap()
    }

    fn runtime(&self, name: &str, deeds: &[&str]) -> Arc<dyn Runtime> {
        self.library.runtime(self.context(name, deeds)).unwrap()
    }
}

#[track_caller]
fn broken<T>(result: Result<T>, driver: &str, method: &str, words: &str) {
    let Err(error) = result else {
        panic!("{method}: {words}: it went through");
    };
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert_eq!(
        (error.driver(), error.operation()),
        (Some(driver), Some(method))
    );
    let text = error.to_string();
    assert!(
        text.contains("breaks its contract") && text.contains(words),
        "{text}"
    );
    assert!(
        text.len() < 4096 && !text.chars().any(char::is_control),
        "{text}"
    );
}

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let place = Place::new();
    for (deed, words) in [
        ("nul", "a mount holds a NUL"),
        ("relative", "a bind mount's source is no absolute path"),
        ("out", "a mount's target leads out"),
        ("untyped", "a mount without a type"),
        ("layer", "an overlay's layer is no absolute path"),
        ("options", "1000000 options of a mount"),
        ("long", "a mount with a text of 104857"),
        ("many", "1000000 mounts"),
    ] {
        let deeds = ["mounts", "prepare", "view"].map(|method| format!("{deed}@{method}"));
        let deeds: Vec<&str> = deeds.iter().map(String::as_str).collect();
        let driver = place.snapshotter(deed, &deeds);
        let none = Labels::new();
        broken(driver.mounts(&key("k")), deed, "mounts", words);
        broken(
            driver.prepare(&key("k"), None, &none),
            deed,
            "prepare",
            words,
        );
        broken(driver.view(&key("k"), None, &none), deed, "view", words);
    }
}

#[test]
fn listings_end() {
    let place = Place::new();
    let walk = |driver: &dyn Snapshotter| {
        all_pages(
            |page| driver.walk(&SnapshotFilter::default(), page),
            |info| info.key.to_string(),
        )
    };
    let driver = place.snapshotter("a", &["disorder@walk"]);
    broken(walk(&*driver), "a", "walk", "its listing tells a after b");
    let driver = place.snapshotter("b", &["twice@walk"]);
    broken(walk(&*driver), "b", "walk", "its listing tells a after a");
    let driver = place.snapshotter("c", &["size@usage"]);
    broken(
        driver.usage(&key("k")),
        "c",
        "usage",
        "a size of 18446744073709551615 bytes",
    );

    let store = place.content("d", &["again@walk"]);
    for data in ["x", "y"] {
        put(&*store, data.as_bytes());
    }
    let page = Page {
        after: None,
        limit: 1,
    };
    let first = store.walk(&Default::default(), &page).unwrap();
    let after = Some(first[0].digest.to_string());
    let page = Page { after, limit: 1 };
    broken(
        store.walk(&Default::default(), &page),
        "d",
        "walk",
        "its listing tells",
    );
}

fn put(store: &dyn ContentStore, data: &[u8]) -> containerkit_plugin::Digest {
    let mut writer = store
        .writer(&"r".parse().unwrap(), &Expected::default())
        .unwrap();
    writer.write(data).unwrap();
    let info = writer.commit(&Expected::default(), &Labels::new());
    info.unwrap().digest
}

#[test]
fn blobs_that_cannot_be_are_refused() {
    let place = Place::new();
    let store = place.content("a", &["more@read_at"]);
    let reader = store.reader(&put(&*store, b"data")).unwrap();
    let words = "asked for 3 bytes, it claims to have read 4";
    broken(reader.read_at(&mut [0; 3], 0), "a", "read_at", words);
    let store = place.content("b", &["beyond@read_at"]);
    let reader = store.reader(&put(&*store, b"data")).unwrap();
    let words = "the blob has 4 bytes, it claims to have read 8 at 2";
    broken(reader.read_at(&mut [0; 8], 2), "b", "read_at", words);
    assert_eq!(reader.read_at(&mut [0; 2], 2).unwrap(), 2);
    let store = place.content("c", &["size@info"]);
    let digest = put(&*store, b"data");
    broken(
        store.info(&digest),
        "c",
        "info",
        "a size of 18446744073709551615 bytes",
    );
    let store = place.content("d", &["labels@info"]);
    let digest = put(&*store, b"data");
    broken(
        store.info(&digest),
        "d",
        "info",
        "control characters are not allowed",
    );
}

#[test]
fn an_error_of_fifty_megabytes_is_a_line() {
    let place = Place::new();
    let store = place.content("a", &["fail@walk"]);
    let error = store
        .walk(&Default::default(), &Page::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let text = error.to_string();
    assert!(text.starts_with(r"x\n\u{1b}[2J"), "{}", &text[..100]);
    assert!(text.len() < 256 << 10 && !text.chars().any(char::is_control));
    Store::new(&["fail@walk"]).ls().refused(1, &[r"x\n"]);
}

#[test]
fn a_panic_anywhere_is_an_error_of_that_method() {
    let place = Place::new();
    let check = |error: Error, name: &str, method: &str| {
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert_eq!(
            (error.driver(), error.operation()),
            (Some(name), Some(method))
        );
        assert!(
            error.to_string().contains(&format!("panicked in {method}")),
            "{error}"
        );
    };
    let error = place
        .library
        .content(place.context("open", &["panic@open"]));
    check(error.map(drop).unwrap_err(), "open", "open");
    let error = place
        .library
        .content(place.context("caps", &["panic@capabilities"]));
    check(error.map(drop).unwrap_err(), "caps", "capabilities");
    type Call = fn(&dyn Runtime) -> Result<()>;
    let id = || "x".parse().unwrap();
    let calls: [(&str, Call); 4] = [
        ("info", |r| r.info().map(drop)),
        ("list", |r| r.list().map(drop)),
        ("state", |r| r.state(&"x".parse().unwrap()).map(drop)),
        ("start", |r| r.start(&"x".parse().unwrap())),
    ];
    for (method, call) in calls {
        let runtime = place.runtime(method, &[&format!("panic@{method}")]);
        check(call(&*runtime).unwrap_err(), method, method);
        assert_eq!(
            runtime
                .kill(&id(), 9, containerkit_plugin::runtime::KillScope::Init)
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
    }
    let runtime = place.runtime("words", &["words@info"]);
    broken(runtime.info(), "words", "info", "its runtime's name is");
}

/// The SDK as somebody would make it who wants to tell lies: what labels say
/// goes out in place of the truth.
fn lying() -> std::path::PathBuf {
    let file = "plugins/abi/src/abi/convert.rs";
    let out = variant(
        "lying",
        &[
            Edit {
                file,
                from: "key: info.key.as_str().into(),",
                to: "key: lie(&info.labels, \"key\", info.key.as_str()).into(),",
            },
            Edit {
                file,
                from: "kind: info.kind.code(),",
                to: "kind: lie(&info.labels, \"kind\", &info.kind.code().to_string()).parse().unwrap(),",
            },
            Edit {
                file,
                from: "digest: info.digest.to_string().into(),",
                to: "digest: lie(&info.labels, \"digest\", &info.digest.to_string()).into(),",
            },
            Edit {
                file,
                from: "created: info.created.unix_nanos(),",
                to: "created: lie(&info.labels, \"time\", &info.created.unix_nanos().to_string()).parse().unwrap(),",
            },
            Edit {
                file,
                from: "pub fn snapshot_out(",
                to: "fn lie(labels: &Labels, name: &str, truth: &str) -> String {\n    \
                     labels.get(name).map_or(truth, |lie| lie).replace(\"NUL\", \"\\0\")\n}\n\n\
                     pub fn snapshot_out(",
            },
        ],
    );
    out.join("libfixture_memory.so")
}

#[test]
fn names_and_times_that_cannot_be_are_refused() {
    let library = Library::load(&lying(), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let context = || DriverContext::new("liar".parse().unwrap(), dir.path(), dir.path());
    let driver = library.snapshotter(context()).unwrap();
    let store = library.content(context()).unwrap();
    driver.prepare(&key("k"), None, &Labels::new()).unwrap();
    let long = "x".repeat(1 << 20);
    for (label, lie, words) in [
        ("key", "", "breaks its contract: snapshot key \"\""),
        ("key", "aNULb", "snapshot key \"a\\0b\""),
        ("key", "../../etc/passwd", "snapshot key"),
        ("key", "other", "asked for k, it answered for other"),
        ("key", &long, "1048576 bytes"),
        ("kind", "0", "snapshot kind 0"),
        ("kind", "77", "snapshot kind 77"),
        ("time", "-1", "a time of -1 ns, before 1970"),
        ("time", "-9223372036854775808", "before 1970"),
    ] {
        if lie.len() > 4096 {
            continue;
        }
        let labels = [(label.to_string(), Some(lie.to_string()))].into();
        let changes = LabelChanges {
            replace_all: true,
            set: labels,
        };
        if let Ok(info) = driver.update(&key("k"), &changes) {
            panic!("{label} {lie:?}: {info:?}");
        }
        broken(driver.stat(&key("k")), "liar", "stat", words);
    }
    // The last instant that there is is a time.
    let labels: Labels = [("time".into(), i64::MAX.to_string())].into();
    driver.prepare(&key("late"), None, &labels).unwrap();
    let info = driver.stat(&key("late")).unwrap();
    assert!(
        info.created.to_string().starts_with("2262-04-11"),
        "{info:?}"
    );
    driver
        .commit(&key("c"), &key("late"), &CommitOptions::default())
        .unwrap();

    for (lie, words) in [
        ("sha256:xyz", "breaks its contract: digest"),
        (
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "breaks its contract: digest",
        ),
        ("", "breaks its contract: digest"),
    ] {
        let mut writer = store
            .writer(&"r".parse().unwrap(), &Expected::default())
            .unwrap();
        writer.write(lie.as_bytes()).unwrap();
        let labels: Labels = [("digest".into(), lie.into())].into();
        broken(
            writer.commit(&Expected::default(), &labels),
            "liar",
            "commit",
            words,
        );
    }
}

#[test]
fn another_allocator_serves() {
    let library = Library::load(&allocator(), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let context = || DriverContext::new("own".parse().unwrap(), dir.path(), dir.path());
    let driver = library.snapshotter(context()).unwrap();
    for number in 0..200 {
        let labels: Labels = [(format!("l{number}"), "v".repeat(number))].into();
        let name = key(&format!("k{number}"));
        driver.prepare(&name, None, &labels).unwrap();
        assert_eq!(driver.stat(&name).unwrap().labels, labels);
        assert!(driver.stat(&key("none")).is_err());
    }
    let all = driver
        .walk(&SnapshotFilter::default(), &Page::default())
        .unwrap();
    assert_eq!(all.len(), 200);
    let store = library.content(context()).unwrap();
    let digest = put(&*store, b"data");
    assert_eq!(
        store
            .reader(&digest)
            .unwrap()
            .read_at(&mut [0; 9], 0)
            .unwrap(),
        4
    );
}

#[test]
fn panic_abort_does_not_compile() {
    let output = build_with_abort("fixture-memory");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("panic = \"unwind\""), "{text}");
}
