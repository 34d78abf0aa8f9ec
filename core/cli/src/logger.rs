//! Log lines to stderr. None begins with `error: `, which is the result's.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = crate::output::one_line(&record.args().to_string());
            let level = record.level().as_str().to_ascii_lowercase();
            let _ = writeln!(std::io::stderr(), "[{level}] {}: {text}", record.target());
        }
    }

    fn flush(&self) {}
}

/// Installs the logger; until a configuration says otherwise, warnings show.
pub(crate) fn init(level: Option<LevelFilter>) {
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level.unwrap_or(LevelFilter::Warn));
}
