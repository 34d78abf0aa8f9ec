//! What a driver does to the process that loads it: looked at before and
//! after its library is loaded and an instance is opened, once each, and in
//! part when the instance is dropped; a look at each call would cost more than
//! the call.
//!
//! The folder, the umask, what signals do, the environment and descriptors
//! that started programs inherit belong to the program. What can be put back
//! is put back, so that the program ends in order and other drivers get what
//! they should.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use containerkit::{Error, Result, quote};
use rustix::fs::Mode;

use super::sys::{Disposition, dispositions, is_inherited};

/// Descriptors that are looked at. A driver is loaded early, when there are few.
const DESCRIPTORS: RawFd = 256;

/// What belongs to the program.
pub struct Surroundings {
    folder: Option<PathBuf>,
    status: Status,
    signals: Vec<Disposition>,
    environment: BTreeMap<OsString, OsString>,
    inherited: Vec<RawFd>,
}

/// What `/proc` says of this thread; nothing where it is not mounted.
#[derive(Default)]
struct Status {
    umask: Option<u32>,
    blocked: Option<u64>,
}

impl Surroundings {
    /// As they are now.
    pub fn now() -> Surroundings {
        Surroundings {
            folder: std::env::current_dir().ok(),
            status: Status::now(),
            signals: dispositions(),
            environment: std::env::vars_os().collect(),
            inherited: (0..DESCRIPTORS).filter(|fd| is_inherited(*fd)).collect(),
        }
    }

    /// Fails with the first that changed since; folder, umask and signals are
    /// put back.
    pub fn check(&self, when: &str) -> Result<()> {
        let Some(what) = self.changed() else {
            return Ok(());
        };
        self.restore();
        Err(Error::internal(format!(
            "the driver breaks its contract: while {when} it {what}"
        ))
        .with_hint("this is a defect of the driver: tell its author, with this line"))
    }

    /// Tells in the log what changed while `who` was in use, of what the
    /// program itself leaves alone: folder, umask and environment. The first
    /// two are put back.
    pub(crate) fn check_stay(&self, who: &str) {
        let Some(what) = self.changed_place(&Status::now()) else {
            return;
        };
        self.restore_place();
        log::error!("{who}: the driver breaks its contract: while it was in use it {what}");
    }

    /// What changed since, in the past tense.
    pub fn changed(&self) -> Option<String> {
        let now = Surroundings::now();
        if self.status.blocked != now.status.blocked {
            return Some("changed the blocked signals".into());
        }
        if let Some((before, now)) = self.changed_signals(&now).next() {
            return Some(format!(
                "changed what signal {} does: it was {}, it is {}",
                before.signal(),
                before.name(),
                now.name()
            ));
        }
        if let Some(fd) = now.inherited.iter().find(|fd| !self.inherited.contains(fd)) {
            return Some(format!(
                "opened descriptor {fd} without close-on-exec, so that programs started here get it"
            ));
        }
        if let Some(fd) = self.inherited.iter().find(|fd| !now.inherited.contains(fd)) {
            return Some(format!("closed descriptor {fd}, which is not its own"));
        }
        self.changed_place(&now.status)
    }

    fn changed_place(&self, now: &Status) -> Option<String> {
        let folder = std::env::current_dir().ok();
        if folder != self.folder {
            let folder = quote(&folder.unwrap_or_default().to_string_lossy());
            return Some(format!("changed the current folder to {folder}"));
        }
        if let (Some(before), Some(now)) = (self.status.umask, now.umask)
            && before != now
        {
            return Some(format!("changed the umask from {before:04o} to {now:04o}"));
        }
        let environment: BTreeMap<_, _> = std::env::vars_os().collect();
        let names = self.environment.keys().chain(environment.keys());
        let mut names = names.filter(|n| self.environment.get(*n) != environment.get(*n));
        let name = quote(&names.next()?.to_string_lossy());
        Some(format!("changed the environment variable {name}"))
    }

    fn changed_signals<'a>(
        &'a self,
        now: &'a Surroundings,
    ) -> impl Iterator<Item = (&'a Disposition, &'a Disposition)> {
        let pairs = self.signals.iter().zip(&now.signals);
        pairs.filter(|(before, now)| before != now)
    }

    fn restore_place(&self) {
        if let Some(folder) = &self.folder
            && std::env::current_dir().ok().as_ref() != Some(folder)
            && let Err(error) = std::env::set_current_dir(folder)
        {
            log::warn!("change back to {}: {error}", folder.display());
        }
        if let Some(umask) = self.status.umask {
            rustix::process::umask(Mode::from_raw_mode(umask));
        }
    }

    fn restore(&self) {
        self.restore_place();
        let now = Surroundings::now();
        for (before, _) in self.changed_signals(&now) {
            before.restore();
        }
    }
}

impl Status {
    fn now() -> Status {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        Status {
            umask: field("Umask:").and_then(|text| u32::from_str_radix(text, 8).ok()),
            blocked: field("SigBlk:").and_then(|text| u64::from_str_radix(text, 16).ok()),
        }
    }
}
