//! `version`, `info`, `completion`, `system`.

use clap::CommandFactory;
use containerkit::{DriverKind, Result};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::Cli;
use crate::args::store::SystemCommand;
use crate::output::{self, Format};

pub(crate) fn run(app: &App, command: SystemCommand) -> Result<Outcome> {
    match command {
        SystemCommand::Df => super::df::run(app),
        SystemCommand::Prune(args) => super::prune::run(app, &args),
        SystemCommand::Info => info(app),
    }
}

pub(crate) fn version(format: Format) -> Result<Outcome> {
    let abi = containerkit_plugin::host::AbiVersion::CURRENT.to_string();
    if format == Format::Json {
        output::print_json(&json!({ "version": env!("CARGO_PKG_VERSION"), "abi": abi }))?;
    } else {
        output::print_line(&format!(
            "containerkit {}, driver ABI {abi}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    Ok(Outcome::Success)
}

pub(crate) fn completion(shell: clap_complete::Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "containerkit", &mut script);
    output::print_text(&String::from_utf8_lossy(&script));
    Ok(Outcome::Success)
}

pub(crate) fn info(app: &App) -> Result<Outcome> {
    let config = &app.config;
    let defaults = [
        (DriverKind::Runtime, &config.default.runtime),
        (DriverKind::Snapshotter, &config.default.snapshotter),
        (DriverKind::Content, &config.default.content),
    ];
    if app.format == Format::Json {
        let mut document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "abi": containerkit_plugin::host::AbiVersion::CURRENT.to_string(),
            "root": config.root,
            "state": config.state,
            "config_files": config.files,
            "driver_path": config.driver_path,
            "default": {},
        });
        for (kind, instance) in defaults {
            document["default"][kind.name()] = json!(instance);
        }
        output::print_json(&document)?;
        return Ok(Outcome::Success);
    }
    output::print_line(&format!("root         {}", config.root.display()));
    output::print_line(&format!("state        {}", config.state.display()));
    for file in &config.files {
        output::print_line(&format!("config       {}", file.display()));
    }
    for dir in &config.driver_path {
        output::print_line(&format!("driver path  {}", dir.display()));
    }
    for (kind, instance) in defaults {
        output::print_line(&format!("{:<12} {instance}", kind.name()));
    }
    Ok(Outcome::Success)
}
