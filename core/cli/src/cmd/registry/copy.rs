//! `image copy`.

use std::path::PathBuf;

use containerkit::{Error, Result};
use containerkit_distribution::{CopyOptions, Place, Platforms, Registry, accept};

use crate::Outcome;
use crate::app::App;
use crate::args::registry::CopyArgs;
use crate::progress::{Progress, Stderr};

pub(crate) fn copy(app: &App, args: &CopyArgs) -> Result<Outcome> {
    let (from, to) = (place(&args.source)?, place(&args.target)?);
    let progress = Progress::new(app.format, Stderr::Own)?;
    let domains: Vec<&str> = [&from, &to].into_iter().filter_map(domain).collect();
    let client = super::client(app, &args.access, &domains, progress.cancel.clone())?;
    let mut settings = client.settings().clone();
    for (flag, creds, place) in [
        ("--src-creds", &args.src_creds, &from),
        ("--dest-creds", &args.dest_creds, &to),
    ] {
        let Some(creds) = creds else { continue };
        let domain = domain(place)
            .ok_or_else(|| Error::invalid(format!("{flag}: a layout takes no credentials")))?;
        let secret = super::secret(creds).map_err(|error| error.context(flag))?;
        settings.keyring.given.insert(domain.to_owned(), secret);
    }
    let registry = Registry::new(settings);
    let watch = |event| progress.transfer(event);
    let options = CopyOptions {
        platforms: match &args.platform {
            Some(text) => Platforms::One(text.parse()?),
            None => Platforms::All,
        },
        check: &accept,
        progress: &watch,
    };
    let copied = containerkit_distribution::copy(&registry, &from, &to, &options)?;
    drop(progress);
    super::push::report(app, &to.to_string(), copied.digest().as_ref())
}

fn domain(place: &Place) -> Option<&str> {
    match place {
        Place::Registry(reference) => Some(reference.domain()),
        Place::Layout { .. } => None,
    }
}

/// `oci:DIR[:TAG]`, a path (which begins with a dot or a slash), or a
/// reference, before which `docker://` may stand.
fn place(text: &str) -> Result<Place> {
    if let Some(rest) = text.strip_prefix("oci:") {
        let (dir, tag) = match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') && !tag.is_empty() => (dir, Some(tag.into())),
            _ => (rest, None),
        };
        if dir.is_empty() {
            return Err(Error::invalid("oci: names no folder; want oci:DIR[:TAG]"));
        }
        return Ok(Place::Layout {
            dir: PathBuf::from(dir),
            tag,
        });
    }
    if text.starts_with(['.', '/']) {
        return Ok(Place::Layout {
            dir: PathBuf::from(text),
            tag: None,
        });
    }
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    Ok(Place::Registry(bare.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let layout = |dir: &str, tag: Option<&str>| Place::Layout {
            dir: dir.into(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(
            place("oci:/a/b:v1").expect("place"),
            layout("/a/b", Some("v1"))
        );
        assert_eq!(place("oci:a:b/c").expect("place"), layout("a:b/c", None));
        assert_eq!(place("./x").expect("place"), layout("./x", None));
        for text in ["docker://busybox", "busybox"] {
            let want = Place::Registry("busybox".parse().expect("reference"));
            assert_eq!(place(text).expect("place"), want);
        }
        assert!(place("oci:").is_err() && place("A").is_err());
    }
}
