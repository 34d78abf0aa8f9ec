//! The `log` facade, forwarded. Each shared object has its own statics of the
//! `log` crate; its logger is the host's, and a disabled level costs the one
//! load that it costs everywhere.

use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::guard;
use super::mirror::FLoggerArc;

struct Forward(FLoggerArc);

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let message = record.args().to_string();
            self.0.log(
                record.level() as u32,
                record.target().into(),
                message.as_str().into(),
            );
        }
    }

    fn flush(&self) {}
}

pub fn filter(level: u32) -> LevelFilter {
    LevelFilter::iter()
        .find(|filter| *filter as u32 == level)
        .unwrap_or(LevelFilter::Trace)
}

pub fn level(level: u32) -> Level {
    filter(level).to_level().unwrap_or(Level::Error)
}

/// The driver's side of `DriverModule::init`.
pub extern "C" fn init(logger: FLoggerArc) {
    static LOGGER: OnceLock<Forward> = OnceLock::new();
    guard::install_hook();
    // Nothing here is a driver's code, yet no panic may cross.
    let _ = guard::catch(|| {
        let level = filter(logger.max_level());
        if log::set_logger(LOGGER.get_or_init(|| Forward(logger))).is_ok() {
            log::set_max_level(level);
        }
    });
}

/// The driver's side of `DriverModule::set_log_level`.
pub extern "C" fn set_level(level: u32) {
    log::set_max_level(filter(level));
}
