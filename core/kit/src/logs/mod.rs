//! The output of containers in files, in the format that the CRI gave a name.
//!
//! # Format
//! A line of a file is `TIME STREAM TAG TEXT`: RFC 3339 with nanoseconds,
//! `stdout` or `stderr`, and `F` where the container's line ends here or `P`
//! where it goes on in the next line of the same stream. What was read at once
//! is written at once, so that a killed shim loses nothing that it had read;
//! a prompt without a newline is a `P`.
//!
//! # Files
//! A folder a container, in it `N.log` with N counting up. When a file has
//! reached its size the writer begins the next and removes those that are too
//! many. Nothing is ever renamed: whoever reads file N is at its end when
//! there is a greater number, and goes on there. So no line is read twice and
//! none is missed, unless its file went while the reader was far behind.

mod line;
mod read;
mod write;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use line::{Entry, Stream};
pub use read::Reader;
pub use write::Writer;

/// Where the shim writes, and how much is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// The folder, absolute. Made when it is missing.
    pub folder: PathBuf,
    /// A file that has reached so many bytes is the last but one.
    pub max_size: u64,
    /// So many files are kept, at least one.
    pub max_file: u32,
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.log"))
}

/// The numbers of the files in a folder, ascending; none where there is none.
fn numbers(folder: &Path) -> Vec<u64> {
    let mut found: Vec<u64> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(".log")?.parse().ok()
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
