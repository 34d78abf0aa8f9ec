//! Many processes on one store. Kills at every step: `tests/tests/crash.rs`.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use containerkit::content::{BlobFilter, Expected, ingest, read_blob};
use containerkit::{
    ContentStore, Driver, DriverContext, Error, ErrorKind, LabelChanges, Labels, Page, Result,
};
use containerkit_local::Local;

fn any() -> Expected {
    Expected::default()
}

/// Killed when the test ends, however it ends.
struct Killed(Child);

impl Killed {
    fn spawn(command: &mut Command) -> Killed {
        Killed(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(child: &mut Killed, word: &str) {
    let out = BufReader::new(child.0.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap() == word));
}

fn quick(root: &Path) -> Local {
    let options = [("fsync".to_owned(), false.into())].into_iter().collect();
    let context = DriverContext::new("local".parse().unwrap(), root, root);
    Local::open(context.with_options(options)).unwrap()
}

#[test]
fn a_ref_is_free_when_its_holder_is_killed() {
    if let Some(root) = child_root() {
        let store = open(&root).unwrap();
        let mut writer = store.writer(&name("a/ref"), &any()).unwrap();
        writer.write(b"half").unwrap();
        println!("\nheld");
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path()).unwrap();
    let mut holder = Killed::spawn(
        child("a_ref_is_free_when_its_holder_is_killed", tmp.path(), "").stdout(Stdio::piped()),
    );
    wait_for(&mut holder, "held");
    let pid = holder.0.id();
    let reference = name("a/ref");
    for error in [
        store.writer(&reference, &any()).err().unwrap(),
        store.abort(&reference).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("ingest a/ref is held by process {pid} (")),
            "{text}"
        );
    }
    for status in [
        store.status(&reference).unwrap(),
        store.list_statuses().unwrap().remove(0),
    ] {
        assert_eq!(status.holder, Some(pid));
        assert_eq!(status.offset, 4);
    }
    holder.kill();
    assert_eq!(store.status(&reference).unwrap().holder, None);
    let writer = store.writer(&reference, &any()).unwrap();
    assert_eq!(writer.status().unwrap().offset, 4);
}

