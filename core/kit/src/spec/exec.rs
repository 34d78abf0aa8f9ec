//! A further process in a container, from the container's own spec.

use oci_spec::runtime::{Process, Spec};

use super::env::Environment;
use super::{caps, path, user};
use crate::error::{Error, Result};
use crate::fs::Root;

/// What a further process shall be, as flags say it.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `K=V` or `K`, over the container's own.
    pub env: Vec<String>,
    /// Working folder; the container's without it.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; the container's without it.
    pub user: Option<String>,
    /// A terminal.
    pub terminal: bool,
    /// Every capability.
    pub privileged: bool,
}

/// The process: the container's with these wishes applied. `rootfs` is the
/// container's root file system as it is now.
pub fn exec_process(spec: &Spec, request: &ExecSpec, rootfs: &Root) -> Result<Process> {
    let Some(base) = spec.process() else {
        return Err(Error::precondition("the container's spec has no process"));
    };
    let mut process = base.clone();
    match request.command.first() {
        None => return Err(Error::invalid("no command was given")),
        Some(first) if first.is_empty() => {
            return Err(Error::invalid("the command's name is empty"));
        }
        Some(_) if request.command.iter().any(|arg| arg.contains('\0')) => {
            return Err(Error::invalid("an argument holds a NUL"));
        }
        Some(_) => process.set_args(Some(request.command.clone())),
    };
    let mut environment = Environment::of(base.env().as_deref().unwrap_or_default());
    if let Some(text) = &request.user {
        let found = user::resolve(rootfs, text)?;
        environment.set("HOME", &found.home);
        process.set_user(super::build::spec_user(&found));
    }
    if request.terminal {
        environment.set_default("TERM", "xterm");
    }
    environment.apply(&request.env, |key| std::env::var_os(key))?;
    process.set_env(Some(environment.into_entries()?));
    if let Some(workdir) = &request.workdir {
        process.set_cwd(path::workdir(rootfs, workdir)?.into());
    }
    let set = match process.capabilities() {
        _ if request.privileged => Some(caps::CapabilitySet::available()?),
        Some(capabilities) => Some(caps::CapabilitySet::from_spec(capabilities)),
        None => None,
    };
    let uid = process.user().uid();
    process.set_capabilities(set.map(|set| set.to_spec(uid)));
    process.set_terminal(Some(request.terminal));
    process.set_console_size(None);
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_process_is_the_base() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        std::fs::write(dir.path().join("etc/passwd"), "app:x:7:8::/app:\n").expect("write");
        let root = Root::open(dir.path()).expect("root");
        let spec = Spec::default();
        let request = ExecSpec {
            command: vec!["id".into()],
            env: vec!["A=1".into()],
            workdir: Some("/tmp".into()),
            user: Some("app".into()),
            terminal: true,
            ..ExecSpec::default()
        };
        let process = exec_process(&spec, &request, &root).expect("process");
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.cwd().to_string_lossy(), "/tmp");
        let env = process.env().clone().unwrap_or_default();
        assert!(env.contains(&"A=1".to_owned()) && env.contains(&"HOME=/app".to_owned()));
        assert_eq!(process.terminal(), Some(true));
        for bad in [
            ExecSpec::default(),
            ExecSpec {
                command: vec![String::new()],
                ..ExecSpec::default()
            },
            ExecSpec {
                command: vec!["a".into()],
                workdir: Some("/proc/self/fd/3".into()),
                ..ExecSpec::default()
            },
            ExecSpec {
                command: vec!["a".into()],
                user: Some("4294967296".into()),
                ..ExecSpec::default()
            },
        ] {
            assert!(exec_process(&spec, &bad, &root).is_err(), "{bad:?}");
        }
    }
}
