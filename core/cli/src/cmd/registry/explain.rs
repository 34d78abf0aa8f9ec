//! `registry explain`.

use containerkit::{Cancel, Reference, Result};
use containerkit_distribution::{Endpoint, Registry, Role, Scheme, proxy_of};
use serde_json::{Value, json};

use crate::Outcome;
use crate::app::App;
use crate::args::registry::Access;
use crate::output::{self, Format};

/// Says what a pull would use, and connects to nothing.
pub(crate) fn explain(app: &App, access: &Access, name: &str) -> Result<Outcome> {
    let reference: Reference = name.parse()?;
    let registry = super::client(app, access, &[reference.domain()], Cancel::default())?;
    let endpoints = registry.settings().endpoints(&reference)?;
    let mut report = Vec::new();
    for endpoint in &endpoints {
        report.push(document(app, &registry, endpoint)?);
    }
    if app.format == Format::Json {
        output::print_json(&json!({ "reference": reference, "endpoints": report }))?;
        return Ok(Outcome::Success);
    }
    output::print_line(&reference.to_string());
    for (endpoint, report) in endpoints.iter().zip(&report) {
        output::print_line(&format!(
            "{} {}/v2/{}",
            report["role"].as_str().unwrap_or_default(),
            endpoint.origin,
            endpoint.repository
        ));
        for key in [
            "tls",
            "ca",
            "credentials",
            "user",
            "token_realms",
            "proxy",
            "idle_timeout",
            "timeout",
        ] {
            let shown = match &report[key] {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Array(list) => {
                    let texts = list.iter().filter_map(Value::as_str);
                    texts.collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            };
            output::print_line(&format!("  {}: {shown}", key.replace('_', " ")));
        }
    }
    Ok(Outcome::Success)
}

fn document(app: &App, registry: &Registry, endpoint: &Endpoint) -> Result<Value> {
    let configured = app.config.registries.get(&endpoint.domain);
    let found = registry.credentials(endpoint)?;
    let tls = endpoint.origin.scheme() == Scheme::Https;
    let ca = configured.and_then(|registry| registry.ca.as_ref());
    Ok(json!({
        "role": match endpoint.role {
            Role::Mirror => "mirror",
            Role::Registry => "registry",
        },
        "url": format!("{}/v2/{}", endpoint.origin, endpoint.repository),
        "plain_http": !tls,
        "tls": match tls {
            true => "verified",
            false => "none: plain HTTP",
        },
        "ca": match (tls, ca) {
            (false, _) => Value::Null,
            (true, None) => "the host's".into(),
            (true, Some(path)) => format!("the host's and {}", path.display()).into(),
        },
        "credentials": found.as_ref().map_or("none", |found| found.source.as_str()),
        "user": found.as_ref().and_then(|found| found.secret.user()),
        "token_realms": registry.settings().realms(endpoint),
        "proxy": proxy_of(endpoint),
        "idle_timeout": registry.settings().idle_timeout(endpoint).as_secs(),
        "timeout": configured
            .and_then(|registry| registry.timeout)
            .map(|time| time.as_secs()),
    }))
}
