//! Commands whose Nth file operation fails (`fixtures/faults`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fixtures::{checkout, target_dir};
use crate::kit::Ran;

/// What came of a command.
pub struct Fault {
    /// The command's end.
    pub ran: Ran,
    /// The call that failed and its error; `None` when there were fewer.
    pub failed: Option<(String, String)>,
}

/// The program, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = checkout().join("tests/fixtures/faults/faults.c");
        let folder = target_dir().join("fixtures/out");
        std::fs::create_dir_all(&folder).expect("make a folder");
        // Others may be compiling it too: by a name of our own.
        let fresh = folder.join(format!("faults-{}", std::process::id()));
        let status = Command::new("gcc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&fresh)
            .arg(&source)
            .status()
            .expect("run gcc");
        assert!(status.success(), "compile {}", source.display());
        let program = folder.join("faults");
        std::fs::rename(&fresh, &program).expect("put it in place");
        program
    })
}

/// Which operation fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number, from 1; one that is not reached only counts.
    pub number: usize,
    /// Which of the errors that such a call can give.
    pub turn: usize,
}

/// Runs a command, with a file as its standard input, of which one file
/// operation below `folder` fails.
pub fn run(command: &Command, place: Place, folder: &Path, stdin: &Path) -> Fault {
    let report = folder.with_extension("faults");
    let mut wrapped = Command::new(program());
    wrapped.arg(&report).arg(place.number.to_string());
    wrapped.arg(place.turn.to_string()).arg(folder);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.stdin(std::fs::File::open(stdin).expect("open the input"));
    let output = wrapped.output().expect("run");
    let text = std::fs::read_to_string(&report).expect("read the report");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, call, error] = words[..] else {
        panic!("report {text:?}: {output:?}");
    };
    Fault {
        ran: Ran::new(&output),
        failed: (call != "-").then(|| (call.to_owned(), error.to_owned())),
    }
}
