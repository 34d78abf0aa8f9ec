//! `image push`.

use containerkit::{PlatformChoice, Reference, Result};
use containerkit_distribution::{CopyOptions, Platforms, accept};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::registry::PushArgs;
use crate::output::{self, Format};
use crate::progress::{Progress, Stderr};

pub(crate) fn push(app: &App, args: &PushArgs) -> Result<Outcome> {
    let (record, _lease) = app.hold(&args.name)?;
    let target: Reference = match &args.target {
        Some(text) => text.parse()?,
        None => record.name.clone(),
    };
    let progress = Progress::new(app.format, Stderr::Own)?;
    let registry = super::client(
        app,
        &args.access,
        &[target.domain()],
        progress.cancel.clone(),
    )?;
    let store = app.content_of(&record)?;
    let image = containerkit_image::descriptor(&record)?;
    let platforms = match &args.platform {
        Some(text) => Platforms::One(text.parse()?),
        None if containerkit_image::is_complete(&*store.driver, &image)?.is_empty() => {
            Platforms::All
        }
        None => {
            let host = PlatformChoice::host();
            log::warn!(
                "image {}: only what is for {host} is pushed, for not all platforms are here",
                record.name
            );
            Platforms::One(host)
        }
    };
    let watch = |event| progress.transfer(event);
    let options = CopyOptions {
        platforms,
        check: &accept,
        progress: &watch,
    };
    let pushed =
        containerkit_distribution::push(&registry, &*store.driver, &image, &target, &options)?;
    drop(progress);
    report(app, &target.to_string(), pushed.digest().as_ref())
}

/// What is where now.
pub(super) fn report(app: &App, name: &str, digest: &str) -> Result<Outcome> {
    match app.format {
        Format::Text => output::print_line(&format!("{name} {digest}")),
        Format::Json => output::print_json(&[json!({ "name": name, "digest": digest })])?,
    }
    Ok(Outcome::Success)
}
