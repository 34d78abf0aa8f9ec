//! What every driver promises, whatever its kind: it leaves the process that
//! loads it alone. Cases DRV-G of ABI.md.
//!
//! The cases look at the whole process (descriptors, threads, environment,
//! children), and one moves its standard output away for a moment: run them in
//! a process where nothing else goes on, as `containerkit driver check` does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerkit::content::{BlobFilter, Expected};
use containerkit::fs::{ensure_dir, remove_tree_path, unique_name};
use containerkit::runtime::DeleteMode;
use containerkit::snapshot::{CommitOptions, SnapshotFilter};
use containerkit::{
    Algorithm, ContentStore, Context, Error, ErrorKind, IoContext, LabelChanges, Labels, Page,
    Result, Runtime, Snapshotter,
};

use crate::guest::{COMMON, elsewhere, found_empty, unchanged};
use crate::{Case, CaseResult, ensure, expect_kind};

/// An open instance of any kind.
#[derive(Clone)]
pub enum Opened {
    /// Of a runtime.
    Runtime(Arc<dyn Runtime>),
    /// Of a snapshotter.
    Snapshotter(Arc<dyn Snapshotter>),
    /// Of a content store.
    Content(Arc<dyn ContentStore>),
}

/// Opens an instance in this folder, which has the folders `root` and `state`.
pub type Factory = dyn Fn(&Path) -> Result<Opened>;

type Row = (&'static str, &'static str, fn(&Factory) -> Result<()>);

/// How the names of the suite's own temporary folders begin.
const OURS: &str = "containerkit-";
/// How long threads and programs may take to be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs the whole suite.
pub fn run(factory: &Factory) -> Vec<CaseResult> {
    crate::run(factory, &cases())
}

/// Every case, in the order of their ids.
pub fn cases() -> Vec<Case<Factory>> {
    let rows: [Row; 8] = [
        (
            "DRV-G-05",
            "it writes in its root and state folders only",
            writes_at_home,
        ),
        (
            "DRV-G-07",
            "every method may be called from any thread, and many at a time",
            many_threads,
        ),
        (
            "DRV-G-08",
            "it never changes the folder, umask, environment or signal handlers of the process, and waits for its own children by pid, never for any child",
            leaves_the_process_alone,
        ),
        (
            "DRV-G-09",
            "every descriptor that it opens is close-on-exec",
            descriptors_are_not_inherited,
        ),
        (
            "DRV-G-10",
            "capabilities are fixed while an instance is open; a method behind a missing one answers `Unimplemented`",
            capabilities_are_fixed,
        ),
        (
            "DRV-G-11",
            "an error has the kind of its contract, names the object, and is one line",
            errors_name_the_object,
        ),
        (
            "DRV-G-14",
            "what an instance opened and started is gone when it is dropped",
            nothing_stays,
        ),
        (
            "DRV-G-15",
            "it writes nothing to the standard output",
            is_silent,
        ),
    ];
    rows.into_iter()
        .map(|(id, name, run)| Case { id, name, run })
        .collect()
}

/// A folder of its own with an instance in it.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new() -> Result<Place> {
        let dir = std::env::temp_dir().join(unique_name(&format!("{OURS}driver")));
        for (name, mode) in [("root", 0o711), ("state", 0o711)] {
            ensure_dir(&dir.join(name), mode)?;
        }
        Ok(Place { dir })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = remove_tree_path(&self.dir);
    }
}

/// Opens an instance, does a little of everything with it and closes it.
fn visit(factory: &Factory, place: &Place) -> Result<()> {
    let opened = factory(&place.dir)?;
    exercise(&opened, &unique_name("visit"))
}

/// A little of everything that leaves nothing behind. What a driver does not
/// support it may refuse.
fn exercise(opened: &Opened, name: &str) -> Result<()> {
    let done = match opened {
        Opened::Runtime(runtime) => visit_runtime(runtime, name),
        Opened::Snapshotter(snapshotter) => visit_snapshotter(&**snapshotter, name),
        Opened::Content(store) => visit_content(&**store, name),
    };
    match done {
        Err(error) if error.kind() == ErrorKind::Unimplemented => Ok(()),
        done => done,
    }
}

fn visit_runtime(runtime: &Arc<dyn Runtime>, name: &str) -> Result<()> {
    crate::runtime::visit(runtime, name)?;
    let id = name.parse()?;
    runtime.info().context(|| "info")?;
    runtime.list().context(|| "list")?;
    expect_kind(runtime.state(&id), ErrorKind::NotFound, "state of nothing")?;
    expect_kind(runtime.start(&id), ErrorKind::NotFound, "start of nothing")?;
    runtime
        .delete(&id, DeleteMode::Force)
        .context(|| "forced delete of nothing")
}

