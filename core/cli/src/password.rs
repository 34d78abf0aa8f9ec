//! The password of a key: from the environment, or asked for.

use containerkit::{Error, Result};
use containerkit_distribution::sign::Password;

use crate::terminal::{self, Echo};

/// cosign's own variable is the second.
const VARIABLES: [&str; 2] = ["CONTAINERKIT_KEY_PASSWORD", "COSIGN_PASSWORD"];

/// The password of a key that exists.
pub(crate) fn existing(what: &str) -> Result<Password> {
    match from_environment()? {
        Some(password) => Ok(password),
        None => ask(&format!("password of {what}: ")),
    }
}

/// The password of a key that is made: one that is typed is typed twice.
pub(crate) fn new(what: &str) -> Result<Password> {
    if let Some(password) = from_environment()? {
        return Ok(password);
    }
    let first = ask(&format!("new password of {what}: "))?;
    if *first != *ask("the same again: ")? {
        return Err(Error::invalid("the two passwords differ"));
    }
    Ok(first)
}

/// A variable that is set counts, an empty one too: as an empty password.
fn from_environment() -> Result<Option<Password>> {
    for name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            let text = value.into_string();
            return text
                .map(|text| Some(Password::new(text)))
                .map_err(|_| Error::invalid(format!("${name}: want UTF-8")));
        }
    }
    Ok(None)
}

fn ask(prompt: &str) -> Result<Password> {
    match terminal::ask(prompt, Echo::Off)? {
        Some(typed) => Ok(Password::new(typed)),
        None => Err(Error::precondition(
            "a key's password is needed, and standard input is no terminal to ask on",
        )
        .with_hint(format!(
            "set ${}; an empty value is an empty password",
            VARIABLES.join(" or $")
        ))),
    }
}
