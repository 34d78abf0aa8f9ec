//! The life of a container: states, exit statuses, names, ends.

use containerkit::runtime::{CreateRequest, DeleteMode, RuntimeStatus};
use containerkit::{ContainerId, Error, ErrorKind, ExecFailure, IoContext, Result};

use super::host::{Exit, Host, captured, null_stdio, tracked};
use super::{Factory, case};
use crate::{Case, ensure, equal, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 6] = [
    case(
        "DRV-R-01",
        "create, start, end, delete pass through the states",
        story,
    ),
    case(
        "DRV-R-06",
        "a running container cannot be started",
        start_twice,
    ),
    case(
        "DRV-R-10",
        "a program that is missing or no program is told apart",
        not_executable,
    ),
    case(
        "DRV-R-11",
        "a failed create leaves no container",
        failed_create,
    ),
    case("DRV-R-16", "state tells bundle, pid and annotations", state),
    case(
        "DRV-R-59",
        "lives leave folder, umask, signals and descriptors as they were",
        guest,
    ),
];

fn story(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let (stdio, out) = captured()?;
    let id: ContainerId = "web".parse()?;
    let bundle =
        host.script("echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.01; done")?;
    let go = bundle.join("rootfs/tmp/go");
    let made = tracked(|| host.runtime.create(&id, CreateRequest { bundle, stdio }))?;
    let status = || host.runtime.state(&id).map(|state| state.status);
    let result = (|| {
        ensure(made.pidfd.is_some() && made.start_time > 0, || {
            "create gives no pidfd or start time of a process that waits".into()
        })?;
        ensure(status()? == RuntimeStatus::Created, || {
            "want created".into()
        })?;
        host.runtime.start(&id)?;
        ensure(status()? == RuntimeStatus::Running, || {
            "want running".into()
        })?;
        std::fs::write(go, "").io_context(|| "let it go")?;
        let exit = super::host::wait(&made)?;
        ensure(exit == Exit::Code(0), || format!("exit {exit:?}"))?;
        let text = out.text()?;
        ensure(text == "out\nerr\n", || format!("streams: {text:?}"))?;
        ensure(status()? == RuntimeStatus::Stopped, || {
            "want stopped".into()
        })?;
        host.runtime.delete(&id, DeleteMode::Stopped)?;
        expect_kind(host.runtime.state(&id), ErrorKind::NotFound, "deleted")
    })();
    let _ = host.runtime.delete(&id, DeleteMode::Force);
    result
}

fn start_twice(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.waiter("once")?;
    host.runtime.start(&container.id)?;
    expect_kind(
        host.runtime.start(&container.id),
        ErrorKind::FailedPrecondition,
        "start of a running container",
    )?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("it is {status:?}")
    })
}

fn not_executable(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    for (program, want) in [
        ("missing", ExecFailure::NotFound),
        ("/bin/missing", ExecFailure::NotFound),
        ("/etc/plain", ExecFailure::NotExecutable),
        ("/etc", ExecFailure::NotExecutable),
    ] {
        for fused in [false, true] {
            let id: ContainerId = "failing".parse()?;
            let request = CreateRequest {
                bundle: host.bundle_with(&[program], |_| {})?,
                stdio: null_stdio()?,
            };
            let result = match fused {
                true => host.runtime.run(&id, request).map(drop),
                false => match host.runtime.create(&id, request) {
                    Ok(_) => {
                        let started = host.runtime.start(&id);
                        host.runtime.delete(&id, DeleteMode::Force)?;
                        started
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = result else {
                return Err(Error::internal(format!("{program} was executed")));
            };
            ensure(error.exec_failure() == Some(want), || {
                format!(
                    "{program}: want {want:?}, got {:?}: {error}",
                    error.exec_failure()
                )
            })?;
            let text = error.to_string();
            ensure(
                text.len() < 2048 && !text.chars().any(char::is_control),
                || format!("{program}: not one line: {text:?}"),
            )?;
            ensure(host.runtime.list()?.is_empty(), || {
                format!("{program}: a container was left behind")
            })?;
        }
    }
    Ok(())
}

fn failed_create(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let id: ContainerId = "broken".parse()?;
    let no_spec = host.fixture.folder().join("empty");
    containerkit::fs::ensure_dir(&no_spec, 0o755)?;
    let garbage = host.script("true")?;
    std::fs::write(garbage.join("config.json"), "{").map_err(|e| Error::io("write", e))?;
    let no_rootfs = host.bundle_with(&["true"], |spec| spec["root"]["path"] = "nowhere".into())?;
    let bad_mount = host.bundle_with(&["true"], |spec| {
        spec["mounts"][1]["type"] = "no-such-filesystem".into();
    })?;
    for bundle in [no_spec, garbage, no_rootfs, bad_mount, "relative".into()] {
        let shown = bundle.display().to_string();
        let request = CreateRequest {
            bundle,
            stdio: null_stdio()?,
        };
        let Err(error) = host.runtime.create(&id, request) else {
            let _ = host.runtime.delete(&id, DeleteMode::Force);
            return Err(Error::internal(format!("{shown} was accepted")));
        };
        let text = error.to_string();
        ensure(
            !text.contains("exit status 1") && !text.chars().any(char::is_control),
            || format!("{shown}: {text:?}"),
        )?;
        ensure(host.runtime.list()?.is_empty(), || {
            format!("{shown}: a container is left")
        })?;
    }
    let (_container, exit) = host.ended("broken", "exit 5")?;
    ensure(exit == Exit::Code(5), || {
        format!("the id afterwards: {exit:?}")
    })
}

fn state(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let bundle = host.script("exec sleep 100")?;
    let container = host.run("told", bundle.clone())?;
    let state = host.runtime.state(&container.id)?;
    ensure(
        state.id == container.id && state.bundle == bundle && state.pid == Some(container.init.pid),
        || format!("{state:?}"),
    )?;
    let note = state.annotations.get("containerkit.conformance");
    ensure(note.is_some_and(|note| note == "yes"), || {
        format!("annotations: {:?}", state.annotations)
    })?;
    let start = containerkit::process::start_time(container.init.pid)?;
    ensure(container.init.start_time == start, || {
        format!("start time {} is not {start}", container.init.start_time)
    })
}

fn guest(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let bundle = host.script("exec sleep 100")?;
    crate::guest::behaves(|number| {
        let container = host.run(&format!("guest-{number}"), bundle.clone())?;
        let (exit, _) = container.script("exit 3")?;
        equal(exit, Exit::Code(3), "the exec")?;
        host.runtime.delete(&container.id, DeleteMode::Force)?;
        container.wait().map(drop)
    })
}
