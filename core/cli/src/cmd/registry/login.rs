//! `login` and `logout`.

use std::io::Read;

use containerkit::{Cancel, Error, IoContext, Result};
use containerkit_distribution::{AuthFile, Registry, Secret};

use crate::Outcome;
use crate::app::App;
use crate::args::registry::{Access, LoginArgs, LogoutArgs};
use crate::output::{self, Format};
use crate::terminal;

/// The registry is asked before anything is kept.
pub(crate) fn login(app: &App, args: LoginArgs) -> Result<Outcome> {
    let domain = super::domain(&args.registry)?;
    let user = match args.username {
        Some(user) => user,
        None => terminal::ask("Username: ", terminal::Echo::On)?
            .ok_or_else(|| Error::invalid("a user is missing: give --username"))?,
    };
    if user.is_empty() || user.contains(':') {
        return Err(Error::invalid("a user is neither empty nor has a colon"));
    }
    let password = match (args.password, args.password_stdin) {
        (Some(password), _) => password,
        (None, true) => from_stdin()?,
        (None, false) => terminal::ask("Password: ", terminal::Echo::Off)?.ok_or_else(|| {
            Error::invalid("a password is missing: give --password-stdin and write it there")
        })?,
    };
    let access = Access {
        plain_http: args.plain_http,
        ..Access::default()
    };
    let client = super::client(app, &access, &[&domain], Cancel::default())?;
    let mut settings = client.settings().clone();
    let secret = Secret::Password {
        user: user.clone(),
        password: password.clone(),
    };
    settings.keyring.given.insert(domain.clone(), secret);
    Registry::new(settings)
        .probe(&domain)
        .map_err(|error| error.context(format!("log in to {domain}")))?;
    let path = super::written_auth_file(app, args.authfile)?;
    let kept = AuthFile::login(&path, &domain, &user, &password)?;
    tell(app, &domain, "logged in", &kept)
}

pub(crate) fn logout(app: &App, args: LogoutArgs) -> Result<Outcome> {
    let domain = super::domain(&args.registry)?;
    let path = super::written_auth_file(app, args.authfile)?;
    match AuthFile::logout(&path, &domain)? {
        true => tell(app, &domain, "logged out", &path.display().to_string()),
        false => Err(Error::not_found(format!(
            "{} has no credentials of {domain}",
            path.display()
        ))),
    }
}

fn tell(app: &App, domain: &str, what: &str, place: &str) -> Result<Outcome> {
    match app.format {
        Format::Text => output::print_line(&format!("{domain}: {what} ({place})")),
        Format::Json => {
            output::print_json(&serde_json::json!({ "registry": domain, "kept": place }))?;
        }
    }
    Ok(Outcome::Success)
}

/// All of standard input, without the newline that ends it.
fn from_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(64 << 10)
        .read_to_string(&mut text)
        .io_context(|| "read the password from standard input")?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password.is_empty() {
        true => Err(Error::invalid("the password on standard input is empty")),
        false => Ok(password.to_owned()),
    }
}
