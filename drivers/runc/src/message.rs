//! What a runtime says when it fails, and what that means.
//!
//! The texts are those of runc 1.1 and 1.2, crun 1.8 and later, and youki; a
//! text that is not known keeps its words and becomes `Unavailable`.

use containerkit::{ContainerId, Error, ErrorKind, ExecFailure};
use serde::Deserialize;

/// The longest message that is passed on, in bytes.
const LIMIT: usize = 800;

/// The last error in a log of JSON lines, with plain lines as second choice.
pub(crate) fn last_error(log: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let text = String::from_utf8_lossy(log);
    let mut plain = None;
    let mut weak = None;
    for line in text.lines().rev().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(entry) if matches!(entry.level.as_str(), "error" | "fatal" | "panic") => {
                let msg = entry.msg.trim().to_string();
                // crun ends with these when the line before has the reason.
                if matches!(msg.as_str(), "error loading config.json" | "fail startup") {
                    weak.get_or_insert(msg);
                } else if !msg.is_empty() {
                    return Some(msg);
                }
            }
            Ok(_) => {}
            // What crun says last about an option that it does not have.
            Err(_) if line.starts_with("Try `") => {}
            Err(_) => {
                plain.get_or_insert_with(|| unwrapped(line));
            }
        }
    }
    weak.or(plain)
}

/// A plain line, without what runc writes round its message before it has read
/// the format of its log.
fn unwrapped(line: &str) -> String {
    line.trim()
        .split_once(" level=error msg=\"")
        .and_then(|(_, rest)| rest.strip_suffix('"'))
        .unwrap_or(line.trim())
        .to_owned()
}

