//! Writes a layer into an upper folder while the layers below are not there
//! yet.

use std::io::Read;
use std::os::fd::BorrowedFd;

use containerkit::Result;

use super::below::Below;
use super::{Applied, ApplyOptions, WhiteoutForm, run};
use crate::limits::Limits;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Blind {
    /// Written, and right once it is [settled](super::settle()).
    Written(Applied, Below),
    /// Something in the layer needs the layers below. A part of it is
    /// written, and the stream is not read to its end.
    Unsure(&'static str),
}

/// Writes a layer into an empty folder, in overlay's form.
pub(crate) fn blind(layer: &mut dyn Read, root: BorrowedFd<'_>, limits: &Limits) -> Result<Blind> {
    let options = ApplyOptions {
        whiteouts: WhiteoutForm::Overlay,
        limits: limits.clone(),
        ..ApplyOptions::default()
    };
    let (applied, below) = run(layer, root, &options, Some(Below::default()));
    let below = below.unwrap_or_default();
    match (applied, below.unsure) {
        (_, Some(why)) => Ok(Blind::Unsure(why)),
        (applied, None) => applied.map(|applied| Blind::Written(applied, below)),
    }
}
