//! What an export holds: files, in order, from the store or at hand.

use std::collections::HashSet;
use std::io::Write;

use containerkit::content::ContentStore;
use containerkit::{Digest, Error, Result};

use crate::Cancel;

/// The files of an export, by their names in it.
#[derive(Default)]
pub(super) struct Plan<'a> {
    pub(super) files: Vec<(String, Content<'a>)>,
    names: HashSet<String>,
}

pub(super) enum Content<'a> {
    Bytes(Vec<u8>),
    Blob {
        store: &'a dyn ContentStore,
        digest: Digest,
        size: u64,
    },
}

impl<'a> Plan<'a> {
    /// A name is taken once: under one name is one content.
    pub(super) fn add(&mut self, name: String, content: Content<'a>) {
        if self.names.insert(name.clone()) {
            self.files.push((name, content));
        }
    }

    /// The folders that the names are in, each after the one above it.
    pub(super) fn folders(&self) -> Vec<&str> {
        let mut folders: Vec<&str> = Vec::new();
        for (name, _) in &self.files {
            for (slash, _) in name.match_indices('/') {
                if !folders.contains(&&name[..slash]) {
                    folders.push(&name[..slash]);
                }
            }
        }
        folders
    }
}

impl Content<'_> {
    pub(super) fn size(&self) -> u64 {
        match self {
            Content::Bytes(data) => data.len() as u64,
            Content::Blob { size, .. } => *size,
        }
    }

    /// Gives all of it, and fails when it is not what its digest says.
    pub(super) fn copy(
        &self,
        cancel: &Cancel,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (store, digest, size) = match self {
            Content::Bytes(data) => return write(data),
            Content::Blob {
                store,
                digest,
                size,
            } => (store, digest, *size),
        };
        let damaged = |why: String| {
            Error::data_loss(format!("blob {digest}: {why}")).with_hint(format!(
                "delete it with `containerkit content delete {digest}` and import or pull it again"
            ))
        };
        let reader = store.reader(digest)?;
        if reader.size() != size {
            let found = reader.size();
            return Err(damaged(format!(
                "it has {found} bytes, its descriptor says {size}"
            )));
        }
        let mut hasher = digest.algorithm().hasher();
        let mut buffer = vec![0u8; size.clamp(1, 1 << 20) as usize];
        let mut offset = 0;
        while offset < size {
            cancel.check()?;
            let part = (size - offset).min(buffer.len() as u64) as usize;
            containerkit::content::read_exact_at(&*reader, &mut buffer[..part], offset)?;
            hasher.update(&buffer[..part]);
            write(&buffer[..part])?;
            offset += part as u64;
        }
        match hasher.finish() {
            found if found == *digest => Ok(()),
            found => Err(damaged(format!("its bytes have the digest {found}"))),
        }
    }
}

/// A document as it is written: the same bytes whenever it is made.
pub(super) fn json(mut value: serde_json::Value) -> Result<Vec<u8>> {
    value.sort_all_objects();
    serde_json::to_vec(&value).map_err(crate::document::json_error)
}

/// For writing what `copy` gives.
pub(super) fn write_all(out: &mut dyn Write, part: &[u8]) -> Result<()> {
    out.write_all(part)
        .map_err(|error| Error::io("write a file", error))
}
