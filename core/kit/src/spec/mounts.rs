//! The mounts of a container: the runtime's own, the image's volumes, the
//! user's, and the files that tell a container its name.

use std::path::Path;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::Mount;
use rustix::fs::OFlags;

use super::path::resolve;
use super::{MountRequest, MountSource, NetworkMode, SpecRequest, VolumeFolder, target};
use crate::bundle::BundleFile;
use crate::error::{Error, ErrorKind, IoContext, Result, quote};
use crate::fs::Root;
use crate::mount::Access;

/// An `/etc/hosts` or `/etc/resolv.conf` of the host larger than this is
/// left out.
const HOST_FILE_LIMIT: u64 = 1 << 20;

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
        let mount = user_mount(wanted, place)?;
        own.retain(|known: &Mount| known.destination() != mount.destination());
        own.push(mount);
    }
    let volumes = volumes(request, image, rootfs, &places)?;
    for volume in &volumes {
        own.push(bind(&volume.source, &volume.target, Access::ReadWrite));
    }
    let files = files(request, rootfs, hostname, &own);
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

fn system(request: &SpecRequest) -> Vec<Mount> {
    let access = if request.privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
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
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
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
            std::fs::metadata(path).map_err(|error| {
                Error::io(format!("mount source {shown}"), error)
                    .with_hint("a bind mount's source must exist; make it first")
            })?;
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
        MountSource::Volume(name) => Err(Error::new(
            ErrorKind::Unimplemented,
            format!("volume {}: named volumes need a volume driver", quote(name)),
        )
        .with_hint("give a folder of the host: a path beginning with / or ./")),
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

/// `/etc/hostname`, `/etc/hosts` and, with the host's network, its
/// `/etc/resolv.conf`: what programs look their own name up in. They are bound
/// over the image's, so that they follow the container and not the image;
/// where the image has no `/etc`, or a mount covers it, there is nothing to
/// bind on and nobody is told. The same where a symlink leads to the runtime's
/// mounts.
fn files(request: &SpecRequest, rootfs: &Root, hostname: &str, own: &[Mount]) -> Vec<BundleFile> {
    let is_there = rootfs.open_at("/etc", OFlags::PATH | OFlags::DIRECTORY, 0);
    let (Ok(_), Ok(etc)) = (is_there, resolve(rootfs, "/etc", "folder")) else {
        return Vec::new();
    };
    let host = |path: &str| {
        let file = std::fs::File::open(path).io_context(|| format!("open {path}"));
        file.and_then(|file| crate::fs::read_limited(&file, path, HOST_FILE_LIMIT))
            .ok()
    };
    let own_hosts = || {
        format!(
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             127.0.0.1\t{hostname}\n"
        )
        .into_bytes()
    };
    let mut list = vec![("hostname", Some(format!("{hostname}\n").into_bytes()))];
    match request.network {
        NetworkMode::Host => {
            list.push(("hosts", host("/etc/hosts").or_else(|| Some(own_hosts()))));
            list.push(("resolv.conf", host("/etc/resolv.conf")));
        }
        NetworkMode::None | NetworkMode::Namespace(_) => list.push(("hosts", Some(own_hosts()))),
    }
    list.into_iter()
        .filter_map(|(name, data)| Some((name, data?)))
        .filter(|(name, _)| {
            let target = Path::new(&etc).join(name);
            let leads = resolve(rootfs, &target.to_string_lossy(), "file");
            leads.is_ok_and(|place| !target::is_system(&place))
                && own
                    .iter()
                    .all(|mount| !target.starts_with(mount.destination()))
        })
        .map(|(name, data)| BundleFile {
            path: name.into(),
            data,
            mode: 0o644,
        })
        .collect()
}
