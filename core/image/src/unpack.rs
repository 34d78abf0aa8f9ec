//! Unpacks an image's layers into committed snapshots, each under its chain
//! ID, so that images share what they have in common.
//!
//! One flight per chain ID across processes: the second waits on a lock file
//! and then finds the snapshot. A layer is written into an active snapshot
//! with a random key, labelled with the process that writes it; killed, it
//! leaves just that, and the next unpacking of whatever image removes it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use containerkit::content::{BlobStream, ContentStore};
use containerkit::lock::{FileLock, Wait};
use containerkit::process::ProcessIdentity;
use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotKind};
use containerkit::value::all_pages;
use containerkit::{
    Context as _, Error, ErrorKind, IoContext, Labels, Result, SnapshotKey, Snapshotter, mounter,
};

use crate::apply::{Applied, ApplyOptions, WhiteoutForm, apply};
use crate::event::Event;
use crate::layer::compression::{Compression, Stream};
use crate::limits::Limits;
use crate::resolve::{Image, Layer};

/// On an active snapshot: the chain ID that it is being written for.
pub const CHAIN_LABEL: &str = "containerkit.unpack.chain";
/// On an active snapshot: the process that writes it, as JSON.
pub const PROCESS_LABEL: &str = "containerkit.unpack.process";

/// How to unpack.
pub struct UnpackOptions<'a> {
    /// A folder for lock files, one set for one snapshotter; made if missing.
    pub locks: PathBuf,
    /// How long to wait for another process that unpacks the same layer.
    pub wait: Duration,
    /// What a layer may cost.
    pub limits: Limits,
    /// Told of each layer.
    pub progress: &'a dyn Fn(Event),
}

impl UnpackOptions<'_> {
    /// Default limits, half an hour's wait, nobody watching.
    pub fn new(locks: impl Into<PathBuf>) -> UnpackOptions<'static> {
        UnpackOptions {
            locks: locks.into(),
            wait: Duration::from_secs(1800),
            limits: Limits::default(),
            progress: &crate::event::ignore,
        }
    }
}

/// Unpacks what is not unpacked yet. Returns the key of the top layer's
/// snapshot, `None` for an image without layers.
pub fn unpack(
    store: &dyn ContentStore,
    snapshotter: &dyn Snapshotter,
    image: &Image,
    options: &UnpackOptions<'_>,
) -> Result<Option<SnapshotKey>> {
    let keys: Vec<SnapshotKey> = image
        .layers
        .iter()
        .map(|layer| layer.chain_id.to_string().parse())
        .collect::<Result<_>>()?;
    let total = keys.len();
    // From the top: what is there has its parents.
    let mut done = 0;
    for index in (0..total).rev() {
        if committed(snapshotter, &keys[index])? {
            done = index + 1;
            break;
        }
    }
    if done < total
        && let Err(error) = remove_stale(snapshotter, (PROCESS_LABEL, None))
    {
        log::warn!("look for what killed processes left: {error}");
    }
    for (index, (layer, key)) in image.layers.iter().zip(&keys).enumerate() {
        let number = index + 1;
        let mut applied = None;
        if index >= done {
            (options.progress)(Event::Unpacking {
                layer: number,
                layers: total,
                diff_id: layer.diff_id.clone(),
            });
            let parent = index.checked_sub(1).map(|below| &keys[below]);
            applied = one(store, snapshotter, layer, key, parent, options)
                .context(|| format!("layer {number} of {total} ({})", layer.digest))?;
        }
        let applied = applied.unwrap_or_default();
        (options.progress)(Event::Unpacked {
            layer: number,
            entries: applied.entries,
            bytes: applied.bytes,
        });
    }
    Ok(keys.into_iter().next_back())
}

/// Whether the image's snapshots are all there.
pub fn is_unpacked(snapshotter: &dyn Snapshotter, image: &Image) -> Result<bool> {
    match image.layers.last() {
        None => Ok(true),
        Some(layer) => committed(snapshotter, &layer.chain_id.to_string().parse()?),
    }
}

