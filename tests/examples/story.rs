//! containerkit as a library: the life of a container, told by two programs
//! that know nothing of each other but a folder.
//!
//! `story begin FOLDER LAYOUT` imports an image from an OCI layout, makes a
//! container of it, starts it and runs further processes in it, each with
//! streams of its own. `story go-on FOLDER`, another process, finds the
//! container by its name, looks at its processes, ends them and deletes it.
//!
//! The drivers are linked; only the shim, which outlives every program that
//! starts one, loads its runtime from a shared object.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::container::{
    Containers, Launch, NewContainer, ProcessStatus, RemoveMode, RootSource,
};
use containerkit::kit::{Drivers, Opened};
use containerkit::record::{AfterExit, DriverStamp, Lifetime};
use containerkit::shim::{ExecStreams, RuntimeRef};
use containerkit::spec::exec::ExecSpec;
use containerkit::spec::{LogOptions, SpecRequest};
use containerkit::{
    ContentStore, Driver, DriverContext, Error, InstanceName, IoContext, Labels, Reference, Result,
    Runtime, Snapshotter, fs,
};
use containerkit_image::PlatformChoice;
use containerkit_image::{ImportOptions, UnpackOptions};
use containerkit_local::Local;
use containerkit_overlay::Overlay;
use containerkit_records::SqliteRecords;
use containerkit_runc::Runc;

