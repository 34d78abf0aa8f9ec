//! Overlays, by the first [`Way`] that the kernel knows.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use super::options::Options;
use super::{OVERLAY_LAYERS, Way, idmap, name, tree};
use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::idmap::{IdMapping, OPTION};
use crate::mount::Mount;

/// `mount(2)` takes one page of options, the ending NUL included.
const PAGE: usize = 4096;
/// `fsconfig` takes strings of up to 255 bytes.
const STRING: usize = 255;

/// How often a mount that another one spoilt is tried again.
const RETRIES: u32 = 8;

/// What an overlay is made of; all paths as they are, unescaped.
struct Layers {
    lower: Vec<String>,
    /// How many of the topmost are shown as they are; the mapping, if any, is
    /// for those below.
    plain: usize,
    upper: Option<String>,
    work: Option<String>,
    rest: Vec<(String, Option<String>)>,
}

pub(super) fn mount(way: Option<Way>, mount: &Mount, options: &Options) -> Result<OwnedFd> {
    let layers = Layers::of(mount, options)?;
    let way = way.unwrap_or_else(best_way);
    let mut left = if layers.upper.is_some() { RETRIES } else { 0 };
    loop {
        let by = || match way {
            Way::Descriptors => by_descriptors(mount, options, &layers),
            Way::Strings => by_strings(mount, options, &layers),
            Way::Page => by_page(mount, options, &layers),
        };
        let mounted = match &options.mapping {
            None => by(),
            Some(mapping) => tree::in_private_namespace(|_| {
                cover_mapped(mount, mapping, &layers)?;
                by()
            }),
        };
        match mounted {
            // Two who mount one upper at once take each other's work folder
            // away, and the kernel calls that invalid.
            Err(error) if error.kind() == ErrorKind::InvalidArgument && left > 0 => left -= 1,
            Err(error) => return Err(layers.gone(mount).unwrap_or(error)),
            Ok(tree) => return Ok(tree),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Layers {
    /// The error for a folder that was removed while it was being mounted,
    /// of which the kernel says no more than that something is invalid.
    fn gone(&self, mount: &Mount) -> Option<Error> {
        let paths = self.upper.iter().chain(&self.work).chain(&self.lower);
        let missing = paths
            .into_iter()
            .find(|path| matches!(rustix::fs::stat(path.as_str()), Err(Errno::NOENT)))?;
        let text = format!("{}: {} does not exist", name(mount), quote(missing));
        Some(Error::new(ErrorKind::FailedPrecondition, text))
    }

    fn of(mount: &Mount, options: &Options) -> Result<Layers> {
        let mut layers = Layers {
            lower: Vec::new(),
            plain: usize::MAX,
            upper: None,
            work: None,
            rest: Vec::new(),
        };
        for (key, value) in &options.data {
            match (key.as_str(), value) {
                ("lowerdir+", Some(path)) => layers.lower.push(path.clone()),
                ("lowerdir", Some(list)) => layers.lower.extend(split_classic(mount, list)?),
                (OPTION, None) => layers.plain = layers.lower.len(),
                ("upperdir", Some(path)) => layers.upper = Some(path.clone()),
                ("workdir", Some(path)) => layers.work = Some(path.clone()),
                _ => layers.rest.push((key.clone(), value.clone())),
            }
        }
        let count = layers.lower.len();
        if count > OVERLAY_LAYERS {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "{}: {count} layers are more than the {OVERLAY_LAYERS} that the kernel's overlay can stack",
                    name(mount)
                ),
            )
            .with_hint("squash some layers of the image, or use a copying snapshotter"));
        }
        if count == 0 {
            return Err(Error::invalid(format!(
                "{}: it has no lower layer",
                name(mount)
            )));
        }
        if layers.upper.is_some() != layers.work.is_some() {
            return Err(Error::invalid(format!(
                "{}: upperdir and workdir go together",
                name(mount)
            )));
        }
        Ok(layers)
    }
}

/// The list of `mount(8)`, where `\` escapes `:` and itself.
fn split_classic(mount: &Mount, list: &str) -> Result<Vec<String>> {
    let mut layers = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match (c, layers.last_mut()) {
            ('\\', Some(layer)) => layer.extend(chars.next()),
            (':', _) => layers.push(String::new()),
            (c, Some(layer)) => layer.push(c),
            (_, None) => {}
        }
    }
    if layers.iter().any(String::is_empty) {
        return Err(Error::invalid(format!(
            "{}: an empty name in lowerdir {} (data-only layers are not supported)",
            name(mount),
            quote(list)
        )));
    }
    Ok(layers)
}

