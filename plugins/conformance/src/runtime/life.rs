//! The life of a container: states, exit statuses, names, ends.

use std::sync::Barrier;
use std::time::Duration;

use containerkit::runtime::{CreateRequest, DeleteMode, KillScope, RuntimeStatus};
use containerkit::{ContainerId, Error, ErrorKind, ExecFailure, Result};

use super::Factory;
use super::host::{Exit, Host, captured, ends_within, null_stdio, tracked};
use crate::{Case, ensure, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 17] = [
    case(
        "DRV-R-01",
        "create, start, end, delete pass through the states",
        story,
    ),
    case(
        "DRV-R-02",
        "exit statuses are the program's own",
        exit_codes,
    ),
    case(
        "DRV-R-03",
        "a signal that ends the init is its exit",
        signals,
    ),
    case(
        "DRV-R-04",
        "a taken id is refused and its holder lives on",
        duplicate,
    ),
    case("DRV-R-05", "an unknown id is NotFound everywhere", unknown),
    case(
        "DRV-R-06",
        "a running container cannot be started",
        start_twice,
    ),
    case(
        "DRV-R-07",
        "a stopped container takes neither start nor signal",
        stopped,
    ),
    case(
        "DRV-R-08",
        "delete refuses a running container, and force does not",
        delete_running,
    ),
    case(
        "DRV-R-09",
        "forced delete of what is gone is success",
        delete_gone,
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
    case(
        "DRV-R-12",
        "list tells of every container and its status",
        list,
    ),
    case("DRV-R-13", "two instances do not see each other", isolated),
    case(
        "DRV-R-14",
        "another opening of the instance takes over",
        reopened,
    ),
    case("DRV-R-15", "of many creations of one id one succeeds", race),
    case("DRV-R-16", "state tells bundle, pid and annotations", state),
    case(
        "DRV-R-17",
        "a killed created container can be deleted",
        never_started,
    ),
];

const fn case(
    id: &'static str,
    name: &'static str,
    run: fn(&(dyn Factory + 'static)) -> Result<()>,
) -> Case<dyn Factory> {
    Case { id, name, run }
}

fn story(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let (stdio, out) = captured()?;
    let id: ContainerId = "web".parse()?;
    let bundle = host.script("echo out; echo err >&2; sleep 0.2")?;
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

fn exit_codes(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    for code in [0, 1, 7, 126, 127, 128, 255] {
        let container = host.run(
            &format!("exit-{code}"),
            host.script(&format!("exit {code}"))?,
        )?;
        let exit = container.wait()?;
        ensure(exit == Exit::Code(code), || {
            format!("exit {code}: got {exit:?}")
        })?;
    }
    Ok(())
}

fn signals(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.run("killed", host.script("exec sleep 100")?)?;
    host.runtime.kill(&container.id, 9, KillScope::Init)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Signal(9), || format!("SIGKILL: {exit:?}"))?;

    let (stdio, _out) = captured()?;
    let script = "trap 'exit 42' TERM; : > /tmp/ready; while :; do sleep 0.01; done";
    let bundle = host.script(script)?;
    let ready = bundle.join("rootfs/tmp/ready");
    let container = host.run_on("trapped", bundle, stdio)?;
    for _ in 0..2000 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    host.runtime.kill(&container.id, 15, KillScope::Init)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Code(42), || format!("SIGTERM: {exit:?}"))?;
    for signal in [0, -1, 65, i32::MAX] {
        expect_kind(
            host.runtime.kill(&container.id, signal, KillScope::Init),
            ErrorKind::InvalidArgument,
            "a signal that is none",
        )?;
    }
    Ok(())
}

fn duplicate(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let bundle = host.script("exec sleep 100")?;
    let container = host.run("twice", bundle.clone())?;
    for start in [false, true] {
        let request = CreateRequest {
            bundle: bundle.clone(),
            stdio: null_stdio()?,
        };
        let again = match start {
            true => host.runtime.run(&container.id, request),
            false => host.runtime.create(&container.id, request),
        };
        expect_kind(again, ErrorKind::AlreadyExists, "a taken id")?;
    }
    // A second bundle that cannot work must not cost the first container its life.
    let bad = host.bundle_with(&["/missing"], |spec| spec["mounts"] = "x".into())?;
    let request = CreateRequest {
        bundle: bad,
        stdio: null_stdio()?,
    };
    ensure(host.runtime.create(&container.id, request).is_err(), || {
        "a broken bundle on a taken id succeeded".into()
    })?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the holder is {status:?}")
    })
}

