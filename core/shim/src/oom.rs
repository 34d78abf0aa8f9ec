//! Processes of the container that the kernel kills for lack of memory: told
//! as an event when it happens, and in the exit record.
//!
//! Version 1 signals an eventfd before it chooses whom to kill, so its counter
//! is looked at again for a while, until it has grown. Version 2 changes a
//! file.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use containerkit::shim::{EventSource, ShimRequest};
use containerkit::stats::oom_kills;
use containerkit::{ContainerId, IoContext, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Timespec, inotify};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// How often the counter is looked at after a signal, each 10 ms.
const LOOKS: u32 = 100;
const PAUSE: i64 = 10_000_000;

/// The kills of one container.
pub(crate) struct Oom {
    cgroups: Vec<PathBuf>,
    told: u64,
    id: ContainerId,
    events: Option<EventSource>,
    /// Readable at each kill, and once the cgroup is gone.
    signal: Option<OwnedFd>,
    timer: Option<OwnedFd>,
    looks: u32,
}

impl Oom {
    /// Begins to watch. Where the kernel does not say when, the kills are told
    /// at the end.
    pub(crate) fn watch(request: &ShimRequest, cgroups: Vec<PathBuf>) -> Oom {
        let signal = signal(&cgroups).unwrap_or_else(|error| {
            log::info!("kills for lack of memory are told at the end: {error}");
            None
        });
        Oom {
            cgroups,
            told: 0,
            id: request.id.clone(),
            events: request.events.clone(),
            signal,
            timer: None,
            looks: 0,
        }
    }

    /// What is readable when there is something to [look](Oom::look) at.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = self.signal.iter().chain(&self.timer);
        fds.map(AsFd::as_fd)
    }

    /// Tells of new kills.
    pub(crate) fn look(&mut self) {
        let mut buffer = [0u8; 1024];
        let mut read = |fd: &OwnedFd| rustix::io::read(fd, &mut buffer[..]).is_ok();
        if self.signal.as_ref().is_some_and(&mut read) {
            self.looks = LOOKS;
            self.timer = timer().inspect_err(|error| log::warn!("{error}")).ok();
        }
        if self.timer.as_ref().is_some_and(&mut read) {
            self.looks = self.looks.saturating_sub(1);
        }
        if self.tell() || self.looks == 0 {
            self.timer = None;
        }
        // A cgroup that is gone would be readable for ever.
        if !self.cgroups.iter().any(|folder| folder.exists()) {
            self.signal = None;
            self.timer = None;
        }
    }

    /// Whether there was any, when the container has ended; what was not told
    /// yet is told.
    pub(crate) fn finish(&mut self) -> bool {
        self.tell();
        self.told > 0
    }

    /// Whether there were more than last time.
    fn tell(&mut self) -> bool {
        let now = oom_kills(&self.cgroups);
        if now <= self.told {
            return false;
        }
        if let Some(source) = &self.events {
            source.tell(&self.id, "oom", |event| {
                event.with("kills", now - self.told)
            });
        }
        self.told = now;
        true
    }
}

fn signal(cgroups: &[PathBuf]) -> Result<Option<OwnedFd>> {
    let of = |name: &str| {
        let mut paths = cgroups.iter().map(|folder| folder.join(name));
        paths.find(|path| path.exists())
    };
    if let Some(file) = of("memory.events") {
        let what = || format!("watch {}", file.display());
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).io_context(what)?;
        inotify::add_watch(&fd, &file, inotify::WatchFlags::MODIFY).io_context(what)?;
        return Ok(Some(fd));
    }
    let (Some(file), Some(control)) = (of("memory.oom_control"), of("cgroup.event_control")) else {
        return Ok(None);
    };
    let what = || format!("watch {}", file.display());
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).io_context(what)?;
    let opened = std::fs::File::open(&file).io_context(what)?;
    let order = format!("{} {}", fd.as_raw_fd(), opened.as_raw_fd());
    std::fs::write(control, order).io_context(what)?;
    Ok(Some(fd))
}

fn timer() -> Result<OwnedFd> {
    let what = || "make a timer";
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags).io_context(what)?;
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: PAUSE,
    };
    let each = Itimerspec {
        it_interval: pause,
        it_value: pause,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &each).io_context(what)?;
    Ok(timer)
}
