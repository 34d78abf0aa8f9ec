//! An OCI layout folder: image-spec `image-layout.md`. Blobs are written under
//! private names and renamed; index.json is replaced whole, last.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use containerkit::document::{self, DOCUMENT};
use containerkit::fs::{self, Durability, Root};
use containerkit::lock::{FileLock, Wait};
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Context as _, Digest, Error, ErrorKind, IoContext, Result, quote};
use serde_json::{Value, json};

use super::{Name, Sink, Source, Under, found, there};
use crate::event::{Event, How, Transfer, Watcher};
use crate::manifest::Manifest;
use crate::referrers;
use crate::tree::Documents;

const TAG: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

pub(super) struct Layout {
    dir: PathBuf,
    /// Its files may be anybody's: none leads out of it.
    root: Root,
    tag: Option<String>,
    /// Of index.json, while it is changed.
    index: Mutex<()>,
}

fn path_of(digest: &Digest) -> PathBuf {
    PathBuf::from(format!("blobs/{}/{}", digest.algorithm(), digest.hex()))
}

impl Layout {
    pub(super) fn open(dir: &Path, tag: Option<String>) -> Result<Layout> {
        let root = Root::open(dir)?;
        let marker = root.read("oci-layout", DOCUMENT).map_err(|error| {
            error
                .context(format!("{} is no OCI layout", dir.display()))
                .with_hint("a layout is a folder with the files oci-layout and index.json")
        })?;
        let marker: Value = serde_json::from_slice(&marker).map_err(document::json_error)?;
        let version = marker["imageLayoutVersion"].as_str().unwrap_or_default();
        if version.split('.').next() != Some("1") {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{}: its layout version is {}, want 1.x",
                    dir.display(),
                    quote(version)
                ),
            ));
        }
        Ok(Layout {
            dir: dir.to_path_buf(),
            root,
            tag,
            index: Mutex::new(()),
        })
    }

    /// Opens a layout to write to; an absent or empty folder becomes one.
    pub(super) fn make(dir: &Path) -> Result<Layout> {
        if !dir.exists() {
            fs::ensure_dir(dir, 0o755)?;
        }
        if !dir.join("oci-layout").exists() {
            let mut entries =
                std::fs::read_dir(dir).io_context(|| format!("read {}", dir.display()))?;
            if entries.next().is_some() {
                return Err(Error::precondition(format!(
                    "{} is neither empty nor an OCI layout",
                    dir.display()
                )));
            }
            let marker = dir.join("oci-layout");
            fs::write_atomic(&marker, MARKER.as_bytes(), 0o644, Durability::Synced)?;
        }
        Layout::open(dir, None)
    }

    fn entries(&self) -> Result<Vec<Value>> {
        let Some(data) = found(self.root.read("index.json", DOCUMENT))? else {
            return Ok(Vec::new());
        };
        let index: Value = serde_json::from_slice(&data)
            .map_err(document::json_error)
            .context(|| "index.json")?;
        match index.get("manifests").and_then(Value::as_array) {
            Some(entries) => Ok(entries.clone()),
            None => Err(Error::invalid("index.json has no manifests")),
        }
    }

    fn descriptor(entry: &Value) -> Result<Descriptor> {
        serde_json::from_value(entry.clone())
            .map_err(document::json_error)
            .context(|| "index.json")
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = document::digest_of(descriptor)?;
        let data = self
            .root
            .read(path_of(&digest), DOCUMENT)
            .context(|| format!("{}", self.dir.display()))?;
        let found = digest.algorithm().digest(&data);
        if found != digest || data.len() as u64 != descriptor.size() {
            return Err(Error::data_loss(format!(
                "{}: blob {digest} has {} bytes with the digest {found}",
                self.dir.display(),
                data.len()
            )));
        }
        Ok(data)
    }

    fn write(&self, digest: &Digest, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let path = self.dir.join(path_of(digest));
        let folder = self.dir.join("blobs").join(digest.algorithm().name());
        fs::ensure_dir(&self.dir.join("blobs"), 0o755)?;
        fs::ensure_dir(&folder, 0o755)?;
        let temporary = folder.join(fs::unique_name(".copy"));
        let result = (|| {
            let mut file = File::create_new(&temporary)
                .io_context(|| format!("create {}", temporary.display()))?;
            fill(&mut file)?;
            file.sync_all()
                .io_context(|| format!("fsync {}", temporary.display()))?;
            std::fs::rename(&temporary, &path)
                .io_context(|| format!("rename to {}", path.display()))?;
            fs::sync_dir(&folder)
        })();
        if result.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }

    /// Names a document in index.json; what had the tag loses it.
    fn name(&self, descriptor: &Descriptor, tag: Option<&str>) -> Result<()> {
        let _own = self
            .index
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let lock = FileLock::acquire(
            &self.dir.join(".index.lock"),
            &format!("{}", self.dir.display()),
            Wait::AtMost(Duration::from_secs(30)),
        )?;
        let mut entries = self.entries()?;
        let digest = json!(descriptor.digest().to_string());
        if let Some(tag) = tag {
            entries.retain(|entry| entry["annotations"][TAG] != json!(tag));
        }
        let known = entries.iter().any(|entry| entry["digest"] == digest);
        if tag.is_some() || !known {
            let mut entry = json!({
                "mediaType": descriptor.media_type().to_string(),
                "digest": digest,
                "size": descriptor.size(),
            });
            if let Some(tag) = tag {
                entry["annotations"] = json!({ TAG: tag });
            }
            entries.push(entry);
            let index = json!({ "schemaVersion": 2, "manifests": entries });
            fs::write_atomic(
                &self.dir.join("index.json"),
                index.to_string().as_bytes(),
                0o644,
                Durability::Synced,
            )?;
        }
        lock.remove()
    }
}

