//! Hand a created container over to its shim.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::Containers;
use super::create::Created;
use crate::error::{Error, IoContext, Result};
use crate::fs;
use crate::lock::{FileLock, Wait};
use crate::logs::LogFiles;
use crate::mount::Mount;
use crate::record::{AfterExit, ContainerRecord, Lifetime};
use crate::shim::{
    self, EventSource, Hold, Link, PROTOCOL, RuntimeRef, Shim, ShimRequest, Standby,
};
use crate::spec::LogDriver;
use crate::step::step;

/// How long a shim that is ending may take.
const SHIM_END: Duration = Duration::from_secs(20);

impl Containers {
    /// Takes a container that has ended, or was only made, for another start:
    /// the same snapshot, the same bundle, made anew after a reboot.
    /// `FailedPrecondition` while it runs.
    pub fn ready(&self, record: &ContainerRecord, runtime: RuntimeRef) -> Result<Created> {
        let status = self.status(record)?;
        if status.is_live() {
            return Err(Error::precondition(format!(
                "container {} is running already",
                record.name
            )));
        }
        if record.lifetime != Lifetime::Durable || !self.is_whole(&record.id) {
            return Err(Error::precondition(format!(
                "container {} cannot be started again: it is being made, or is removed at its end",
                record.name
            )));
        }
        self.make_state_dir(&record.id)?;
        let lock = FileLock::acquire(
            &self.lock_path(&record.id),
            &format!("container {}", record.name),
            Wait::AtMost(SHIM_END),
        )?;
        // It may have been removed, or have run, while we waited.
        let record = self.records.container(&record.id)?;
        let settings = self.settings(&record.id)?;
        self.restore_bundle(&record.id)?;
        let mounts = self.root_mounts(&record, &self.spec(&record.id)?)?;
        Ok(Created {
            containers: self.clone(),
            armed: false,
            lock: Some(lock),
            mounts,
            terminal: settings.terminal,
            restore: None,
            runtime,
            record,
        })
    }

    /// Starts a shim for a container that is still to be made, so that it
    /// loads the runtime meanwhile.
    pub fn standby(&self, runtime: &RuntimeRef) -> Result<Standby> {
        Standby::start(&self.shim, runtime, &log_level())
    }

    /// The mount of a container on a folder of the host.
    pub(super) fn directory(&self, record: &ContainerRecord) -> Result<Vec<Mount>> {
        let settings = self.settings(&record.id)?;
        match settings.rootfs {
            Some(dir) => Ok(vec![Mount::bind(dir, crate::mount::Access::ReadWrite)]),
            None => Err(Error::data_loss(format!(
                "container {} has neither a snapshot nor a folder",
                record.name
            ))),
        }
    }

    /// After a start that failed: a container that was made for it goes, any
    /// other is as it was before.
    pub fn undo_start(&self, record: &ContainerRecord, shim: Shim, made: Made) -> Result<()> {
        if made == Made::ForThis {
            return self.remove_ended(record, shim);
        }
        let finished = shim.finish();
        let path = self.lock_path(&record.id);
        let what = format!("container {}", record.name);
        let _lock = FileLock::acquire(&path, &what, Wait::AtMost(SHIM_END))?;
        let dir = self.state_dir(&record.id);
        if shim::read_init(&dir)?.is_none() && shim::read_exit(&dir)?.is_none() {
            shim::clear(&dir)?;
        }
        finished
    }
}

/// What a start was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A container that was made for this start.
    ForThis,
    /// One that was there before.
    Before,
}

/// How a command stays with what it launches.
#[derive(Debug)]
pub enum Launch {
    /// It waits for the end, and these are its standard streams.
    Foreground([OwnedFd; 3]),
    /// It goes.
    Background,
}

/// A launched container.
#[derive(Debug)]
pub struct Launched {
    /// Its shim.
    pub shim: Shim,
    /// Attached to its terminal, where the shim holds that and the command
    /// stays.
    pub link: Option<Link>,
}

impl Created {
    /// Starts the shim, which takes the lock and the standard streams. From
    /// here on the container is the shim's; the caller ends with
    /// [`Containers::remove_ended`](super::Containers::remove_ended), or with
    /// [`Shim::finish`] for one that is kept.
    ///
    /// A container that is removed at the end of the command that runs it has
    /// the command's own streams, untouched and unlogged: nobody could read
    /// its log. The streams of any other are held by the shim.
    pub fn launch(self, launch: Launch) -> Result<Launched> {
        let standby = self.containers.standby(&self.runtime)?;
        self.launch_on(standby, launch)
    }

    /// The same with a shim that [stands by](Containers::standby) with the
    /// container's runtime.
    pub fn launch_on(mut self, standby: Standby, launch: Launch) -> Result<Launched> {
        let lock = self
            .lock
            .take()
            .ok_or_else(|| Error::internal("a container without a lock"))?;
        let id = &self.record.id;
        let mut cleanup = Vec::new();
        if self.record.after_exit == AfterExit::Remove {
            cleanup.clone_from(&self.containers.cleanup);
            cleanup.push(id.to_string());
        }
        if self.record.lifetime == Lifetime::Durable {
            self.containers.begin_run(id)?;
        }
        let hold = self.hold(&launch)?;
        let link = match (&hold, &launch) {
            (Some(_), Launch::Foreground(_)) if self.terminal => Some(Link::pair(id)?),
            _ => None,
        };
        let (link, theirs) = link.unzip();
        let stdio = match launch {
            Launch::Foreground(stdio) => stdio,
            Launch::Background => [null()?, null()?, null()?],
        };
        let request = ShimRequest {
            version: PROTOCOL,
            id: id.clone(),
            bundle: self.containers.bundle_dir(id),
            mounts: self.mounts.clone(),
            runtime: self.runtime.clone(),
            restore: self.restore.clone(),
            terminal: self.terminal,
            hold,
            state_dir: self.containers.state_dir(id),
            cleanup,
            events: Some(EventSource {
                state: self.containers.state.clone(),
                name: self.record.name.clone(),
                image: self.record.image.as_ref().map(ToString::to_string),
            }),
            log_level: log_level(),
        };
        step("container.launch");
        // A failed launch dropped the lock, and `self` undoes the rest.
        let shim = standby.launch(&request, stdio, lock, theirs)?;
        self.armed = false;
        Ok(Launched { shim, link })
    }

    fn hold(&self, launch: &Launch) -> Result<Option<Hold>> {
        let stays = matches!(launch, Launch::Foreground(_));
        if stays && self.record.lifetime == Lifetime::Ephemeral {
            return Ok(None);
        }
        let id = &self.record.id;
        let settings = self.containers.settings(id)?;
        let log = match settings.log.driver {
            LogDriver::None => None,
            LogDriver::File => {
                fs::ensure_dir(&self.containers.root_dir(id), 0o711)?;
                Some(LogFiles {
                    folder: self.containers.log_dir(id),
                    max_size: settings.log.max_size,
                    max_file: settings.log.max_file,
                })
            }
        };
        Ok(Some(Hold {
            stdin: settings.open_stdin && (self.terminal || !stays),
            log,
        }))
    }
}

fn log_level() -> String {
    log::max_level().as_str().to_ascii_lowercase()
}

pub(super) fn null() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty()).io_context(|| "open /dev/null")
}
