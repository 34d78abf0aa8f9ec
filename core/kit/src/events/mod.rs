//! Events: what happened to containers and images, in one order that every
//! process sees.
//!
//! # The log
//! `events.jsonl` in `<state>/events` holds one JSON object a line, oldest
//! first; its first line is a head with a version and the boot. Who appends
//! holds an exclusive lock, numbers its event one above the last and gives it
//! a time that is not before the last one's: so number, time and place agree,
//! whichever process wrote. A file that has grown to [`LIMIT`] bytes becomes
//! `events.1.jsonl`; a few old ones are kept. The log ends with the boot.
//!
//! # Kinds
//! | kind | told when | attributes |
//! |---|---|---|
//! | `create`, `delete` | a container is made whole; is forgotten | |
//! | `start` | its program was let go | `pid` |
//! | `kill` | a signal was sent on request | `signal` |
//! | `pause`, `resume`, `update` | it was frozen, thawed, given other limits | |
//! | `oom` | the kernel killed one of its processes for lack of memory | `kills` |
//! | `exit` | its init ended | `exit_code`, `signal`, `source`, `oom_killed` |
//! | `exec` | a further process began | `exec`, `pid` |
//! | `checkpoint`, `restore` | its processes were saved, made from saved ones | `path` |
//! | `pull`, `import`, `tag`, `remove` | an image got or lost a name | |
//!
//! A newer program may add kinds and attributes.

mod append;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::ContainerId;
use crate::shim::ExitRecord;
use crate::value::Timestamp;

pub use read::Reader;

/// The version of the log's format.
pub const VERSION: u32 = 1;
/// A file of so many bytes is followed by the next.
pub const LIMIT: u64 = if cfg!(test) { 8 << 10 } else { 4 << 20 };
/// Old files that are kept.
const KEPT: u32 = 3;
/// No line is longer.
const LINE_LIMIT: usize = 32 << 10;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; grows by one.
    #[serde(default)]
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// What happened, see the [module](self).
    #[serde(rename = "type")]
    pub kind: String,
    /// The container's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ContainerId>,
    /// The container's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image's name, of a container too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of now; number and final time come with
    /// [`EventLog::append`].
    pub fn new(kind: &str) -> Event {
        Event {
            seq: 0,
            time: Timestamp::now(),
            kind: kind.to_owned(),
            id: None,
            name: None,
            image: None,
            attributes: BTreeMap::new(),
        }
    }

    /// An event of a container.
    pub fn of_container(kind: &str, id: &ContainerId, name: &str) -> Event {
        Event {
            id: Some(id.clone()),
            name: Some(name.to_owned()),
            ..Event::new(kind)
        }
    }

    /// Names the image.
    #[must_use]
    pub fn image(mut self, image: Option<String>) -> Event {
        self.image = image;
        self
    }

    /// Adds how the container's init ended.
    #[must_use]
    pub fn ended(self, exit: &ExitRecord) -> Event {
        let event = self
            .with("exit_code", exit.status())
            .with("source", exit.source.name())
            .with("oom_killed", exit.oom_killed);
        match exit.signal {
            Some(signal) => event.with("signal", signal),
            None => event,
        }
    }

    /// Adds an attribute; a long value is cut.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Event {
        let mut value = value.to_string();
        if value.len() > 4096 {
            let end = (0..=4096).rev().find(|at| value.is_char_boundary(*at));
            value.truncate(end.unwrap_or(0));
        }
        self.attributes.insert(key.to_owned(), value);
        self
    }
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
}

/// The log of one `state` folder.
#[derive(Clone, Debug)]
pub struct EventLog {
    dir: PathBuf,
}

impl EventLog {
    /// The log below a kit's `state` folder, made when something is appended.
    pub fn new(state: &Path) -> EventLog {
        EventLog {
            dir: state.join("events"),
        }
    }

    /// Appends an event; a failure is logged and is no failure of what
    /// happened.
    pub fn tell(&self, event: Event) {
        let kind = event.kind.clone();
        if let Err(error) = self.append(event) {
            log::warn!("event {kind}: {error}");
        }
    }

    /// A reader from the oldest event that is kept.
    pub fn read(&self) -> crate::Result<Reader> {
        Reader::new(&self.dir)
    }

    fn current(&self) -> PathBuf {
        file(&self.dir, 0)
    }
}

/// The file of so many rotations ago.
fn file(dir: &Path, age: u32) -> PathBuf {
    match age {
        0 => dir.join("events.jsonl"),
        age => dir.join(format!("events.{age}.jsonl")),
    }
}

#[cfg(test)]
mod tests;
