//! The supervisor: from a request to a running container, and from its end to
//! nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use containerkit::lock::FileLock;
use containerkit::process::{ProcessIdentity, boot_id};
use containerkit::runtime::{CreateRequest, DeleteMode, StartedProcess};
use containerkit::shim::{
    Channel, InitRecord, Intent, Listener, PROTOCOL, ShimRequest, ToClient, WireError, clear,
    kill_cgroups, own_cgroups, read_request, remove_cgroups, write_exit, write_init, write_intent,
};
use containerkit::{Error, ErrorKind, IoContext, Result, Runtime, Timestamp, mounter};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::MountPropagationFlags;
use rustix::process::Pid;

use crate::PATIENCE;
use crate::guard::{Held, farewell, planned_cgroups, tell};
use crate::oom::Oom;
use crate::peer::Peer;
use crate::reap::adopt;
use crate::streams::Streams;
use crate::watch::Watch;

/// Supervises one container, and ends.
pub(crate) fn run(
    guard: Pid,
    held: Held,
    runtime: Result<Arc<dyn Runtime>>,
    stdio: [OwnedFd; 3],
    attached: Option<Channel>,
) -> ! {
    if let Err(error) = supervise(&held, runtime, stdio, attached) {
        log::info!("not started: {error}");
        tell(
            &held.channel,
            &ToClient::Failed {
                error: WireError::from(&error),
            },
        );
    }
    if rustix::process::getppid() == Some(guard) {
        // Nothing is dropped: a driver has no say in when this ends.
        std::process::exit(0);
    }
    // The guard was killed, so its last act is ours.
    farewell(held)
}

/// An error means that nothing was started and everything is undone.
fn supervise(
    held: &Held,
    runtime: Result<Arc<dyn Runtime>>,
    stdio: [OwnedFd; 3],
    attached: Option<Channel>,
) -> Result<()> {
    let request = read_request(&held.request)?;
    request.check()?;
    // Writes this process as the holder into the lock's file.
    let _lock = FileLock::inherited(
        held.lock
            .try_clone()
            .io_context(|| "keep the container's lock")?,
        &request.state_dir.join("lock"),
    );
    let runtime = runtime?;
    let rootfs = Rootfs::mount(&request)?;
    match Container::start(&request, runtime.as_ref(), stdio, &held.channel) {
        Ok(container) => {
            container.finish(&request, runtime.as_ref(), rootfs, held, attached);
            Ok(())
        }
        Err(error) => {
            rootfs.unmount();
            Err(error)
        }
    }
}

/// The mounted root file system.
struct Rootfs {
    path: PathBuf,
    /// Locks on the mounted snapshot.
    _held: Vec<OwnedFd>,
}

impl Rootfs {
    /// Mounts in a namespace of this process, so that its end unmounts.
    fn mount(request: &ShimRequest) -> Result<Rootfs> {
        unshare(CloneFlags::CLONE_NEWNS).io_context(|| "make a mount namespace")?;
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .io_context(|| "make the mount namespace a slave")?;
        let path = request.rootfs();
        let held = mounter::hold(&request.mounts)?;
        if !request.mounts.is_empty() {
            mounter::mount_all(&request.mounts, &path)?;
        }
        Ok(Rootfs { path, _held: held })
    }

    fn unmount(self) {
        if let Err(error) = mounter::unmount(&self.path) {
            log::warn!("{error}");
        }
    }
}

/// A started container.
struct Container {
    process: StartedProcess,
    record: InitRecord,
    streams: Streams,
    listener: Listener,
    /// Its own cgroups, where memory is counted.
    cgroups: Vec<PathBuf>,
}