fn visit_snapshotter(snapshotter: &dyn Snapshotter, name: &str) -> Result<()> {
    let key = name.parse()?;
    snapshotter
        .prepare(&key, None, &Labels::new())
        .context(|| "prepare")?;
    snapshotter.stat(&key).context(|| "stat")?;
    snapshotter.mounts(&key).context(|| "mounts")?;
    snapshotter.usage(&key).context(|| "usage")?;
    let changes = LabelChanges {
        replace_all: false,
        set: [("visited".to_string(), Some("yes".to_string()))].into(),
    };
    snapshotter.update(&key, &changes).context(|| "update")?;
    snapshotter
        .walk(&SnapshotFilter::default(), &Page::default())
        .context(|| "walk")?;
    let committed = format!("{name}-committed").parse()?;
    snapshotter
        .commit(&committed, &key, &CommitOptions::default())
        .context(|| "commit")?;
    match snapshotter.view(&key, Some(&committed), &Labels::new()) {
        Ok(_) => snapshotter.remove(&key).context(|| "remove")?,
        Err(error) if error.kind() == ErrorKind::Unimplemented => {}
        Err(error) => return Err(error.context("view")),
    }
    snapshotter.remove(&committed).context(|| "remove")?;
    snapshotter.cleanup().map(drop).context(|| "cleanup")
}

fn visit_content(store: &dyn ContentStore, name: &str) -> Result<()> {
    let name = name.parse()?;
    let data = format!("{name} was here").into_bytes();
    let mut writer = store
        .writer(&name, &Expected::default())
        .context(|| "writer")?;
    writer.write(&data).context(|| "write")?;
    writer.status().context(|| "status")?;
    let info = writer
        .commit(&Expected::default(), &Labels::new())
        .context(|| "commit")?;
    drop(writer);
    store.info(&info.digest).context(|| "info")?;
    store
        .update(&info.digest, &LabelChanges::default())
        .context(|| "update")?;
    ensure(info.digest == Algorithm::Sha256.digest(&data), || {
        format!("the blob's digest is {}", info.digest)
    })?;
    let reader = store.reader(&info.digest).context(|| "reader")?;
    reader.read_at(&mut [0; 4], 0).context(|| "read_at")?;
    reader.as_fd().context(|| "as_fd")?;
    drop(reader);
    store
        .walk(&BlobFilter::default(), &Page::default())
        .context(|| "walk")?;
    store.list_statuses().context(|| "list_statuses")?;
    store.delete(&info.digest).context(|| "delete")?;
    drop(
        store
            .writer(&name, &Expected::default())
            .context(|| "writer")?,
    );
    store.status(&name).context(|| "status of an ingest")?;
    store.abort(&name).context(|| "abort")
}

/// The entries of a folder, files with the time of their last change: one that
/// was there may be written again.
fn entries(folder: &Path) -> BTreeSet<(OsString, Option<(i64, i64)>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let changed = |entry: &std::fs::DirEntry| {
        let meta = entry.metadata().ok().filter(|meta| !meta.is_dir())?;
        Some((meta.ctime(), meta.ctime_nsec()))
    };
    entries
        .map(|entry| (entry.file_name(), changed(&entry)))
        .collect()
}

fn writes_at_home(factory: &Factory) -> Result<()> {
    let mut wrote = PathBuf::new();
    // Folders of the system belong to others too: what a driver does there, it
    // does each time.
    for _ in 0..3 {
        match written_elsewhere(factory)? {
            Some(path) => wrote = path,
            None => return Ok(()),
        }
    }
    Err(Error::internal(format!("it wrote {}", wrote.display())))
}

/// What appeared outside the instance's folders during a visit.
fn written_elsewhere(factory: &Factory) -> Result<Option<PathBuf>> {
    let place = Place::new()?;
    let before: Vec<_> = elsewhere().map(|f| (entries(&f), f)).collect();
    visit(factory, &place)?;
    for (before, folder) in before {
        // Others write to a folder of temporary files as well, unless it is
        // this process's own.
        let own = found_empty().contains(&folder);
        let common = COMMON.iter().any(|common| Path::new(common) == folder);
        if (common || folder == std::env::temp_dir()) && !own {
            continue;
        }
        let now = entries(&folder);
        let new = now.into_iter().find(|entry| {
            let suite = entry.0.as_encoded_bytes().starts_with(OURS.as_bytes());
            !suite && (own || !before.contains(entry))
        });
        if let Some((name, _)) = new {
            return Ok(Some(folder.join(name)));
        }
    }
    let left: Vec<_> = entries(&place.dir)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "root" && name != "state")
        .collect();
    ensure(left.is_empty(), || {
        format!("it wrote {left:?} beside its root")
    })?;
    Ok(None)
}

