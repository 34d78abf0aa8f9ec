//! What a runtime can do by capability: ps, pause, update, stats, checkpoint.

use std::path::PathBuf;
use std::time::Duration;

use containerkit::oci_spec::runtime::{
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use containerkit::runtime::{
    CheckpointRequest, CreateRequest, DeleteMode, KillScope, RuntimeStatus,
};
use containerkit::{ContainerId, Error, ErrorKind, Result};

use super::host::{Container, Exit, Host, null_stdio};
use super::{Factory, case};
use crate::{Case, agree, ensure, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 9] = [
    case("DRV-R-50", "the runtime tells its name and version", info),
    case("DRV-R-51", "capabilities and methods agree", capabilities),
    case("DRV-R-52", "ps lists the processes by the host's pids", ps),
    case("DRV-R-53", "pause freezes and resume thaws", pause),
    case(
        "DRV-R-54",
        "SIGKILL ends a paused container, and force deletes one",
        kill_paused,
    ),
    case(
        "DRV-R-55",
        "update changes limits of a live container",
        update,
    ),
    case("DRV-R-56", "stats count what is used", stats),
    case(
        "DRV-R-57",
        "update leaves what it does not set",
        update_in_part,
    ),
    case(
        "DRV-R-58",
        "CHECKPOINT: a container goes on where it was saved",
        checkpoint,
    ),
];

fn info(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let info = host.runtime.info()?;
    let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_whitespace);
    ensure(plain(&info.name) && plain(&info.version), || {
        format!("{info:?}")
    })?;
    ensure(
        info.features.as_ref().is_none_or(|value| value.is_object()),
        || "features are no object".into(),
    )
}

fn capabilities(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let runtime = &host.runtime;
    let id: ContainerId = "nobody".parse()?;
    let request = CheckpointRequest {
        image_path: host.fixture.folder().join("image"),
        ..CheckpointRequest::default()
    };
    let can = runtime.capabilities();
    agree("ps", can.ps, runtime.ps(&id))?;
    agree("pause", can.pause, runtime.pause(&id))?;
    agree("resume", can.pause, runtime.resume(&id))?;
    let none = LinuxResources::default();
    agree("update", can.update, runtime.update(&id, &none))?;
    agree("stats", can.stats, runtime.stats(&id))?;
    agree(
        "checkpoint",
        can.checkpoint,
        runtime.checkpoint(&id, &request),
    )?;
    let bundle = host.script("true")?;
    let stdio = null_stdio()?;
    let restored = runtime.restore(&id, CreateRequest { bundle, stdio }, &request);
    agree("restore", can.checkpoint, restored)?;
    ensure(runtime.capabilities() == can, || {
        "capabilities change".into()
    })
}

fn ps(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().ps {
        return Err(crate::lacking("ps"));
    }
    let mut container = host.sleeper("ps")?;
    let pid = container.spawn("exec sleep 100")?.pid;
    let mut found: Vec<u32> = host
        .runtime
        .ps(&container.id)?
        .into_iter()
        .map(|entry| entry.pid)
        .collect();
    let mut want = vec![container.init.pid, pid];
    found.sort_unstable();
    want.sort_unstable();
    ensure(found == want, || format!("want {want:?}, got {found:?}"))
}

fn pause(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().pause {
        return Err(crate::lacking("pause"));
    }
    let bundle = host.script("while :; do echo >> /tmp/count; sleep 0.005; done")?;
    let count = bundle.join("rootfs/tmp/count");
    let length = || std::fs::metadata(&count).map_or(0, |m| m.len());
    let container = host.run("paused", bundle)?;
    let grows = || {
        let before = length();
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            length() > before
        })
    };
    ensure(grows(), || "the program does not run".into())?;
    host.runtime.pause(&container.id)?;
    let result = (|| {
        let status = container.status()?;
        ensure(status == RuntimeStatus::Paused, || {
            format!("it is {status:?}")
        })?;
        let before = length();
        std::thread::sleep(Duration::from_millis(60));
        ensure(length() == before, || "it runs on".into())?;
        expect_kind(
            host.runtime.pause(&container.id),
            ErrorKind::FailedPrecondition,
            "pause of a paused container",
        )
    })();
    host.runtime.resume(&container.id)?;
    result?;
    ensure(grows(), || "it does not go on".into())?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("resumed, it is {status:?}")
    })?;
    expect_kind(
        host.runtime.resume(&container.id),
        ErrorKind::FailedPrecondition,
        "resume of a running container",
    )
}

fn kill_paused(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().pause {
        return Err(crate::lacking("pause"));
    }
    let container = host.sleeper("frozen")?;
    host.runtime.pause(&container.id)?;
    host.runtime.kill(&container.id, 9, KillScope::Init)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Signal(9), || format!("killed: {exit:?}"))?;
    let container = host.sleeper("frozen-too")?;
    host.runtime.pause(&container.id)?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Signal(9), || format!("deleted: {exit:?}"))
}

