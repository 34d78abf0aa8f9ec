//! The folders of a store, their version, their locks, and putting aside.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerkit::fs::{ensure_dir, remove_tree_path, sync_dir, unique_name};
use containerkit::lock::{FileLock, Wait};
use containerkit::{
    Algorithm, Digest, Error, ErrorKind, IngestRef, IoContext, Result, quote, step,
};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::file::{self, VERSION};
use crate::listing::Listing;

/// How long a commit, an update or a deletion waits for another of a digest
/// with the same lock. Each holds it for one or two renames.
const PATIENCE: Duration = Duration::from_secs(30);

const FORMAT: &str = "containerkit-local";

#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    format: String,
}

/// A store's root and how durable its writes are.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    pub(crate) fsync: bool,
    pub(crate) listing: Listing,
}

/// What stands at a blob's path.
pub(crate) enum Present {
    No,
    Yes(Stat),
    /// Something that cannot be this blob; the text says what it is.
    Damaged(String),
}

impl Layout {
    pub(crate) fn open(root: &Path, fsync: bool) -> Result<Layout> {
        let layout = Layout {
            root: root.to_path_buf(),
            fsync,
            listing: Listing::default(),
        };
        let named = |error: Error| error.context(format!("content store {}", root.display()));
        let stat = rustix::fs::stat(root).io_context(|| format!("stat {}", root.display()));
        if FileType::from_raw_mode(stat.map_err(named)?.st_mode) != FileType::Directory {
            return Err(Error::precondition(format!(
                "content store {}: it is not a folder",
                root.display()
            )));
        }
        let new = match file::load::<Marker>(&layout.marker()).map_err(named)? {
            Some(marker) if marker.format == FORMAT => false,
            Some(marker) => {
                return Err(Error::new(
                    ErrorKind::Incompatible,
                    format!(
                        "content store {}: store.json says format {}, want {FORMAT}",
                        root.display(),
                        quote(&marker.format)
                    ),
                ));
            }
            None => true,
        };
        layout.make(new).map_err(named)?;
        layout.sweep();
        Ok(layout)
    }

    fn make(&self, new: bool) -> Result<()> {
        for name in ["ingest", "locks", "trash"] {
            ensure_dir(&self.root.join(name), 0o700)?;
        }
        for kind in ["blobs", "labels"] {
            for algorithm in Algorithm::ALL {
                ensure_dir(&self.root.join(kind).join(algorithm.name()), 0o700)?;
            }
            if new && self.fsync {
                sync_dir(&self.root.join(kind))?;
            }
            step("store.folders");
        }
        if !new {
            return Ok(());
        }
        let path = self.root.join("locks").join("new");
        let _lock = FileLock::acquire(&path, "the new store", Wait::AtMost(PATIENCE))?;
        self.probe()?;
        let marker = Marker {
            version: VERSION,
            format: FORMAT.into(),
        };
        file::replace(&self.root, "store.json", &marker, self.fsync)?;
        // ROOT/content/INSTANCE: made just now, and so perhaps those above it.
        if self.fsync {
            self.root
                .ancestors()
                .skip(1)
                .take(3)
                .try_for_each(sync_above)?;
        }
        Ok(())
    }