fn committed(snapshotter: &dyn Snapshotter, key: &SnapshotKey) -> Result<bool> {
    match snapshotter.stat(key) {
        Ok(info) if info.kind == SnapshotKind::Committed => Ok(true),
        Ok(info) => Err(Error::precondition(format!(
            "snapshot {key} is {}, which is no layer",
            info.kind
        ))
        .with_hint(format!(
            "remove it with `containerkit snapshot rm {key}` and try again"
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `None`: it was there already.
fn one(
    store: &dyn ContentStore,
    snapshotter: &dyn Snapshotter,
    layer: &Layer,
    key: &SnapshotKey,
    parent: Option<&SnapshotKey>,
    options: &UnpackOptions<'_>,
) -> Result<Option<Applied>> {
    containerkit::fs::ensure_dir(&options.locks, 0o700)?;
    let path = options.locks.join(format!(
        "unpack-{}-{}",
        layer.chain_id.algorithm(),
        layer.chain_id.hex()
    ));
    let what = format!("unpacking of chain {}", layer.chain_id);
    let lock = FileLock::acquire(&path, &what, Wait::AtMost(options.wait))?;
    let result = match committed(snapshotter, key) {
        Ok(true) => Ok(None),
        // One may have died since, while this one waited for its lock.
        Ok(false) => remove_stale(snapshotter, (CHAIN_LABEL, Some(key)))
            .and_then(|()| write(store, snapshotter, layer, key, parent, options).map(Some))
            .map_err(|error| blame(store, layer, error)),
        Err(error) => Err(error),
    };
    // While it is still held: nobody else can have it by this name.
    lock.remove()?;
    result
}

fn write(
    store: &dyn ContentStore,
    snapshotter: &dyn Snapshotter,
    layer: &Layer,
    key: &SnapshotKey,
    parent: Option<&SnapshotKey>,
    options: &UnpackOptions<'_>,
) -> Result<Applied> {
    let stream = open_layer(store, layer, &options.limits)?;
    let active = active_key(key)?;
    let identity = ProcessIdentity::of(std::process::id())?;
    let identity = serde_json::to_string(&identity)
        .map_err(|error| Error::internal("write a label").with_source(error))?;
    let labels = Labels::from([
        (CHAIN_LABEL.to_string(), key.to_string()),
        (PROCESS_LABEL.to_string(), identity),
    ]);
    let base = match parent {
        None => Base::Yes,
        Some(_) => Base::No,
    };
    let mounts = snapshotter.prepare(&active, parent, &labels)?;
    let result = fill(&mounts, stream, layer, base, options).and_then(|applied| {
        match snapshotter.commit(key, &active, &CommitOptions::default()) {
            Ok(_) => Ok((applied, true)),
            // Somebody with other locks was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((applied, false)),
            Err(error) => Err(error),
        }
    });
    if !matches!(result, Ok((_, true)))
        && let Err(error) = snapshotter.remove(&active)
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("snapshot {active} stays behind until the next unpacking: {error}");
    }
    result.map(|(applied, _)| applied)
}

/// Whether a layer lies on nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Yes,
    No,
}

const EPOCH: rustix::fs::Timestamps = {
    let zero = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::fs::Timestamps {
        last_access: zero,
        last_modification: zero,
    }
};

/// Writes a layer through the snapshot's mounts; they are gone, and the data
/// durable, when it returns.
fn fill(
    mounts: &[containerkit::Mount],
    mut stream: Stream,
    layer: &Layer,
    base: Base,
    options: &UnpackOptions<'_>,
) -> Result<Applied> {
    let tree = mounter::mount_detached(mounts)?;
    // Opened before the first write, so that it learns of every failed one.
    let root = open_root(&tree)?;
    if base == Base::Yes {
        // A layer need not have an entry for the root: then it was made by
        // nobody, and not just now.
        rustix::fs::futimens(&root, &EPOCH).io_context(|| "set the time of the root")?;
    }
    let applied = apply(
        &mut stream,
        root.as_fd(),
        &ApplyOptions {
            whiteouts: WhiteoutForm::Remove,
            limits: options.limits.clone(),
        },
    )?;
    let found = stream.finish()?;
    if found != layer.diff_id {
        return Err(Error::data_loss(format!(
            "its content has the digest {found}, the image's config says {}",
            layer.diff_id
        ))
        .with_hint(
            "the image was put together wrongly, or the blob is damaged; import or pull it again",
        ));
    }
    rustix::fs::syncfs(&root).io_context(|| "write the layer to the disk")?;
    Ok(applied)
}

fn open_root(tree: &OwnedFd) -> Result<OwnedFd> {
    rustix::fs::openat(
        tree,
        c".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .io_context(|| "open the mounted snapshot")
}

fn open_layer(store: &dyn ContentStore, layer: &Layer, limits: &Limits) -> Result<Stream> {
    let reader = store
        .reader(&layer.digest)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint("import or pull the image again"),
            _ => error,
        })?;
    let size = reader.size();
    if size != layer.descriptor.size() {
        return Err(Error::precondition(format!(
            "the blob has {size} bytes, the manifest says {}",
            layer.descriptor.size()
        )));
    }
    let source: Box<dyn Read + Send> = match reader.as_fd()? {
        Some(fd) => Box::new(std::fs::File::from(fd)),
        None => Box::new(BlobStream::new(reader)),
    };
    let stream = Stream::new(source, layer.diff_id.algorithm(), limits)?;
    let media_type = layer.descriptor.media_type().as_ref();
    if announced(media_type) != Some(stream.compression()) {
        log::warn!(
            "layer {} is announced as {} and is {}; going by what it is",
            layer.digest,
            containerkit::quote(media_type),
            stream.compression().name()
        );
    }
    Ok(stream)
}

/// The compression that a layer's media type tells.
fn announced(media_type: &str) -> Option<Compression> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

fn active_key(key: &SnapshotKey) -> Result<SnapshotKey> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .io_context(|| "get random bytes")?;
    format!("extract-{:016x}-{key}", u64::from_ne_bytes(bytes)).parse()
}

/// Says so when the blob that a layer was read from is not the blob that it
/// should be: layers are not hashed before they are unpacked, and damage shows
/// as whatever it does to the stream.
fn blame(store: &dyn ContentStore, layer: &Layer, error: Error) -> Error {
    match error.kind() {
        ErrorKind::DataLoss
        | ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition
        | ErrorKind::ResourceExhausted => {}
        _ => return error,
    }
    match crate::document::stored_digest(store, &layer.digest) {
        Ok(found) if found != layer.digest => Error::data_loss(format!(
            "the stored blob is damaged: its bytes have the digest {found}"
        ))
        .with_hint(format!(
            "delete it with `containerkit content delete {}` and import the image again",
            layer.digest
        ))
        .with_source(error),
        _ => error,
    }
}

/// Removes what killed processes left, by a label of theirs. What a living
/// process writes is left alone.
fn remove_stale(
    snapshotter: &dyn Snapshotter,
    (label, value): (&str, Option<&SnapshotKey>),
) -> Result<()> {
    let filter = SnapshotFilter {
        kind: Some(SnapshotKind::Active),
        labels: vec![(label.to_string(), value.map(SnapshotKey::to_string))],
        ..SnapshotFilter::default()
    };
    let found = all_pages(
        |page| snapshotter.walk(&filter, page),
        |info| info.key.to_string(),
    )?;
    for info in found {
        if is_abandoned(&info)? {
            match snapshotter.remove(&info.key) {
                Ok(()) => log::info!("removed {}, left by a killed process", info.key),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It costs space and nothing else.
                Err(error) => log::warn!("remove {}, left by a killed process: {error}", info.key),
            }
        }
    }
    Ok(())
}

fn is_abandoned(info: &SnapshotInfo) -> Result<bool> {
    let Some(identity) = info.labels.get(PROCESS_LABEL) else {
        return Ok(false);
    };
    match serde_json::from_str::<ProcessIdentity>(identity) {
        Ok(identity) => Ok(identity.open()?.is_none()),
        Err(_) => Ok(false),
    }
}
