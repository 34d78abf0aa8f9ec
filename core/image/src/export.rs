//! Images out of the store, into files that other tools read: the inverse of
//! [`import`](mod@crate::import).
//!
//! An OCI layout keeps every digest. Of an index all platforms that are
//! complete in the store are in it, and the index as it is: image-spec
//! `image-layout.md` lets blobs be missing that it refers to, and a changed
//! index would be another image. A docker archive holds one platform of each
//! image, its config and its layers as they are stored.
//!
//! Each blob is hashed on its way out. Nothing of the machine or the hour is in
//! what is written: the same images make the same bytes. What is written
//! appears under its name when it is whole and on disk, by one rename; until
//! then a file has no name at all and a folder a hidden one, which the next
//! export to the same place removes when a killed one left it.

mod archive;
mod docker;
mod folder;
mod layout;
mod output;
mod plan;

use std::path::Path;
use std::str::FromStr;

use containerkit::content::ContentStore;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Context as _, Error, Reference, Result, quote};

use crate::Cancel;
use crate::PlatformChoice;
use archive::Wrap;

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// An OCI layout: a folder, or an archive where the name says so.
    #[default]
    Oci,
    /// What `docker save` writes: an archive.
    Docker,
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<ExportFormat> {
        match text {
            "oci" => Ok(ExportFormat::Oci),
            "docker" => Ok(ExportFormat::Docker),
            _ => Err(Error::invalid(format!(
                "format {}: want oci or docker",
                quote(text)
            ))),
        }
    }
}

/// How to export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What to write.
    pub format: ExportFormat,
    /// The platform of a docker archive.
    pub platform: PlatformChoice,
    /// Ends it early.
    pub cancel: Cancel,
}

/// An image to export.
#[derive(Clone)]
pub struct Source<'a> {
    /// The name that it gets.
    pub name: Reference,
    /// Its manifest or index.
    pub target: Descriptor,
    /// Where its blobs are.
    pub store: &'a dyn ContentStore,
}

/// Exports images to `to`, whose parent exists: a file when its name ends in
/// `.tar`, `.tar.gz` or `.tar.zst` or it is a docker archive, else a folder,
/// which must be new or empty.
pub fn export(sources: &[Source<'_>], to: &Path, options: &ExportOptions) -> Result<()> {
    run(sources, to, options).context(|| format!("export to {}", quote(&to.to_string_lossy())))
}

fn run(sources: &[Source<'_>], to: &Path, options: &ExportOptions) -> Result<()> {
    let wrap = Wrap::of(to);
    let plan = match options.format {
        ExportFormat::Oci => layout::plan(sources)?,
        ExportFormat::Docker => docker::plan(sources, &options.platform)?,
    };
    match (options.format, wrap) {
        (ExportFormat::Oci, None) => {
            output::folder(to, |dir| folder::write(&plan, dir, &options.cancel))
        }
        (_, wrap) => output::file(to, |file| {
            archive::write(&plan, wrap.unwrap_or(Wrap::None), file, &options.cancel)
        }),
    }
}
