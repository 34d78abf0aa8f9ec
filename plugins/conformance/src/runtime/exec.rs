//! Further processes in a container.

use std::time::{Duration, Instant};

use containerkit::oci_spec::runtime::UserBuilder;
use containerkit::runtime::{ExecRequest, KillScope, RuntimeStatus};
use containerkit::{Error, ExecFailure, IoContext, Result};

use super::host::{Exit, Host, PATIENCE, captured, null_stdio, process, wait};
use super::{Factory, case};
use crate::{Case, ensure};

pub(super) const CASES: [Case<dyn Factory>; 4] = [
    case("DRV-R-30", "exec has its own streams and exit status", exec),
    case(
        "DRV-R-31",
        "exec of a missing program or no program is told apart",
        exec_failure,
    ),
    case(
        "DRV-R-32",
        "exec honours user, environment and folder",
        exec_process,
    ),
    case(
        "DRV-R-38",
        "a signal to all reaches every process",
        kill_all,
    ),
];

fn exec(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("exec")?;
    for code in [0, 1, 42, 127, 255] {
        let (exit, text) = container.script(&format!("echo a; echo b >&2; exit {code}"))?;
        ensure(exit == Exit::Code(code), || {
            format!("exit {code}: {exit:?}")
        })?;
        ensure(text == "a\nb\n", || format!("streams: {text:?}"))?;
    }
    let (exit, _) = container.script("kill -9 $$")?;
    ensure(exit == Exit::Signal(9), || format!("killed: {exit:?}"))?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the container is {status:?}")
    })
}

fn exec_failure(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("exec-bad")?;
    for (program, want) in [
        ("missing", ExecFailure::NotFound),
        ("/bin/missing", ExecFailure::NotFound),
        ("/etc/plain", ExecFailure::NotExecutable),
        ("/etc", ExecFailure::NotExecutable),
    ] {
        let request = ExecRequest {
            process: process(&[program])?,
            stdio: null_stdio()?,
        };
        let Err(error) = host.runtime.exec(&container.id, request) else {
            return Err(Error::internal(format!("{program} was executed")));
        };
        ensure(error.exec_failure() == Some(want), || {
            format!(
                "{program}: want {want:?}, got {:?}: {error}",
                error.exec_failure()
            )
        })?;
    }
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the container is {status:?}")
    })
}

fn exec_process(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let container = host.sleeper("exec-as")?;
    let user = UserBuilder::default().uid(1000u32).gid(1001u32).build();
    let mut process = process(&["sh", "-c", "id -u; id -g; pwd; echo $WORD"])?;
    process.set_user(user.map_err(|e| Error::internal("user").with_source(e))?);
    process.set_cwd("/tmp".into());
    process.set_env(Some(vec!["PATH=/bin".into(), "WORD=a b'\"c".into()]));
    let (stdio, out) = captured()?;
    let started = host
        .runtime
        .exec(&container.id, ExecRequest { process, stdio })?;
    wait(&started)?;
    let text = out.text()?;
    ensure(text == "1000\n1001\n/tmp\na b'\"c\n", || {
        format!("{text:?}")
    })
}

fn kill_all(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let mut container = host.run("all", host.script("trap '' TERM; sleep 100; sleep 100")?)?;
    let pid = container.spawn("exec sleep 100")?.pid;
    // Exec returns before the program has replaced the shell.
    let name = format!("/proc/{pid}/comm");
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(&name).io_context(|| &name)? != "sleep\n" {
        ensure(Instant::now() < deadline, || {
            "the program does not begin".into()
        })?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let id = container.id.clone();
    host.runtime.kill(&id, 15, KillScope::All)?;
    let exit = container.wait_other(0)?;
    ensure(exit == Exit::Signal(15), || format!("the exec: {exit:?}"))?;
    let status = container.status()?;
    ensure(status == RuntimeStatus::Running, || {
        format!("the init ignores the signal and is {status:?}")
    })?;
    host.runtime.kill(&id, 9, KillScope::All)?;
    let exit = container.wait()?;
    ensure(exit == Exit::Signal(9), || format!("the init: {exit:?}"))
}
