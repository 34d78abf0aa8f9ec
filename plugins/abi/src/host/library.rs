//! [`Library`]: a driver's shared object, loaded once and for ever.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use containerkit::{
    Algorithm, ContentStore, Digest, DriverContext, DriverInfo, DriverKind, Error, ErrorKind,
    InstanceName, Result, Runtime, Snapshotter,
};

use super::damage::Surroundings;
use super::elf::{self, Declaration};
use super::file::{self, refuse, shown};
use super::sys;
use crate::abi::call::Claim;
use crate::abi::declaration::PLAIN_SIZE;
use crate::abi::module::{Module, VERSION};
use crate::abi::watch::{Subject, watched};

/// A version of the ABI: the package version of `containerkit-plugin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbiVersion {
    /// Changes when what crosses by value does; only equal ones fit.
    pub major: u32,
    /// Changes when methods are appended; any fits any.
    pub minor: u32,
    /// Everything else.
    pub patch: u32,
}

impl AbiVersion {
    /// The version of this program.
    pub const CURRENT: AbiVersion = AbiVersion {
        major: VERSION.0,
        minor: VERSION.1,
        patch: VERSION.2,
    };
}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A loaded driver. It is never unloaded: what it gave out points into it.
pub struct Library {
    path: PathBuf,
    /// Open for ever; see [`sys::load`].
    fd: &'static OwnedFd,
    declaration: Declaration,
    module: Module,
    sha256: OnceLock<Digest>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .field("declaration", &self.declaration)
            .finish_non_exhaustive()
    }
}

/// What makes a file the same file, unchanged.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    file: (u64, u64, i64),
    changed: [(i64, i64); 2],
    pin: Option<Digest>,
}

type Loaded = HashMap<Identity, Arc<Library>>;

fn loaded() -> &'static Mutex<Loaded> {
    static LOADED: OnceLock<Mutex<Loaded>> = OnceLock::new();
    LOADED.get_or_init(Mutex::default)
}

/// What a driver's file says of itself, after the same checks as for loading
/// and without loading it.
pub fn declaration(path: &Path) -> Result<Declaration> {
    let checked = file::open(path)?;
    file::inspect(checked.fd.as_fd(), path)
}