/// Untrusted text as a part of one line: control characters and those that
/// reorder text are escaped, and it is cut at [`LIMIT`] bytes.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim().chars() {
        let odd = c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        let before = line.len();
        if odd {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        if line.len() > LIMIT {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line
}

/// The error of a failed command on a container.
pub(crate) fn failure(program: &str, verb: &str, id: &ContainerId, text: &str) -> Error {
    let (kind, exec) = classify(verb, id, text);
    // runc repeats its command.
    let short = [
        format!("{program} {verb} failed: "),
        format!("{verb} failed: "),
    ]
    .iter()
    .find_map(|prefix| text.strip_prefix(prefix.as_str()))
    .unwrap_or(text);
    let message = match kind {
        ErrorKind::NotFound if exec.is_none() => {
            format!("container {id}: the runtime does not know it")
        }
        _ => format!("container {id}: {program} {verb}"),
    };
    let mut error = Error::new(kind, message).with_source_text(printable(short));
    if let Some(exec) = exec {
        error = error.with_exec_failure(exec);
    }
    if text.contains("hybrid mode") || text.contains("invalid file system type on '/sys/fs/cgroup'")
    {
        error = error.with_hint(
            "this runtime cannot use a machine that mixes cgroup v1 and v2: choose runc, or run \
             where /sys/fs/cgroup/unified is not mounted",
        );
    }
    error
}

fn classify(verb: &str, id: &ContainerId, text: &str) -> (ErrorKind, Option<ExecFailure>) {
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().all(|word| lower.contains(word));
    if matches!(verb, "create" | "run" | "start" | "exec") {
        // `exec: "NAME": …` is runc's; `executable …` crun's and youki's.
        let program =
            has(&["exec: \""]) || has(&["executable"]) || has(&["exec container process"]);
        if program
            && (has(&["not found"]) || has(&["no such file"]))
            && !has(&["permission denied"])
        {
            return (ErrorKind::FailedPrecondition, Some(ExecFailure::NotFound));
        }
        if program
            && (has(&["permission"])
                || has(&["not permitted"])
                || has(&["exec format error"])
                || has(&["is a directory"]))
        {
            return (
                ErrorKind::FailedPrecondition,
                Some(ExecFailure::NotExecutable),
            );
        }
    }
    let status = format!("/{id}/status").to_ascii_lowercase();
    let folder = format!("/{id}'").to_ascii_lowercase();
    let kind = if has(&["container", "does not exist"])
        || has(&["no such file", &status])
        || has(&["cannot open directory", &folder, "no such file"])
    {
        ErrorKind::NotFound
    } else if matches!(verb, "create" | "run" | "restore") && has(&["already exists"]) {
        ErrorKind::AlreadyExists
    } else if [
        "not running",
        "not paused",
        "not stopped",
        "is paused",
        "paused container",
        "paused state",
        "stopped container",
        "has stopped",
        "is stopped",
        "already running",
        "no such process",
        "process already finished",
        "exec.fifo",
        "` state",
        "status is incorrect",
        "could not be killed",
        "could not be deleted",
    ]
    .iter()
    .any(|word| lower.contains(word))
    {
        ErrorKind::FailedPrecondition
    } else if has(&["no space left"])
        || has(&["cannot allocate memory"])
        || has(&["too many open files"])
    {
        ErrorKind::ResourceExhausted
    } else if has(&["permission denied"]) || has(&["operation not permitted"]) {
        ErrorKind::PermissionDenied
    } else {
        ErrorKind::Unavailable
    };
    (kind, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(verb: &str, text: &str) -> (ErrorKind, Option<ExecFailure>) {
        let id: ContainerId = "c1".parse().expect("id");
        let error = failure("runc", verb, &id, text);
        (error.kind(), error.exec_failure())
    }

    #[test]
    fn texts_of_runc_and_crun_are_understood() {
        use ErrorKind::{AlreadyExists, FailedPrecondition, NotFound, Unavailable};
        const GONE: Option<ExecFailure> = Some(ExecFailure::NotFound);
        const BAD: Option<ExecFailure> = Some(ExecFailure::NotExecutable);
        for (verb, text, want) in [
            (
                "create",
                "runc create failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory",
                (FailedPrecondition, GONE),
            ),
            (
                "run",
                "runc run failed: unable to start container process: exec: \"nope\": executable file not found in $PATH",
                (FailedPrecondition, GONE),
            ),
            (
                "exec",
                "exec failed: unable to start container process: exec: \"/etc/noexec\": permission denied",
                (FailedPrecondition, BAD),
            ),
            (
                "create",
                "executable file `nope` not found in $PATH: No such file or directory",
                (FailedPrecondition, GONE),
            ),
            (
                "exec",
                "open executable: Permission denied",
                (FailedPrecondition, BAD),
            ),
            (
                "create",
                "open executable: Operation not permitted",
                (FailedPrecondition, BAD),
            ),
            ("start", "container does not exist", (NotFound, None)),
            (
                "exec",
                "exec failed: container does not exist",
                (NotFound, None),
            ),
            (
                "state",
                "error opening file `/run/x/c1/status`: No such file or directory",
                (NotFound, None),
            ),
            (
                "delete",
                "cannot open directory '/run/x/c1': No such file or directory",
                (NotFound, None),
            ),
            (
                "create",
                "runc create failed: container with given ID already exists",
                (AlreadyExists, None),
            ),
            (
                "run",
                "container `c1` already exists",
                (AlreadyExists, None),
            ),
            (
                "start",
                "cannot open `/run/x/c1/exec.fifo`: No such file or directory",
                (FailedPrecondition, None),
            ),
            ("kill", "container not running", (FailedPrecondition, None)),
            (
                "kill",
                "kill container: No such process",
                (FailedPrecondition, None),
            ),
            (
                "delete",
                "the container `c1` is not in `created` or `stopped` state",
                (FailedPrecondition, None),
            ),
            (
                "delete",
                "cannot delete container c1 that is not stopped: running",
                (FailedPrecondition, None),
            ),
            (
                "create",
                "runc create failed: chdir /nonexist: no such file or directory",
                (Unavailable, None),
            ),
            (
                "state",
                "invalid character 'g' looking for beginning of value",
                (Unavailable, None),
            ),
        ] {
            assert_eq!(kind(verb, text), want, "{verb}: {text}");
        }
    }

    #[test]
    fn the_last_error_is_found_among_noise() {
        let log = b"{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"warning\",\"msg\":\"late\"}\nplain\n{broken\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error(b"x: y\n\n").as_deref(), Some("x: y"));
        assert_eq!(
            last_error(b"{\"msg\":\"setns: no\",\"level\":\"error\"}\n{\"msg\":\"fail startup\",\"level\":\"error\"}\n").as_deref(),
            Some("setns: no")
        );
        assert_eq!(
            last_error(b"time=\"now\" level=error msg=\"flag provided but not defined: -x\"\n")
                .as_deref(),
            Some("flag provided but not defined: -x")
        );
        assert_eq!(
            last_error(b"crun: unrecognized option '--x'\nTry `crun --help' for more\n").as_deref(),
            Some("crun: unrecognized option '--x'")
        );
        assert_eq!(last_error(b"\xff\xfe"), Some("\u{fffd}\u{fffd}".into()));
        assert_eq!(last_error(b""), None);
    }

    #[test]
    fn messages_are_one_short_line() {
        let line = printable(&format!("a\nb\u{1b}[31m\u{202e}{}", "é".repeat(10_000)));
        assert!(line.starts_with("a\\nb\\u{1b}[31m\\u{202e}é"), "{line}");
        assert!(line.len() < 1024 && !line.chars().any(char::is_control));
    }
}