impl Container {
    fn start(
        request: &ShimRequest,
        runtime: &dyn Runtime,
        stdio: [OwnedFd; 3],
        channel: &Channel,
    ) -> Result<Container> {
        clear(&request.state_dir)?;
        let (mut streams, stdio) = Streams::new(request, stdio)?;
        let listener = Listener::new(&request.state_dir)?;
        write_intent(&request.state_dir, &Intent::new()?)?;
        let bundle = request.bundle.clone();
        let create = CreateRequest { bundle, stdio };
        let made = match &request.restore {
            Some(saved) => runtime.restore(&request.id, create, saved),
            None => runtime.run(&request.id, create),
        };
        let process = match made {
            Ok(process) => process,
            Err(error) => {
                streams.log_failure();
                undo(request, runtime, &[]);
                return Err(error);
            }
        };
        adopt(&process);
        let own = own_cgroups(process.pid).unwrap_or_default();
        // One that has ended is in none.
        let cgroups = match own.is_empty() {
            true => planned_cgroups(request).unwrap_or_default(),
            false => own.clone(),
        };
        let record = InitRecord {
            version: PROTOCOL,
            process: ProcessIdentity {
                pid: process.pid,
                start_time: process.start_time,
                boot_id: boot_id()?,
            },
            cgroups: own,
            at: Timestamp::now(),
        };
        let connected =
            write_init(&request.state_dir, &record).and_then(|()| streams.connect(request));
        if let Err(error) = connected {
            undo(request, runtime, &record.cgroups);
            return Err(error);
        }
        // Here, so that no end is told before it.
        request.tell("start", |event| event.with("pid", process.pid));
        // A terminal that the shim holds is reached by pipes.
        let console = streams.console.as_ref().filter(|_| !streams.is_held);
        let fds: Vec<BorrowedFd<'_>> = console.into_iter().map(AsFd::as_fd).collect();
        let started = ToClient::Started { pid: process.pid };
        if let Err(error) = channel.send(&started, &fds) {
            log::info!("the client does not hear: {error}");
        }
        Ok(Container {
            process,
            record,
            streams,
            listener,
            cgroups,
        })
    }

    /// Waits for the end of the container and removes it.
    fn finish(
        self,
        request: &ShimRequest,
        runtime: &dyn Runtime,
        rootfs: Rootfs,
        held: &Held,
        attached: Option<Channel>,
    ) {
        let (init, streams, listener) = (&self.process, self.streams, self.listener);
        let oom = Oom::watch(request, self.cgroups);
        let watched = Watch::new(request, runtime, held, init, streams, listener, oom);
        let ended = watched.and_then(|mut watch| {
            if let Some(channel) = attached {
                watch.welcome(Peer::new(channel));
            }
            watch.run().map(|exit| (watch, exit))
        });
        let (mut watch, mut exit) = match ended {
            Ok(ended) => ended,
            // The guard ends it in order.
            Err(error) => {
                log::error!("{error}");
                std::process::exit(1);
            }
        };
        exit.oom_killed = watch.oom.finish();
        // An init without a pid namespace of its own leaves others behind.
        if let Err(error) = kill_cgroups(&self.record.cgroups, PATIENCE) {
            log::error!("{error}");
        }
        watch.drain();
        let exit = write_exit(&request.state_dir, exit.clone()).unwrap_or_else(|error| {
            log::error!("{error}");
            exit
        });
        request.tell("exit", |event| event.ended(&exit));
        rootfs.unmount();
        watch.end(&exit);
        tell(&held.channel, &ToClient::Exited { exit });
        let error = match runtime.delete(&request.id, DeleteMode::Force) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                log::error!("remove the container: {error}");
                Some(WireError::from(&error))
            }
        };
        tell(&held.channel, &ToClient::Gone { error });
    }
}

/// Removes what a failed start left. Its own error would hide the first.
fn undo(request: &ShimRequest, runtime: &dyn Runtime, cgroups: &[PathBuf]) {
    let log_error = |result: Result<(), Error>| {
        if let Err(error) = result
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("undo the start: {error}");
        }
    };
    // A runtime that failed, or was killed, half-way does not know of all the
    // cgroups that it had made.
    let planned = planned_cgroups(request).unwrap_or_else(|error| {
        log::warn!("undo the start: {error}");
        Vec::new()
    });
    log_error(kill_cgroups(cgroups, PATIENCE));
    log_error(kill_cgroups(&planned, PATIENCE));
    log_error(runtime.delete(&request.id, DeleteMode::Force));
    remove_cgroups(cgroups);
    remove_cgroups(&planned);
}
