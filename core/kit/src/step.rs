//! Steps: the moments at which a test may kill or pause a process.
//!
//! Code that must survive a SIGKILL at any instruction names the moments that
//! differ for whoever comes after: before and after a rename, between a file
//! and its folder, between a row and its files.
//!
//! ```
//! # let path = std::path::Path::new("/nonexistent");
//! # let rename = |_| Ok::<(), containerkit::Error>(());
//! containerkit::step("blob.rename");
//! rename(path)?;
//! containerkit::step("blob.renamed");
//! # Ok::<(), containerkit::Error>(())
//! ```
//!
//! In a build without debug assertions, as releases are, [`step`] is empty and
//! nothing of this is in the program. In one with them it reads three
//! variables, each time anew, so that a fork, a child and a driver's shared
//! object with a copy of this code count together:
//!
//! - `CONTAINERKIT_STEPS=FILE`: every step appends a line of [`LINE`] bytes,
//!   its process and its name. Without it nothing else happens.
//! - `CONTAINERKIT_STEP_KILL=WHERE`: the process that reaches this step is
//!   killed there (SIGKILL), with all of its threads.
//! - `CONTAINERKIT_STEP_PAUSE=WHERE`: it is stopped there (SIGSTOP) until a
//!   test lets it go on (SIGCONT).
//!
//! WHERE is the number of a line in FILE, from 1; or a name, which may end in
//! `*`; or `NAME:N`, the Nth time that such a name is reached. What a step's
//! kill interrupts is what stands *before* it in the program: name it by what
//! is about to happen, or end it in `-ed` for what just did.
//!
//! A step costs a write in a test build: none stands in a loop over data.

/// Bytes of a line in the file of steps, the newline among them, so that the
/// length of the file tells the number of a step.
pub const LINE: usize = 96;

/// The process is about to take, or just took, a step of this name.
#[inline(always)]
pub fn step(name: &str) {
    #[cfg(debug_assertions)]
    hook::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod hook {
    use std::env::var_os;
    use std::ffi::OsStr;
    use std::fs::OpenOptions;
    use std::io::{Seek, Write};
    use std::path::Path;

    use rustix::process::{Signal, getpid, kill_process};

    use super::LINE;

    pub(super) fn reach(name: &str) {
        let Some(file) = var_os("CONTAINERKIT_STEPS") else {
            return;
        };
        // A test that cannot record must not pass for one without steps.
        let number = record(Path::new(&file), name)
            .unwrap_or_else(|error| panic!("CONTAINERKIT_STEPS={}: {error}", file.display()));
        for (variable, signal) in [
            ("CONTAINERKIT_STEP_PAUSE", Signal::STOP),
            ("CONTAINERKIT_STEP_KILL", Signal::KILL),
        ] {
            if let Some(place) = var_os(variable)
                && is_here(&place, Path::new(&file), name, number)
            {
                let _ = kill_process(getpid(), signal);
            }
        }
    }

    /// The number of the line. The position after an appending write is the
    /// line's own end, whoever else appends.
    fn record(file: &Path, name: &str) -> std::io::Result<u64> {
        let mut file = OpenOptions::new().append(true).create(true).open(file)?;
        let line = format!("{} {name}", std::process::id());
        let line = format!("{line:<width$.width$}\n", width = LINE - 1);
        file.write_all(line.as_bytes())?;
        Ok(file.stream_position()? / LINE as u64)
    }

    fn is_here(place: &OsStr, file: &Path, name: &str, number: u64) -> bool {
        let Some(place) = place.to_str() else {
            return false;
        };
        if let Ok(wanted) = place.parse::<u64>() {
            return wanted == number;
        }
        let (pattern, wanted) = match place.rsplit_once(':') {
            Some((pattern, wanted)) => (pattern, wanted.parse().unwrap_or(0)),
            None => (place, 1),
        };
        matches(pattern, name) && wanted == count(file, pattern, number)
    }

    fn matches(pattern: &str, name: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        }
    }

    /// How many of the first `number` lines have such a name.
    fn count(file: &Path, pattern: &str, number: u64) -> usize {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .take(usize::try_from(number).unwrap_or(usize::MAX))
            .filter_map(|line| line.split_ascii_whitespace().nth(1))
            .filter(|name| matches(pattern, name))
            .count()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    const CHILD: &str = "STEP_TEST_CHILD";

    fn run(place: &str) -> (ExitStatus, Vec<String>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("steps");
        let status = Command::new(std::env::current_exe().expect("exe"))
            .args(["--exact", "step::tests::a_process_dies_where_it_is_told"])
            .env(CHILD, "1")
            .env("CONTAINERKIT_STEPS", &file)
            .env("CONTAINERKIT_STEP_KILL", place)
            .stdout(std::process::Stdio::null())
            .status()
            .expect("run");
        let data = std::fs::read(&file).expect("steps");
        assert_eq!(data.len() % LINE, 0);
        let names = String::from_utf8(data).expect("text");
        let names = names.lines().map(|line| {
            let (_, name) = line.trim().split_once(' ').expect("pid and name");
            name.to_owned()
        });
        (status, names.collect())
    }

    #[test]
    fn a_process_dies_where_it_is_told() {
        if std::env::var_os(CHILD).is_some() {
            for name in ["a.one", "b.two", "a.three", "b.two", "a.one"] {
                step(name);
            }
            return;
        }
        for (place, passed) in [
            ("1", 1),
            ("4", 4),
            ("b.two", 2),
            ("b.two:2", 4),
            ("a.*:2", 3),
            ("a.*:3", 5),
        ] {
            let (status, names) = run(place);
            assert_eq!(status.signal(), Some(9), "{place}: {names:?}");
            assert_eq!(names.len(), passed, "{place}: {names:?}");
        }
        for place in ["", "6", "b.three", "b.two:3"] {
            let (status, names) = run(place);
            assert!(status.success(), "{place}");
            assert_eq!(names, ["a.one", "b.two", "a.three", "b.two", "a.one"]);
        }
    }
}
