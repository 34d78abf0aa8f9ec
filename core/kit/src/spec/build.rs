//! [`build`]: all parts put together.

use oci_spec::runtime::{BoxBuilder, Process, Root as SpecRoot, Spec, User};

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
        .set_capabilities(Some(capabilities.to_spec(found.uid)))
        .set_rlimits((!request.ulimits.is_empty()).then(|| request.ulimits.clone()))
        .set_no_new_privileges(Some(no_new_privileges));

    if let (true, Some((rows, columns))) = (request.terminal, request.console_size) {
        let size = BoxBuilder::default().height(rows).width(columns).build();
        process.set_console_size(size.ok());
    }

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
        if !is_hostname(name) {
            return Err(Error::invalid(format!(
                "host name {}: want at most 64 letters, digits, '-', '.' and '_'",
                quote(name)
            )));
        }
        return Ok(name.to_owned());
    }
    let uname = rustix::system::uname();
    match (&request.network, uname.nodename().to_str()) {
        // It goes into /etc/hosts: what could write a line there is left out.
        (NetworkMode::Host, Ok(name)) if is_hostname(name) => Ok(name.to_owned()),
        _ => Ok(id.short().to_owned()),
    }
}

fn is_hostname(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_wishes_everything_is_the_default() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        let root = Root::open(dir.path()).expect("root");
        let request = SpecRequest {
            command: vec!["true".into()],
            bundle: "/b".into(),
            volumes_dir: "/v".into(),
            ..SpecRequest::default()
        };
        let id: ContainerId = "0123456789abcdef".parse().expect("id");
        let built = build(&request, &id, &root).expect("build");
        let spec = &built.spec;
        assert_eq!(built.stop_signal, 15);
        assert_eq!(spec.version(), "1.0.2");
        assert_eq!(spec.hostname().as_deref(), Some("0123456789ab"));
        let linux = spec.linux().as_ref().expect("linux");
        let cgroup = linux.cgroups_path().clone().expect("cgroup");
        assert_eq!(cgroup.to_string_lossy(), "/containerkit/0123456789abcdef");
        let namespaces = linux.namespaces().clone().unwrap_or_default();
        assert!(namespaces.iter().all(|ns| ns.path().is_none()));
        let process = spec.process().as_ref().expect("process");
        assert_eq!(process.rlimits(), &None);
        assert_eq!(process.no_new_privileges(), Some(false));
        let names: Vec<_> = built.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(names, [std::path::Path::new("hostname"), "hosts".as_ref()]);

        let relative = SpecRequest {
            bundle: "b".into(),
            ..request.clone()
        };
        assert!(build(&relative, &id, &root).is_err());
        // Nothing is bound on an /etc that is not there or is a symlink out.
        std::fs::remove_dir(dir.path().join("etc")).expect("rmdir");
        std::os::unix::fs::symlink("/nowhere", dir.path().join("etc")).expect("symlink");
        assert!(build(&request, &id, &root).expect("build").files.is_empty());
        // A mount of the user over /etc is the user's.
        std::fs::remove_file(dir.path().join("etc")).expect("rm");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        let covered = SpecRequest {
            mounts: vec![parse::parse_tmpfs("/etc").expect("tmpfs")],
            ..request
        };
        assert!(build(&covered, &id, &root).expect("build").files.is_empty());
    }
}
