//! The commands on containers.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::options::{LimitArgs, RunArgs};

// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunCommand {
    /// Print the id once it runs, and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) make: RunArgs,
}

// Containers to do something with.
#[derive(Debug, Args)]
pub(crate) struct Ids {
    /// Container names, ids or unambiguous prefixes
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

// `start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Stay with it: its output here, its status in the end
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Pass standard input too; implies --attach
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) which: Ids,
}

// `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Leave it running, without its output
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Set a variable; a bare name is taken from the caller
    #[arg(short, long, value_name = "K=V")]
    pub(crate) env: Vec<String>,
    /// Working folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// USER[:GROUP], by name or number
    #[arg(short, long, value_name = "USER", allow_negative_numbers = true)]
    pub(crate) user: Option<String>,
    /// All capabilities
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Keys that leave a terminal, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: String,
    /// ID CMD…: every word after ID is the command's
    #[arg(
        trailing_var_arg = true,
        required = true,
        num_args = 2..,
        value_names = ["ID", "CMD"]
    )]
    pub(crate) words: Vec<String>,
}

// `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Do not pass standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Do not pass signals; one that asks for an end leaves the container
    #[arg(long)]
    pub(crate) no_signals: bool,
    /// Keys that leave a terminal, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: String,
    /// Container name, id or unambiguous prefix
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

// `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last N lines, or all
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "all",
        allow_negative_numbers = true
    )]
    pub(crate) tail: String,
    /// From then on: RFC 3339, seconds since 1970, or an age such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Each line with the time of its writing
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Container name, id or unambiguous prefix
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

// `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds before it is killed
    #[arg(
        short,
        long = "time",
        visible_alias = "timeout",
        value_name = "SECS",
        default_value_t = 10
    )]
    pub(crate) time: u64,
    #[command(flatten)]
    pub(crate) which: Ids,
}

// `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Name or number of the signal
    #[arg(short, long, value_name = "SIG", default_value = "KILL")]
    pub(crate) signal: String,
    #[command(flatten)]
    pub(crate) which: Ids,
}

// `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill what still runs; what is gone already is fine
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) which: Ids,
}

// `update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) which: Ids,
}

// `checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// Let it run on
    #[arg(long)]
    pub(crate) leave_running: bool,
    #[command(flatten)]
    pub(crate) saved: SavedArgs,
}

// What `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub(crate) struct SavedArgs {
    /// With established TCP connections
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// With unix sockets to the outside
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// With a terminal that is not its own
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Folder of criu's logs [default: in the container's state]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// Container name, id or unambiguous prefix
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Folder of the saved processes
    pub(crate) dir: PathBuf,
}

// `cp`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Copy what a symlink leads to
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// PATH, ID:PATH, or - for a tar stream
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    pub(crate) source: OsString,
    /// PATH, ID:PATH, or - for a tar stream
    #[arg(value_name = "DST", allow_hyphen_values = true)]
    pub(crate) target: OsString,
}

// `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Those that do not run too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// status=, name=, label=KEY[=VALUE], id=, ancestor=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Only the ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Ids in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only the N that were made last, in whatever state
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<usize>,
}

// `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// From then on: RFC 3339, seconds since 1970, or an age such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// type=, container=, image=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// End after what has happened so far
    #[arg(long)]
    pub(crate) no_stream: bool,
}

// `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// One look, and the end
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Container names, ids or unambiguous prefixes; all that run without any
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

// `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Container name, id or unambiguous prefix
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// As for ps(1): -o COLUMNS, -ef, aux
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PS OPTION"
    )]
    pub(crate) options: Vec<String>,
}
