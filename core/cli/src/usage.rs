//! Words to arguments; every usage error is one line.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::output;

/// The exit statuses of a command that fails.
#[derive(Clone, Copy)]
pub(crate) struct FailureStatus {
    /// For wrong usage.
    pub(crate) usage: u8,
    /// For everything else.
    pub(crate) general: u8,
    /// Whether a process that cannot be executed gives 126 or 127.
    pub(crate) exec: bool,
}

/// What came of the words.
pub(crate) enum Parsed {
    /// A command to run.
    Run(Box<Cli>),
    /// Help was shown, or the usage was wrong.
    Ended(u8),
}

/// `run` and `exec` keep 0 to 124 for the container's own process.
pub(crate) fn failure_status(words: &[OsString]) -> FailureStatus {
    const WITH_VALUE: [&str; 5] = ["--config", "--root", "--state", "--log-level", "--format"];
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    let command = loop {
        match words.next() {
            None => break String::new(),
            Some(word) if WITH_VALUE.contains(&&*word) => drop(words.next()),
            Some(word) if word.starts_with('-') => {}
            Some(word) => break word.into_owned(),
        }
    };
    match command.as_str() {
        "run" | "exec" => FailureStatus {
            usage: 125,
            general: 125,
            exec: true,
        },
        "create" | "start" => FailureStatus {
            usage: 2,
            general: 1,
            exec: true,
        },
        _ => FailureStatus {
            usage: 2,
            general: 1,
            exec: false,
        },
    }
}

/// Parses, or prints help or one line of error.
pub(crate) fn parse(words: Vec<OsString>) -> Parsed {
    let status = failure_status(&words).usage;
    if let Some(word) = words.iter().find(|word| word.to_str().is_none()) {
        let shown = containerkit::quote(&word.to_string_lossy());
        output::print_error_text(&format!("argument {shown}: it is not UTF-8"), None);
        return Parsed::Ended(status);
    }
    // Clap drops control characters from what it quotes.
    let shown: Vec<String> = words
        .iter()
        .map(|word| output::escaped(&word.to_string_lossy()))
        .collect();
    let error = match Cli::try_parse_from(words) {
        Ok(cli) => return Parsed::Run(Box::new(cli)),
        Err(error) => Cli::try_parse_from(shown).err().unwrap_or(error),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::print_text(&error.render().to_string());
            return Parsed::Ended(0);
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            output::print_error_text(
                "no command given",
                Some("containerkit --help lists the commands; after a command it lists its own"),
            );
        }
        _ => {
            let rendered = error.render().to_string();
            let (message, hint) = condense(&rendered);
            output::print_error_text(&message, hint.as_deref());
        }
    }
    Parsed::Ended(status)
}

/// The first paragraph as one line, and the first tip as the hint.
fn condense(rendered: &str) -> (String, Option<String>) {
    let rendered = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let message: Vec<&str> = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty() && !line.starts_with("Usage:"))
        .collect();
    let hint = rendered
        .lines()
        .find_map(|line| line.trim().strip_prefix("tip: "))
        .map(str::to_owned);
    (message.join(" "), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_errors_are_condensed_to_one_line() {
        let (message, hint) = condense(
            "error: the following required arguments were not provided:\n  <IMAGE>\n\nUsage: x\n",
        );
        assert_eq!(
            message,
            "the following required arguments were not provided: <IMAGE>"
        );
        assert_eq!(hint, None);
    }

    #[test]
    fn the_command_decides_the_status() {
        let status = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            failure_status(&words).usage
        };
        assert_eq!(status(&["containerkit", "--root", "run", "ps"]), 2);
        assert_eq!(status(&["containerkit", "--root=x", "run", "--bogus"]), 125);
        assert_eq!(status(&["containerkit"]), 2);
    }
}
