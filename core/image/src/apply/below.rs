//! What a layer that is written blind, into an upper folder without the
//! layers below, takes for granted of them.
//!
//! A folder that the layer needs and has no entry for is made as if there was
//! nothing below; a whiteout is written as if there was something. Both are
//! remembered here, and [`settle`](super::settle) holds them against the
//! layers below. What cannot be set right afterwards ends the blind writing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use containerkit::{Error, Result};

/// Folders and whiteouts that are remembered; a layer with more is written
/// through a mount.
const MOST: usize = 1 << 16;
/// Bytes of their names.
const NAMES: usize = 16 << 20;

/// A folder that was made without an entry of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Implied {
    /// It looks as the one below does, if there is one.
    Inherits,
    /// Something of the layer has told since how it looks. That the layer
    /// went through it before still matters if it is a symlink below.
    Told,
}

/// What is taken for granted.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// By path without symlinks.
    pub(super) implied: BTreeMap<Vec<u8>, Implied>,
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Implied folders that hold nothing but whiteouts.
    pub(super) bare: HashSet<Vec<u8>>,
    /// Folders that show nothing of the layers below.
    pub(super) closed: HashSet<Vec<u8>>,
    /// The root has an entry.
    pub(super) root_told: bool,
    /// The root hides all that is below, which no upper folder can say.
    pub(super) root_opaque: bool,
    /// Why blind writing had to end.
    pub(super) unsure: Option<&'static str>,
    names: usize,
}

impl Below {
    /// Ends blind writing: the answer lies in the layers below.
    pub(super) fn unsure(&mut self, why: &'static str) -> Error {
        self.unsure = Some(why);
        Error::precondition(why)
    }

    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.names += path.len();
        let known = self.implied.len() + self.whiteouts.len() + self.closed.len();
        if known >= MOST || self.names > NAMES {
            return Err(self.unsure("it leans on too much of the layers below"));
        }
        Ok(())
    }

    /// A folder was made that the layer has no entry for.
    pub(super) fn implied(&mut self, parent: &[u8], path: &[u8]) -> Result<()> {
        if self.closed.contains(parent) {
            return self.close(path);
        }
        self.count(path)?;
        self.implied.insert(path.to_vec(), Implied::Inherits);
        Ok(())
    }

    /// A folder has an entry, which made it or found it.
    pub(super) fn told(&mut self, parent: &[u8], path: &[u8]) -> Result<()> {
        if let Some(implied) = self.implied.get_mut(path) {
            *implied = Implied::Told;
        }
        match self.closed.contains(parent) {
            true => self.close(path),
            false => Ok(()),
        }
    }

    /// A folder shows nothing of the layers below from now on.
    pub(super) fn close(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            self.root_opaque = true;
        }
        if !self.closed.contains(path) {
            self.count(path)?;
            self.closed.insert(path.to_vec());
        }
        Ok(())
    }

    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.count(path)?;
        self.whiteouts.insert(path.to_vec());
        Ok(())
    }

    /// A folder is gone with all that it held.
    pub(super) fn removed(&mut self, path: &[u8]) {
        if let Some(implied) = self.implied.get_mut(path) {
            *implied = Implied::Told;
        }
        let below = super::tree::join(path, b"");
        let inside = self
            .implied
            .range_mut(below.clone()..)
            .take_while(|(known, _)| known.starts_with(&below));
        for (_, implied) in inside {
            *implied = Implied::Told;
        }
    }

    /// Whether a folder, or one that it is in, shows nothing of the layers
    /// below.
    pub(super) fn is_closed(&self, path: &[u8]) -> bool {
        let mut end = path.len();
        while end > 0 {
            if self.closed.contains(&path[..end]) {
                return true;
            }
            end = path[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
        }
        false
    }
}
