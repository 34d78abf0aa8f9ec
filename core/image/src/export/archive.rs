//! An export in a tar.

use std::io::Write;
use std::path::Path;

use containerkit::{IoContext, Result};
use flate2::write::GzEncoder;

use super::plan::Plan;
use crate::Cancel;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::writer::Writer;

/// What an archive is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    None,
    Gzip,
    Zstd,
}

impl Wrap {
    /// What a file's name says; `None` when it is no archive's.
    pub(super) fn of(path: &Path) -> Option<Wrap> {
        let name = path.file_name()?.to_string_lossy();
        [
            (".tar", Wrap::None),
            (".tar.gz", Wrap::Gzip),
            (".tgz", Wrap::Gzip),
            (".tar.zst", Wrap::Zstd),
        ]
        .into_iter()
        .find_map(|(end, wrap)| name.ends_with(end).then_some(wrap))
    }
}

pub(super) fn write(
    plan: &Plan<'_>,
    wrap: Wrap,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<()> {
    // Most of it is compressed already.
    match wrap {
        Wrap::None => tar(plan, out, cancel),
        Wrap::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::fast());
            tar(plan, &mut encoder, cancel)?;
            encoder.finish().io_context(|| "write a file").map(drop)
        }
        Wrap::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(out, 1).io_context(|| "begin compressing")?;
            tar(plan, &mut encoder, cancel)?;
            encoder.finish().io_context(|| "write a file").map(drop)
        }
    }
}

fn tar(plan: &Plan<'_>, out: &mut dyn Write, cancel: &Cancel) -> Result<()> {
    let mut writer = Writer::new(out);
    for folder in plan.folders() {
        writer.entry(&entry(EntryKind::Directory, &format!("{folder}/"), 0))?;
    }
    for (name, content) in &plan.files {
        writer.entry(&entry(EntryKind::File, name, content.size()))?;
        content.copy(cancel, |part| writer.data(part))?;
    }
    writer.finish().map(drop)
}

fn entry(kind: EntryKind, name: &str, size: u64) -> Entry {
    Entry {
        kind,
        path: name.as_bytes().to_vec(),
        link: Vec::new(),
        size,
        mode: match kind {
            EntryKind::Directory => 0o755,
            _ => 0o644,
        },
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Default::default(),
        sparse: None,
    }
}