fn unknown(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let runtime = &host.runtime;
    let id: ContainerId = "unknown".parse()?;
    let can = runtime.capabilities();
    let want = |result: Result<()>, what: &str| expect_kind(result, ErrorKind::NotFound, what);
    want(runtime.state(&id).map(drop), "state")?;
    want(runtime.start(&id), "start")?;
    want(runtime.kill(&id, 15, KillScope::Init), "kill")?;
    want(runtime.kill(&id, 9, KillScope::All), "kill all")?;
    want(runtime.delete(&id, DeleteMode::Stopped), "delete")?;
    let request = containerkit::runtime::ExecRequest {
        process: super::host::process(&["true"])?,
        stdio: null_stdio()?,
    };
    let error = runtime.exec(&id, request).err();
    ensure(
        error
            .as_ref()
            .is_some_and(|e| e.kind() == ErrorKind::NotFound && e.exec_failure().is_none()),
        || format!("exec: {error:?}"),
    )?;
    if can.ps {
        want(runtime.ps(&id).map(drop), "ps")?;
    }
    if can.pause {
        want(runtime.pause(&id), "pause")?;
        want(runtime.resume(&id), "resume")?;
    }
    if can.update {
        want(runtime.update(&id, &Default::default()), "update")?;
    }
    if can.stats {
        want(runtime.stats(&id).map(drop), "stats")?;
    }
    ensure(runtime.list()?.is_empty(), || "list is not empty".into())
}

fn start_twice(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.create("once", host.script("exec sleep 100")?)?;
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

fn stopped(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.run("ended", host.script("true")?)?;
    container.wait()?;
    container.reaches(RuntimeStatus::Stopped)?;
    let want =
        |result: Result<()>, what: &str| expect_kind(result, ErrorKind::FailedPrecondition, what);
    want(host.runtime.start(&container.id), "start")?;
    want(host.runtime.kill(&container.id, 9, KillScope::Init), "kill")?;
    let can = host.runtime.capabilities();
    if can.pause {
        want(host.runtime.pause(&container.id), "pause")?;
        want(host.runtime.resume(&container.id), "resume")?;
    }
    if can.update {
        want(
            host.runtime.update(&container.id, &Default::default()),
            "update",
        )?;
    }
    if can.ps {
        let processes = host.runtime.ps(&container.id)?;
        ensure(processes.is_empty(), || format!("ps: {processes:?}"))?;
    }
    let exec = container.script("true");
    want(exec.map(drop), "exec")
}

fn delete_running(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.run("lives", host.script("exec sleep 100")?)?;
    expect_kind(
        host.runtime.delete(&container.id, DeleteMode::Stopped),
        ErrorKind::FailedPrecondition,
        "delete of a running container",
    )?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("it is {status:?}")
    })?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    expect_kind(container.status(), ErrorKind::NotFound, "deleted")?;
    let exit = container.wait()?;
    ensure(exit == Exit::Signal(9), || {
        format!("it ended with {exit:?}")
    })
}

fn delete_gone(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    host.runtime.delete(&"never".parse()?, DeleteMode::Force)?;
    let container = host.run("gone", host.script("true")?)?;
    container.wait()?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    // The id is free again.
    let again = host.run("gone", host.script("exit 3")?)?;
    let exit = again.wait()?;
    ensure(exit == Exit::Code(3), || format!("exit {exit:?}"))
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
    let container = host.run("broken", host.script("exit 5")?)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Code(5), || {
        format!("the id afterwards: {exit:?}")
    })
}

