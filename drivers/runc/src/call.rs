//! From a command to its answer: arguments, the runtime's own words on failure.

use std::ffi::OsString;

use containerkit::runtime::Stdio;
use containerkit::{ContainerId, Error, ErrorKind, IoContext, Result, fs};

use crate::Runc;
use crate::command::{self, Call, OUTPUT_LIMIT, Output, Streams};
use crate::message::{failure, last_error, printable};
use crate::scratch::Scratch;

impl Runc {
    /// Runs a command whose streams become those of a container's process.
    pub(crate) fn launch(
        &self,
        verb: &'static str,
        id: &ContainerId,
        mut args: Vec<OsString>,
        stdio: Stdio,
        scratch: &Scratch,
    ) -> Result<Output> {
        args.push("--pid-file".into());
        args.push(scratch.file("pid").into_os_string());
        let streams = match stdio {
            Stdio::Fds {
                stdin,
                stdout,
                stderr,
            } => Streams::Given {
                stdin,
                stdout,
                stderr,
            },
            Stdio::Console(socket) => {
                args.push("--console-socket".into());
                args.push(socket.into_os_string());
                Streams::Captured
            }
        };
        args.push(id.as_str().into());
        let log = scratch.write("log", b"")?;
        let call = Call {
            verb,
            args,
            streams,
            log: Some(&log),
            limit: OUTPUT_LIMIT,
        };
        let output = command::run(&self.options, call)
            .map_err(|error| error.context(format!("container {id}")))?;
        if output.status.success() {
            return Ok(output);
        }
        let file = std::fs::File::open(&log).io_context(|| "open the runtime's log")?;
        let said = fs::read_limited(&file, "the runtime's log", OUTPUT_LIMIT)?;
        match last_error(&said).or_else(|| last_error(&output.stderr)) {
            Some(text) => Err(failure(&self.program, verb, id, &text)),
            None => Err(self.silent(verb, id, &output)),
        }
    }

    /// A command on a container that exists, its output captured.
    pub(crate) fn simple(
        &self,
        verb: &'static str,
        id: &ContainerId,
        args: &[&str],
    ) -> Result<Output> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        args.push(id.as_str().into());
        self.call(verb, id, args, OUTPUT_LIMIT)
    }

    pub(crate) fn call(
        &self,
        verb: &'static str,
        id: &ContainerId,
        args: Vec<OsString>,
        limit: u64,
    ) -> Result<Output> {
        let call = Call {
            verb,
            args,
            streams: Streams::Captured,
            log: None,
            limit,
        };
        let output = command::run(&self.options, call)
            .map_err(|error| error.context(format!("container {id}")))?;
        if output.status.success() {
            return Ok(output);
        }
        match last_error(&output.stderr) {
            Some(text) => Err(failure(&self.program, verb, id, &text)),
            None => Err(self.silent(verb, id, &output)),
        }
    }

    /// The error of a command that failed without a word: perhaps the program
    /// cannot even be loaded or does not take the configured arguments, and
    /// said so on the container's stderr.
    fn silent(&self, verb: &str, id: &ContainerId, output: &Output) -> Error {
        let asked: Vec<&str> = self.options.args.iter().map(String::as_str).collect();
        match command::ask(&self.options, &[&asked[..], &["--version"]].concat()) {
            Ok(version) if !version.status.success() => {
                let error = self.unusable(&version);
                match asked.is_empty() {
                    true => error,
                    false => error.with_hint("look at the runtime's option `args` too"),
                }
            }
            Err(error) => error,
            Ok(_) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "container {id}: {} {verb}: {}",
                    self.program,
                    output.status_text()
                ),
            ),
        }
    }

    /// The error of a program that cannot tell its version.
    pub(crate) fn unusable(&self, output: &Output) -> Error {
        let why = last_error(&output.stderr).unwrap_or_else(|| output.status_text());
        crate::options::missing(&self.options.binary.display().to_string(), &printable(&why))
    }
}