/// Mounts each layer that is to be mapped over itself, mapped, so that its
/// name leads there: before Linux 6.15 an overlay takes no layer that is
/// mounted nowhere. In a thread whose mounts nobody else sees.
fn cover_mapped(mount: &Mount, mapping: &IdMapping, layers: &Layers) -> Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).io_context(|| "make a mount namespace a slave")?;
    let namespace = idmap::namespace(mapping)?;
    for path in layers.lower.iter().skip(layers.plain) {
        let layer = tree::open_layer(mount, "layer", path, OFlags::PATH)?;
        let what = || format!("{}: layer {}", name(mount), quote(path));
        let mapped = rustix::mount::open_tree(
            &layer,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )
        .io_context(what)?;
        idmap::map(mount, &mapped, &namespace)?;
        rustix::mount::move_mount(
            &mapped,
            "",
            &layer,
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .io_context(what)?;
    }
    Ok(())
}

/// Asks the kernel, once in a process.
fn best_way() -> Way {
    static WAY: OnceLock<Way> = OnceLock::new();
    *WAY.get_or_init(|| probe().unwrap_or(Way::Page))
}

fn probe() -> rustix::io::Result<Way> {
    let root = rustix::fs::open(
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if rustix::mount::fsconfig_set_fd(&context, "lowerdir+", &root).is_ok() {
        return Ok(Way::Descriptors);
    }
    // Before Linux 6.5 overlay keeps every string for later and knows no
    // `lowerdir+`: taking a name that cannot exist gives it away.
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if rustix::mount::fsconfig_set_string(&context, "containerkit-probe", "1").is_ok() {
        return Ok(Way::Page);
    }
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    match rustix::mount::fsconfig_set_string(&context, "lowerdir+", "/") {
        Ok(()) => Ok(Way::Strings),
        Err(_) => Ok(Way::Page),
    }
}

fn by_descriptors(mount: &Mount, options: &Options, layers: &Layers) -> Result<OwnedFd> {
    let context = start(mount, options, layers)?;
    // One descriptor at a time: the kernel keeps the folder, not the number.
    let set = |role: &str, key: &str, path: &str| {
        let fd = tree::open_layer(mount, role, path, OFlags::RDONLY)?;
        rustix::mount::fsconfig_set_fd(&context, key, &fd)
            .map_err(|errno| layer_refused(mount, &context, role, path, errno))
    };
    each_layer(layers, set)?;
    tree::create(mount, &context).map_err(|error| explain(error, layers))
}

fn by_strings(mount: &Mount, options: &Options, layers: &Layers) -> Result<OwnedFd> {
    let context = start(mount, options, layers)?;
    let set = |role: &str, key: &str, path: &str| {
        let fd = tree::open_layer(mount, role, path, OFlags::PATH)?;
        // The true name where it fits, since /proc/self/mountinfo shows it.
        // `lowerdir+` takes it as it is; the other two would unescape it.
        let plain = path.len() <= STRING && (key == "lowerdir+" || !path.contains('\\'));
        let result = if plain {
            rustix::mount::fsconfig_set_string(&context, key, path)
        } else {
            let short = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::mount::fsconfig_set_string(&context, key, short)
        };
        result.map_err(|errno| layer_refused(mount, &context, role, path, errno))
    };
    each_layer(layers, set)?;
    tree::create(mount, &context).map_err(|error| explain(error, layers))
}

fn start(mount: &Mount, options: &Options, layers: &Layers) -> Result<OwnedFd> {
    let context = tree::open_filesystem(mount)?;
    rustix::mount::fsconfig_set_string(&context, "source", source(mount))
        .map_err(|errno| tree::refused(mount, &context, "its source", errno))?;
    tree::configure(mount, &context, options.read_only, &layers.rest)?;
    Ok(context)
}

fn source(mount: &Mount) -> &str {
    match mount.source.as_str() {
        "" => "overlay",
        source => source,
    }
}

fn each_layer(layers: &Layers, mut set: impl FnMut(&str, &str, &str) -> Result<()>) -> Result<()> {
    for path in &layers.lower {
        set("layer", "lowerdir+", path)?;
    }
    if let Some(upper) = &layers.upper {
        set("upper folder", "upperdir", upper)?;
    }
    if let Some(work) = &layers.work {
        set("work folder", "workdir", work)?;
    }
    Ok(())
}

fn layer_refused(mount: &Mount, context: &OwnedFd, role: &str, path: &str, errno: Errno) -> Error {
    tree::refused(mount, context, &format!("{role} {}", quote(path)), errno)
}

/// Overlay tells its reasons to the kernel's log only.
fn explain(error: Error, layers: &Layers) -> Error {
    let hint = match error.kind() {
        ErrorKind::FailedPrecondition if layers.upper.is_some() => {
            "its upper or work folder is in use by another mount, or layers overlap; see dmesg"
        }
        _ => "the kernel's log (dmesg) says why",
    };
    match error.hint() {
        Some(_) => error,
        None => error.with_hint(hint),
    }
}

/// All layers in one page of options. From `/proc/self/fd` as working
/// directory a layer's name is its descriptor's number, three or four bytes
/// with the colon, and holds nothing to escape.
fn by_page(mount: &Mount, options: &Options, layers: &Layers) -> Result<OwnedFd> {
    tree::in_private_namespace(|point| {
        let mut held = Vec::with_capacity(layers.lower.len() + 2);
        let mut data = String::new();
        each_layer(layers, |role, key, path| {
            // Opened in the thread: a layer must be of the namespace that
            // the mount is made in.
            let fd = tree::open_layer(mount, role, path, OFlags::PATH)?;
            let number = fd.as_raw_fd();
            match (key, held.is_empty()) {
                ("lowerdir+", true) => data = format!("lowerdir={number}"),
                ("lowerdir+", false) => data.push_str(&format!(":{number}")),
                _ => data.push_str(&format!(",{key}={number}")),
            }
            held.push(fd);
            Ok(())
        })?;
        for (key, value) in &layers.rest {
            data.push(',');
            data.push_str(&escape(key));
            if let Some(value) = value {
                data.push('=');
                data.push_str(&escape(value));
            }
        }
        if data.len() >= PAGE {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "{}: its options take {} bytes of the {} that mount(2) has",
                    name(mount),
                    data.len(),
                    PAGE - 1
                ),
            ));
        }
        let data = CString::new(data).map_err(|_| Error::invalid("mount option holds a NUL"))?;
        rustix::process::chdir("/proc/self/fd").io_context(|| "enter /proc/self/fd")?;
        let flags = if options.read_only {
            MountFlags::RDONLY
        } else {
            MountFlags::empty()
        };
        rustix::mount::mount(source(mount), point, "overlay", flags, data.as_c_str())
            .map_err(|errno| super::kind_for_mount(Error::io(name(mount), errno)))
            .map_err(|error| explain(error, layers))?;
        tree::clone(CWD, point, false).io_context(|| format!("{}: detach it", name(mount)))
    })
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

