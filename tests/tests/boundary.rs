//! What crosses to a loaded driver and back: values, errors, panics,
//! descriptors, lies, log lines.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

use containerkit_plugin::content::{self, BlobFilter, Expected};
use containerkit_plugin::oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder, Process};
use containerkit_plugin::runtime::{
    CheckpointRequest, CreateRequest, DeleteMode, ExecRequest, KillScope, RuntimeStatus, Stdio,
};
use containerkit_plugin::snapshot::{CommitOptions, SnapshotFilter, SnapshotKind};
use containerkit_plugin::{
    Algorithm, ContainerId, ContentStore, DriverContext, Error, ErrorKind, ExecFailure, IngestRef,
    LabelChanges, Labels, Library, Page, Result, Runtime, SnapshotKey, Snapshotter,
};
use containerkit_tests::fixtures::{copy, library, set_mode};
use serde_json::json;
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    library: Arc<Library>,
}

impl Place {
    fn new(name: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o700);
        let file = copy(&library(name), dir.path(), &format!("lib{name}.so"));
        let library = Library::load(&file, None).unwrap();
        Place { dir, library }
    }

    fn context(&self, instance: &str, options: serde_json::Value) -> DriverContext {
        let root = self.dir.path().join(instance);
        fs::create_dir_all(&root).unwrap();
        DriverContext::new(instance.parse().unwrap(), &root, &root)
            .with_options(options.as_object().unwrap().clone())
    }

    fn snapshotter(&self, instance: &str, options: serde_json::Value) -> Arc<dyn Snapshotter> {
        self.library
            .snapshotter(self.context(instance, options))
            .unwrap()
    }

    fn content(&self, instance: &str, options: serde_json::Value) -> Arc<dyn ContentStore> {
        self.library
            .content(self.context(instance, options))
            .unwrap()
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.library
            .runtime(self.context("processes", json!({})))
            .unwrap()
    }
}

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

#[test]
fn snapshots_cross_whole() {
    let place = Place::new("memory");
    let driver = place.snapshotter("one", json!({}));
    assert_eq!(driver.capabilities().names(), ["REBASE"]);
    let mounts = driver
        .prepare(&key("a/b"), None, &labels(&[("k", "ä\u{1F40B}")]))
        .unwrap();
    assert_eq!(mounts[0].fstype, "bind");
    assert_eq!(mounts[0].options[..2], ["rbind", "rw"]);
    assert!(mounts[0].source.ends_with("/one/a_b"), "{mounts:?}");
    assert_eq!(driver.mounts(&key("a/b")).unwrap(), mounts);
    let info = driver.stat(&key("a/b")).unwrap();
    assert_eq!(info.kind, SnapshotKind::Active);
    assert_eq!(info.labels["k"], "ä\u{1F40B}");
    assert_eq!(info.parent, None);
    assert!(info.created.age().as_secs() < 60);

    let changes = LabelChanges {
        replace_all: false,
        set: [("k".into(), None), ("n".into(), Some("v".into()))].into(),
    };
    let info = driver.update(&key("a/b"), &changes).unwrap();
    assert_eq!(info.labels, labels(&[("n", "v")]));

    let options = CommitOptions {
        labels: labels(&[("done", "yes")]),
        parent: None,
    };
    let info = driver.commit(&key("base"), &key("a/b"), &options).unwrap();
    assert_eq!(
        (info.kind, info.labels),
        (SnapshotKind::Committed, options.labels)
    );
    driver
        .view(&key("v"), Some(&key("base")), &Labels::new())
        .unwrap();
    driver.prepare(&key("w"), None, &Labels::new()).unwrap();
    let rebased = CommitOptions {
        labels: Labels::new(),
        parent: Some(key("base")),
    };
    let info = driver.commit(&key("top"), &key("w"), &rebased).unwrap();
    assert_eq!(info.parent, Some(key("base")));

    let names = |filter: &SnapshotFilter, page: &Page| -> Vec<String> {
        let found = driver.walk(filter, page).unwrap();
        found.iter().map(|info| info.key.to_string()).collect()
    };
    let all = SnapshotFilter::default();
    assert_eq!(names(&all, &Page::default()), ["base", "top", "v"]);
    let page = Page {
        after: Some("base".into()),
        limit: 1,
    };
    assert_eq!(names(&all, &page), ["top"]);
    let by = |change: fn(&mut SnapshotFilter)| {
        let mut filter = SnapshotFilter::default();
        change(&mut filter);
        names(&filter, &Page::default())
    };
    assert_eq!(by(|f| f.kind = Some(SnapshotKind::View)), ["v"]);
    assert_eq!(by(|f| f.parent = Some(None)), ["base"]);
    assert_eq!(
        by(|f| f.parent = Some(Some("base".parse().unwrap()))),
        ["top", "v"]
    );
    assert_eq!(by(|f| f.labels = vec![("done".into(), None)]), ["base"]);
    assert_eq!(
        by(|f| f.labels = vec![("done".into(), Some("no".into()))]),
        [""; 0]
    );

    let usage = driver.usage(&key("top")).unwrap();
    assert_eq!((usage.size, usage.inodes), (7, 3));
    assert_eq!(driver.cleanup().unwrap().size, 0);
    driver.remove(&key("top")).unwrap();
    let error = driver.stat(&key("top")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "snapshot top");
    assert_eq!(
        driver.upper(&key("v")).unwrap_err().kind(),
        ErrorKind::Unimplemented
    );
}

