//! `config`: what is configured, and whether it holds.

use containerkit::{Error, Result};
use containerkit_config::Config;

use crate::Outcome;
use crate::app::flags;
use crate::args::{ConfigCommand, Global};
use crate::output::{self, Format};
use crate::policy;

pub(crate) fn run(global: &Global, command: ConfigCommand) -> Result<Outcome> {
    match command {
        ConfigCommand::Default => output::print_text(Config::default_toml()),
        ConfigCommand::Schema => output::print_json(&Config::schema())?,
        ConfigCommand::Dump => {
            let config = Config::load(&flags(global)?)?;
            match global.format {
                Format::Json => output::print_json(&config.to_json())?,
                Format::Text => output::print_text(&config.dump()),
            }
        }
        ConfigCommand::Check => return check(global),
    }
    Ok(Outcome::Success)
}

/// Every problem is a line; the first is the error, the others its hints.
fn check(global: &Global) -> Result<Outcome> {
    let config = Config::load(&flags(global)?)?;
    let drivers = containerkit_config::check(&config).into_iter();
    let problems: Vec<Error> = drivers
        .map(|problem| problem.error)
        .chain(policy::problems(&config))
        .collect();
    let Some((first, rest)) = problems.split_first() else {
        output::print_line("the configuration is valid");
        return Ok(Outcome::Success);
    };
    let rest: Vec<String> = rest
        .iter()
        .map(|problem| format!("also: {}", problem))
        .collect();
    let error = Error::invalid(format!("the configuration is not valid: {first}"));
    Err(if rest.is_empty() {
        error
    } else {
        error.with_hint(rest.join("\n"))
    })
}
