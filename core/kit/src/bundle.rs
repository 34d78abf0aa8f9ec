//! [`Bundle`]: the folder that a runtime makes a container from (OCI
//! runtime-spec `bundle.md`).
//!
//! The folder is 0711, so that a container whose users are mapped can pass to
//! its root file system; `config.json` is 0600, because its environment may
//! hold secrets. `config.json` is written last: a folder without it is what a
//! killed command left behind, and [`Bundle::create`] takes it over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::fs::{Durability, ensure_dir, read_limited, remove_tree_path, write_atomic};
use crate::lock::{FileLock, Wait};

/// A `config.json` larger than this is refused.
pub const CONFIG_LIMIT: u64 = 4 << 20;

/// The name of the spec in a bundle.
pub(crate) const CONFIG: &str = "config.json";
const ROOTFS: &str = "rootfs";
const LOCK: &str = "lock";

/// A small file beside `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFile {
    /// Its name: one component, relative to the bundle.
    pub path: PathBuf,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

/// A bundle on disk.
#[derive(Clone, Debug)]
pub struct Bundle {
    path: PathBuf,
    spec: Spec,
}

impl Bundle {
    /// Makes a bundle in `dir`: the files, an empty `rootfs` to mount on, and
    /// `config.json` at last. `AlreadyExists` when a bundle is there.
    pub fn create(dir: &Path, spec: &Spec, files: &[BundleFile]) -> Result<Bundle> {
        let path = std::path::absolute(dir).io_context(|| format!("bundle {}", dir.display()))?;
        for file in files {
            check_name(&file.path)?;
        }
        let config = encode(spec)?;
        if path.join(CONFIG).symlink_metadata().is_ok() {
            return Err(Error::already_exists(format!(
                "bundle {} exists already",
                path.display()
            )));
        }
        ensure_dir(&path, 0o711)?;
        ensure_dir(&path.join(ROOTFS), 0o755)?;
        for file in files {
            let target = path.join(&file.path);
            write_atomic(&target, &file.data, file.mode, Durability::Volatile)?;
        }
        write_atomic(&path.join(CONFIG), &config, 0o600, Durability::Volatile)?;
        Ok(Bundle {
            path,
            spec: spec.clone(),
        })
    }

    /// Reads the bundle in `dir`.
    pub fn load(dir: &Path) -> Result<Bundle> {
        let path = std::path::absolute(dir).io_context(|| format!("bundle {}", dir.display()))?;
        let spec = read_spec(&path.join(CONFIG))?;
        Ok(Bundle { path, spec })
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder to mount the root file system on.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// The spec in it.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Holds the bundle until the lock is dropped or the process dies: the
    /// supervisor of a live container does, and [`Bundle::remove`] refuses.
    pub fn hold(&self) -> Result<FileLock> {
        FileLock::acquire(&self.path.join(LOCK), &self.what(), Wait::No)
    }

    /// Removes the folder. `FailedPrecondition`, and nothing is touched, while
    /// something is mounted in it; `Conflict` while somebody holds it. Whether
    /// the container still lives is the caller's to know.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }

    fn what(&self) -> String {
        format!("bundle {}", quote(&self.path.to_string_lossy()))
    }
}

/// Replaces the spec of the bundle in `dir`, whole or not at all.
pub(crate) fn replace_spec(dir: &Path, spec: &Spec, durability: Durability) -> Result<()> {
    write_atomic(&dir.join(CONFIG), &encode(spec)?, 0o600, durability)
}

fn encode(spec: &Spec) -> Result<Vec<u8>> {
    let config = serde_json::to_vec(spec)
        .map_err(|error| Error::internal("the spec cannot be written").with_source(error))?;
    if config.len() as u64 > CONFIG_LIMIT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "the container's config.json would have {} bytes, more than the {CONFIG_LIMIT} allowed",
                config.len()
            ),
        ));
    }
    Ok(config)
}

/// Reads an OCI runtime spec from a file: at most [`CONFIG_LIMIT`] bytes, and
/// of a version that is understood here.
pub fn read_spec(path: &Path) -> Result<Spec> {
    let shown = quote(&path.to_string_lossy());
    let file = std::fs::File::open(path).io_context(|| format!("open {shown}"))?;
    let data = read_limited(&file, &shown, CONFIG_LIMIT)?;
    let spec: Spec = serde_json::from_slice(&data)
        .map_err(|error| Error::data_loss(format!("{shown}: {error}")))?;
    check_version(spec.version(), &shown)?;
    Ok(spec)
}

/// Any 1.x: within a major version the spec only grows (runtime-spec
/// `config.md`, "Specification version").
pub(crate) fn check_version(version: &str, shown: &str) -> Result<()> {
    if version.split('.').next() == Some("1") {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "{shown}: it is of the OCI runtime spec {}, and 1.x is what is understood here",
            quote(version)
        ),
    ))
}

