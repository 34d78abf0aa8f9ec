//! How containers end: exit statuses, signals, deletion.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use containerkit::runtime::{DeleteMode, KillScope, RuntimeStatus};
use containerkit::{Error, ErrorKind, Result};
use rustix::process::{Signal, pidfd_send_signal};

use super::host::{Container, Exit, Host, captured, ends_within, null_stdio};
use super::{Factory, case};
use crate::{Case, ensure, equal, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 9] = [
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
        "DRV-R-17",
        "a killed created container can be deleted",
        never_started,
    ),
    case(
        "DRV-R-18",
        "every signal that ends a process is told by its number",
        every_signal,
    ),
    case(
        "DRV-R-20",
        "an init killed from outside leaves a stopped container",
        crashed,
    ),
    case(
        "DRV-R-22",
        "a created container is deleted by force only",
        delete_created,
    ),
];

fn exit_codes(factory: &dyn Factory) -> Result<()> {
    const AT_ONCE: usize = 4;
    let host = Host::new(factory)?;
    let mut bundles = Vec::new();
    for code in 0..=255 {
        bundles.push((code, host.script(&format!("exit {code}"))?));
    }
    let left = Mutex::new(bundles);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let runtime = &host.runtime;
    let work = || -> Result<()> {
        while let Some((code, bundle)) = next() {
            let id = format!("exit-{code}");
            let container = Container::make(runtime, &id, bundle, true, null_stdio()?)?;
            equal(
                container.wait()?,
                Exit::Code(code),
                &format!("the end of `exit {code}`"),
            )?;
            runtime.delete(&container.id, DeleteMode::Stopped)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("panicked")))
        })
    })?;
    equal(host.runtime.list()?.len(), 0, "containers afterwards")
}

fn signals(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("killed")?;
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

fn stopped(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let (container, _) = host.ended("ended", "true")?;
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
    let container = host.sleeper("lives")?;
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
    let (container, _) = host.ended("gone", "true")?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    // The id is free again.
    let (_again, exit) = host.ended("gone", "exit 3")?;
    ensure(exit == Exit::Code(3), || format!("exit {exit:?}"))
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

fn every_signal(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("signalled")?;
    // Without those that stop, that go on and that are ignored; and without
    // SIGQUIT, which busybox's shell ignores.
    let ending = [1, 2]
        .into_iter()
        .chain(4..=16)
        .chain(24..=27)
        .chain(29..=31);
    for signal in ending {
        let script = format!("ulimit -c 0; kill -{signal} $$; exit 99");
        let (exit, _) = container.script(&script)?;
        equal(
            exit,
            Exit::Signal(signal),
            &format!("the end by signal {signal}"),
        )?;
    }
    container.is(RuntimeStatus::Running)
}

fn crashed(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("crashed")?;
    let pidfd = container.init.pidfd.as_ref();
    let pidfd = pidfd.ok_or_else(|| Error::internal("a running init without a pidfd"))?;
    pidfd_send_signal(pidfd, Signal::KILL).map_err(|e| Error::io("kill the init", e))?;
    equal(container.wait()?, Exit::Signal(9), "the end of the init")?;
    container.reaches(RuntimeStatus::Stopped)?;
    let state = host.runtime.state(&container.id)?;
    equal(state.pid, None, "the pid of a stopped container")?;
    host.runtime.delete(&container.id, DeleteMode::Stopped)?;
    expect_kind(container.status(), ErrorKind::NotFound, "deleted")
}

fn delete_created(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.waiter("waits")?;
    expect_kind(
        host.runtime.delete(&container.id, DeleteMode::Stopped),
        ErrorKind::FailedPrecondition,
        "delete of a created container",
    )?;
    container.is(RuntimeStatus::Created)?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    expect_kind(container.status(), ErrorKind::NotFound, "deleted")?;
    equal(container.wait()?, Exit::Signal(9), "the end of its init")
}
