//! The one error of containerkit.
//!
//! A closed set of kinds with stable codes, because the kind is what callers
//! branch on and what crosses to a driver; everything else is text for a
//! person. The message names the object and, where there is one, the mend.

use std::fmt;

/// The result of every fallible call of containerkit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it. Codes are stable for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound = 1,
    /// The named object exists already.
    AlreadyExists = 2,
    /// An argument can never be right, whatever the state.
    InvalidArgument = 3,
    /// The state forbids it: mounted, running, has children, wrong size or digest.
    FailedPrecondition = 4,
    /// The caller may not do this.
    PermissionDenied = 5,
    /// Disk, memory, descriptors or a limit ran out.
    ResourceExhausted = 6,
    /// Somebody else holds it; the message says who and since when.
    Conflict = 7,
    /// A thing outside containerkit does not answer: a registry, a helper binary.
    Unavailable = 8,
    /// Stored data is damaged or lost.
    DataLoss = 9,
    /// The driver cannot do this; a capability says so too.
    Unimplemented = 10,
    /// Two parts do not fit: ABI, schema, format or runtime version.
    Incompatible = 11,
    /// A deadline passed.
    Timeout = 12,
    /// The caller gave up.
    Cancelled = 13,
    /// A defect: a panic in a driver, a broken promise.
    Internal = 14,
}

impl ErrorKind {
    /// All kinds, in code order.
    pub const ALL: [ErrorKind; 14] = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidArgument,
        ErrorKind::FailedPrecondition,
        ErrorKind::PermissionDenied,
        ErrorKind::ResourceExhausted,
        ErrorKind::Conflict,
        ErrorKind::Unavailable,
        ErrorKind::DataLoss,
        ErrorKind::Unimplemented,
        ErrorKind::Incompatible,
        ErrorKind::Timeout,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];

    /// The stable number of this kind, which crosses to drivers.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The kind of a code; an unknown code (a newer driver's) is `Internal`.
    pub fn from_code(code: u32) -> ErrorKind {
        ErrorKind::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .unwrap_or(ErrorKind::Internal)
    }

    /// Snake-case name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::FailedPrecondition => "failed_precondition",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::ResourceExhausted => "resource_exhausted",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::DataLoss => "data_loss",
            ErrorKind::Unimplemented => "unimplemented",
            ErrorKind::Incompatible => "incompatible",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kept a container's process from being executed: the 127 and 126 of shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExecFailure {
    /// The program does not exist in the rootfs (exit status 127).
    NotFound = 1,
    /// The program exists and cannot be executed (exit status 126).
    NotExecutable = 2,
}

impl ExecFailure {
    /// The failure of a code that crossed the ABI.
    pub fn from_code(code: u32) -> Option<ExecFailure> {
        match code {
            1 => Some(ExecFailure::NotFound),
            2 => Some(ExecFailure::NotExecutable),
            _ => None,
        }
    }

    /// The exit status a shell would give.
    pub const fn exit_status(self) -> u8 {
        match self {
            ExecFailure::NotFound => 127,
            ExecFailure::NotExecutable => 126,
        }
    }
}

/// An error: a kind to branch on, and text for a person.
///
/// `Display` is one line, `message: source`; a [hint](Error::hint) is printed
/// by the command line on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Fields>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    kind: ErrorKind,
    message: String,
    driver: Option<String>,
    operation: Option<String>,
    source: Option<String>,
    hint: Option<String>,
    exec: Option<ExecFailure>,
}

