//! `key`: key pairs for signing images.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use containerkit::{Error, ErrorKind, Result, fs, quote};
use containerkit_distribution::sign::PrivateKey;
use serde_json::json;

use crate::Outcome;
use crate::args::sign::KeyCommand;
use crate::output::{self, Format};
use crate::password;

pub(crate) fn run(format: Format, command: KeyCommand) -> Result<Outcome> {
    match command {
        KeyCommand::Generate { prefix } => generate(format, &prefix),
        KeyCommand::Public { file } => public(format, &file),
    }
}

fn generate(format: Format, prefix: &Path) -> Result<Outcome> {
    let (private, public) = (with_ending(prefix, ".key")?, with_ending(prefix, ".pub")?);
    // Asked first: nobody should think of a password in vain.
    for path in [&private, &public] {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(exists(path, &private, &public));
        }
    }
    let key = PrivateKey::generate()?;
    let pem = key.to_sealed_pem(&password::new(&shown(&private))?)?;
    let public_key = key.public()?;
    // The private one first: the other can be had from it, not it from the other.
    for (path, text, mode) in [
        (&private, &pem, 0o600),
        (&public, &public_key.to_pem()?, 0o644),
    ] {
        fs::write_new(path, text.as_bytes(), mode).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(path, &private, &public),
            _ => error,
        })?;
    }
    match format {
        Format::Json => output::print_json(&json!({
            "private": private.to_string_lossy(),
            "public": public.to_string_lossy(),
            "id": public_key.id(),
        }))?,
        Format::Text => [private, public]
            .iter()
            .for_each(|path| output::print_line(&path.to_string_lossy())),
    }
    Ok(Outcome::Success)
}

/// A key is never written over: what it signed would be nobody's.
fn exists(path: &Path, private: &Path, public: &Path) -> Error {
    let error = Error::already_exists(format!("{} exists", shown(path)));
    match private.exists() && !public.exists() {
        true => error.with_hint(format!(
            "`containerkit key public {0} > {1}` makes {1} of it",
            private.display(),
            public.display()
        )),
        false => error.with_hint("choose another prefix"),
    }
}

fn public(format: Format, file: &Path) -> Result<Outcome> {
    let key = PrivateKey::read(file, || password::existing(&shown(file)))?.public()?;
    match format {
        Format::Json => output::print_json(&json!({ "id": key.id(), "pem": key.to_pem()? }))?,
        Format::Text => output::print_text(&key.to_pem()?),
    }
    Ok(Outcome::Success)
}

fn with_ending(prefix: &Path, ending: &str) -> Result<PathBuf> {
    let mut name: OsString = std::path::absolute(prefix)
        .map_err(|e| Error::io(format!("prefix {}", shown(prefix)), e))?
        .into();
    if prefix.file_name().is_none() || prefix.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::invalid(format!(
            "{} is a folder, not the beginning of a file's name",
            shown(prefix)
        )));
    }
    name.push(ending);
    Ok(name.into())
}

fn shown(path: &Path) -> String {
    quote(&path.to_string_lossy())
}