const MEMORY: i64 = 64 << 20;
const PIDS: i64 = 37;

fn limits() -> Result<LinuxResources> {
    let build = |e: containerkit::oci_spec::OciSpecError| Error::internal("limits").with_source(e);
    let memory = LinuxMemoryBuilder::default().limit(MEMORY).build();
    let pids = LinuxPidsBuilder::default().limit(PIDS).build();
    LinuxResourcesBuilder::default()
        .memory(memory.map_err(build)?)
        .pids(pids.map_err(build)?)
        .build()
        .map_err(build)
}

/// The files of the init's cgroup that may hold a limit, in v1 and in v2.
fn cgroup_files(pid: u32, controller: &str, v1: &str, v2: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut files = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        if names.split(',').any(|name| name == controller) {
            files.push(format!("/sys/fs/cgroup/{controller}{path}/{v1}").into());
        } else if names.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/{v2}").into());
        }
    }
    files
}

/// Fails unless these are the limits of the container's cgroups.
fn limited(container: &Container, memory: i64, pids: i64) -> Result<()> {
    for (controller, v1, v2, want) in [
        ("memory", "memory.limit_in_bytes", "memory.max", memory),
        ("pids", "pids.max", "pids.max", pids),
    ] {
        let files = cgroup_files(container.init.pid, controller, v1, v2);
        let found: Vec<String> = files
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .map(|text| text.trim().to_string())
            .collect();
        ensure(found.contains(&want.to_string()), || {
            format!("{controller}: want {want}, {files:?} say {found:?}")
        })?;
    }
    Ok(())
}

fn update(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().update {
        return Err(crate::lacking("update"));
    }
    let container = host.sleeper("limited")?;
    host.runtime.update(&container.id, &limits()?)?;
    limited(&container, MEMORY, PIDS)?;
    container.is(RuntimeStatus::Running)
}

fn update_in_part(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().update {
        return Err(crate::lacking("update"));
    }
    let container = host.sleeper("limited-in-part")?;
    host.runtime.update(&container.id, &limits()?)?;
    let mut part = limits()?;
    part.set_memory(None);
    let pids = LinuxPidsBuilder::default().limit(PIDS + 1).build();
    part.set_pids(Some(
        pids.map_err(|e| Error::internal("limits").with_source(e))?,
    ));
    host.runtime.update(&container.id, &part)?;
    limited(&container, MEMORY, PIDS + 1)
}

fn checkpoint(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().checkpoint {
        return Err(crate::lacking("checkpoint"));
    }
    let bundle = host.script("while :; do echo >> /tmp/count; sleep 0.005; done")?;
    let count = bundle.join("rootfs/tmp/count");
    let length = || std::fs::metadata(&count).map_or(0, |m| m.len());
    let grows = |what: &str| {
        let before = length();
        let grown = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            length() > before
        });
        ensure(grown, || format!("{what}: the program does not run"))
    };
    let container = host.run("saved", bundle.clone())?;
    grows("before")?;
    let request = CheckpointRequest {
        image_path: host.fixture.folder().join("image"),
        leave_running: true,
        ..CheckpointRequest::default()
    };
    containerkit::fs::ensure_dir(&request.image_path, 0o700)?;
    host.runtime.checkpoint(&container.id, &request)?;
    grows("left running")?;
    let request = CheckpointRequest {
        image_path: host.fixture.folder().join("image-2"),
        ..CheckpointRequest::default()
    };
    containerkit::fs::ensure_dir(&request.image_path, 0o700)?;
    host.runtime.checkpoint(&container.id, &request)?;
    container.wait()?;
    host.runtime.delete(&container.id, DeleteMode::Force)?;
    let before = length();
    let again = Container::adopt(&host.runtime, "saved", || {
        let stdio = null_stdio()?;
        let create = CreateRequest { bundle, stdio };
        host.runtime.restore(&container.id, create, &request)
    })?;
    ensure(length() >= before, || "its file was cut".into())?;
    grows("restored")?;
    again.is(RuntimeStatus::Running)
}

fn stats(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    if !host.runtime.capabilities().stats {
        return Err(crate::lacking("stats"));
    }
    let mut container = host.sleeper("counted")?;
    container.spawn("exec sleep 100")?;
    host.runtime.update(&container.id, &limits()?)?;
    // The exec may be the runtime itself for a moment, with threads.
    let mut stats = host.runtime.stats(&container.id)?;
    for _ in 0..100 {
        if stats.pids == 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        stats = host.runtime.stats(&container.id)?;
    }
    ensure(
        stats.cpu_usage_ns > 0
            && stats.memory_usage > 0
            && stats.memory_limit == u64::try_from(MEMORY).ok()
            && stats.pids == 2
            && stats.pids_limit == u64::try_from(PIDS).ok(),
        || format!("{stats:?}"),
    )
}
