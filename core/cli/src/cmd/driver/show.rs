//! `driver ls`, `inspect`, `trace`: what is configured, what loads, and why
//! something does not.

use std::path::Path;

use containerkit::{DriverInfo, Error, InstanceName, Result};
use containerkit_config::DriverStatus;
use containerkit_plugin::host::Library;
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::output::{self, Format};

/// One line a driver. A failed one is told of, and fails no listing.
pub(super) fn ls(app: &App) -> Result<Outcome> {
    let all = app.drivers.status_all();
    if app.format == Format::Json {
        output::print_json(&all)?;
        return Ok(Outcome::Success);
    }
    let dash = || "-".to_string();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|status| {
            vec![
                status.kind.to_string(),
                format!(
                    "{}{}",
                    status.instance,
                    if status.default { " *" } else { "" }
                ),
                status.driver.clone().unwrap_or_else(dash),
                status.version.clone().unwrap_or_else(dash),
                status.abi.clone().unwrap_or_else(dash),
                status
                    .path
                    .as_ref()
                    .map_or_else(dash, |path| path.display().to_string()),
                status
                    .reason
                    .as_ref()
                    .map_or("ok".into(), |why| format!("failed: {why}")),
            ]
        })
        .collect();
    output::print_table(
        &[
            "KIND", "INSTANCE", "DRIVER", "VERSION", "ABI", "PATH", "STATUS",
        ],
        &rows,
    );
    Ok(Outcome::Success)
}

/// The error for a name that nothing has, with the names that there are.
pub(super) fn not_configured(app: &App, name: &str) -> Error {
    let keys = app.config.instances.keys();
    let known: Vec<String> = keys.map(|(kind, name)| format!("{kind} {name}")).collect();
    Error::not_found(format!("driver instance {name} is not configured"))
        .with_hint(format!("configured: {}", known.join(", ")))
}

/// A value with a slash is a path; a bare one is an instance's name.
pub(super) fn inspect(app: &App, target: &str) -> Result<Outcome> {
    let (library, statuses) = if target.contains('/') {
        let path = std::path::absolute(Path::new(target))
            .map_err(|e| Error::io("find the current folder", e))?;
        (Library::load(&path, None)?, Vec::new())
    } else {
        let name: InstanceName = target.parse()?;
        let statuses: Vec<DriverStatus> = app
            .drivers
            .status_all()
            .into_iter()
            .filter(|s| s.instance == name)
            .collect();
        let Some(kind) = statuses.first().map(|s| s.kind) else {
            return Err(not_configured(app, name.as_str()));
        };
        let resolved = app.drivers.resolve(kind, &name)?;
        (
            Library::load(&resolved.path, resolved.pin.as_ref())?,
            statuses,
        )
    };
    let infos: Vec<DriverInfo> = library
        .kinds()
        .into_iter()
        .map(|kind| library.info(kind))
        .collect::<Result<_>>()?;
    let sha256 = library.sha256()?;
    if app.format == Format::Json {
        output::print_json(&json!({
            "path": library.path(),
            "abi": library.abi_version().to_string(),
            "sha256": sha256,
            "drivers": infos,
            "instances": statuses,
        }))?;
        return Ok(Outcome::Success);
    }
    output::print_line(&format!("path      {}", library.path().display()));
    output::print_line(&format!("sha256    {}", sha256.hex()));
    output::print_line(&format!("abi       {}", library.abi_version()));
    for info in &infos {
        output::print_line(&format!(
            "driver    {} {} ({})",
            info.name, info.version, info.kind
        ));
        for option in &info.options {
            let default = match option.default.as_str() {
                "" => String::new(),
                default => format!(" [default: {default}]"),
            };
            output::print_line(&format!(
                "  option  {} ({}): {}{default}",
                option.name,
                option.kind.name(),
                option.help
            ));
        }
    }
    for status in &statuses {
        output::print_line(&format!(
            "instance  {} {}: {}",
            status.kind,
            status.instance,
            status
                .reason
                .clone()
                .unwrap_or_else(|| status.capabilities.join(" "))
        ));
    }
    Ok(Outcome::Success)
}

pub(super) fn trace(app: &App) -> Result<Outcome> {
    let mut report = Vec::new();
    for (trace, status) in app
        .drivers
        .trace()
        .into_iter()
        .zip(app.drivers.status_all())
    {
        let declared = match &trace.declaration {
            Some(Ok(declared)) => Some(format!("declares ABI {}", declared.abi_version)),
            _ => None,
        };
        if app.format == Format::Text {
            let outcome = status
                .reason
                .as_ref()
                .map_or("loaded".into(), |why| format!("failed: {why}"));
            output::print_line(&format!(
                "{} {} ({}, {}): {outcome}",
                trace.kind, trace.instance, trace.driver, trace.origin
            ));
            for step in &trace.tried {
                output::print_line(&format!("  {}: {}", step.path.display(), step.outcome));
            }
            if let Some(declared) = &declared {
                output::print_line(&format!("  {declared}"));
            }
            for hint in status.hint.iter().flat_map(|hint| hint.lines()) {
                output::print_line(&format!("  {hint}"));
            }
        }
        let tried: Vec<Value> = trace
            .tried
            .iter()
            .map(|step| json!({ "path": step.path, "outcome": step.outcome }))
            .collect();
        report.push(json!({
            "kind": trace.kind,
            "instance": trace.instance,
            "file": trace.driver,
            "configured": trace.origin.to_string(),
            "tried": tried,
            "declared": declared,
            "status": status.status,
            "reason": status.reason,
            "hint": status.hint,
        }));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    }
    Ok(Outcome::Success)
}
