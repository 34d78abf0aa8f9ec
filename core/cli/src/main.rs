//! The `containerkit` command.
//!
//! What lives here: arguments, output, exit statuses, the terminal. What a
//! library user would miss lives in the crates below.

mod app;
mod args;
mod cmd;
mod keys;
mod logger;
mod output;
mod password;
mod policy;
mod progress;
mod terminal;
mod time;
mod usage;

use std::process::ExitCode;

use containerkit::{Error, ErrorKind, Result};

/// How a command ended when it did not fail.
pub(crate) enum Outcome {
    /// Done.
    Success,
    /// Done, and this is the status of what it did.
    Status(u8),
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        // One line and no backtrace: a user can do nothing with either.
        log::debug!("{info}");
    }));
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let failure = usage::failure_status(&words);
    let ran = std::panic::catch_unwind(|| match usage::parse(words) {
        usage::Parsed::Run(cli) => dispatch(*cli, failure),
        usage::Parsed::Ended(status) => ExitCode::from(status),
    });
    match ran {
        Ok(code) => code,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            output::print_error(
                &Error::internal(format!("containerkit: a defect: {text}"))
                    .with_hint("run again with --log-level debug, and report both lines"),
            );
            ExitCode::from(failure.general)
        }
    }
}

fn dispatch(cli: args::Cli, failure: usage::FailureStatus) -> ExitCode {
    let ended = run(cli).and_then(|outcome| match output::failure() {
        Some(error) => Err(error),
        None => Ok(outcome),
    });
    match ended {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        Err(error) => {
            let error = with_mend(error);
            output::print_error(&error);
            let status = error
                .exec_failure()
                .filter(|_| failure.exec)
                .map_or(failure.general, |exec| exec.exit_status());
            ExitCode::from(status)
        }
    }
}

/// What is forbidden to a user who is not root is so, as a rule, for that.
fn with_mend(error: Error) -> Error {
    let forbidden = error.kind() == ErrorKind::PermissionDenied && error.hint().is_none();
    match forbidden && !rustix::process::geteuid().is_root() {
        true => error.with_hint("run it as root, or through sudo"),
        false => error,
    }
}

fn run(cli: args::Cli) -> Result<Outcome> {
    use args::Command;
    let global = cli.global;
    logger::init(global.log_level);
    match cli.command {
        Command::Version => cmd::system::version(global.format),
        Command::Completion { shell } => cmd::system::completion(shell),
        Command::DriverChild => cmd::driver::child::run(),
        Command::Config(command) => cmd::config::run(&global, command),
        Command::Key(command) => cmd::key::run(global.format, command),
        command => {
            let app = app::App::open(&global)?;
            match command {
                Command::Run(args) => cmd::run::run(&app, *args),
                Command::Create(args) => cmd::run::create(&app, *args),
                Command::Start(args) => cmd::start::start(&app, args),
                Command::Stop(args) => cmd::lifecycle::stop(&app, args),
                Command::Kill(args) => cmd::lifecycle::kill(&app, args),
                Command::Pause(which) => cmd::lifecycle::pause(&app, which),
                Command::Resume(which) => cmd::lifecycle::resume(&app, which),
                Command::Update(args) => cmd::lifecycle::update(&app, *args),
                Command::Cp(args) => cmd::copy::copy(&app, args),
                Command::Checkpoint(args) => cmd::checkpoint::checkpoint(&app, args),
                Command::Restore(args) => cmd::checkpoint::restore(&app, args),
                Command::Wait(which) => cmd::lifecycle::wait(&app, which),
                Command::Ps(args) => cmd::container::ps(&app, args),
                Command::Inspect(which) => cmd::container::inspect(&app, &which.ids),
                Command::Delete(args) => cmd::lifecycle::delete(&app, args),
                Command::Exec(args) => cmd::exec::exec(&app, args),
                Command::Attach(args) => cmd::attach::attach(&app, args),
                Command::Logs(args) => cmd::logs::logs(&app, args),
                Command::Stats(args) => cmd::stats::stats(&app, args),
                Command::Top(args) => cmd::top::top(&app, args),
                Command::Diff(args) => cmd::diff::diff(&app, args),
                Command::Events(args) => cmd::events::events(&app, args),
                Command::Image(command) => cmd::image::run(&app, command),
                Command::Login(args) => cmd::registry::login(&app, args),
                Command::Logout(args) => cmd::registry::logout(&app, args),
                Command::Registry(args::registry::RegistryCommand::Explain { access, name }) => {
                    cmd::registry::explain(&app, &access, &name)
                }
                Command::Content(command) => cmd::content::run(&app, command),
                Command::Snapshot(command) => cmd::snapshot::run(&app, command),
                Command::Driver(command) => cmd::driver::run(&app, command),
                Command::Gc(args) => cmd::gc::run(&app, &args),
                Command::Prune(args) => cmd::prune::run(&app, &args),
                Command::Check(args) => cmd::check::run(&app, &args),
                Command::System(command) => cmd::system::run(&app, command),
                Command::Lease(command) => cmd::gc::lease(&app, command),
                Command::Info => cmd::system::info(&app),
                Command::Version
                | Command::Completion { .. }
                | Command::DriverChild
                | Command::Key(_)
                | Command::Config(_) => Err(Error::internal("handled above")),
            }
        }
    }
}
