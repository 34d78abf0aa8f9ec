//! [`build`]: all parts put together.

use oci_spec::runtime::{Process, Root as SpecRoot, Spec, User};

use super::caps::{self, CapabilitySet};
use super::user::ResolvedUser;
use super::{BuiltSpec, NetworkMode, SecurityOption, SpecRequest};
use super::{env, linux, mounts, parse, path, user};
use crate::error::{Error, Result, quote};
use crate::fs::Root;
use crate::ids::ContainerId;

/// The OCI runtime-spec version that the spec keeps to.
const OCI_VERSION: &str = "1.0.2";

const DEFAULT_STOP_SIGNAL: i32 = 15;

/// The whole spec of the container `id`. `rootfs` is its root file system as
/// it will be, mounted read-only or not; it is only read.
pub fn build(request: &SpecRequest, id: &ContainerId, rootfs: &Root) -> Result<BuiltSpec> {
    if !request.bundle.is_absolute() || !request.volumes_dir.is_absolute() {
        return Err(Error::invalid(
            "the bundle's and the volumes' folder are absolute paths",
        ));
    }
    path::check_mount_points(rootfs)?;
    let image = request.image.clone().unwrap_or_default();
    let available = CapabilitySet::available()?;
    let capabilities = caps::choose(
        request.privileged,
        &request.cap_add,
        &request.cap_drop,
        available,
    )?;
    linux::check_ulimits(&request.ulimits, available)?;

    let user_text = non_empty(&request.user).or(non_empty(image.user()));
    let found = user::resolve(rootfs, user_text.unwrap_or(""))?;
    let hostname = hostname(request, id)?;
    let workdir = non_empty(&request.workdir)
        .or(non_empty(image.working_dir()))
        .unwrap_or("/");
    let signal = non_empty(&request.stop_signal).or(non_empty(image.stop_signal()));
    let stop_signal = signal.map_or(Ok(DEFAULT_STOP_SIGNAL), parse::parse_signal)?;
    let no_new_privileges = request
        .security
        .iter()
        .rev()
        .find_map(|option| match option {
            SecurityOption::NoNewPrivileges(on) => Some(*on),
            _ => None,
        })
        .unwrap_or(false);

    let mut process = Process::default();
    process
        .set_terminal(Some(request.terminal))
        .set_user(spec_user(&found))
        .set_args(Some(env::arguments(request, &image)?))
        .set_env(Some(env::environment(
            request,
            &image,
            &found.home,
            &hostname,
            |key| std::env::var_os(key),
        )?))
        .set_cwd(path::workdir(rootfs, workdir)?.into())
        .set_capabilities(Some(capabilities.to_spec()))
        .set_rlimits((!request.ulimits.is_empty()).then(|| request.ulimits.clone()))
        .set_no_new_privileges(Some(no_new_privileges));

    let parts = mounts::mounts(request, &image, rootfs, &hostname)?;
    let mut root = SpecRoot::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(request.read_only));
    let annotations: std::collections::HashMap<String, String> =
        request.annotations.clone().into_iter().collect();

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_root(Some(root))
        .set_process(Some(process))
        .set_hostname(Some(hostname))
        .set_mounts(Some(parts.mounts))
        .set_annotations((!annotations.is_empty()).then_some(annotations))
        .set_linux(Some(linux::linux(request, id, capabilities)?))
        .set_hooks(None);
    Ok(BuiltSpec {
        spec,
        stop_signal,
        volumes: parts.volumes,
        files: parts.files,
    })
}

pub(super) fn spec_user(found: &ResolvedUser) -> User {
    let mut user = User::default();
    user.set_uid(found.uid)
        .set_gid(found.gid)
        .set_additional_gids(Some(found.additional_gids.clone()));
    user
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn hostname(request: &SpecRequest, id: &ContainerId) -> Result<String> {
    if let Some(name) = non_empty(&request.hostname) {
        let valid = name.len() <= 64
            && !name.starts_with(['-', '.'])
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !valid {
            return Err(Error::invalid(format!(
                "host name {}: want at most 64 letters, digits, '-', '.' and '_'",
                quote(name)
            )));
        }
        return Ok(name.to_owned());
    }
    match request.network {
        NetworkMode::Host => {
            let uname = rustix::system::uname();
            Ok(uname.nodename().to_string_lossy().into_owned())
        }
        NetworkMode::None | NetworkMode::Namespace(_) => Ok(id.short().to_owned()),
    }
}