/// [`Bundle::remove`] by path, also of what a killed command left half made.
/// What is gone already is success.
pub fn remove(dir: &Path) -> Result<()> {
    let path = match std::fs::symlink_metadata(dir).and_then(|meta| {
        // Its target would be removed in its stead.
        if meta.is_symlink() {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
        std::fs::canonicalize(dir)
    }) {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(format!("bundle {}", dir.display()), error)),
    };
    let what = format!("bundle {}", quote(&path.to_string_lossy()));
    let lock = FileLock::acquire(&path.join(LOCK), &what, Wait::No)?;
    if let Some(mount) = mount_within(&path)? {
        return Err(Error::precondition(format!(
            "{what}: {} is mounted in it",
            quote(&mount.to_string_lossy())
        ))
        .with_hint("the container may still be running; stop it, or unmount that folder"));
    }
    // First what makes it a bundle, so that a kill in between leaves none.
    match std::fs::remove_file(path.join(CONFIG)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(format!("remove {CONFIG} of {what}"), error)),
    }
    remove_tree_path(&path)?;
    drop(lock);
    Ok(())
}

/// A mount at or beneath `path`, which is canonical, in this mount namespace.
fn mount_within(path: &Path) -> Result<Option<PathBuf>> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let text = std::fs::read(MOUNTINFO).io_context(|| format!("read {MOUNTINFO}"))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .find(|mount| mount.starts_with(path)))
}

/// `mountinfo` writes space, tab, newline and backslash as `\OOO`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (*first, tail)
        {
            bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn check_name(path: &Path) -> Result<()> {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None)
            if name == path.as_os_str()
                && ![CONFIG, ROOTFS, LOCK].iter().any(|taken| name == *taken) =>
        {
            Ok(())
        }
        _ => Err(Error::invalid(format!(
            "bundle file {}: want one name that is not taken",
            quote(&path.to_string_lossy())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("stat").permissions().mode() & 0o7777
    }

    fn file(name: &str) -> BundleFile {
        BundleFile {
            path: name.into(),
            data: b"x".to_vec(),
            mode: 0o644,
        }
    }

    #[test]
    fn secrets_are_the_owners_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a/b");
        let bundle = Bundle::create(&path, &Spec::default(), &[file("hosts")]).expect("create");
        assert_eq!(mode(&path), 0o711);
        assert_eq!(mode(&path.join("config.json")), 0o600);
        assert_eq!(mode(&bundle.rootfs()), 0o755);
        assert_eq!(mode(&path.join("hosts")), 0o644);
        let loaded = Bundle::load(&path).expect("load");
        assert_eq!(loaded.spec(), bundle.spec());
        let error = Bundle::create(&path, &Spec::default(), &[]).expect_err("twice");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_a_killed_create_left_is_taken_over() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("b");
        std::fs::create_dir_all(path.join("rootfs")).expect("mkdir");
        std::fs::write(path.join("hosts"), "half").expect("write");
        let bundle = Bundle::create(&path, &Spec::default(), &[file("hosts")]).expect("create");
        assert_eq!(std::fs::read(path.join("hosts")).expect("read"), b"x");
        bundle.remove().expect("remove");
        assert!(!path.exists());
        remove(&path).expect("twice");
    }

    #[test]
    fn broken_configs_are_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = dir.path().join("config.json");
        let error = Bundle::load(dir.path()).expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        std::fs::write(&config, "{").expect("write");
        let error = Bundle::load(dir.path()).expect_err("broken");
        assert!(error.to_string().contains("config.json"), "{error}");
        let file = std::fs::File::create(&config).expect("create");
        file.set_len(CONFIG_LIMIT + 1).expect("grow");
        let error = Bundle::load(dir.path()).expect_err("large");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn a_newer_spec_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = dir.path().join("config.json");
        std::fs::write(&config, r#"{"ociVersion": "1.3.0"}"#).expect("write");
        Bundle::load(dir.path()).expect("a newer minor version");
        for bad in ["2.0.0", "", "10.0.0"] {
            let text = format!(r#"{{"ociVersion": "{bad}"}}"#);
            std::fs::write(&config, text).expect("write");
            let error = Bundle::load(dir.path()).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        }
    }

    #[test]
    fn files_stay_in_the_bundle() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("b");
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "a/b",
            "a/",
            "config.json",
            "rootfs",
            "lock",
        ] {
            let error = Bundle::create(&path, &Spec::default(), &[file(bad)]).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
            assert!(!path.exists(), "{bad}");
        }
    }

    #[test]
    fn a_held_bundle_is_not_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("b");
        let bundle = Bundle::create(&path, &Spec::default(), &[]).expect("create");
        let lock = bundle.hold().expect("hold");
        let error = bundle.clone().remove().expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(path.join("config.json").exists());
        drop(lock);
        bundle.remove().expect("free");
    }

    #[test]
    fn a_symlink_is_no_bundle() {
        let dir = tempfile::tempdir().expect("tempdir");
        let precious = dir.path().join("precious");
        std::fs::create_dir(&precious).expect("mkdir");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&precious, &link).expect("symlink");
        assert!(remove(&link).is_err());
        assert!(precious.exists());
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134\011c"), Path::new("/a b\\\tc"));
        assert_eq!(unescape(br"/a\04"), Path::new(r"/a\04"));
    }
}
