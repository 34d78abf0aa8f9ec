//! Small values that several contracts share: times, labels, pages, usage.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, quote};

/// A point in time; text is RFC 3339 in UTC with nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// Now.
    pub fn now() -> Timestamp {
        Timestamp(SystemTime::now())
    }

    /// From nanoseconds since the Unix epoch; what a file system or the ABI
    /// gives. Times before 1970 become 1970.
    pub fn from_unix_nanos(nanos: i64) -> Timestamp {
        let nanos = u64::try_from(nanos).unwrap_or(0);
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    /// Nanoseconds since the Unix epoch, up to the year 2262.
    pub fn unix_nanos(self) -> i64 {
        let since = self
            .0
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// How long ago that was; zero for the future.
    pub fn age(self) -> Duration {
        SystemTime::now().duration_since(self.0).unwrap_or_default()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        Timestamp(time.max(SystemTime::UNIX_EPOCH))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        time.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_nanos(self.0).fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;
    fn from_str(text: &str) -> Result<Timestamp> {
        humantime::parse_rfc3339(text)
            .map(Timestamp)
            .map_err(|_| Error::invalid(format!("time {}: want RFC 3339 in UTC", quote(text))))
    }
}

crate::ids::serde_as_text!(Timestamp);

/// Key-value pairs that a caller attaches to a snapshot, blob, image or
/// container. Keys: 1 to 256 bytes, values up to 4096, no control characters.
pub type Labels = BTreeMap<String, String>;

/// Refuses labels outside the limits of [`Labels`].
pub fn check_labels(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        let bad = |why: &str| Error::invalid(format!("label {}: {why}", quote(key)));
        if key.is_empty() || key.len() > 256 {
            return Err(bad("a key has 1 to 256 bytes"));
        }
        if value.len() > 4096 {
            return Err(bad("a value has at most 4096 bytes"));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return Err(bad("control characters are not allowed"));
        }
    }
    Ok(())
}

/// A change of labels: what `None` names is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChanges {
    /// Drop every label that is not named in `set`.
    pub replace_all: bool,
    /// New values; `None` removes the key.
    pub set: BTreeMap<String, Option<String>>,
}

impl LabelChanges {
    /// The labels after the change, checked.
    pub fn apply(&self, labels: &Labels) -> Result<Labels> {
        let mut result = if self.replace_all {
            Labels::new()
        } else {
            labels.clone()
        };
        for (key, value) in &self.set {
            match value {
                Some(value) => result.insert(key.clone(), value.clone()),
                None => result.remove(key),
            };
        }
        check_labels(&result)?;
        Ok(result)
    }
}

/// One page of a listing in name order, so that no call returns without bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Begin after this name; `None` from the first.
    pub after: Option<String>,
    /// At most so many, at least 1.
    pub limit: u32,
}

impl Default for Page {
    fn default() -> Page {
        Page {
            after: None,
            limit: 1000,
        }
    }
}

/// More entries than any listing is worth: a driver that makes up names would
/// fill the memory.
pub const LISTING_LIMIT: usize = 4_000_000;

/// Walks all pages: `fetch` gives one page, `name` the sort key of an entry.
pub fn all_pages<T>(
    mut fetch: impl FnMut(&Page) -> Result<Vec<T>>,
    name: impl Fn(&T) -> String,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    let mut page = Page::default();
    loop {
        let part = fetch(&page)?;
        let last = part.last().map(&name);
        let full = part.len() >= page.limit as usize;
        if all.len() + part.len() > LISTING_LIMIT {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("the listing has more than {LISTING_LIMIT} entries"),
            ));
        }
        all.extend(part);
        match last {
            // A driver that repeats itself must not keep us here for ever.
            Some(last) if full && page.after.as_ref().is_none_or(|after| *after < last) => {
                page.after = Some(last);
            }
            _ => return Ok(all),
        }
    }
}

/// Disk usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes, as `st_blocks` counts them; a hard link counts once.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_keep_nanoseconds() {
        let time = Timestamp::from_unix_nanos(1_700_000_000_123_456_789);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        assert_eq!(Timestamp::from_unix_nanos(-5).unix_nanos(), 0);
    }

    #[test]
    fn pages_end_even_when_a_driver_repeats_itself() {
        let page = vec!["a".to_string(); 1000];
        let all = all_pages(|_| Ok(page.clone()), String::clone).expect("pages");
        assert_eq!(all.len(), 2000);
    }
}
