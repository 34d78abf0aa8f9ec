//! Results to stdout, errors to stderr.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use containerkit::{Error, Result};
use serde::Serialize;

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    Text,
    /// One JSON document.
    Json,
}

/// A line keeps under 4096 bytes, with control characters escaped.
pub(crate) fn one_line(text: &str) -> String {
    const LIMIT: usize = 4000;
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if line.len() >= LIMIT {
            line.push('…');
            break;
        }
        push_safe(&mut line, c);
    }
    line
}

/// The same without a limit.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|c| push_safe(&mut safe, c));
    safe
}

fn push_safe(line: &mut String, c: char) {
    match is_unsafe(c) {
        true => line.extend(c.escape_default()),
        false => line.push(c),
    }
}

/// Controls, and the bidirectional overrides that reorder a terminal's line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// `error: …` and its hints.
pub(crate) fn print_error(error: &Error) {
    let mut text = error.to_string();
    if let (Some(driver), Some(operation)) = (error.driver(), error.operation())
        && !text.contains(driver)
    {
        text = format!("{text} (driver {driver}, {operation})");
    }
    print_error_text(&text, error.hint());
}

/// `error: …`, then a hint line for each line of `hint`.
pub(crate) fn print_error_text(text: &str, hint: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", one_line(text));
    for line in hint.unwrap_or_default().lines() {
        let _ = writeln!(stderr, "hint: {}", one_line(line));
    }
}

/// Whether nobody reads what is printed any more.
pub(crate) fn reader_gone() -> bool {
    GONE.load(Ordering::Relaxed)
}

static GONE: AtomicBool = AtomicBool::new(false);

/// The first error of writing to stdout.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Text to stdout. A reader that has gone is no error of ours; any other is
/// kept for [`failure`].
pub(crate) fn print_text(text: &str) {
    print_bytes(text.as_bytes());
}

/// The same of what need not be text.
pub(crate) fn print_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(error) = written {
        GONE.store(true, Ordering::Relaxed);
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return;
        }
        let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| Error::io("write to standard output", error));
    }
}

/// Why a result could not be written, when it could not.
pub(crate) fn failure() -> Option<Error> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What was done to which objects: a line each, or a JSON array.
pub(crate) fn print_names(format: Format, names: &[String]) -> Result<()> {
    match format {
        Format::Json => print_json(&names),
        Format::Text => {
            names.iter().for_each(|name| print_line(name));
            Ok(())
        }
    }
}

/// A line to stdout, control characters escaped.
pub(crate) fn print_line(text: &str) {
    print_text(&format!("{}\n", one_line(text)));
}

/// One JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::internal("write JSON").with_source(e))?;
    let mut safe = escape_json(&text);
    safe.push('\n');
    print_text(&safe);
    Ok(())
}

/// JSON leaves these as they are, and terminals obey them. They can stand in
/// strings only, where an escape means the same.
fn escape_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && is_unsafe(c) {
            safe.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// One JSON object on one line of a stream.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string(value).map_err(|e| Error::internal("write JSON").with_source(e))?;
    let mut safe = escape_json(&text);
    safe.push('\n');
    print_text(&safe);
    Ok(())
}

/// Left-aligned columns under upper-case heads.
pub(crate) fn print_table(heads: &[&str], rows: &[Vec<String>]) {
    let cell = |text: &str| one_line(text);
    let mut widths: Vec<usize> = heads.iter().map(|head| head.len()).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|text| cell(text)).collect())
        .collect();
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let mut out = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_string()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let mut line = String::new();
        for (width, text) in widths.iter().zip(row) {
            line.push_str(text);
            line.extend(std::iter::repeat_n(' ', width + 2 - text.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    print_text(&out);
}

/// Bytes for people: `1.5 MiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_free_of_controls() {
        let line = one_line(&format!("a\nb\u{1b}[31m\u{202e}{}", "x".repeat(9000)));
        assert!(
            line.len() < 4096 && !line.chars().any(char::is_control),
            "{line}"
        );
        assert!(line.starts_with("a\\nb\\u{1b}[31m\\u{202e}xxx"));
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human_size(1023), "1023 B");
        assert_eq!(human_size(1536), "1.5 KiB");
        assert_eq!(human_size(u64::MAX), "16384.0 PiB");
    }
}