type Call = fn(&dyn Snapshotter) -> Result<()>;

const CALLS: [(&str, Call); 11] = [
    ("stat", |d| d.stat(&key("k")).map(drop)),
    ("update", |d| {
        d.update(&key("k"), &LabelChanges::default()).map(drop)
    }),
    ("usage", |d| d.usage(&key("k")).map(drop)),
    ("mounts", |d| d.mounts(&key("k")).map(drop)),
    ("prepare", |d| {
        d.prepare(&key("n"), None, &Labels::new()).map(drop)
    }),
    ("view", |d| {
        d.view(&key("n"), None, &Labels::new()).map(drop)
    }),
    ("commit", |d| {
        d.commit(&key("n"), &key("k"), &CommitOptions::default())
            .map(drop)
    }),
    ("remove", |d| d.remove(&key("k"))),
    ("walk", |d| {
        d.walk(&SnapshotFilter::default(), &Page::default())
            .map(drop)
    }),
    ("cleanup", |d| d.cleanup().map(drop)),
    ("upper", |d| d.upper(&key("k")).map(drop)),
];

#[test]
fn a_panic_in_any_method_is_an_error_of_that_method() {
    let place = Place::new("memory");
    for (number, (method, call)) in CALLS.into_iter().enumerate() {
        let name = format!("i{number}");
        let driver = place.snapshotter(&name, json!({"panic": method}));
        let error = call(&*driver).expect_err(method);
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert_eq!(
            (error.driver(), error.operation()),
            (Some(&*name), Some(method))
        );
        let words = format!("the driver panicked in {method}: asked to panic at ");
        assert!(error.to_string().starts_with(&words), "{error}");
        // The driver goes on, the lock it held included.
        let other = if method == "prepare" {
            "view"
        } else {
            "prepare"
        };
        let (_, call) = CALLS.iter().find(|(name, _)| *name == other).unwrap();
        call(&*driver).unwrap();
    }
}

#[test]
fn an_error_of_any_method_keeps_all_it_says_on_one_line() {
    let place = Place::new("memory");
    for (number, (method, call)) in CALLS.into_iter().enumerate() {
        let name = format!("i{number}");
        let driver = place.snapshotter(&name, json!({"fail": method}));
        let error = call(&*driver).expect_err(method);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(
            (error.driver(), error.operation()),
            (Some(&*name), Some(method))
        );
        assert_eq!(error.message(), r"first\nsecond \u{1b}[31m");
        assert_eq!(error.source_text(), Some("the cause"));
        assert_eq!(error.hint(), Some("the mend"));
        assert_eq!(error.exec_failure(), Some(ExecFailure::NotExecutable));
    }
}

#[test]
fn a_panic_in_drop_ends_nothing() {
    let place = Place::new("memory");
    drop(place.snapshotter("one", json!({"panic": "drop"})));
    let store = place.content("two", json!({"panic": "drop"}));
    drop(
        store
            .writer(&"r".parse().unwrap(), &Expected::default())
            .unwrap(),
    );
    assert_eq!(store.list_statuses().unwrap().len(), 1);
}

