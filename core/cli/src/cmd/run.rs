//! `run` and `create`: from flags and an image to a container.

use std::path::{Path, PathBuf};

use containerkit::container::{Containers, Made, NewContainer, RootSource};
use containerkit::kit::Drivers;
use containerkit::lease::Lease;
use containerkit::record::{AfterExit, ContainerRecord, ImageRecord, Lifetime};
use containerkit::shim::Standby;
use containerkit::{
    Context, Error, ErrorKind, InstanceName, IoContext, PlatformChoice, Reference, Result, fs,
};
use containerkit_distribution::Platforms;

use crate::Outcome;
use crate::app::{App, Early};
use crate::args::container::RunCommand;
use crate::args::options::{Pull, RunArgs};
use crate::cmd::foreground::Signals;
use crate::cmd::options::{self, Source};
use crate::cmd::registry::{self, Unpack};
use crate::cmd::start::{self, Attach};
use crate::output;
use crate::policy;
use crate::progress::{Progress, Stderr};

pub(crate) fn run(app: &App, args: RunCommand) -> Result<Outcome> {
    let signals = Signals::catch()?;
    // Beside opening the records, which is as much work.
    let has_image = args.make.rootfs.is_none() && !args.make.words.is_empty();
    let early = has_image.then(|| app.load_early(args.make.snapshotter.as_deref()));
    let containers = containers(app)?;
    let attach = if args.detach {
        Attach::No
    } else if args.make.interactive {
        Attach::WithInput
    } else {
        Attach::Output
    };
    let lifetime = match args.make.rm {
        true => Lifetime::Ephemeral,
        false => Lifetime::Durable,
    };
    let cidfile = CidFile::check(&args.make)?;
    let Wanted {
        new,
        lease,
        standby,
    } = request(
        app,
        &containers,
        &args.make,
        lifetime,
        Shim::StandsBy(early),
    )?;
    containers.sweep()?;
    let created = containers.create(new, &|| signals.interrupted())?;
    // Its own record keeps its image from here on.
    drop(lease);
    cidfile.write(&created.record)?;
    let id = created.record.id.clone();
    let made = Made::ForThis;
    let outcome = start::launch(&containers, created, standby, attach, made, &signals)?;
    if attach == Attach::No {
        output::print_names(app.format, &[id.to_string()])?;
        cidfile.keep();
    } else if !args.make.rm {
        cidfile.keep();
    }
    Ok(outcome)
}

pub(crate) fn create(app: &App, args: RunArgs) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let cidfile = CidFile::check(&args)?;
    let wanted = request(app, &containers, &args, Lifetime::Durable, Shim::Later)?;
    containers.sweep()?;
    let created = containers.create(wanted.new, &|| signals.interrupted())?;
    cidfile.write(&created.record)?;
    let record = created.keep();
    cidfile.keep();
    output::print_names(app.format, &[record.id.to_string()])?;
    Ok(Outcome::Success)
}

/// `--cidfile`: removed again unless the container stays.
struct CidFile {
    path: Option<PathBuf>,
    written: std::cell::Cell<bool>,
}

impl CidFile {
    fn check(args: &RunArgs) -> Result<CidFile> {
        check_files(args)?;
        Ok(CidFile {
            path: args.cidfile.clone(),
            written: false.into(),
        })
    }

    fn write(&self, record: &ContainerRecord) -> Result<()> {
        if let Some(path) = &self.path {
            let id = record.id.to_string();
            fs::write_atomic(path, id.as_bytes(), 0o644, fs::Durability::Volatile)?;
            self.written.set(true);
        }
        Ok(())
    }

