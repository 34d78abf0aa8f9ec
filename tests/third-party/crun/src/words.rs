//! What crun says when it fails, and which error of the contract that is.

use containerkit_plugin::serde_json::Value;
use containerkit_plugin::{ContainerId, Error, ErrorKind, ExecFailure};

/// The longest part of crun's words in an error, in characters.
const LIMIT: usize = 500;

/// The last error in a log of JSON lines that gives a reason.
pub(crate) fn last_error(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    text.lines()
        .rev()
        .filter_map(|line| containerkit_plugin::serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["level"] == "error")
        .filter_map(|entry| entry["msg"].as_str().map(str::to_owned))
        // It ends with these when the line before says why.
        .find(|said| said != "fail startup" && said != "error loading config.json")
}

/// The error of a command that failed with these words.
pub(crate) fn failure(verb: &str, id: &ContainerId, said: &str) -> Error {
    let (kind, exec) = meaning(verb, said);
    let said: String = said
        .chars()
        .flat_map(char::escape_debug)
        .take(LIMIT)
        .collect();
    let error = match kind {
        ErrorKind::NotFound => Error::not_found(format!("container {id} is not known to crun")),
        kind => Error::new(kind, format!("container {id}: crun {verb}")),
    }
    .with_source_text(said.replace("\\'", "'").replace("\\\"", "\""));
    let error = match said.contains("hybrid mode") {
        true => error.with_hint(
            "crun cannot use a machine that mixes cgroup 1 and 2: choose another runtime, or run \
             where /sys/fs/cgroup/unified is not mounted",
        ),
        false => error,
    };
    match exec {
        Some(exec) => error.with_exec_failure(exec),
        None => error,
    }
}

fn meaning(verb: &str, said: &str) -> (ErrorKind, Option<ExecFailure>) {
    let says = |words: &str| said.contains(words);
    if matches!(verb, "create" | "start" | "exec") && says("executable") {
        let exec = match says("No such file") {
            true => ExecFailure::NotFound,
            false => ExecFailure::NotExecutable,
        };
        return (ErrorKind::FailedPrecondition, Some(exec));
    }
    let kind = if says("/status`: No such file") || says("does not exist") {
        ErrorKind::NotFound
    } else if says("already exists") {
        ErrorKind::AlreadyExists
    } else if says("is not running") || says("No such process") || says("` state") {
        ErrorKind::FailedPrecondition
    } else if says("Permission denied") || says("Operation not permitted") {
        ErrorKind::PermissionDenied
    } else {
        ErrorKind::Unavailable
    };
    (kind, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_behind_what_follows_it() {
        let log = br#"{"msg":"one","level":"debug"}
            {"msg":"setns: no","level":"error"}
            {"msg":"fail startup","level":"error"}
            not json"#;
        assert_eq!(last_error(log).as_deref(), Some("setns: no"));
        assert_eq!(last_error(b"\xff"), None);
    }

    #[test]
    fn words_become_kinds_and_one_line() {
        let id = "c".parse().expect("id");
        let missing = "executable file `x` not found in $PATH: No such file or directory";
        for (said, kind, exec) in [
            (
                missing,
                ErrorKind::FailedPrecondition,
                Some(ExecFailure::NotFound),
            ),
            (
                "open executable: Permission denied",
                ErrorKind::FailedPrecondition,
                Some(ExecFailure::NotExecutable),
            ),
            (
                "container `c` already exists",
                ErrorKind::AlreadyExists,
                None,
            ),
            ("a\nb\u{1b}[2J", ErrorKind::Unavailable, None),
        ] {
            let error = failure("create", &id, said);
            assert_eq!((error.kind(), error.exec_failure()), (kind, exec), "{said}");
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
