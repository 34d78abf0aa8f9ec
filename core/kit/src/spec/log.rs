//! Where a container's output is kept.

use serde::{Deserialize, Serialize};

use super::parse::{parse_memory, parse_number};
use crate::error::{Error, Result, quote};

/// Whether output is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogDriver {
    /// In files of the CRI format.
    #[default]
    File,
    /// Nowhere.
    None,
}

/// `--log-opt`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Whether output is kept.
    pub driver: LogDriver,
    /// A file that has reached so many bytes is set aside.
    pub max_size: u64,
    /// So many files are kept, the current one among them.
    pub max_file: u32,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            driver: LogDriver::File,
            max_size: 100 << 20,
            max_file: 3,
        }
    }
}

impl LogOptions {
    /// Of `KEY=VALUE` words: `driver=file|none`, `max-size=SIZE` (at least
    /// 4k), `max-file=N` (1 to 100). A later word wins over an earlier.
    pub fn parse(words: &[String]) -> Result<LogOptions> {
        let mut options = LogOptions::default();
        for word in words {
            let bad = |why: &str| {
                Error::invalid(format!("--log-opt {}: {why}", quote(word)))
                    .with_hint("want driver=file|none, max-size=SIZE or max-file=N")
            };
            let (key, value) = word.split_once('=').ok_or_else(|| bad("want KEY=VALUE"))?;
            match (key, value) {
                ("driver", "file") => options.driver = LogDriver::File,
                ("driver", "none") => options.driver = LogDriver::None,
                ("driver", _) => return Err(bad("want the driver file or none")),
                ("max-size", size) => {
                    let bytes = parse_memory(size).map_err(|error| bad(error.message()))?;
                    options.max_size = bytes.unsigned_abs();
                    // Smaller than a line, each would be a file of its own.
                    if options.max_size < 4096 {
                        return Err(bad("want at least 4k"));
                    }
                }
                ("max-file", count) => {
                    let count = parse_number("number of files", count, 1..=100)
                        .map_err(|error| bad(error.message()))?;
                    options.max_file = u32::try_from(count).map_err(|_| bad("too many"))?;
                }
                _ => return Err(bad("unknown option")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            LogOptions::parse(&words)
        };
        assert_eq!(parse(&[]), Ok(LogOptions::default()));
        let options = parse(&["max-size=1m", "max-file=5", "driver=none"]).expect("options");
        assert_eq!((options.max_size, options.max_file), (1 << 20, 5));
        assert_eq!(options.driver, LogDriver::None);
        for bad in [
            "",
            "max-size",
            "max-size=",
            "max-size=1q",
            "max-size=0",
            "max-size=-1",
            "max-size=10",
            "max-file=0",
            "max-file=-1",
            "max-file=101",
            "driver=syslog",
            "tag=x",
            "max-size=1m\n",
        ] {
            let error = parse(&[bad]).expect_err(bad);
            assert!(error.message().contains("--log-opt"), "{error}");
        }
    }
}