impl Documents for Layout {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.read(descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.read(descriptor)
    }
}

impl Source for Layout {
    fn find(&self, name: &Name) -> Result<Option<Manifest>> {
        let entries = self.entries()?;
        let wanted = match name {
            Name::Tag(tag) => Some(tag.as_str()),
            Name::Own => self.tag.as_deref(),
        };
        let mut fitting = entries.iter().filter(|entry| match wanted {
            Some(tag) => entry["annotations"][TAG] == json!(tag),
            // What belongs to an image is not meant.
            None => entry["annotations"][TAG]
                .as_str()
                .is_none_or(|tag| !tag.starts_with("sha256-")),
        });
        let mut images = Vec::new();
        for entry in fitting.by_ref() {
            let descriptor = Layout::descriptor(entry)?;
            let data = self.read(&descriptor)?;
            if wanted.is_some() || referrers::subject_of(&data)?.is_none() {
                images.push(Manifest { descriptor, data });
            }
        }
        let mut names: Vec<&str> = entries
            .iter()
            .filter_map(|entry| entry["annotations"][TAG].as_str())
            .collect();
        names.truncate(16);
        match (images.len(), name) {
            (0, Name::Tag(_)) => Ok(None),
            (1, _) => Ok(images.pop()),
            (count, _) => Err(Error::not_found(format!(
                "{} holds {count} images {}",
                self.dir.display(),
                match wanted {
                    Some(tag) => format!("named {}", quote(tag)),
                    None => "and none is named".into(),
                }
            ))
            .with_hint(format!(
                "name one, oci:DIR:TAG: it has {}",
                quote(&names.join(", "))
            ))),
        }
    }

    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let descriptor = Layout::descriptor(&entry)?;
            if !document::is_document(descriptor.media_type().as_ref()) {
                continue;
            }
            let data = self.read(&descriptor)?;
            if referrers::subject_of(&data)?.as_ref() == Some(digest) {
                found.push(descriptor);
            }
        }
        Ok(found)
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        let digest = document::digest_of(blob)?;
        let shown = || format!("open blob {digest} of {}", self.dir.display());
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::NOCTTY
            | rustix::fs::OFlags::CLOEXEC;
        let fd = self
            .root
            .open_at(path_of(&digest), flags, 0)
            .io_context(shown)?;
        let mut file = File::from(fd);
        let stat = file.metadata().io_context(shown)?;
        if !stat.is_file() || stat.len() != blob.size() {
            return Err(Error::precondition(format!(
                "blob {digest} of {} is no file of {} bytes",
                self.dir.display(),
                blob.size()
            )));
        }
        file.seek(SeekFrom::Start(offset)).io_context(shown)?;
        Ok(Box::new(file.take(blob.size() - offset.min(blob.size()))))
    }

    fn home(&self, _digest: &Digest, _domain: &str) -> Option<String> {
        None
    }
}

impl Sink for Layout {
    fn blob(&self, blob: &Descriptor, source: &dyn Source, watch: Watcher<'_>) -> Result<How> {
        let digest = document::digest_of(blob)?;
        let size = blob.size();
        if self
            .dir
            .join(path_of(&digest))
            .metadata()
            .is_ok_and(|stat| stat.is_file() && stat.len() == size)
        {
            return Ok(there(watch, &digest));
        }
        watch(Event::Begin {
            transfer: Transfer::Upload,
            digest: digest.clone(),
            size,
            offset: 0,
        });
        self.write(&digest, |file| {
            let mut data = source.open(blob, 0)?.take(size + 1);
            let mut hasher = digest.algorithm().hasher();
            let mut buffer = vec![0u8; 256 << 10];
            let mut bytes = 0;
            let mut told = Instant::now();
            loop {
                let read = data.read(&mut buffer).io_context(|| "read it")?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                file.write_all(&buffer[..read]).io_context(|| "write it")?;
                bytes += read as u64;
                if told.elapsed() >= Duration::from_millis(100) {
                    told = Instant::now();
                    let digest = digest.clone();
                    watch(Event::Progress { digest, bytes });
                }
            }
            let found = hasher.finish();
            if bytes != size || found != digest {
                return Err(Error::data_loss(format!(
                    "it has {bytes} bytes with the digest {found}, its descriptor says {size} bytes"
                )));
            }
            Ok(())
        })?;
        watch(Event::End {
            transfer: Transfer::Upload,
            digest,
            how: How::Moved,
        });
        Ok(How::Moved)
    }

    fn document(&self, descriptor: &Descriptor, data: &[u8], under: Under<'_>) -> Result<()> {
        let digest = document::digest_of(descriptor)?;
        if self.read(descriptor).is_err() {
            self.write(&digest, |file| {
                file.write_all(data)
                    .io_context(|| format!("write {digest}"))
            })?;
        }
        match under {
            Under::Tag(tag) => self.name(descriptor, Some(tag)),
            Under::Digest => self.name(descriptor, None),
            Under::Index => Ok(()),
        }
    }
}
