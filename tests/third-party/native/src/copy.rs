//! Copying a tree, by `cp`: it keeps owners, modes, times, hard links, holes,
//! devices and extended attributes, and follows no symlink.

use std::path::Path;
use std::process::{Command, Stdio};

use containerkit_plugin::{Error, ErrorKind, Result, quote};

/// Copies everything in `from`, and what `from` itself looks like, to the
/// existing folder `to`.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    let failed = |why: String| {
        Error::new(
            ErrorKind::Unavailable,
            format!("copy {} to {}: {why}", from.display(), to.display()),
        )
    };
    let output = Command::new("cp")
        .args(["--recursive", "--no-dereference", "--one-file-system"])
        .arg("--preserve=mode,ownership,timestamps,links,xattr")
        .args(["--reflink=auto", "--sparse=auto", "--no-target-directory"])
        .args(["--", "."])
        .arg(to)
        .current_dir(from)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| {
            failed(format!("cannot run cp: {error}"))
                .with_hint("install coreutils (busybox's cp loses extended attributes)")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it says nothing");
    let full = first.contains("No space left") || first.contains("quota");
    let error = failed(format!("cp: {}", quote(first)));
    Err(if full {
        error.with_kind(ErrorKind::ResourceExhausted)
    } else {
        error
    })
}
