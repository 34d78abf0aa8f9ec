//! The mounts of a container: the runtime's own, the image's volumes, the
//! user's, and the files that tell a container its name.

use std::path::Path;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::Mount;

use super::program::INIT_PATH;
use super::{MountRequest, MountSource, NamespaceMode, NetworkMode, SpecRequest, UserNamespace};
use super::{VolumeFolder, files, target};
use crate::bundle::BundleFile;
use crate::error::{Error, ErrorKind, Result, quote};
use crate::fs::Root;
use crate::mount::Access;

/// More declared volumes than this is refused.
const VOLUME_LIMIT: usize = 256;

pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) volumes: Vec<VolumeFolder>,
    pub(super) files: Vec<BundleFile>,
}

pub(super) fn mounts(
    request: &SpecRequest,
    image: &ImageConfig,
    rootfs: &Root,
    hostname: &str,
) -> Result<Mounts> {
    let mut system = system(request);
    let mut own = Vec::new();
    let given: Vec<&str> = request.mounts.iter().map(|m| m.target.as_str()).collect();
    let places = target::of_user(rootfs, &given)?;
    for (wanted, place) in request.mounts.iter().zip(&places) {
        own.push(user_mount(wanted, place)?);
    }
    if let Some(init) = &request.init {
        own.push(init_mount(init, &places)?);
    }
    let volumes = volumes(request, image, rootfs, &places)?;
    for volume in &volumes {
        own.push(bind(&volume.source, &volume.target, Access::ReadWrite));
    }
    let files = files::files(request, rootfs, hostname, &own)?;
    let access = if request.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    for file in &files {
        let target = format!("/etc/{}", file.path.display());
        own.push(bind(&request.bundle.join(&file.path), &target, access));
    }
    // A mount of the user takes the place of the runtime's own; a folder comes
    // before what lies in it.
    system.retain(|mount| {
        own.iter()
            .all(|wanted| wanted.destination() != mount.destination())
    });
    own.sort_by_key(|mount| mount.destination().components().count());
    system.extend(own);
    Ok(Mounts {
        mounts: system,
        volumes,
        files,
    })
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn bind(source: &Path, target: &str, access: Access) -> Mount {
    let mut mount = mount(target, "bind", "", &["rbind", "rprivate", access.option()]);
    mount.set_source(Some(source.to_owned()));
    mount
}

/// The reaper, in what the runtime mounts afresh: no image reaches there.
fn init_mount(init: &Path, places: &[String]) -> Result<Mount> {
    let above = places
        .iter()
        .find(|place| super::path::is_within(INIT_PATH, place));
    if let Some(place) = above {
        return Err(Error::invalid(format!(
            "mount target {}: the container's init lies there",
            quote(place)
        ))
        .with_hint("leave --init out, or mount elsewhere"));
    }
    let mut mount = bind(init, INIT_PATH, Access::ReadOnly);
    mount.set_options(Some(
        ["bind", "ro", "nosuid", "nodev", "rprivate"]
            .map(str::to_owned)
            .to_vec(),
    ));
    Ok(mount)
}

fn system(request: &SpecRequest) -> Vec<Mount> {
    let access = if request.privileged { "rw" } else { "ro" };
    let shared = |mode: &NamespaceMode| *mode != NamespaceMode::Private;
    let is_mapped = request.users != UserNamespace::Host;
    let of_host = |path: &str, options: &[&str]| {
        mount(
            path,
            "bind",
            path,
            &[&["rbind", "rprivate"], options].concat(),
        )
    };
    let shm = format!("size={}", request.shm_size.unwrap_or(64 << 20));
    // A file system that shows a namespace is mounted by who owns it: mapped
    // users see the host's where the namespace is the host's.
    let proc = match is_mapped && shared(&request.namespaces.pid) {
        true => of_host("/proc", &["nosuid", "noexec", "nodev"]),
        false => mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    };
    let sys = match is_mapped && request.network != NetworkMode::None {
        true => of_host("/sys", &["nosuid", "noexec", "nodev", "ro"]),
        false => mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
    };
    let (shm, mqueue) = match &request.namespaces.ipc {
        NamespaceMode::Host => (
            of_host("/dev/shm", &["nosuid", "noexec", "nodev"]),
            of_host("/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        ),
        _ => (
            mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &shm],
            ),
            mount(
                "/dev/mqueue",
                "mqueue",
                "mqueue",
                &["nosuid", "noexec", "nodev"],
            ),
        ),
    };
    let mut list = vec![
        proc,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        shm,
        mqueue,
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    // A host without message queues has none to share.
    list.retain(|mount| mount.typ().as_deref() != Some("bind") || mount.destination().exists());
    list
}

/// Refuses what cannot be mounted, before anything is made.
pub(super) fn check_source(wanted: &MountRequest) -> Result<()> {
    match &wanted.source {
        MountSource::Tmpfs => Ok(()),
        MountSource::Path(path) => std::fs::metadata(path).map(drop).map_err(|error| {
            Error::io(
                format!("mount source {}", quote(&path.to_string_lossy())),
                error,
            )
            .with_hint("a bind mount's source must exist; make it first")
        }),
        MountSource::Volume(name) => Err(Error::new(
            ErrorKind::Unimplemented,
            format!("volume {}: named volumes need a volume driver", quote(name)),
        )
        .with_hint("give a folder of the host: a path beginning with / or ./")),
    }
}

fn user_mount(wanted: &MountRequest, target: &str) -> Result<Mount> {
    match &wanted.source {
        MountSource::Path(path) => {
            let shown = quote(&path.to_string_lossy());
            if !path.is_absolute() {
                return Err(Error::invalid(format!(
                    "mount source {shown}: want an absolute path"
                )));
            }
            check_source(wanted)?;
            let mut mount = bind(path, target, wanted.access);
            // What a wish replaces is left out, so that no runtime has to guess.
            let mut options = mount.options().clone().unwrap_or_default();
            for option in &wanted.options {
                match option.as_str() {
                    "bind" | "rbind" => options.retain(|o| !matches!(o.as_str(), "bind" | "rbind")),
                    "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                        options.retain(|o| o != "rprivate");
                    }
                    _ => {}
                }
                options.push(option.clone());
            }
            mount.set_options(Some(options));
            Ok(mount)
        }
        MountSource::Tmpfs => {
            let given = |key: &str| {
                wanted
                    .options
                    .iter()
                    .any(|option| option.split('=').next() == Some(key))
            };
            let mut options = vec![wanted.access.option()];
            for (default, opposite) in [
                ("nosuid", "suid"),
                ("nodev", "dev"),
                ("noexec", "exec"),
                ("mode=1777", "mode"),
            ] {
                if !given(default) && !given(opposite) {
                    options.push(default);
                }
            }
            options.extend(wanted.options.iter().map(String::as_str));
            Ok(mount(target, "tmpfs", "tmpfs", &options))
        }
        MountSource::Volume(_) => {
            check_source(wanted)?;
            Err(Error::internal("a volume without its mounts"))
        }
    }
}

/// The image's declared volumes that no mount of the user covers, in path
/// order: a later one may lie in an earlier.
fn volumes(
    request: &SpecRequest,
    image: &ImageConfig,
    rootfs: &Root,
    own: &[String],
) -> Result<Vec<VolumeFolder>> {
    let declared = image.volumes().as_deref().unwrap_or_default();
    if declared.len() > VOLUME_LIMIT {
        return Err(Error::precondition(format!(
            "the image declares {} volumes, more than the {VOLUME_LIMIT} allowed",
            declared.len()
        )));
    }
    let mut targets = declared
        .iter()
        .map(|declared| target::of_image(rootfs, declared, own))
        .collect::<Result<Vec<String>>>()?;
    targets.sort();
    targets.dedup();
    targets.retain(|target| !own.contains(target));
    let mut folders: Vec<VolumeFolder> = Vec::new();
    for (number, target) in targets.into_iter().enumerate() {
        let source = request.volumes_dir.join(number.to_string());
        folders.push(match folders.first() {
            Some(first) => first.beside(source, target),
            None => VolumeFolder::new(source, target),
        });
    }
    Ok(folders)
}
