//! The password of a key: from the environment, or asked for.

use std::io::Write;

use containerkit::{Error, ErrorKind, Result};
use containerkit_distribution::sign::Password;

use crate::terminal::Raw;

/// cosign's own variable is the second.
const VARIABLES: [&str; 2] = ["CONTAINERKIT_KEY_PASSWORD", "COSIGN_PASSWORD"];
/// No password is longer, in bytes.
const LIMIT: usize = 1024;

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
    let Some(raw) = Raw::stdin()? else {
        return Err(Error::precondition(
            "a key's password is needed, and standard input is no terminal to ask on",
        )
        .with_hint(format!(
            "set ${}; an empty value is an empty password",
            VARIABLES.join(" or $")
        )));
    };
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(prompt.as_bytes());
    let typed = read_line();
    drop(raw);
    let _ = stderr.write_all(b"\n");
    typed
}

/// A line in raw mode, with what a terminal would else do to it.
fn read_line() -> Result<Password> {
    let cancelled = || Error::new(ErrorKind::Cancelled, "no password was given");
    // Never grown, so that no copy is left behind.
    let mut typed = Password::new(String::with_capacity(4 * LIMIT));
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(LIMIT));
    loop {
        let mut byte = [0u8];
        match rustix::io::read(std::io::stdin(), &mut byte) {
            Ok(0) => return Err(cancelled()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(Error::io("read standard input", errno)),
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            3 | 4 => return Err(cancelled()),
            8 | 0x7f => {
                // A whole character.
                while bytes.pop().is_some_and(|last| last & 0xc0 == 0x80) {}
            }
            0x15 => bytes.clear(),
            _ if bytes.len() == LIMIT => {
                return Err(Error::invalid(format!(
                    "a password of more than {LIMIT} bytes"
                )));
            }
            other => bytes.push(other),
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => typed.push_str(text),
        Err(_) => return Err(Error::invalid("the password is not UTF-8")),
    }
    Ok(typed)
}