    /// What the store needs of its file system, tried once.
    fn probe(&self) -> Result<()> {
        let path = self.root.join("trash").join(unique_name("probe"));
        let fd = rustix::fs::open(
            &path,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .io_context(|| format!("create {}", path.display()))?;
        let result = (|| {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o400))
                .io_context(|| format!("chmod {}", path.display()))?;
            let stat = rustix::fs::fstat(&fd).io_context(|| format!("stat {}", path.display()))?;
            if stat.st_mode & 0o777 != 0o400 {
                return Err(Error::precondition(
                    "its file system does not keep the modes of files",
                ));
            }
            rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
                .io_context(|| "its file system has no file locks")
        })();
        let _ = std::fs::remove_file(&path);
        result
    }

    /// Removes what a killed process had put aside.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.root.join("trash")) else {
            return;
        };
        for entry in entries.flatten() {
            if let Err(error) = remove_tree_path(&entry.path()) {
                log::debug!("content store {}: {error}", self.root.display());
            }
        }
    }

    fn marker(&self) -> PathBuf {
        self.root.join("store.json")
    }

    /// The folder of the blobs of an algorithm.
    pub(crate) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// The folder of the label files of an algorithm.
    pub(crate) fn labels(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("labels").join(algorithm.name())
    }

    pub(crate) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// The folder of an ingest. A ref may have slashes and more bytes than a
    /// file name; its hash is always one short component.
    pub(crate) fn ingest(&self, name: &IngestRef) -> PathBuf {
        self.ingests().join(ingest_folder(name))
    }

    /// Excludes every other commit, update and deletion of this digest. One
    /// of 256 locks, so that their files do not grow with the store.
    pub(crate) fn lock(&self, digest: &Digest) -> Result<FileLock> {
        let path = self.root.join("locks").join(&digest.hex()[..2]);
        FileLock::acquire(&path, &format!("blob {digest}"), Wait::AtMost(PATIENCE))
    }

    /// What stands at the path of `digest`. `size` is what it must have.
    pub(crate) fn present(&self, digest: &Digest, size: Option<u64>) -> Result<Present> {
        let path = self.blob(digest);
        let stat = match rustix::fs::lstat(&path) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Present::No),
            Err(errno) => return Err(Error::io(format!("stat {}", path.display()), errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Present::Damaged("it is not a regular file".into()));
        }
        let found = stat.st_size as u64;
        if let Some(size) = size.filter(|size| *size != found) {
            return Ok(Present::Damaged(format!(
                "it has {found} bytes instead of {size}"
            )));
        }
        // What power loss leaves of a file that was never synced.
        if found == 0 && *digest != digest.algorithm().digest(b"") {
            return Ok(Present::Damaged("it is empty".into()));
        }
        Ok(Present::Yes(stat))
    }

    /// [`Layout::present`], the bytes hashed too: bit rot keeps the size.
    pub(crate) fn verified(&self, digest: &Digest, size: Option<u64>) -> Result<Present> {
        let stat = match self.present(digest, size)? {
            Present::Yes(stat) => stat,
            other => return Ok(other),
        };
        let path = self.blob(digest);
        let file = match open_blob(&path) {
            Ok(file) => file,
            // Deleted or replaced since.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return self.present(digest, size),
            Err(errno) => return Err(Error::io(format!("open {}", path.display()), errno)),
        };
        let found = rustix::fs::fstat(&file).io_context(|| format!("stat {}", path.display()))?;
        let size = found.st_size as u64;
        let hash = file::hash(&file, size, digest.algorithm().hasher());
        match hash.map(|hasher| hasher.map(containerkit::Hasher::finish)) {
            Ok(Some(hash)) if hash == *digest => Ok(Present::Yes(stat)),
            Ok(Some(hash)) => Ok(Present::Damaged(format!(
                "its bytes have the digest {hash}"
            ))),
            Ok(None) => Ok(Present::Damaged("it shrank while it was read".into())),
            Err(Errno::IO) => Ok(Present::Damaged("its disk cannot read it".into())),
            Err(errno) => Err(Error::io(format!("read {}", path.display()), errno)),
        }
    }

    /// Moves a folder or file out of everybody's way and removes it after. A
    /// kill in between leaves it to the next process that opens the store.
    pub(crate) fn put_aside(&self, path: &Path) -> Result<PathBuf> {
        let aside = self.root.join("trash").join(unique_name("aside"));
        step("aside.rename");
        rustix::fs::rename(path, &aside)
            .io_context(|| format!("rename {} aside", path.display()))?;
        step("aside.renamed");
        Ok(aside)
    }

    /// [`Layout::put_aside`] and the removal, which may fail: it is tried again
    /// when the store is next opened.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let aside = self.put_aside(path)?;
        if let Err(error) = remove_tree_path(&aside) {
            log::debug!("content store {}: {error}", self.root.display());
        }
        step("aside.removed");
        Ok(())
    }
}

/// Never follows a symlink and never waits for a fifo.
pub(crate) fn open_blob(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// fsync of a folder above the root, where that is allowed and possible.
fn sync_above(path: &Path) -> Result<()> {
    match sync_dir(path) {
        Err(error) if error.kind() != ErrorKind::DataLoss => {
            log::debug!("{error}");
            Ok(())
        }
        result => result,
    }
}

/// The name of an ingest's folder.
pub(crate) fn ingest_folder(name: &IngestRef) -> String {
    Algorithm::Sha256
        .digest(name.as_str().as_bytes())
        .hex()
        .into()
}

/// Renames without replacing: `EXIST` when the target is there.
pub(crate) fn rename_new(from: &Path, to: &Path) -> rustix::io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // NFS, some FUSE and old kernels have no such rename. A kill between
        // the two calls leaves a data file with two names, which the next
        // writer of the ref recognizes by its link count.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::link(from, to)?;
            step("blob.linked");
            // The blob is there: what stays here goes with the ingest's folder.
            let _ = rustix::fs::unlink(from);
            Ok(())
        }
        result => result,
    }
}