impl Error {
    /// A new error. The message names the object, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Fields {
            kind,
            message: message.into(),
            driver: None,
            operation: None,
            source: None,
            hint: None,
            exec: None,
        }))
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::AlreadyExists, message)
    }

    /// [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// [`ErrorKind::FailedPrecondition`].
    pub fn precondition(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::FailedPrecondition, message)
    }

    /// [`ErrorKind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }

    /// [`ErrorKind::DataLoss`].
    pub fn data_loss(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::DataLoss, message)
    }

    /// [`ErrorKind::Unimplemented`]: `what` is the method.
    pub fn unimplemented(what: &str) -> Error {
        Error::new(
            ErrorKind::Unimplemented,
            format!("this driver does not implement {what}"),
        )
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    /// An operating-system error on a named object, the kind taken from errno.
    pub fn io(message: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        let source = source.into();
        Error::new(kind_of_io(&source), message).with_source(source)
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without source and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The driver instance that failed, once known.
    pub fn driver(&self) -> Option<&str> {
        self.0.driver.as_deref()
    }

    /// The driver method that failed, once known.
    pub fn operation(&self) -> Option<&str> {
        self.0.operation.as_deref()
    }

    /// The chain of causes as text, outermost first, joined by `: `.
    pub fn source_text(&self) -> Option<&str> {
        self.0.source.as_deref()
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether a process could not be executed, and how.
    pub fn exec_failure(&self) -> Option<ExecFailure> {
        self.0.exec
    }

    /// Puts the object in front: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Replaces the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// Names the driver instance and method, unless an inner one did.
    #[must_use]
    pub fn in_driver(mut self, driver: &str, operation: &str) -> Error {
        self.0.driver.get_or_insert_with(|| driver.into());
        self.0.operation.get_or_insert_with(|| operation.into());
        self
    }

    /// Adds the cause and its own causes, as text.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error) -> Error {
        let mut text = source.to_string();
        let mut next = source.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        self.0.source = Some(text);
        self
    }

    /// Adds the cause as text that crossed the ABI.
    #[must_use]
    pub fn with_source_text(mut self, source: impl Into<String>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Marks that the container's process could not be executed.
    #[must_use]
    pub fn with_exec_failure(mut self, failure: ExecFailure) -> Error {
        self.0.exec = Some(failure);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The kind that an operating-system error stands for.
fn kind_of_io(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::PermissionDenied => ErrorKind::PermissionDenied,
        Io::InvalidInput | Io::InvalidFilename => ErrorKind::InvalidArgument,
        Io::InvalidData | Io::UnexpectedEof => ErrorKind::DataLoss,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => {
            ErrorKind::ResourceExhausted
        }
        Io::TimedOut => ErrorKind::Timeout,
        Io::Unsupported => ErrorKind::Unimplemented,
        Io::ResourceBusy | Io::DirectoryNotEmpty | Io::ReadOnlyFilesystem => {
            ErrorKind::FailedPrecondition
        }
        _ => match error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                ErrorKind::ResourceExhausted
            }
            Some(rustix::io::Errno::IO) => ErrorKind::DataLoss,
            _ => ErrorKind::Unavailable,
        },
    }
}

/// Adds the object's name to an operating-system error.
pub trait IoContext<T> {
    /// `what` is read only on failure: "open /x/y", without a full stop.
    fn io_context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for Result<T, E> {
    fn io_context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(what(), error))
    }
}

/// Adds context to a containerkit error.
pub trait Context<T> {
    /// Puts `what` in front of the message.
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

/// Quotes untrusted text for an error line: control characters are escaped,
/// and what is longer than 200 bytes is cut.
///
/// ```
/// assert_eq!(containerkit::quote("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
/// ```
pub fn quote(text: &str) -> String {
    const LIMIT: usize = 200;
    if text.len() <= LIMIT {
        return format!("{text:?}");
    }
    let mut end = LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{:?}… ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_round_trip() {
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.code(), index as u32 + 1, "{kind}");
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        assert_eq!(ErrorKind::from_code(999), ErrorKind::Internal);
    }

    #[test]
    fn display_is_one_line_with_object_and_cause() {
        let error = Error::io("open /x", std::io::Error::from_raw_os_error(2)).context("image a");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "image a: open /x: No such file or directory (os error 2)"
        );
    }
}
