//! The last words of a program that hangs in a driver.

use std::time::Duration;

use containerkit::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a reader of the standard error may take to make room.
const PATIENCE: Duration = Duration::from_secs(1);
/// A line, control characters escaped, stays below this.
const LINE: usize = 1900;

/// `error: …` and `hint: …` on the standard error, past the lock that the
/// thread that hangs may hold, in one write of less than a pipe's page.
pub(crate) fn print_last(error: &Error) {
    let mut text = format!("error: {}\n", line(&error.to_string()));
    for hint in error.hint().unwrap_or_default().lines() {
        text.push_str(&format!("hint: {}\n", line(hint)));
    }
    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    if matches!(poll(&mut fds, Some(&timeout)), Ok(1)) {
        let _ = rustix::io::write(&stderr, text.as_bytes());
    }
}

fn line(text: &str) -> String {
    let safe: String = text.chars().flat_map(escaped).collect();
    let mut end = safe.len().min(LINE);
    while !safe.is_char_boundary(end) {
        end -= 1;
    }
    safe[..end].to_owned()
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let control = c.is_control();
    let plain = (!control).then_some(c);
    let escape = control.then(|| c.escape_default());
    plain.into_iter().chain(escape.into_iter().flatten())
}
