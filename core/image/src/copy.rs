//! Copies files between trees: containers' and the host's.
//!
//! What is copied goes as a tar stream from the tree that it is read from to
//! [`apply`](mod@crate::apply), which writes it: with owners, modes, times,
//! extended attributes, symlinks as they are, hard links and holes. Neither
//! side ever leaves its tree. A container that runs may exchange what is
//! copied at any moment: each thing is looked at once and opened by what was
//! found, folders are opened by paths without symlinks, and what is written to
//! the host is resolved in the folder that it is copied to, so that no symlink
//! of the container leads further (CVE-2018-15664 and its kin).
//!
//! Where a copy goes is told as by cp(1) and by the `cp` of other engines:
//!
//! | source | target | becomes |
//! |---|---|---|
//! | file | none | that name; its folder must exist |
//! | file | file | that file, replaced |
//! | any | folder | in the folder, under its own name |
//! | folder | none | that name |
//! | folder | file | refused |
//! | `folder/.` | folder | what is in it, in the folder |
//!
//! A symlink is copied as one, unless its path ends in a slash or
//! [`Follow::Yes`] is asked for; one that is the target is followed. Sockets,
//! and what is in `/proc` and its like, are left out.

mod end;
mod pack;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use containerkit::{Error, ErrorKind, IoContext, Result};

use crate::Limits;
use crate::apply::{ApplyOptions, WhiteoutForm, apply};
use end::Target;

pub use end::{End, Follow};

/// Copies from one end to the other. A failure may leave a part of it.
pub fn copy(from: &End<'_>, to: &End<'_>, follow: Follow) -> Result<()> {
    let source = from.source(follow)?;
    let target = to.target(&source)?;
    let (mut reader, mut writer) = std::io::pipe().io_context(|| "make a pipe")?;
    let name = target.name.as_deref().unwrap_or_default();
    let (packed, placed) = std::thread::scope(|scope| {
        let packer = scope.spawn(|| {
            let packed = pack::pack(&source, name, &mut writer);
            // The other side reads to the end.
            drop(writer);
            packed
        });
        let placed = place(&mut reader, &target, to);
        drop(reader);
        (packer.join(), placed)
    });
    let packed = packed.map_err(|_| Error::internal("reading the files failed"))?;
    match (packed, placed) {
        (Ok(()), placed) => placed,
        // What was cut off was cut off by the other error.
        (Err(error), Err(placed)) if placed.kind() != ErrorKind::DataLoss => {
            log::debug!("{error}");
            Err(placed)
        }
        (Err(error), _) => Err(error),
    }
}

/// Writes what is copied as a tar stream.
pub fn copy_out(from: &End<'_>, archive: &mut dyn Write, follow: Follow) -> Result<()> {
    let source = from.source(follow)?;
    let name = match source.contents {
        true => b".".to_vec(),
        false => source.name.clone(),
    };
    pack::pack(&source, &name, archive)
}

/// Writes what is in a tar stream into a folder that exists.
pub fn copy_in(archive: &mut dyn Read, to: &End<'_>) -> Result<()> {
    let target = to.folder()?;
    place(archive, &target, to)
}

fn place(archive: &mut dyn Read, target: &Target, to: &End<'_>) -> Result<()> {
    let options = ApplyOptions {
        whiteouts: WhiteoutForm::Plain,
        folder: target.folder.clone(),
        mapping: to.mapping.cloned(),
        limits: Limits {
            entries: u64::MAX,
            bytes: u64::MAX,
            ..Limits::default()
        },
    };
    apply(archive, target.root.as_fd(), &options).map(drop)
}