#[test]
fn what_breaks_the_contract_is_refused() {
    let place = Place::new("memory");
    let broken = |error: Error, method: &str, words: &str| {
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert_eq!(error.operation(), Some(method));
        let text = error.to_string();
        assert!(
            text.contains("breaks its contract") && text.contains(words),
            "{text}"
        );
    };
    let prepared = |name: &str, lie: &str| {
        let driver = place.snapshotter(name, json!({"lie": lie}));
        let _ = driver.prepare(&key("k"), None, &Labels::new());
        let _ = driver.prepare(&key("l"), None, &Labels::new());
        driver
    };
    let error = prepared("a", "mounts").mounts(&key("k")).unwrap_err();
    broken(error, "mounts", "holds a NUL");
    let error = prepared("b", "stat").stat(&key("k")).unwrap_err();
    broken(error, "stat", "asked for k, it answered for another");
    let page = Page {
        after: None,
        limit: 1,
    };
    let error = prepared("c", "walk")
        .walk(&SnapshotFilter::default(), &page)
        .unwrap_err();
    broken(error, "walk", "at most 1, it returned 2");
    let error = prepared("d", "upper").upper(&key("k")).unwrap_err();
    broken(error, "upper", "not an absolute path");

    let store = place.content("e", json!({"lie": "read_at"}));
    let digest = put(&*store, b"data");
    let reader = store.reader(&digest).unwrap();
    let error = reader.read_at(&mut [0; 3], 0).unwrap_err();
    broken(
        error,
        "read_at",
        "asked for 3 bytes, it claims to have read 4",
    );
}

fn put(store: &dyn ContentStore, data: &[u8]) -> containerkit_plugin::Digest {
    let name: IngestRef = "ref".parse().unwrap();
    let info = content::ingest(
        store,
        &name,
        &Expected::default(),
        &Labels::new(),
        &mut &data[..],
    );
    info.unwrap().digest
}

