//! `image export`: images into files of other tools.

use containerkit::kit::Opened;
use containerkit::{ContentStore, Result};
use containerkit_image::export::Source;
use containerkit_image::{ExportOptions, descriptor};

use crate::Outcome;
use crate::app::{App, platform_choice};
use crate::args::pack::ExportArgs;
use crate::output;
use crate::progress::{Progress, Stderr};

pub(crate) fn export(app: &App, args: ExportArgs) -> Result<Outcome> {
    let options = ExportOptions {
        format: args.form.parse()?,
        platform: platform_choice(args.platform.as_deref())?,
        cancel: Progress::new(app.format, Stderr::Own)?.cancel.clone(),
    };
    let (mut images, mut leases) = (Vec::new(), Vec::new());
    for name in &args.names {
        let (record, lease) = app.hold(name)?;
        leases.push(lease);
        images.push((app.content_of(&record)?, record));
    }
    let mut sources: Vec<Source<'_>> = Vec::new();
    for (store, record) in &images {
        let store: &Opened<dyn ContentStore> = store;
        if sources.iter().any(|source| source.name == record.name) {
            continue;
        }
        sources.push(Source {
            name: record.name.clone(),
            target: descriptor(record)?,
            store: &*store.driver,
        });
    }
    containerkit_image::export(&sources, &args.output, &options)?;
    output::print_names(app.format, &[args.output.display().to_string()])?;
    Ok(Outcome::Success)
}
