//! `log` to standard error, which is `shim.log`.

use std::io::Write;

use containerkit::Timestamp;
use log::{LevelFilter, Log, Metadata, Record};

struct Logger;

/// Begins to log; `level` as in the request.
pub(crate) fn init(level: &str) {
    log::set_max_level(level.parse().unwrap_or(LevelFilter::Warn));
    // Fails only when there is one already.
    let _ = log::set_logger(&Logger);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // One write a line, so that two processes do not mix theirs. A
            // full disk must not end a container.
            let line = format!(
                "{} {} {} {}\n",
                Timestamp::now(),
                record.level(),
                record.target(),
                record.args().to_string().escape_debug()
            );
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
