//! `checkpoint` and `restore`.

use containerkit::container::Made;
use containerkit::runtime::CheckpointRequest;
use containerkit::{IoContext, Result};

use crate::Outcome;
use crate::app::App;
use crate::args::container::{CheckpointArgs, SavedArgs};
use crate::cmd::foreground::Signals;
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::cmd::start::{self, Attach};
use crate::output;

pub(crate) fn checkpoint(app: &App, args: CheckpointArgs) -> Result<Outcome> {
    let containers = containers(app)?;
    let record = find(&containers, &args.saved.id)?;
    let request = CheckpointRequest {
        leave_running: args.leave_running,
        ..request(&args.saved)?
    };
    containers.checkpoint(&record, &request)?;
    output::print_names(app.format, &[args.saved.id])?;
    Ok(Outcome::Success)
}

pub(crate) fn restore(app: &App, args: SavedArgs) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let record = find(&containers, &args.id)?;
    let request = request(&args)?;
    let path = request.image_path.display().to_string();
    let (runtime, _) = app.drivers.runtime_ref(Some(&record.runtime.instance))?;
    let ready = containers.ready_from(&record, runtime, request)?;
    start::launch(&containers, ready, None, Attach::No, Made::Before, &signals)?;
    containers.tell(&record, "restore", |event| event.with("path", path));
    output::print_names(app.format, &[args.id])?;
    Ok(Outcome::Success)
}

fn request(args: &SavedArgs) -> Result<CheckpointRequest> {
    let absolute = |path| std::path::absolute(path).io_context(|| "find the current folder");
    Ok(CheckpointRequest {
        image_path: absolute(&args.dir)?,
        work_path: args.work_path.as_ref().map(absolute).transpose()?,
        leave_running: false,
        tcp_established: args.tcp_established,
        external_unix_sockets: args.ext_unix_sk,
        shell_job: args.shell_job,
    })
}