#[test]
fn blobs_cross_whole() {
    let place = Place::new("memory");
    let store = place.content("one", json!({}));
    assert!(store.capabilities().fd);
    let name: IngestRef = "layer/1".parse().unwrap();
    let data = b"hello, world";
    let expected = Expected {
        size: Some(12),
        digest: Some(Algorithm::Sha256.digest(data)),
    };
    let mut writer = store.writer(&name, &expected).unwrap();
    let held = store.writer(&name, &expected).map(drop).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Conflict);
    writer.write(&data[..5]).unwrap();
    writer.write(b"xxx").unwrap();
    writer.truncate(5).unwrap();
    drop(writer);
    let status = store.status(&name).unwrap();
    assert_eq!(
        (status.offset, status.total, status.holder),
        (5, Some(12), None)
    );
    assert_eq!(status.expected, expected.digest);
    let mut writer = store.writer(&name, &expected).unwrap();
    let status = writer.status().unwrap();
    assert_eq!(
        (status.offset, status.holder),
        (5, Some(std::process::id()))
    );
    assert_eq!(store.list_statuses().unwrap(), [status]);
    let error = writer.commit(&expected, &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    writer.write(&data[5..]).unwrap();
    let info = writer.commit(&expected, &labels(&[("a", "b")])).unwrap();
    assert_eq!(writer.status().unwrap_err().operation(), Some("status"));
    drop(writer);

    let digest = expected.digest.unwrap();
    assert_eq!((&info.digest, info.size), (&digest, 12));
    assert_eq!(store.info(&digest).unwrap(), info);
    assert_eq!(
        store
            .walk(&BlobFilter::default(), &Page::default())
            .unwrap(),
        [info]
    );
    let none = BlobFilter {
        labels: vec![("a".into(), Some("c".into()))],
    };
    assert_eq!(store.walk(&none, &Page::default()).unwrap(), []);
    let changes = LabelChanges {
        replace_all: true,
        set: [("x".into(), Some("y".into()))].into(),
    };
    assert_eq!(
        store.update(&digest, &changes).unwrap().labels,
        labels(&[("x", "y")])
    );

    assert_eq!(content::read_blob(&*store, &digest, 100).unwrap(), data);
    let reader = store.reader(&digest).unwrap();
    store.delete(&digest).unwrap();
    assert_eq!(reader.size(), 12);
    assert_eq!(reader.read_at(&mut [0; 9], 12).unwrap(), 0);
    let fd = reader.as_fd().unwrap().expect("a descriptor");
    let flags = rustix::io::fcntl_getfd(&fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let mut magic = [0; 4];
    fs::File::from(fd).read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");

    let error = store.reader(&digest).map(drop).unwrap_err();
    assert_eq!(
        (error.driver(), error.operation()),
        (Some("one"), Some("reader"))
    );
    store.writer(&name, &Expected::default()).unwrap();
    store.abort(&name).unwrap();
    assert_eq!(store.status(&name).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_reader_or_writer_that_panics_says_so() {
    let place = Place::new("memory");
    let store = place.content("one", json!({"panic": "write"}));
    let mut writer = store
        .writer(&"r".parse().unwrap(), &Expected::default())
        .unwrap();
    let error = writer.write(b"x").unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::Internal, Some("write"))
    );
    assert_eq!(writer.status().unwrap().offset, 0);
    for method in ["read_at", "as_fd"] {
        let store = place.content(&method.replace('_', "-"), json!({"panic": method}));
        let reader = store.reader(&put(&*store, b"x")).unwrap();
        let error = match method {
            "as_fd" => reader.as_fd().map(drop),
            _ => reader.read_at(&mut [0], 0).map(drop),
        };
        assert_eq!(error.unwrap_err().operation(), Some(method));
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

#[test]
fn processes_and_descriptors_cross() {
    let place = Place::new("process");
    let driver = place.runtime();
    let id: ContainerId = "web-1".parse().unwrap();
    let (child_in, to_child) = pipe();
    let (from_child, child_out) = pipe();
    let stderr = fs::File::open("/dev/null").unwrap().into();
    let request = CreateRequest {
        bundle: "/bundle of mine".into(),
        stdio: Stdio::Fds {
            stdin: child_in,
            stdout: child_out,
            stderr,
        },
    };
    let process = driver.run(&id, request).unwrap();
    assert_eq!(process.start_time, 42);
    let mut stat = String::new();
    let fd = process.pidfd.expect("a descriptor");
    fs::File::from(fd).read_to_string(&mut stat).unwrap();
    assert!(stat.starts_with(&process.pid.to_string()), "{stat}");

    // The descriptors moved: with ours of the other ends closed, it ends.
    fs::File::from(to_child).write_all(b"through").unwrap();
    let mut echoed = String::new();
    fs::File::from(from_child)
        .read_to_string(&mut echoed)
        .unwrap();
    assert_eq!(echoed, "through");

    let state = driver.state(&id).unwrap();
    assert_eq!(state.status, RuntimeStatus::Running);
    assert_eq!(state.bundle.to_str(), Some("/bundle of mine"));
    assert_eq!(state.annotations["a"], "b\n");
    assert_eq!(driver.list().unwrap(), [state]);
    assert_eq!(driver.ps(&id).unwrap()[0].pid, process.pid);
    assert_eq!(driver.stats(&id).unwrap().cpu_usage_ns, u64::MAX);
    assert_eq!(driver.info().unwrap().features, Some(json!("yes")));
    assert_eq!(driver.capabilities().names(), ["PS", "UPDATE", "STATS"]);

    let memory = LinuxMemoryBuilder::default().limit(77i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default()
        .memory(memory)
        .build()
        .unwrap();
    let error = driver.update(&id, &resources).unwrap_err();
    assert_eq!(error.to_string(), "container web-1: Some(77)");

    let error = driver.kill(&id, 15, KillScope::Init).unwrap_err();
    assert_eq!(error.to_string(), "signal 15 to Init");
    let error = driver.delete(&id, DeleteMode::Stopped).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    driver.kill(&id, 9, KillScope::All).unwrap();
    driver.delete(&id, DeleteMode::Stopped).unwrap();
    assert_eq!(driver.state(&id).unwrap_err().kind(), ErrorKind::NotFound);

    for error in [
        driver.pause(&id).unwrap_err(),
        driver.resume(&id).unwrap_err(),
        driver
            .checkpoint(&id, &CheckpointRequest::default())
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
    }
}

#[test]
fn descriptors_are_closed_whatever_the_driver_answers() {
    let place = Place::new("process");
    let driver = place.runtime();
    let id: ContainerId = "none".parse().unwrap();
    let stdio = || {
        let (read, stdin) = pipe();
        let null = || fs::File::open("/dev/null").unwrap().into();
        let stdio = Stdio::Fds {
            stdin,
            stdout: null(),
            stderr: null(),
        };
        (read, stdio)
    };
    let ended = |read: OwnedFd| {
        let mut rest = Vec::new();
        fs::File::from(read.as_fd().try_clone_to_owned().unwrap())
            .read_to_end(&mut rest)
            .unwrap();
        assert!(rest.is_empty());
    };
    let (read, streams) = stdio();
    let mut process = Process::default();
    process.set_args(Some(vec!["nope".into()]));
    let request = ExecRequest {
        process,
        stdio: streams,
    };
    let error = driver.exec(&id, request).unwrap_err();
    assert_eq!(error.exec_failure(), Some(ExecFailure::NotFound));
    assert!(error.to_string().contains("nope"), "{error}");
    ended(read);
    let (read, streams) = stdio();
    let request = CreateRequest {
        bundle: "/b".into(),
        stdio: streams,
    };
    let error = driver
        .restore(&id, request, &CheckpointRequest::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    ended(read);
    let request = CreateRequest {
        bundle: "/b".into(),
        stdio: Stdio::Console("/run/console.sock".into()),
    };
    let error = driver.create(&id, request).unwrap_err();
    assert!(error.to_string().contains("/run/console.sock"), "{error}");
}

#[test]
fn instances_and_libraries_live_side_by_side() {
    let place = Place::new("memory");
    let one = place.snapshotter("one", json!({}));
    let two = place.snapshotter("two", json!({"fail": "stat"}));
    let mounts = |driver: &dyn Snapshotter| {
        let mounts = driver.prepare(&key("k"), None, &Labels::new()).unwrap();
        (mounts[0].source.clone(), mounts[0].options[2].clone())
    };
    let (first, second) = (mounts(&*one), mounts(&*two));
    assert!(first.0.ends_with("/one/k") && second.0.ends_with("/two/k"));
    // Two instances of one library share its statics, a copy has its own.
    assert_eq!((&*first.1, &*second.1), ("number=0", "number=1"));
    let copied = Place::new("memory");
    let third = copied.snapshotter("one", json!({}));
    assert_eq!(mounts(&*third).1, "number=0");
    assert!(one.stat(&key("k")).is_ok() && two.stat(&key("k")).is_err());
    // An instance serves any thread.
    let handles: Vec<_> = (0..4)
        .map(|number| {
            let one = Arc::clone(&one);
            std::thread::spawn(move || {
                one.prepare(&key(&format!("t{number}")), None, &Labels::new())
            })
        })
        .collect();
    for handle in handles {
        handle.join().unwrap().unwrap();
    }
    let all = one
        .walk(&SnapshotFilter::default(), &Page::default())
        .unwrap();
    assert_eq!(all.len(), 5);
}

struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let library = record.module_path().unwrap_or("none");
        let line = format!(
            "{library} {} {} {}",
            record.level(),
            record.target(),
            record.args()
        );
        self.0.lock().unwrap().push(line);
    }
    fn flush(&self) {}
}

#[test]
fn log_lines_arrive_and_follow_the_level() {
    static LINES: OnceLock<Lines> = OnceLock::new();
    let lines = LINES.get_or_init(|| Lines(Mutex::default()));
    log::set_logger(lines).unwrap();
    let said = |words: &str| {
        let lines = lines.0.lock().unwrap();
        lines.iter().any(|line| line.contains(words))
    };
    log::set_max_level(log::LevelFilter::Info);
    let place = Place::new("memory");
    place.snapshotter("quiet-one", json!({}));
    assert!(said("libmemory.so INFO fixture_memory opening quiet-one"));
    assert!(!said("/quiet-one"), "a debug line arrived");
    log::set_max_level(log::LevelFilter::Debug);
    place.snapshotter("loud-one", json!({}));
    assert!(said("libmemory.so DEBUG fixture_memory in "));
    drop(place.snapshotter("dropped", json!({"panic": "drop"})));
    assert!(said(
        "the driver panicked while dropping its value: asked to panic in drop"
    ));
}
