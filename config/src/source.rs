//! A file of the configuration as text, and places in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerkit::fs::read_limited;
use containerkit::{Error, IoContext, Result, quote};
use rustix::fs::{FileType, Mode, OFlags};

/// No configuration is larger than this.
pub(crate) const SIZE_LIMIT: u64 = 1 << 20;

/// Where a value of the configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default, at this line.
    BuiltIn {
        /// From 1.
        line: usize,
    },
    /// A place in a file.
    File {
        /// The file, as it was found.
        path: Arc<Path>,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn { line } => write!(f, "the built-in default, line {line}"),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", shown(path)),
            Origin::Environment(name) => write!(f, "${name}"),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// A path for an error line.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) || text.len() > 1000 {
        quote(&text)
    } else {
        text.into_owned()
    }
}

/// Bytes between two counts of [`Source::chars`].
const STEP: usize = 512;

/// The text of a file, or the built-in default.
#[derive(Debug)]
pub(crate) struct Source {
    /// `None`: the built-in default.
    path: Option<Arc<Path>>,
    pub(crate) text: String,
    /// What is unwise about the file.
    pub(crate) warning: Option<String>,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Characters before byte `n * STEP`: a place is asked for per key, and a
    /// file may be one line of a hundred thousand keys.
    chars: Vec<usize>,
}

fn starts_char(byte: &u8) -> bool {
    byte & 0xc0 != 0x80
}

impl Source {
    pub(crate) fn new(path: Option<Arc<Path>>, text: String) -> Source {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = [0]
            .into_iter()
            .chain(breaks.map(|(at, _)| at + 1))
            .collect();
        let mut sum = 0;
        let mut chars = vec![0];
        for block in text.as_bytes().chunks(STEP) {
            sum += block.iter().filter(|byte| starts_char(byte)).count();
            chars.push(sum);
        }
        Source {
            path,
            text,
            warning: None,
            lines,
            chars,
        }
    }

    /// Characters before a byte.
    fn chars_before(&self, at: usize) -> usize {
        let block = at / STEP;
        let rest = &self.text.as_bytes()[block * STEP..at];
        self.chars[block] + rest.iter().filter(|byte| starts_char(byte)).count()
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Source> {
        let name = || format!("configuration {}", shown(path));
        // O_NONBLOCK: a fifo must not hold us.
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
        )
        .io_context(name)?;
        let stat = rustix::fs::fstat(&fd).io_context(name)?;
        // /dev/null is how scripts say "an empty file".
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            && path != Path::new("/dev/null")
        {
            return Err(Error::precondition(format!(
                "{} is not a regular file",
                name()
            )));
        }
        let open = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o022 != 0;
        let bytes = read_limited(&fd, &name(), SIZE_LIMIT)?;
        let path: Arc<Path> = Arc::from(path);
        match String::from_utf8(bytes) {
            Ok(text) => {
                let mut source = Source::new(Some(path), text);
                source.warning = open.then(|| format!("{} can be written by others", name()));
                Ok(source)
            }
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
                let source = Source::new(Some(path), text);
                Err(source.fail(valid..valid, "it is not UTF-8 from here on"))
            }
        }
    }

    /// The place where `span` begins.
    pub(crate) fn at(&self, span: Range<usize>) -> Origin {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line = self.lines.partition_point(|begin| *begin <= start);
        let begin = self.lines[line - 1];
        match &self.path {
            None => Origin::BuiltIn { line },
            Some(path) => Origin::File {
                path: path.clone(),
                line,
                column: self.chars_before(start) - self.chars_before(begin) + 1,
            },
        }
    }

    /// A path that the file names: a relative one is beside the file.
    pub(crate) fn beside(&self, text: &str) -> PathBuf {
        let folder = self.path.as_deref().and_then(Path::parent);
        let path = folder.unwrap_or(Path::new("/")).join(text);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// The error of a place.
    pub(crate) fn fail(&self, span: Range<usize>, why: impl fmt::Display) -> Error {
        Error::invalid(format!("{}: {why}", self.at(span)))
    }
}

/// The drop-ins beside a file, by name.
pub(crate) fn drop_ins(file: &Path) -> Result<Vec<PathBuf>> {
    let dir = file.parent().unwrap_or(Path::new("")).join("conf.d");
    let context = || format!("configuration folder {}", shown(&dir));
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        // Of a file such as /dev/null or /dev/fd/9 nothing lies beside.
        Err(error) => return Err(Error::io(context(), error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.io_context(context)?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".toml") && !text.starts_with('.') {
            found.push(dir.join(&name));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let path: Arc<Path> = Arc::from(Path::new("/c"));
        let source = Source::new(Some(path.clone()), "a = 1\n\"é\" = 2\n".into());
        let at = |n: usize| source.at(n..n).to_string();
        assert_eq!(at(0), "/c:1:1");
        assert_eq!(at(6), "/c:2:1");
        assert_eq!(at(10), "/c:2:4");
        assert_eq!(at(8), "/c:2:2"); // inside of é
        assert_eq!(at(9999), "/c:3:1");
        // The counts agree with counting, whatever the steps.
        let text = "é\n€abc".repeat(700);
        let source = Source::new(Some(path), text.clone());
        for (at, _) in text.char_indices() {
            let before = &text[..at];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            assert_eq!(source.at(at..at).to_string(), format!("/c:{line}:{column}"));
        }
        let empty = Source::new(None, String::new());
        assert_eq!(empty.at(3..4), Origin::BuiltIn { line: 1 });
    }
}
