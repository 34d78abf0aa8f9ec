//! The reaper that `--init` makes process 1 of a container.
//!
//! The program itself is `program/`: it forwards signals to the command,
//! reaps orphans and ends with the command's status. It is static, so that it
//! runs in an image without a C library, and comes embedded in this library,
//! so that there is nothing to install: [`install`] writes it beneath a root
//! once, under the digest of its bytes, and a container's spec binds it
//! read-only at [`INIT_PATH`](containerkit::spec::INIT_PATH).

use std::path::{Path, PathBuf};

use containerkit::fs::{self, Durability};
use containerkit::{Algorithm, Result};

/// The executable.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/containerkit-init"));

/// Makes sure that the program is in `<root>/init` and returns its path. What
/// is there and is not the program is replaced.
pub fn install(root: &Path) -> Result<PathBuf> {
    let folder = root.join("init");
    let path = folder.join(Algorithm::Sha256.digest(PROGRAM).hex());
    let is_whole = |path: &Path| {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        std::fs::symlink_metadata(path).is_ok_and(|meta| {
            meta.is_file() && meta.uid() == 0 && meta.permissions().mode() & 0o7777 == 0o555
        }) && fs::read_file(path, PROGRAM.len() as u64).is_ok_and(|data| data == PROGRAM)
    };
    if !is_whole(&path) {
        // 0711: a container whose users are mapped reaches it.
        fs::ensure_dir(root, 0o711)?;
        fs::ensure_dir(&folder, 0o711)?;
        fs::write_atomic(&path, PROGRAM, 0o555, Durability::Synced)?;
    }
    Ok(path)
}