/// See [`super::is_upper_in_use`].
pub(super) fn is_upper_in_use(way: Option<Way>, dir: &Path) -> Result<bool> {
    let failed =
        |errno: Errno| Error::io(format!("ask whether {} is mounted", dir.display()), errno);
    let open = |flags: OFlags| {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)
    };
    let asked = match way.unwrap_or_else(best_way) {
        Way::Page => tree::in_private_namespace(|point| {
            let fd = open(OFlags::PATH)?;
            let number = fd.as_raw_fd();
            let data = format!("index=on,lowerdir=/,upperdir={number},workdir={number}");
            let data = CString::new(data).map_err(|_| Error::internal("a number holds a NUL"))?;
            rustix::process::chdir("/proc/self/fd").io_context(|| "enter /proc/self/fd")?;
            let flags = MountFlags::empty();
            Ok(rustix::mount::mount(
                "overlay",
                point,
                "overlay",
                flags,
                data.as_c_str(),
            ))
        })?,
        way => {
            let context =
                rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
            let fd = open(OFlags::RDONLY)?;
            let set = |key: &str| match way {
                Way::Descriptors => rustix::mount::fsconfig_set_fd(&context, key, &fd),
                _ => rustix::mount::fsconfig_set_string(
                    &context,
                    key,
                    format!("/proc/self/fd/{}", fd.as_raw_fd()),
                ),
            };
            rustix::mount::fsconfig_set_string(&context, "index", "on").map_err(failed)?;
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", "/").map_err(failed)?;
            set("upperdir").map_err(failed)?;
            set("workdir").map_err(failed)?;
            rustix::mount::fsconfig_create(&context)
        }
    };
    match asked {
        Err(Errno::BUSY) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(failed(errno)),
        Ok(()) => Err(Error::internal(format!(
            "the kernel mounted an overlay whose work folder is its upper folder, {}",
            dir.display()
        ))),
    }
}