fn many_threads(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    let opened = factory(&place.dir)?;
    exercise(&opened, "first")?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let opened = opened.clone();
                scope.spawn(move || {
                    (0..5).try_for_each(|round| {
                        exercise(&opened, &format!("thread-{worker}-{round}"))
                    })
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => return Err(Error::internal("a thread panicked")),
            }
        }
        Ok(())
    })
}

fn leaves_the_process_alone(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    // Two programs that end before and after the driver's own are waited for.
    let program = || {
        Command::new("/bin/sh")
            .args(["-c", ":"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .io_context(|| "start a program")
    };
    let opened = factory(&place.dir)?;
    let mut children = [program()?, program()?];
    for round in 0..3 {
        exercise(&opened, &format!("round-{round}"))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    for child in &mut children {
        child.wait().map_err(|error| {
            Error::internal("it reaped a child process that it did not start").with_source(error)
        })?;
    }
    unchanged()?;
    drop(opened);
    unchanged()
}

/// The open descriptors, and which of them a started program would get.
fn descriptors() -> BTreeMap<i32, bool> {
    let entries = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten();
    let entries = entries.flatten().filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        Some((fd, flags & rustix::fs::OFlags::CLOEXEC.bits() == 0))
    });
    entries.collect()
}

fn descriptors_are_not_inherited(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    let before = descriptors();
    let opened = factory(&place.dir)?;
    let check = || {
        let new = descriptors()
            .into_iter()
            .find(|(fd, inherited)| *inherited && before.get(fd) != Some(&true));
        ensure(new.is_none(), || {
            let fd = new.map_or(-1, |(fd, _)| fd);
            let what = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            format!("descriptor {fd} ({}) is not close-on-exec", what.display())
        })
    };
    check()?;
    exercise(&opened, "descriptors")?;
    check()
}

fn capabilities_are_fixed(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    let opened = factory(&place.dir)?;
    let bits = || match &opened {
        Opened::Runtime(runtime) => runtime.capabilities().bits(),
        Opened::Snapshotter(snapshotter) => snapshotter.capabilities().bits(),
        Opened::Content(store) => store.capabilities().bits(),
    };
    let before = bits();
    exercise(&opened, "capabilities")?;
    ensure(bits() == before, || {
        format!("they were {before:#x}, now they are {:#x}", bits())
    })?;
    match &opened {
        Opened::Snapshotter(snapshotter) if !snapshotter.capabilities().direct_upper => {
            expect_kind(
                snapshotter.upper(&"none".parse()?),
                ErrorKind::Unimplemented,
                "upper without DIRECT_UPPER",
            )
        }
        _ => Ok(()),
    }
}

fn errors_name_the_object(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    let name = "never-heard-of";
    let digest = Algorithm::Sha256.digest(name.as_bytes());
    let (error, name) = match factory(&place.dir)? {
        Opened::Runtime(runtime) => (runtime.state(&name.parse()?).err(), name.to_string()),
        Opened::Snapshotter(snapshotter) => {
            (snapshotter.stat(&name.parse()?).err(), name.to_string())
        }
        Opened::Content(store) => (store.info(&digest).err(), digest.to_string()),
    };
    let error = error.ok_or_else(|| Error::internal(format!("{name} is there")))?;
    expect_kind::<()>(Err(error.clone()), ErrorKind::NotFound, &name)?;
    let text = error.to_string();
    ensure(text.contains(&name), || {
        format!("the error of {name} does not name it: {text}")
    })?;
    ensure(!text.chars().any(char::is_control), || {
        format!("the error of {name} is not one line: {text:?}")
    })
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn nothing_stays(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    // What a library keeps for the process, it has from now on.
    visit(factory, &place)?;
    let before = (descriptors().len(), threads());
    for _ in 0..5 {
        visit(factory, &place)?;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let now = (descriptors().len(), threads());
        if now.0 <= before.0 && now.1 <= before.1 {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::internal(format!(
                "five instances left {} descriptors and {} threads",
                now.0.saturating_sub(before.0),
                now.1.saturating_sub(before.1)
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_silent(factory: &Factory) -> Result<()> {
    let place = Place::new()?;
    let what = || "take the standard output away";
    let path = place.dir.join("stdout");
    let file = std::fs::File::create(&path).io_context(what)?;
    let kept = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).io_context(what)?;
    rustix::stdio::dup2_stdout(&file).io_context(what)?;
    let visited = visit(factory, &place);
    let back = rustix::stdio::dup2_stdout(&kept).io_context(|| "put it back");
    visited?;
    back?;
    let mut text = Vec::new();
    let mut head = std::fs::File::open(&path).io_context(what)?.take(200);
    head.read_to_end(&mut text).io_context(what)?;
    ensure(text.is_empty(), || {
        format!("it wrote {:?}", String::from_utf8_lossy(&text))
    })
}
