//! The options of an instance, validated once at open.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit::{DriverContext, Error, OptionKind, OptionSpec, Result, quote};

/// The program when the options name none.
const BINARY: &str = "runc";
/// Seconds that one command of the runtime may take.
const TIMEOUT: i64 = 60;
/// Where a bare program name is looked for when `PATH` cannot be trusted.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The schema of the options.
pub(crate) fn schema() -> Vec<OptionSpec> {
    let row = OptionSpec::new;
    vec![
        row(
            "binary",
            OptionKind::Path,
            BINARY,
            "The runtime's program: an absolute path, or a bare name searched in PATH.",
        ),
        row(
            "args",
            OptionKind::StringList,
            "",
            "Further global arguments, put before the command.",
        ),
        row(
            "root",
            OptionKind::Path,
            "",
            "The runtime's own --root; without it a folder of this instance's state.",
        ),
        row(
            "timeout_seconds",
            OptionKind::Integer,
            "60",
            "How long one command of the runtime may take, 1 to 3600.",
        ),
        row(
            "systemd_cgroup",
            OptionKind::Boolean,
            "false",
            "Let systemd make the cgroups (--systemd-cgroup).",
        ),
    ]
}

/// What the options say.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The program, absolute.
    pub(crate) binary: PathBuf,
    /// Global arguments.
    pub(crate) args: Vec<String>,
    /// The runtime's own state.
    pub(crate) root: PathBuf,
    /// Of one command.
    pub(crate) timeout: Duration,
    /// `--systemd-cgroup`.
    pub(crate) systemd_cgroup: bool,
}

impl Options {
    /// Reads and checks the options; a missing program is `Unavailable`.
    pub(crate) fn read(context: &DriverContext) -> Result<Options> {
        let invalid =
            |text: String| Error::invalid(format!("driver instance {}: {text}", context.instance));
        let binary = context.string("binary")?.unwrap_or_else(|| BINARY.into());
        let args = context.string_list("args")?.unwrap_or_default();
        for text in std::iter::once(&binary).chain(&args) {
            if text.is_empty() || text.contains('\0') {
                return Err(invalid(format!(
                    "option binary or args: {} is empty or has a NUL byte",
                    quote(text)
                )));
            }
        }
        let seconds = context.integer("timeout_seconds")?.unwrap_or(TIMEOUT);
        if !(1..=3600).contains(&seconds) {
            return Err(invalid(format!(
                "option timeout_seconds: {seconds}: want 1 to 3600"
            )));
        }
        let root = match context.string("root")? {
            None => context.state.join("root"),
            Some(text) if text.starts_with('/') && !text.contains('\0') => PathBuf::from(text),
            Some(text) => {
                return Err(invalid(format!(
                    "option root: {}: want an absolute path",
                    quote(&text)
                )));
            }
        };
        let search = std::env::var_os("PATH").unwrap_or_default();
        Ok(Options {
            binary: find(&binary, search)
                .map_err(|e| e.context(format!("driver instance {}", context.instance)))?,
            args,
            root,
            timeout: Duration::from_secs(seconds.unsigned_abs()),
            systemd_cgroup: context.boolean("systemd_cgroup")?.unwrap_or(false),
        })
    }
}

/// The program as an absolute path to an executable file.
fn find(binary: &str, search: OsString) -> Result<PathBuf> {
    if binary.contains('/') {
        let path = PathBuf::from(binary);
        if !path.is_absolute() {
            return Err(Error::invalid(format!(
                "option binary: {}: want an absolute path or a bare name",
                quote(binary)
            )));
        }
        return match executable(&path) {
            true => Ok(path),
            false => Err(missing(binary, "it is not an executable file")),
        };
    }
    // A relative entry would make the program depend on the current folder.
    let mut folders: Vec<PathBuf> = std::env::split_paths(&search)
        .filter(|folder| folder.is_absolute())
        .collect();
    if folders.is_empty() {
        folders = std::env::split_paths(SEARCH_PATH).collect();
    }
    folders
        .iter()
        .map(|folder| folder.join(binary))
        .find(|path| executable(path))
        .ok_or_else(|| {
            let list: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            missing(binary, &format!("it is not in {}", list.join(":")))
        })
}

/// Whether a path is a program's.
pub(crate) fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The error of a program that is not there.
pub(crate) fn missing(binary: &str, why: &str) -> Error {
    let name = Path::new(binary).file_name().and_then(|n| n.to_str());
    let hint = match name {
        Some(name @ ("runc" | "crun")) => format!("install it: `apt install {name}`"),
        _ => "set the runtime's option `binary` to an installed OCI runtime, or `apt install runc`"
            .into(),
    };
    Error::new(
        containerkit::ErrorKind::Unavailable,
        format!(
            "the runtime's program {} cannot be used: {why}",
            quote(binary)
        ),
    )
    .with_hint(hint)
}