impl Library {
    /// Loads a driver: checks the file, reads its declaration, and only then
    /// lets the dynamic loader have that same open file. With a pin, what is
    /// loaded is a sealed copy with that digest.
    ///
    /// The second time the same unchanged file costs the file checks alone.
    pub fn load(path: &Path, pin: Option<&Digest>) -> Result<Arc<Library>> {
        let checked = file::open(path)?;
        let stat = &checked.stat;
        #[allow(clippy::useless_conversion)] // the widths differ by machine
        let identity = Identity {
            file: (stat.st_dev.into(), stat.st_ino.into(), stat.st_size.into()),
            changed: [
                (stat.st_mtime.into(), stat.st_mtime_nsec as i64),
                (stat.st_ctime.into(), stat.st_ctime_nsec as i64),
            ],
            pin: pin.cloned(),
        };
        // Held while loading: two threads that want one driver load it once.
        let mut loaded = loaded().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = loaded.get(&identity) {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(Library::load_new(path, &checked, pin)?);
        loaded.insert(identity, Arc::clone(&library));
        Ok(library)
    }

    fn load_new(path: &Path, checked: &file::Checked, pin: Option<&Digest>) -> Result<Library> {
        let sha256 = OnceLock::new();
        let fd = match pin {
            Some(pin) => {
                let copy = checked.sealed(path)?;
                let found = pinned_digest(copy.as_fd(), path, pin)?;
                if found.algorithm() == Algorithm::Sha256 {
                    let _ = sha256.set(found);
                }
                copy
            }
            None => checked.fd.try_clone().map_err(|error| {
                Error::io(format!("driver {}: keep it open", shown(path)), error)
            })?,
        };
        let declaration = file::inspect(fd.as_fd(), path)?;
        check_version(path, &declaration)?;
        let before = Surroundings::now();
        let subject = Subject::library(path);
        let module = watched(subject, &"load", || enter(path, fd, &declaration))?;
        let (kept, module) = module;
        before
            .check("it was loaded")
            .map_err(|error| error.context(format!("driver {}", shown(path))))?;
        log::debug!(
            "driver {}: loaded, containerkit-plugin {}, {}",
            shown(path),
            declaration.abi_version,
            declaration.rustc
        );
        Ok(Library {
            path: path.to_path_buf(),
            fd: kept,
            declaration,
            module,
            sha256,
        })
    }

    /// The path it was loaded by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of `containerkit-plugin` it was built with.
    pub fn abi_version(&self) -> AbiVersion {
        self.declaration.abi_version
    }

    /// The kinds of driver it holds.
    pub fn kinds(&self) -> Vec<DriverKind> {
        self.declaration.kinds.clone()
    }

    /// The digest of the file that was loaded, whatever is at its path now.
    pub fn sha256(&self) -> Result<Digest> {
        if let Some(digest) = self.sha256.get() {
            return Ok(digest.clone());
        }
        let digest = file::digest(self.fd.as_fd(), &self.path, Algorithm::Sha256)?;
        Ok(self.sha256.get_or_init(|| digest).clone())
    }

    /// What its driver of a kind says of itself.
    pub fn info(&self, kind: DriverKind) -> Result<DriverInfo> {
        self.check_kind(kind)?;
        let info = self
            .module
            .info(kind, Subject::library(&self.path))
            .map_err(|error| error.context(format!("driver {}", shown(&self.path))))?;
        if info.kind != kind {
            return Err(refuse(
                &self.path,
                ErrorKind::Internal,
                format!("asked for its {kind}, it told of a {}", info.kind),
            ));
        }
        Ok(info)
    }

    /// Opens a runtime instance.
    pub fn runtime(&self, context: DriverContext) -> Result<Arc<dyn Runtime>> {
        self.open(DriverKind::Runtime, context, Module::runtime)
    }

    /// Opens a snapshotter instance.
    pub fn snapshotter(&self, context: DriverContext) -> Result<Arc<dyn Snapshotter>> {
        self.open(DriverKind::Snapshotter, context, Module::snapshotter)
    }

    /// Opens a content-store instance.
    pub fn content(&self, context: DriverContext) -> Result<Arc<dyn ContentStore>> {
        self.open(DriverKind::Content, context, Module::content)
    }

    fn open<T>(
        &self,
        kind: DriverKind,
        context: DriverContext,
        open: impl FnOnce(&Module, DriverContext, &'static Subject, Claim) -> Result<T>,
    ) -> Result<T> {
        let claim = self.prepare(kind, &context)?;
        let subject = Subject::instance(&self.path, kind, &context);
        let before = Arc::new(Surroundings::now());
        let stay = Stay {
            before: Arc::clone(&before),
            who: format!("{kind} {} ({})", context.instance, shown(&self.path)),
            _claim: claim,
        };
        let opened = open(&self.module, context, subject, Box::new(stay));
        before
            .check("it was opened")
            .and(opened)
            .map_err(|error| self.named(error))
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("driver {}", shown(&self.path)))
    }

    fn check_kind(&self, kind: DriverKind) -> Result<()> {
        let kinds = &self.declaration.kinds;
        if kinds.contains(&kind) {
            return Ok(());
        }
        let has: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let has = if has.is_empty() {
            "no kind that this program knows".into()
        } else {
            has.join(" and ")
        };
        Err(refuse(
            &self.path,
            ErrorKind::Incompatible,
            format!("configured as a {kind}, it is a driver of {has}"),
        )
        .with_hint(format!("name another driver under [{kind}.…]")))
    }

    fn prepare(&self, kind: DriverKind, context: &DriverContext) -> Result<Claim> {
        let info = self.info(kind)?;
        context
            .check_options(&info.options)
            .map_err(|error| self.named(error))?;
        self.module.set_log_level();
        claim(kind, context, self.fd)
    }
}

/// An instance's stay in this process, to its drop.
struct Stay {
    before: Arc<Surroundings>,
    who: String,
    _claim: Claim,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.before.check_stay(&self.who);
    }
}