/// Waits for the others, so that all begin at once.
fn line_up(root: &Path) {
    std::fs::write(root.join(format!("ready.{}", std::process::id())), b"").unwrap();
    while !root.join("go").exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// `count` processes of a test at once; what they wrote as their results.
fn together(test: &str, count: usize) -> (tempfile::TempDir, Vec<String>) {
    let tmp = tempfile::tempdir().unwrap();
    let mut children: Vec<Killed> = (0..count)
        .map(|_| Killed::spawn(child(test, tmp.path(), "").stdout(Stdio::null())))
        .collect();
    let ready = |name: &String| name.starts_with("ready");
    let deadline = Instant::now() + Duration::from_secs(60);
    while entries(tmp.path()).iter().filter(|n| ready(n)).count() < count {
        assert!(Instant::now() < deadline, "they do not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::fs::write(tmp.path().join("go"), b"").unwrap();
    for child in &mut children {
        assert!(child.0.wait().unwrap().success());
    }
    let results = entries(tmp.path())
        .iter()
        .filter(|name| name.starts_with("result"))
        .map(|name| std::fs::read_to_string(tmp.path().join(name)).unwrap())
        .collect();
    (tmp, results)
}

fn finish(root: &Path, result: &Result<()>) {
    let text = match result {
        Ok(()) => "won".to_owned(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => "exists".to_owned(),
        Err(error) => format!("{}: {error}", error.kind()),
    };
    std::fs::write(root.join(format!("result.{}", std::process::id())), text).unwrap();
}

/// The store beside the files of [`together`].
fn store_in(root: &Path) -> Result<Local> {
    containerkit::fs::ensure_dir(&root.join("store"), 0o700)?;
    open(&root.join("store"))
}

#[test]
fn of_sixteen_processes_that_commit_one_digest_one_wins() {
    let data = noise(200_000, 5);
    if let Some(root) = child_root() {
        line_up(&root);
        // The first opening of the store is contended too.
        let own = std::process::id().to_string();
        let result = store_in(&root).and_then(|store| {
            let mut writer = store.writer(&name(&own), &any())?;
            writer.write(&data)?;
            writer.commit(&any(), &labels(&[("pid", &own)])).map(drop)
        });
        return finish(&root, &result);
    }
    let (tmp, mut results) = together("of_sixteen_processes_that_commit_one_digest_one_wins", 16);
    results.sort();
    let mut want = vec!["exists"; 15];
    want.push("won");
    assert_eq!(results, want);
    let store = store_in(tmp.path()).unwrap();
    let digest = sized(&data).digest.unwrap();
    assert_eq!(read_blob(&store, &digest, 1 << 20).unwrap(), data);
    let info = store.info(&digest).unwrap();
    let winner = format!("result.{}", info.labels["pid"]);
    let text = std::fs::read_to_string(tmp.path().join(winner)).unwrap();
    assert_eq!(text, "won", "the labels are the winner's");
    assert_eq!(entries(&tmp.path().join("store/ingest")), [""; 0]);
    assert_eq!(entries(&tmp.path().join("store/trash")), [""; 0]);
}

#[test]
fn sixteen_processes_share_one_ref_and_one_store_without_losing_anything() {
    if let Some(root) = child_root() {
        line_up(&root);
        let store = store_in(&root).unwrap();
        let seed = u64::from(std::process::id());
        let work = |n: u64| -> Result<()> {
            let data = noise(5_000, seed * 1_000 + n);
            let expected = sized(&data);
            let digest = expected.digest.clone().unwrap();
            loop {
                let mut from = &data[..];
                match ingest(
                    &store,
                    &name("shared"),
                    &expected,
                    &Labels::new(),
                    &mut from,
                ) {
                    // Held, or what another left under the ref differs: again.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::Conflict | ErrorKind::FailedPrecondition
                        ) =>
                    {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
            let changes = LabelChanges {
                replace_all: false,
                set: [("n".to_owned(), Some(n.to_string()))].into(),
            };
            store.update(&digest, &changes)?;
            store.list_statuses()?;
            store.walk(&BlobFilter::default(), &Page::default())?;
            if read_blob(&store, &digest, 1 << 20)? != data {
                return Err(Error::data_loss("other bytes"));
            }
            if n.is_multiple_of(2) {
                store.delete(&digest)?;
            }
            Ok(())
        };
        let result = (0..6).try_for_each(work);
        return finish(&root, &result);
    }
    let (tmp, results) = together(
        "sixteen_processes_share_one_ref_and_one_store_without_losing_anything",
        16,
    );
    assert_eq!(results, vec!["won"; 16]);
    let store = store_in(tmp.path()).unwrap();
    let all = store
        .walk(&BlobFilter::default(), &Page::default())
        .unwrap();
    assert_eq!(all.len(), 16 * 3);
    assert!(all.iter().all(|info| info.labels.contains_key("n")));
    assert_eq!(store.list_statuses().unwrap(), []);
}

#[test]
fn updates_of_one_blob_from_many_processes_lose_no_label() {
    let data = b"labelled";
    if let Some(root) = child_root() {
        line_up(&root);
        let store = store_in(&root).unwrap();
        let result = (0..20).try_for_each(|n| {
            let key = format!("{}-{n}", std::process::id());
            let changes = LabelChanges {
                replace_all: false,
                set: [(key, Some(String::new()))].into(),
            };
            ingest(
                &store,
                &name(&std::process::id().to_string()),
                &any(),
                &Labels::new(),
                &mut &data[..],
            )
            .and_then(|info| store.update(&info.digest, &changes))
            .map(drop)
        });
        return finish(&root, &result);
    }
    let (tmp, results) = together("updates_of_one_blob_from_many_processes_lose_no_label", 6);
    assert_eq!(results, vec!["won"; 6]);
    let store = store_in(tmp.path()).unwrap();
    let info = store.info(&sized(data).digest.unwrap()).unwrap();
    assert_eq!(info.labels.len(), 6 * 20);
}

#[test]
fn a_listing_that_is_stopped_in_the_middle_is_no_holder() {
    use rustix::fs::{FlockOperation, flock};
    let tmp = tempfile::tempdir().unwrap();
    let store = quick(tmp.path());
    drop(store.writer(&name("ref"), &any()).unwrap());
    let lock = std::fs::File::open(ingest_dir(tmp.path(), "ref").join("lock")).unwrap();
    // What a listing holds for an instant, for longer.
    flock(&lock, FlockOperation::LockShared).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            flock(&lock, FlockOperation::Unlock).unwrap();
        });
        drop(store.writer(&name("ref"), &any()).unwrap());
    });
}
