//! Small files replaced whole, and reads and writes at an offset.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use containerkit::{Error, Hasher, IoContext, Result, step};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The newest version of the small files beside the data.
pub(crate) const VERSION: u32 = 1;

/// What a small file of ours is large enough for.
const SMALL: u64 = 4 << 20;

/// What is read at once where a held ingest is hashed again.
const CHUNK: usize = 1 << 20;

/// Replaces `dir/name` by a JSON file, mode 0600, whole or not at all.
///
/// The caller holds the lock of `dir/name`: the temporary name is always the
/// same, so that a killed process leaves at most one, which the next write
/// takes over.
pub(crate) fn replace<T: Serialize>(dir: &Path, name: &str, value: &T, sync: bool) -> Result<()> {
    let path = dir.join(name);
    let mut data = serde_json::to_vec(value)
        .map_err(|error| Error::internal(format!("write {}", path.display())).with_source(error))?;
    data.push(b'\n');
    if data.len() as u64 > SMALL {
        return Err(Error::new(
            containerkit::ErrorKind::ResourceExhausted,
            format!("{} would have more than {SMALL} bytes", path.display()),
        ));
    }
    let temporary = temporary(dir, name);
    let result = (|| {
        let fd = rustix::fs::open(
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .io_context(|| format!("create {}", temporary.display()))?;
        let file = File::from(fd);
        step("small.created");
        write_at(&file, &data, 0, |_| {})
            .io_context(|| format!("write {}", temporary.display()))?;
        if sync {
            file.sync_all()
                .io_context(|| format!("fsync {}", temporary.display()))?;
        }
        step("small.rename");
        rustix::fs::rename(&temporary, &path)
            .io_context(|| format!("rename to {}", path.display()))?;
        step("small.renamed");
        if sync {
            containerkit::fs::sync_dir(dir)?;
        }
        Ok(())
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// What a killed [`replace`] leaves.
pub(crate) fn temporary(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.new"))
}

/// A small JSON file; `None` when there is none. What cannot be read as `T`
/// is `DataLoss`, a newer version `Incompatible`.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let fd = match rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io(format!("open {}", path.display()), errno)),
    };
    let damaged = |error: serde_json::Error| {
        Error::data_loss(format!("{} is damaged", path.display())).with_source(error)
    };
    let data = containerkit::fs::read_limited(fd, &path.display().to_string(), SMALL)?;
    let found: Versioned = serde_json::from_slice(&data).map_err(damaged)?;
    if found.version > VERSION {
        return Err(Error::new(
            containerkit::ErrorKind::Incompatible,
            format!(
                "{} has format version {}; this driver knows versions up to {VERSION}",
                path.display(),
                found.version
            ),
        )
        .with_hint("a newer containerkit made it: use that one"));
    }
    serde_json::from_slice(&data).map(Some).map_err(damaged)
}

/// Writes all of `data` at `offset`; `written` is told of each part as it is
/// taken by the kernel, so that a failure in the middle is accounted for.
pub(crate) fn write_at(
    file: impl AsFd,
    mut data: &[u8],
    mut offset: u64,
    mut written: impl FnMut(&[u8]),
) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(&file, data, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                let (done, rest) = data.split_at(count);
                written(done);
                offset += count as u64;
                data = rest;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// One read at `offset`; 0 at or after the end.
pub(crate) fn read_at(file: impl AsFd, buf: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    loop {
        match rustix::io::pread(&file, &mut *buf, offset) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Hashes the first `size` bytes of a file. `None` when it has fewer.
pub(crate) fn hash(
    file: impl AsFd,
    size: u64,
    mut hasher: Hasher,
) -> rustix::io::Result<Option<Hasher>> {
    let mut buf = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut offset = 0;
    while offset < size {
        let want = buf
            .len()
            .min(usize::try_from(size - offset).unwrap_or(CHUNK));
        match read_at(&file, &mut buf[..want], offset)? {
            0 => return Ok(None),
            count => {
                hasher.update(&buf[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(Some(hasher))
}