fn list(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    ensure(host.runtime.list()?.is_empty(), || {
        "not empty at first".into()
    })?;
    let created = host.create("list-a", host.script("exec sleep 100")?)?;
    let running = host.run("list-b", host.script("exec sleep 100")?)?;
    let ended = host.run("list-c", host.script("true")?)?;
    ended.wait()?;
    let found: Vec<(String, RuntimeStatus, Option<u32>)> = host
        .runtime
        .list()?
        .into_iter()
        .map(|state| (state.id.to_string(), state.status, state.pid))
        .collect();
    let want = vec![
        (
            "list-a".into(),
            RuntimeStatus::Created,
            Some(created.init.pid),
        ),
        (
            "list-b".into(),
            RuntimeStatus::Running,
            Some(running.init.pid),
        ),
        ("list-c".into(), RuntimeStatus::Stopped, None),
    ];
    ensure(found == want, || format!("want {want:?}, got {found:?}"))
}

fn isolated(factory: &dyn Factory) -> Result<()> {
    let one = Host::new(factory)?;
    let two = Host::new(factory)?;
    let first = one.run("same", one.script("exec sleep 100")?)?;
    ensure(two.runtime.list()?.is_empty(), || {
        "the second sees the first's".into()
    })?;
    expect_kind(
        two.runtime.state(&first.id),
        ErrorKind::NotFound,
        "the other's id",
    )?;
    let second = two.run("same", two.script("exec sleep 100")?)?;
    two.runtime.delete(&second.id, DeleteMode::Force)?;
    let status = first.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the first is {status:?}")
    })
}

fn reopened(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.run("kept", host.script("exec sleep 100")?)?;
    let other = host.fixture.open()?;
    let state = other.state(&container.id)?;
    ensure(state.pid == Some(container.init.pid), || {
        format!("{state:?}")
    })?;
    other.kill(&container.id, 9, KillScope::Init)?;
    container.wait()?;
    other.delete(&container.id, DeleteMode::Stopped)?;
    expect_kind(
        container.status(),
        ErrorKind::NotFound,
        "deleted by the other",
    )
}

fn race(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let id: ContainerId = "race".parse()?;
    let bundle = host.script("exec sleep 100")?;
    let barrier = Barrier::new(3);
    let runtime = &host.runtime;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (bundle, id, barrier) = (bundle.clone(), &id, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let stdio = null_stdio()?;
                    tracked(|| runtime.create(id, CreateRequest { bundle, stdio }))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut made = Vec::new();
    let mut wrong = None;
    for result in results {
        match result {
            Ok(Ok(process)) => made.push(process),
            Ok(Err(error))
                if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {}
            Ok(Err(error)) => wrong = Some(error.to_string()),
            Err(_) => wrong = Some("a panic".into()),
        }
    }
    let state = host.runtime.state(&id);
    host.runtime.delete(&id, DeleteMode::Force)?;
    for process in &made {
        super::host::wait(process)?;
    }
    ensure(wrong.is_none(), || format!("a loser failed with {wrong:?}"))?;
    ensure(made.len() == 1, || {
        format!("{} creations succeeded", made.len())
    })?;
    let pid = state?.pid;
    ensure(pid == Some(made[0].pid), || {
        "the state is not the winner's".into()
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

fn never_started(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.create("waiting", host.script("true")?)?;
    host.runtime.kill(&container.id, 9, KillScope::Init)?;
    let gone = container
        .init
        .pidfd
        .as_ref()
        .is_some_and(|pidfd| ends_within(pidfd, super::host::PATIENCE));
    ensure(gone, || "SIGKILL does not end a created container".into())?;
    container.wait()?;
    container.reaches(RuntimeStatus::Stopped)?;
    host.runtime.delete(&container.id, DeleteMode::Stopped)?;
    expect_kind(container.status(), ErrorKind::NotFound, "deleted")
}