    fn keep(&self) {
        self.written.set(false);
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_ref().filter(|_| self.written.get()) {
            let _ = std::fs::remove_file(path);
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

/// A container that is wanted.
struct Wanted {
    new: NewContainer,
    /// Keeps its image until the container is recorded.
    lease: Option<Lease>,
    standby: Option<Standby>,
}

/// When the shim is started.
enum Shim {
    /// As soon as nothing is missing any more, so that it loads the runtime
    /// while this process does its own part.
    StandsBy(Option<Early>),
    /// Not by this command.
    Later,
}

/// Flags to a request; everything is checked before anything is made.
fn request(
    app: &App,
    containers: &Containers,
    args: &RunArgs,
    lifetime: Lifetime,
    shim: Shim,
) -> Result<Wanted> {
    let spec = options::spec_request(args, containers, &app.config.root)?;
    let log = options::log(args)?;
    let labels = options::labels(args)?;
    let name = args.name.as_deref().map(str::parse).transpose()?;
    let runtime: Option<InstanceName> = args.runtime.as_deref().map(str::parse).transpose()?;
    let snapshotter: Option<InstanceName> =
        args.snapshotter.as_deref().map(str::parse).transpose()?;
    let reference = app.drivers.unchecked_runtime_ref(runtime.as_ref())?;
    let (early, stands_by) = match shim {
        Shim::StandsBy(early) => (early, true),
        Shim::Later => (None, false),
    };
    // The shim first, so that both load the runtime at once, and before what may
    // take long.
    let begin = || -> Result<_> {
        let standby = stands_by.then(|| start::standby(containers, &reference));
        let standby = standby.transpose()?;
        Ok((standby, app.drivers.runtime_ref(runtime.as_ref())?))
    };
    let (source, lease, begun) = match options::source(args, &spec)? {
        Source::Directory(dir) => (RootSource::Directory(dir), None, begin()?),
        Source::Image(name) => {
            let (record, lease) = image(app, name, args, early)?;
            let begun = begin()?;
            let source = unpacked(app, record, &lease, args)?;
            (source, Some(lease), begun)
        }
    };
    let (standby, (runtime, runtime_stamp)) = begun;
    let new = NewContainer {
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
        lifetime,
        open_stdin: args.interactive,
        pidfile: args
            .pidfile
            .as_deref()
            .map(std::path::absolute)
            .transpose()
            .io_context(|| "find the current folder")?,
        log,
        labels,
    };
    Ok(Wanted {
        new,
        lease,
        standby,
    })
}

/// The image, pulled when it is not there yet.
fn image(
    app: &App,
    typed: &str,
    args: &RunArgs,
    early: Option<Early>,
) -> Result<(ImageRecord, Lease)> {
    let held = (args.pull != Pull::Always).then(|| app.hold(typed));
    drop(early);
    let (record, lease) = match held {
        None => pulled(app, typed, args)?,
        Some(Err(error)) if error.kind() == ErrorKind::NotFound && args.pull == Pull::Missing => {
            pulled(app, typed, args)
                .map_err(|error| error.context(format!("image {typed} is not here")))?
        }
        Some(held) => held?,
    };
    policy::permit(app, &record, &args.access)?;
    Ok((record, lease))
}

/// The image as a root file system, unpacked when it is not there yet.
fn unpacked(app: &App, record: ImageRecord, lease: &Lease, args: &RunArgs) -> Result<RootSource> {
    let progress = Progress::new(app.format, Stderr::Shared)?;
    let (store, image) = app.resolve(&record, None)?;
    let snapshotter = app.snapshotter(args.snapshotter.as_deref())?;
    let top = app
        .unpack(&*store.driver, &snapshotter, &image, lease, &progress)
        .context(|| format!("unpack {}", record.name))?;
    Ok(RootSource::Image {
        name: record.name,
        digest: record.digest,
        top,
        config: image.config.config().clone().map(Box::new),
    })
}

fn pulled(app: &App, typed: &str, args: &RunArgs) -> Result<(ImageRecord, Lease)> {
    // What would keep the container from running is told before a long pull.
    let runtime: Option<InstanceName> = args.runtime.as_deref().map(str::parse).transpose()?;
    app.drivers.runtime_ref(runtime.as_ref())?;
    let progress = Progress::new(app.format, Stderr::Shared)?;
    let name: Reference = typed.parse()?;
    let cancel = progress.cancel.clone();
    let client = registry::client(app, &args.access, &[name.domain()], cancel)?;
    let wanted = registry::Wanted {
        platforms: Platforms::One(PlatformChoice::host()),
        platform: None,
        unpack: Unpack::Into(args.snapshotter.as_deref()),
    };
    let lease = app.lease(&[])?;
    let record = registry::image(app, &client, &name, &wanted, &lease, &progress)?;
    Ok((record, lease))
}
