//! Ids, instances and listings.

use std::sync::Barrier;

use containerkit::runtime::{CreateRequest, DeleteMode, KillScope, RuntimeStatus};
use containerkit::{ContainerId, Error, ErrorKind, Result};

use super::host::{Container, Exit, Host, null_stdio, tracked};
use super::{Factory, case};
use crate::{Case, ensure, equal, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 8] = [
    case(
        "DRV-R-04",
        "a taken id is refused and its holder lives on",
        duplicate,
    ),
    case("DRV-R-05", "an unknown id is NotFound everywhere", unknown),
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
    case("DRV-R-19", "ids of every form stay apart", forms),
    case(
        "DRV-R-21",
        "many containers live side by side",
        side_by_side,
    ),
];

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

fn list(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    ensure(host.runtime.list()?.is_empty(), || {
        "not empty at first".into()
    })?;
    let created = host.waiter("list-a")?;
    let running = host.sleeper("list-b")?;
    let (_ended, _) = host.ended("list-c", "true")?;
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
    let first = one.sleeper("same")?;
    ensure(two.runtime.list()?.is_empty(), || {
        "the second sees the first's".into()
    })?;
    expect_kind(
        two.runtime.state(&first.id),
        ErrorKind::NotFound,
        "the other's id",
    )?;
    let second = two.sleeper("same")?;
    two.runtime.delete(&second.id, DeleteMode::Force)?;
    let status = first.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the first is {status:?}")
    })
}

fn reopened(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("kept")?;
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

fn forms(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let long = "x".repeat(127);
    let ids = [
        "a".to_owned(),
        "A".to_owned(),
        "a.b".to_owned(),
        "a-b".to_owned(),
        "a_b".to_owned(),
        "0".to_owned(),
        "list".to_owned(),
        "a..".to_owned(),
        format!("{long}1"),
        format!("{long}2"),
    ];
    let mut containers = Vec::new();
    for id in &ids {
        containers.push(host.waiter(id)?);
    }
    let mut want = ids.to_vec();
    want.sort();
    let listed = host.runtime.list()?.into_iter();
    let listed: Vec<String> = listed.map(|state| state.id.to_string()).collect();
    equal(&listed, &want, "the list, in the order of ids")?;
    for container in &containers {
        let pid = host.runtime.state(&container.id)?.pid;
        equal(
            pid,
            Some(container.init.pid),
            &format!("the pid of {}", container.id),
        )?;
    }
    for container in containers {
        host.runtime.delete(&container.id, DeleteMode::Force)?;
        container.wait()?;
    }
    equal(host.runtime.list()?.len(), 0, "containers afterwards")
}

fn side_by_side(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let mut bundles = Vec::new();
    for number in 0..4 {
        bundles.push((number, host.script(&format!("exit {number}"))?));
    }
    let runtime = &host.runtime;
    let live = |number: i32, bundle: std::path::PathBuf| -> Result<()> {
        for round in 0..3 {
            let id = format!("side-{number}-{round}");
            let bundle = bundle.clone();
            let container = Container::make(runtime, &id, bundle, false, null_stdio()?)?;
            container.is(RuntimeStatus::Created)?;
            runtime.start(&container.id)?;
            equal(
                container.wait()?,
                Exit::Code(number),
                &format!("the end of {id}"),
            )?;
            container.reaches(RuntimeStatus::Stopped)?;
            runtime.delete(&container.id, DeleteMode::Stopped)?;
            runtime.list()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = bundles
            .into_iter()
            .map(|(number, bundle)| scope.spawn(move || live(number, bundle)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("panicked")))
        })
    })?;
    equal(host.runtime.list()?.len(), 0, "containers afterwards")
}
