//! Variables and labels as text.

use std::path::Path;

use crate::error::{Error, Result, quote};

/// An `--env-file` or `--label-file` larger than this is refused.
const FILE_LIMIT: u64 = 1 << 20;

/// One entry of `-e`: `K=V` or `K`.
pub fn parse_env(text: &str) -> Result<String> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if key.is_empty() || text.contains('\0') {
        return Err(Error::invalid(format!(
            "environment {}: want NAME=VALUE or NAME",
            quote(text)
        )));
    }
    Ok(text.to_owned())
}

/// The lines of an `--env-file`; empty ones and those that begin with `#` are
/// left out. Values are taken as they are, quotes included.
pub fn parse_env_file(path: &Path) -> Result<Vec<String>> {
    lines(path, |line| {
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.contains(char::is_whitespace) {
            return Err(Error::invalid(format!(
                "the name {} holds a space",
                quote(name)
            )));
        }
        parse_env(line)
    })
}

/// The lines of a `--label-file`, each `K=V`.
pub fn parse_label_file(path: &Path) -> Result<Vec<String>> {
    lines(path, |line| match line.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(line.to_owned()),
        _ => Err(Error::invalid(format!(
            "label {}: want KEY=VALUE",
            quote(line)
        ))),
    })
}

fn lines(path: &Path, parse: impl Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let shown = quote(&path.to_string_lossy());
    let data = crate::fs::read_file(path, FILE_LIMIT)?;
    let text =
        String::from_utf8(data).map_err(|_| Error::invalid(format!("{shown}: it is not UTF-8")))?;
    // Some editors put a mark of the encoding first.
    let text = text.trim_start_matches('\u{feff}');
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry =
            parse(line).map_err(|error| error.context(format!("{shown}, line {}", number + 1)))?;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn env_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\n\nA=1\n  B=x y\nHOME\nC=\"q\"\n").expect("write");
        let entries = parse_env_file(&path).expect("file");
        assert_eq!(entries, ["A=1", "B=x y", "HOME", "C=\"q\""]);
        std::fs::write(&path, "A B=1\n").expect("write");
        refused(parse_env_file(&path), "space");
        std::fs::write(&path, "=1\n").expect("write");
        refused(parse_env_file(&path), "no name");
        refused(parse_env_file(&dir.path().join("missing")), "missing");
        refused(parse_env("a\0b"), "nul");
        std::fs::write(&path, "\u{feff}a=1\n# x\nb=\n").expect("write");
        assert_eq!(parse_label_file(&path), Ok(vec!["a=1".into(), "b=".into()]));
        std::fs::write(&path, "novalue\n").expect("write");
        refused(parse_label_file(&path), "no value");
        std::fs::write(&path, b"A=\xff\n").expect("write");
        refused(parse_env_file(&path), "not UTF-8");
    }

    /// A fifo without a writer would hold its reader for ever.
    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).expect("mkfifo");
        for path in [fifo.as_path(), dir.path(), Path::new("/dev/zero")] {
            refused(parse_env_file(path), "not a file");
            refused(parse_label_file(path), "not a file");
        }
    }
}
