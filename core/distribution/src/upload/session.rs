//! An upload that another process may go on with.

use std::path::{Path, PathBuf};

use containerkit::fs::{self, Durability};
use containerkit::lock::{FileLock, Wait};
use containerkit::{Algorithm, Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::origin::Url;
use crate::settings::Endpoint;

const VERSION: u32 = 1;

/// The file, `<uploads>/NAME.json`.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    location: String,
}

#[derive(Deserialize)]
struct Format {
    version: u32,
}

/// Held by one process at a time.
pub(super) struct Session {
    path: PathBuf,
    lock: FileLock,
}

impl Session {
    /// Takes the session of a blob; `None` while another process has it, whose
    /// upload is its own affair.
    pub(super) fn take(
        folder: &Path,
        endpoint: &Endpoint,
        digest: &Digest,
    ) -> Result<Option<Session>> {
        fs::ensure_dir(folder, 0o700)?;
        let what = format!("{} {} {digest}", endpoint.origin, endpoint.repository);
        let name = Algorithm::Sha256.digest(what.as_bytes());
        let lock = folder.join(format!("{}.lock", name.hex()));
        match FileLock::acquire(&lock, &format!("upload of {digest}"), Wait::No) {
            Ok(lock) => Ok(Some(Session {
                path: folder.join(format!("{}.json", name.hex())),
                lock,
            })),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where an upload goes on, if it is remembered. What cannot be read is as
    /// good as nothing, but for a newer format.
    pub(super) fn location_of(session: Option<&Session>) -> Result<Option<Url>> {
        match session {
            Some(session) => session.location(),
            None => Ok(None),
        }
    }

    fn location(&self) -> Result<Option<Url>> {
        let Ok(data) = fs::read_file(&self.path, 64 << 10) else {
            return Ok(None);
        };
        // First the version alone: what else is there is its own affair.
        if let Ok(Format { version }) = serde_json::from_slice(&data)
            && version > VERSION
        {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{} has version {version}; this containerkit reads version {VERSION}",
                    self.path.display()
                ),
            )
            .with_hint("use the newer containerkit, or remove the file: the upload begins anew"));
        }
        let kept = serde_json::from_slice::<Kept>(&data).ok();
        Ok(kept.and_then(|kept| kept.location.parse().ok()))
    }

    pub(super) fn keep(&self, location: &Url) -> Result<()> {
        let kept = Kept {
            version: VERSION,
            location: location.full(),
        };
        let data = serde_json::to_vec(&kept)
            .map_err(|error| Error::internal("write JSON").with_source(error))?;
        fs::write_atomic(&self.path, &data, 0o600, Durability::Volatile)
    }

    /// The blob is there.
    pub(super) fn end(self) {
        let _ = std::fs::remove_file(&self.path);
        if let Err(error) = self.lock.remove() {
            log::debug!("{error}");
        }
    }
}
