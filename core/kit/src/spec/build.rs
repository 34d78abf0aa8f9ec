//! [`build`]: all parts put together.

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{BoxBuilder, PosixRlimit, Process, Root as SpecRoot, Spec, User};

use super::caps::{self, CapabilitySet};
use super::program::INIT_PATH;
use super::user::ResolvedUser;
use super::{BuiltSpec, NamespaceMode, NetworkMode, SecurityOption, SpecRequest};
use super::{env, linux, lsm, mounts, parse, path, user};
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
    if let Some(whole) = &request.whole {
        return whole.build(request, id, rootfs);
    }
    request.check()?;
    let image = request.image.clone().unwrap_or_default();
    let capabilities = capabilities(request)?;
    let users = request.users.mapping(id)?;

    let user_text = non_empty(&request.user).or(non_empty(image.user()));
    let mut found = user::resolve(rootfs, user_text.unwrap_or(""))?;
    user::add_groups(rootfs, &mut found, &request.groups)?;
    if let Some(users) = &users {
        found.check_mapped(users)?;
    }
    let hostname = hostname(request, id)?;
    let workdir = non_empty(&request.workdir)
        .or(non_empty(image.working_dir()))
        .unwrap_or("/");
    let stop_signal = stop_signal(request, &image)?;

    let mut args = env::arguments(request, &image)?;
    if request.init.is_some() {
        args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let mut ulimits: Vec<PosixRlimit> = Vec::new();
    for limit in &request.ulimits {
        ulimits.retain(|known| known.typ() != limit.typ());
        ulimits.push(*limit);
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(request.terminal))
        .set_user(spec_user(&found))
        .set_args(Some(args))
        .set_env(Some(env::environment(
            request,
            &image,
            &found.home,
            &hostname,
            |key| std::env::var_os(key),
        )?))
        .set_cwd(path::workdir(rootfs, workdir)?.into())
        .set_capabilities(Some(capabilities.to_spec(found.uid)))
        .set_rlimits((!ulimits.is_empty()).then_some(ulimits))
        .set_oom_score_adj(request.oom_score_adj)
        .set_apparmor_profile(lsm::apparmor(request)?)
        .set_no_new_privileges(Some(no_new_privileges(request)));
    set_console_size(&mut process, request);

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
        .set_hostname((request.namespaces.uts == NamespaceMode::Private).then_some(hostname))
        .set_mounts(Some(parts.mounts))
        .set_annotations((!annotations.is_empty()).then_some(annotations))
        .set_linux(Some(linux::linux(
            request,
            id,
            capabilities,
            users.as_ref(),
        )?))
        .set_hooks(None);
    Ok(BuiltSpec {
        spec,
        stop_signal,
        volumes: parts.volumes,
        files: parts.files,
    })
}

/// What the container's processes may have at most.
pub(super) fn capabilities(request: &SpecRequest) -> Result<CapabilitySet> {
    caps::choose(
        request.privileged,
        &request.cap_add,
        &request.cap_drop,
        CapabilitySet::available()?,
    )
}

pub(super) fn stop_signal(request: &SpecRequest, image: &ImageConfig) -> Result<i32> {
    let signal = non_empty(&request.stop_signal).or(non_empty(image.stop_signal()));
    signal.map_or(Ok(DEFAULT_STOP_SIGNAL), parse::parse_signal)
}

pub(super) fn set_console_size(process: &mut Process, request: &SpecRequest) {
    process.set_console_size(None);
    if let (true, Some((rows, columns))) = (request.terminal, request.console_size) {
        let size = BoxBuilder::default().height(rows).width(columns).build();
        process.set_console_size(size.ok());
    }
}

fn no_new_privileges(request: &SpecRequest) -> bool {
    let wish = request
        .security
        .iter()
        .rev()
        .find_map(|option| match option {
            SecurityOption::NoNewPrivileges(on) => Some(*on),
            _ => None,
        });
    wish.unwrap_or(false)
}

pub(super) fn spec_user(found: &ResolvedUser) -> User {
    let mut user = User::default();
    user.set_uid(found.uid)
        .set_gid(found.gid)
        .set_additional_gids(Some(found.additional_gids.clone()));
    user
}

pub(super) fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn hostname(request: &SpecRequest, id: &ContainerId) -> Result<String> {
    if let Some(name) = non_empty(&request.hostname) {
        return Ok(name.to_owned());
    }
    let uname = rustix::system::uname();
    let is_hosts =
        request.network == NetworkMode::Host || request.namespaces.uts != NamespaceMode::Private;
    match uname.nodename().to_str() {
        // It goes into /etc/hosts: what could write a line there is left out.
        Ok(name) if is_hosts && is_hostname(name) => Ok(name.to_owned()),
        _ => Ok(id.short().to_owned()),
    }
}

/// Refuses a name that no host has.
pub(super) fn check_hostname(what: &str, name: &str) -> Result<()> {
    if is_hostname(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} {}: want at most 64 letters, digits, '-', '.' and '_'",
        quote(name)
    )))
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
