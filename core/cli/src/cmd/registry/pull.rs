//! `image pull`, and the pull of `run --pull`.

use containerkit::lease::Lease;
use containerkit::oci_spec::image::Descriptor;
use containerkit::record::{ImageRecord, Object};
use containerkit::{ContentStore, Context as _, Digest, Error, Reference, Result, Timestamp};
use containerkit_distribution::{Platforms, PullOptions, Registry};
use serde_json::json;

use crate::Outcome;
use crate::app::{App, platform_choice};
use crate::args::registry::PullArgs;
use crate::cmd::image::new_record;
use crate::output::{self, Format};
use crate::policy;
use crate::progress::{Progress, Stderr};

/// What becomes of a pulled image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpack<'a> {
    /// Its layers stay blobs.
    No,
    /// Into the default snapshotter, or this one.
    Into(Option<&'a str>),
}

pub(crate) fn pull(app: &App, args: &PullArgs) -> Result<Outcome> {
    if args.all_platforms && args.platform.is_some() && args.no_unpack {
        return Err(Error::invalid(
            "--platform says nothing beside --all-platforms and --no-unpack",
        ));
    }
    let name: Reference = args.name.parse()?;
    let progress = Progress::new(app.format, Stderr::Own)?;
    let registry = super::client(app, &args.access, &[name.domain()], progress.cancel.clone())?;
    let unpack = match args.no_unpack {
        true => Unpack::No,
        false => Unpack::Into(None),
    };
    let platforms = match args.all_platforms {
        true => Platforms::All,
        false => Platforms::One(platform_choice(args.platform.as_deref())?),
    };
    let wanted = Wanted {
        platforms,
        platform: args.platform.as_deref(),
        unpack,
    };
    let lease = app.lease(&[])?;
    let record = image(app, &registry, &name, &wanted, &lease, &progress)?;
    drop(progress);
    match app.format {
        Format::Text => output::print_line(&format!("{} {}", record.name, record.digest)),
        Format::Json => {
            output::print_json(&[json!({ "name": record.name, "digest": record.digest })])?;
        }
    }
    Ok(Outcome::Success)
}

/// What is wanted of an image.
pub(crate) struct Wanted<'a> {
    pub(crate) platforms: Platforms,
    /// The platform that is unpacked, when it is not the host's.
    pub(crate) platform: Option<&'a str>,
    pub(crate) unpack: Unpack<'a>,
}

/// Pulls an image, unpacks it while it comes, and records its name last: a
/// killed pull has no name that promises what is not there.
pub(crate) fn image(
    app: &App,
    registry: &Registry,
    name: &Reference,
    wanted: &Wanted<'_>,
    lease: &Lease,
    progress: &Progress,
) -> Result<ImageRecord> {
    let store = app.content()?;
    let choice = platform_choice(wanted.platform)?;
    let rule = policy::Wanted::of(&app.config, name)?;
    let check = |image: &Reference, digest: &Digest| -> Result<()> {
        rule.permit(registry, image, digest).map(drop)
    };
    let watch = |event| progress.transfer(event);
    let hold = |blobs: &[Digest]| {
        let blobs: Vec<Object> = blobs.iter().cloned().map(Object::Blob).collect();
        lease.add(&blobs)
    };
    let options = PullOptions {
        platforms: wanted.platforms.clone(),
        check: &check,
        hold: &hold,
        progress: &watch,
    };
    let unpack = |arriving: &dyn ContentStore, target: &Descriptor| {
        let Unpack::Into(snapshotter) = wanted.unpack else {
            return Ok(());
        };
        if wanted.platforms == Platforms::All
            && wanted.platform.is_none()
            && !containerkit_image::offers(arriving, target, &choice)?
        {
            log::warn!("image {name}: not unpacked, it is for other platforms");
            return Ok(());
        }
        let image = containerkit_image::resolve(arriving, target, &choice)
            .map_err(|error| error.with_hint("--no-unpack pulls what is no container image too"))?;
        let snapshotter = app.snapshotter(snapshotter)?;
        app.unpack(arriving, &snapshotter, &image, lease, progress)
            .map(drop)
            .context(|| "unpack")
    };
    let pulled = containerkit_distribution::pull(registry, &store.driver, name, &options, unpack);
    let (target, ()) = pulled.context(|| format!("pull {name}"))?;
    let mut record = new_record(name.clone(), &target, &store.stamp, Timestamp::now())?;
    record.labels = rule.labels(name, &record.digest);
    app.records()?.put_image(&record)
}
