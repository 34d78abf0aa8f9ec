//! How long a transfer may take in all.

use std::time::{Duration, Instant};

use containerkit::{Error, ErrorKind, Result};

/// When a transfer must have ended, if ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// From now on; what the clock cannot count is for ever.
    pub(crate) fn within(limit: Option<Duration>) -> Deadline {
        Deadline(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// What is left; `None` is for ever.
    pub(crate) fn left(self) -> Option<Duration> {
        let end = self.0?;
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// An error when the time is out.
    pub(crate) fn check(self) -> Result<()> {
        match self.left() {
            Some(left) if left.is_zero() => Err(Error::new(
                ErrorKind::Timeout,
                "it takes longer than the registry's timeout allows",
            )),
            _ => Ok(()),
        }
    }
}