/// The container's name.
const NAME: &str = "story";
/// Further processes at once.
const EXECS: usize = 3;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let told = match words[..] {
        ["begin", folder, layout] => begin(Path::new(folder), Path::new(layout)),
        ["go-on", folder] => go_on(Path::new(folder)),
        _ => Err(Error::invalid("want begin FOLDER LAYOUT or go-on FOLDER")),
    };
    if let Err(error) = told {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn begin(folder: &Path, layout: &Path) -> Result<()> {
    let house = House::open(folder)?;
    let containers = house.containers()?;

    // An image: its blobs into the store, its layers into snapshots.
    let scratch = folder.join("state/scratch");
    fs::ensure_dir(&scratch, 0o700)?;
    let options = ImportOptions::new(scratch);
    let imported = containerkit_image::import(&*house.content, layout, &options, &|_| {})?;
    let target = &imported
        .first()
        .ok_or_else(|| Error::not_found("no image"))?
        .target;
    let host = PlatformChoice::host();
    let image = containerkit_image::resolve(&*house.content, target, &host)?;
    let options = UnpackOptions::new(folder.join("state/locks"));
    let top = containerkit_image::unpack(&*house.content, &*house.snapshotter, &image, &options)?;

    // A container that can be started again and again.
    let name: Reference = "story".parse()?;
    let created = containers.create(
        NewContainer {
            name: Some(NAME.parse()?),
            source: RootSource::Image {
                name,
                digest: target.digest().to_string().parse()?,
                top,
                config: image.config.config().clone().map(Box::new),
            },
            spec: SpecRequest {
                command: ["sleep", "1000"].map(String::from).to_vec(),
                ..SpecRequest::default()
            },
            runtime: house.runtime_ref()?,
            runtime_stamp: stamp("runc")?,
            snapshotter: None,
            after_exit: AfterExit::Keep,
            lifetime: Lifetime::Durable,
            open_stdin: false,
            pidfile: None,
            log: LogOptions::default(),
            labels: Labels::new(),
        },
        &|| false,
    )?;
    let record = created.record.clone();
    let init = containers.init(&record);
    println!(
        "created {}",
        matches!(init.status()?, ProcessStatus::Created)
    );

    let mut launched = created.launch(Launch::Background)?;
    let started = launched.shim.wait_started()?;
    println!("running {}", init.pid()? == Some(started.pid));

    // Further processes, each with its own input and output.
    let mut running = Vec::new();
    for number in 0..EXECS {
        let (input, mut typed) = pipe()?;
        let (mut said, output) = pipe()?;
        let errors = output.try_clone().io_context(|| "copy a pipe")?;
        let wanted = ExecSpec {
            command: ["sh", "-c", "read line; echo $line $0; exit $0"]
                .into_iter()
                .map(String::from)
                .chain([number.to_string()])
                .collect(),
            ..ExecSpec::default()
        };
        let streams = ExecStreams::Given([input.into(), output.into(), errors.into()]);
        let exec = containers.exec(&record, &wanted, streams)?;
        writeln!(typed, "hello").io_context(|| "write to a process")?;
        running.push((exec, std::mem::replace(&mut said, null()?)));
    }
    for (exec, mut said) in running {
        let exit = exec.wait()?;
        let mut text = String::new();
        said.read_to_string(&mut text)
            .io_context(|| "read of a process")?;
        println!(
            "exec {} {}: {}",
            exec.started.exec,
            exit.status(),
            text.trim()
        );
    }

    // One more, which is left to whoever comes next.
    let wanted = ExecSpec {
        command: ["sleep", "1000"].map(String::from).to_vec(),
        ..ExecSpec::default()
    };
    let nothing: [OwnedFd; 3] = [null()?.into(), null()?.into(), null()?.into()];
    containers.exec(&record, &wanted, ExecStreams::Given(nothing))?;
    Ok(())
}

fn go_on(folder: &Path) -> Result<()> {
    let containers = House::open(folder)?.containers()?;
    let record = containers.records().find_container(NAME)?;
    let init = containers.init(&record);
    println!("loaded {}", init.pid()?.is_some());
    for process in containers.execs(&record)? {
        if let ProcessStatus::Running(_) = process.status()? {
            process.signal(15)?;
            println!(
                "signalled {:?}: {}",
                process.which(),
                process.wait()?.status()
            );
        }
    }
    init.signal(9)?;
    println!("ended {}", init.wait()?.status());
    containers.stop(&record, std::time::Duration::ZERO, &|| false)?;
    containers.remove(&record, RemoveMode::Stopped)?;
    println!(
        "deleted {}",
        containers.records().find_container(NAME).is_err()
    );
    Ok(())
}

/// The drivers, linked, in folders of their own.
struct House {
    folder: PathBuf,
    content: Arc<Local>,
    snapshotter: Arc<Overlay>,
    runtime: Arc<Runc>,
}

impl House {
    fn open(folder: &Path) -> Result<House> {
        for top in ["root", "state"] {
            fs::ensure_dir(&folder.join(top), 0o711)?;
        }
        Ok(House {
            folder: folder.to_path_buf(),
            content: Arc::new(Local::open(context(folder, "content", "local")?)?),
            snapshotter: Arc::new(Overlay::open(context(folder, "snapshotter", "overlay")?)?),
            runtime: Arc::new(Runc::open(context(folder, "runtime", "runc")?)?),
        })
    }

    fn containers(&self) -> Result<Containers> {
        let (root, state) = (self.folder.join("root"), self.folder.join("state"));
        let drivers = Linked {
            content: self.content.clone(),
            snapshotter: self.snapshotter.clone(),
            runtime: self.runtime.clone(),
        };
        let records = Arc::new(SqliteRecords::open(&root)?);
        let shim = built()?.join("containerkit-shim");
        // Nothing here is removed at its end, so that no command need be told.
        let cleanup = Vec::new();
        Ok(Containers::new(
            &root,
            &state,
            Arc::new(drivers),
            records,
            shim,
            cleanup,
        ))
    }

    /// What the shim loads for itself.
    fn runtime_ref(&self) -> Result<RuntimeRef> {
        let context = context(&self.folder, "runtime", "runc")?;
        Ok(RuntimeRef {
            library: built()?.join("libcontainerkit_runc.so"),
            sha256: None,
            instance: context.instance,
            root: context.root,
            state: context.state,
            options: Default::default(),
            call_timeout: None,
        })
    }
}

struct Linked {
    content: Arc<Local>,
    snapshotter: Arc<Overlay>,
    runtime: Arc<Runc>,
}

impl Drivers for Linked {
    fn runtime(&self, _: Option<&InstanceName>) -> Result<Opened<dyn Runtime>> {
        let driver: Arc<dyn Runtime> = self.runtime.clone();
        let stamp = stamp("runc")?;
        Ok(Opened { stamp, driver })
    }

    fn snapshotter(&self, _: Option<&InstanceName>) -> Result<Opened<dyn Snapshotter>> {
        let driver: Arc<dyn Snapshotter> = self.snapshotter.clone();
        let stamp = stamp("overlay")?;
        Ok(Opened { stamp, driver })
    }

    fn content(&self, _: Option<&InstanceName>) -> Result<Opened<dyn ContentStore>> {
        let driver: Arc<dyn ContentStore> = self.content.clone();
        let stamp = stamp("local")?;
        Ok(Opened { stamp, driver })
    }
}

fn stamp(driver: &str) -> Result<DriverStamp> {
    Ok(DriverStamp {
        instance: driver.parse()?,
        driver: driver.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn context(folder: &Path, kind: &str, name: &str) -> Result<DriverContext> {
    let [root, state] = ["root", "state"].map(|top| folder.join(top).join(kind).join(name));
    fs::ensure_dir(&root, 0o711)?;
    fs::ensure_dir(&state, 0o711)?;
    Ok(DriverContext::new(name.parse()?, root, state))
}

/// Where the shim and the shared objects are: `target/PROFILE`, this being
/// `target/PROFILE/examples/story`.
fn built() -> Result<PathBuf> {
    let own = std::env::current_exe().io_context(|| "find this program")?;
    let folder = own.ancestors().nth(2);
    folder
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::internal("this program is not in a build folder"))
}

fn pipe() -> Result<(File, File)> {
    let (reader, writer) = std::io::pipe().io_context(|| "make a pipe")?;
    Ok((
        File::from(OwnedFd::from(reader)),
        File::from(OwnedFd::from(writer)),
    ))
}

fn null() -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/null");
    file.io_context(|| "open /dev/null")
}