/// Lets the dynamic loader have the file, and its code run for the first time.
fn enter(
    path: &Path,
    fd: OwnedFd,
    declaration: &Declaration,
) -> Result<(&'static OwnedFd, Module)> {
    let address = sys::load(fd.as_raw_fd()).map_err(|text| {
        refuse(
            path,
            ErrorKind::Incompatible,
            format!("the dynamic loader refuses it: {text}"),
        )
        .with_hint("see `ldd -r` of the file: it needs what this machine does not have")
    })?;
    // From here on the library is in memory for ever, whatever comes.
    let kept: &'static OwnedFd = Box::leak(Box::new(fd));
    // SAFETY: the file has as many bytes at this symbol, and the loader
    // mapped that very file.
    #[allow(unsafe_code)]
    let plain = unsafe { sys::read(address, PLAIN_SIZE) };
    if elf::declaration(&plain).as_ref() != Ok(declaration) {
        return Err(refuse(
            path,
            ErrorKind::Incompatible,
            "its declaration in memory is not the one in the file",
        ));
    }
    // SAFETY: the declaration was checked and is never unloaded.
    #[allow(unsafe_code)]
    let module = unsafe { Module::open(path, address) }?;
    Ok((kept, module))
}

fn check_version(path: &Path, declaration: &Declaration) -> Result<()> {
    let current = AbiVersion::CURRENT;
    if declaration.abi_version.major == current.major {
        return Ok(());
    }
    Err(refuse(
        path,
        ErrorKind::Incompatible,
        format!(
            "built with containerkit-plugin {}, this program needs {}.x",
            declaration.abi_version, current.major
        ),
    )
    .with_hint(if declaration.abi_version.major < current.major {
        "rebuild or update the driver"
    } else {
        "update containerkit, or install an older build of the driver"
    }))
}

fn pinned_digest(fd: std::os::fd::BorrowedFd<'_>, path: &Path, pin: &Digest) -> Result<Digest> {
    let found = file::digest(fd, path, pin.algorithm())?;
    if found == *pin {
        return Ok(found);
    }
    Err(refuse(
        path,
        ErrorKind::Incompatible,
        format!("its digest is {found}, the configuration pins {pin}"),
    )
    .with_hint("if the new file is the one you want, put its digest in the configuration"))
}

type Claims = HashMap<(DriverKind, PathBuf), (InstanceName, usize, Weak<()>)>;

/// Who has which root. Two copies of a database library on one file would
/// drop each other's locks, so a root has one instance of one library here.
fn claim(kind: DriverKind, context: &DriverContext, library: &OwnedFd) -> Result<Claim> {
    static CLAIMS: OnceLock<Mutex<Claims>> = OnceLock::new();
    let root = std::fs::canonicalize(&context.root).unwrap_or_else(|_| context.root.clone());
    let library = std::ptr::from_ref(library) as usize;
    let mut claims = CLAIMS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    claims.retain(|_, (_, _, alive)| alive.strong_count() > 0);
    let key = (kind, root);
    if let Some((instance, owner, alive)) = claims.get(&key) {
        if *instance != context.instance || *owner != library {
            return Err(Error::precondition(format!(
                "{kind} instances {instance} and {} have one root, {}",
                context.instance,
                shown(&key.1)
            ))
            .with_hint("give each instance a root of its own"));
        }
        if let Some(alive) = alive.upgrade() {
            return Ok(Box::new(alive));
        }
    }
    let alive = Arc::new(());
    claims.insert(
        key,
        (context.instance.clone(), library, Arc::downgrade(&alive)),
    );
    Ok(Box::new(alive))
}
