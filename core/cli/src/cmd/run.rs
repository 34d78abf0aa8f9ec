//! `run`: a container in the foreground.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use containerkit::container::{Containers, NewContainer, RootSource};
use containerkit::kit::Drivers;
use containerkit::record::AfterExit;
use containerkit::shim::{ExitRecord, Shim, Started};
use containerkit::{Context, Error, InstanceName, IoContext, Result, fs};

use crate::Outcome;
use crate::app::{App, existing_dir};
use crate::args::RunArgs;
use crate::cmd::foreground::{self, Signals};
use crate::cmd::options;

pub(crate) fn run(app: &App, args: RunArgs) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    check_files(&args)?;
    let new = request(app, &args)?;
    containers.sweep()?;
    let created = containers.create(new, &|| signals.interrupted())?;
    let record = created.record.clone();
    if let Some(path) = &args.cidfile {
        let id = record.id.to_string();
        fs::write_atomic(path, id.as_bytes(), 0o644, fs::Durability::Volatile)?;
    }
    let mut shim = match stdio(&args).and_then(|stdio| created.launch(stdio)) {
        Ok(shim) => shim,
        Err(error) => {
            remove_cidfile(&args);
            return Err(error);
        }
    };
    let (started, ended) = match shim.wait_started() {
        Ok(started) => (true, attend(&mut shim, started, &args, &signals)),
        Err(error) => (false, Err(error)),
    };
    match ended {
        Ok(exit) if args.rm => {
            let removed = containers.remove_ended(&record, shim);
            remove_cidfile(&args);
            removed.context(|| format!("remove container {}", record.name))?;
            Ok(Outcome::Status(exit.status()))
        }
        Ok(exit) => {
            shim.finish()
                .context(|| format!("end container {}", record.name))?;
            Ok(Outcome::Status(exit.status()))
        }
        Err(error) => {
            // Whatever was started is ended; the first error is the one to tell.
            let _ = shim.signal(9);
            if let Err(second) = containers.remove_ended(&record, shim) {
                log::warn!("clean up container {}: {second}", record.name);
            }
            remove_cidfile(&args);
            if !started {
                return Err(error);
            }
            // 125 says that the container could not be started.
            crate::output::print_error(&error);
            Ok(Outcome::Status(1))
        }
    }
}

/// What is to be written later is looked at before anything is made.
fn check_files(args: &RunArgs) -> Result<()> {
    for (flag, path) in [("--cidfile", &args.cidfile), ("--pidfile", &args.pidfile)] {
        let Some(path) = path else { continue };
        let shown = path.display();
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => {
                return Err(Error::invalid(format!(
                    "{flag} {shown} is not the path of a file"
                )));
            }
        };
        if !folder.is_dir() {
            return Err(Error::not_found(format!(
                "{flag} {shown}: there is no folder {}",
                folder.display()
            )));
        }
    }
    match args.cidfile.as_deref().filter(|path| path.exists()) {
        Some(path) => Err(
            Error::already_exists(format!("--cidfile {} exists", path.display()))
                .with_hint("remove it when no container of it is in use"),
        ),
        None => Ok(()),
    }
}

fn remove_cidfile(args: &RunArgs) {
    if let Some(path) = &args.cidfile {
        let _ = std::fs::remove_file(path);
    }
}

fn attend(
    shim: &mut Shim,
    started: Started,
    args: &RunArgs,
    signals: &Signals,
) -> Result<ExitRecord> {
    if let Some(path) = &args.pidfile {
        let pid = started.pid.to_string();
        fs::write_atomic(path, pid.as_bytes(), 0o644, fs::Durability::Volatile)?;
    }
    foreground::attend(shim, started, args.interactive, signals)
}

/// The descriptors that the container's process gets. With a terminal they
/// serve nobody: the process gets the pty.
fn stdio(args: &RunArgs) -> Result<[OwnedFd; 3]> {
    let null = || -> Result<OwnedFd> {
        let file = File::options().read(true).write(true).open("/dev/null");
        Ok(file.io_context(|| "open /dev/null")?.into())
    };
    if args.tty {
        return Ok([null()?, null()?, null()?]);
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .io_context(|| "copy a standard stream")
    };
    let stdin = if args.interactive {
        own(std::io::stdin().as_fd())?
    } else {
        null()?
    };
    Ok([
        stdin,
        own(std::io::stdout().as_fd())?,
        own(std::io::stderr().as_fd())?,
    ])
}

/// Containers with this command's configuration.
pub(crate) fn containers(app: &App) -> Result<Containers> {
    let binary = std::env::current_exe().io_context(|| "find the containerkit binary")?;
    let shim = binary.with_file_name("containerkit-shim");
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut cleanup = vec![path(&binary)];
    // A file named by the environment or by default is found again in the
    // same way: the shim hands its environment on.
    if let Some(file) = &app.config_flag {
        cleanup.extend(["--config".into(), path(file)]);
    }
    cleanup.extend([
        "--root".into(),
        path(&app.config.root),
        "--state".into(),
        path(&app.config.state),
        "delete".into(),
        "--force".into(),
    ]);
    fs::ensure_dir(&app.config.state, 0o711)?;
    Ok(Containers::new(
        &app.config.root,
        &app.config.state,
        app.drivers.clone() as std::sync::Arc<dyn Drivers>,
        std::sync::Arc::clone(app.records()?),
        shim,
        cleanup,
    ))
}

/// Flags to a request; everything is checked before anything is made.
fn request(app: &App, args: &RunArgs) -> Result<NewContainer> {
    let spec = options::spec_request(args)?;
    let labels = options::labels(args)?;
    let name = args.name.as_deref().map(str::parse).transpose()?;
    let runtime: Option<InstanceName> = args.runtime.as_deref().map(str::parse).transpose()?;
    let snapshotter: Option<InstanceName> =
        args.snapshotter.as_deref().map(str::parse).transpose()?;
    let (runtime, runtime_stamp) = app.drivers.runtime_ref(runtime.as_ref())?;
    let source = match &args.rootfs {
        Some(dir) => RootSource::Directory(existing_dir(dir)?),
        None => image_source(app, &args.words[0], args.snapshotter.as_deref())?,
    };
    Ok(NewContainer {
        name,
        source,
        spec,
        runtime,
        runtime_stamp,
        snapshotter,
        after_exit: if args.rm {
            AfterExit::Remove
        } else {
            AfterExit::Keep
        },
        labels,
    })
}

/// The image, unpacked when its layers are not there yet.
fn image_source(app: &App, typed: &str, snapshotter: Option<&str>) -> Result<RootSource> {
    let record = app.image(typed)?;
    let (store, image) = app.resolve(&record, None)?;
    let snapshotter = app.snapshotter(snapshotter)?;
    let top = app
        .unpack(&*store.driver, &snapshotter, &image)
        .context(|| format!("unpack {}", record.name))?;
    Ok(RootSource::Image {
        name: record.name,
        digest: record.digest,
        top,
        config: image.config.config().clone().map(Box::new),
    })
}
