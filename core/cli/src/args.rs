//! The command line as clap sees it: names and flags, no behaviour.

pub(crate) mod container;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod registry;
pub(crate) mod sign;
pub(crate) mod store;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use containerkit::DriverKind;
use log::LevelFilter;

use crate::output::Format;

/// Containers, images and their drivers on one host.
#[derive(Debug, Parser)]
#[command(
    name = "containerkit",
    version,
    about,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

// Accepted before and after every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: $CONTAINERKIT_CONFIG, /etc/containerkit/containerkit.toml, built-in]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of persistent data
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Folder of run-time data
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level)]
    pub(crate) log_level: Option<LevelFilter>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => Err("want error, warn, info, debug or trace".into()),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Run a command in a new container
    Run(Box<container::RunCommand>),
    /// Make a container without starting it
    Create(Box<options::RunArgs>),
    /// Start containers that were made or have ended
    Start(container::StartArgs),
    /// Ask containers to end, then kill them
    Stop(container::StopArgs),
    /// Send a signal to containers
    Kill(container::KillArgs),
    /// Freeze containers
    Pause(container::Ids),
    /// Let frozen containers go on
    #[command(visible_alias = "unpause")]
    Resume(container::Ids),
    /// Change limits of containers that live
    Update(Box<container::UpdateArgs>),
    /// Copy files between containers and the host
    Cp(container::CopyArgs),
    /// Save the processes of a container in a folder
    Checkpoint(container::CheckpointArgs),
    /// Start a container from its saved processes
    Restore(container::SavedArgs),
    /// Wait for the end of containers and print their statuses
    Wait(container::Ids),
    /// List containers
    #[command(visible_alias = "ls")]
    Ps(container::PsArgs),
    /// Show containers in full
    Inspect(container::Ids),
    /// Remove containers
    #[command(visible_alias = "rm")]
    Delete(container::DeleteArgs),
    /// Run a further command in a running container
    Exec(container::ExecArgs),
    /// Connect to the streams of a running container
    Attach(container::AttachArgs),
    /// Show what a container has written
    Logs(container::LogsArgs),
    /// Show what running containers use
    Stats(container::StatsArgs),
    /// List the processes of a container
    Top(container::TopArgs),
    /// Show what a container changed in its image
    Diff(pack::DiffArgs),
    /// Follow what happens to containers and images
    Events(container::EventsArgs),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Keep credentials for a registry
    Login(registry::LoginArgs),
    /// Forget the credentials for a registry
    Logout(registry::LogoutArgs),
    /// Registries
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Blobs of the content store
    #[command(subcommand)]
    Content(ContentCommand),
    /// Snapshots
    Snapshot(SnapshotCommand),
    /// Key pairs for signing images
    #[command(subcommand)]
    Key(sign::KeyCommand),
    /// Drivers
    #[command(subcommand)]
    Driver(DriverCommand),
    /// Configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Remove what no image, container or lease needs
    Gc(store::GcArgs),
    /// Remove stopped containers, and what nothing needs
    Prune(store::PruneArgs),
    /// Check all that is stored
    Check(store::CheckArgs),
    /// The kit as a whole
    #[command(subcommand)]
    System(store::SystemCommand),
    /// What keeps blobs and snapshots from being collected
    #[command(subcommand)]
    Lease(store::LeaseCommand),
    /// The child process of `driver check`
    #[command(name = crate::cmd::driver::CHILD, hide = true)]
    DriverChild,
    /// Versions of the command and the driver ABI
    Version,
    /// Folders, drivers and defaults in use
    Info,
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `image`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageCommand {
    /// Import an OCI layout or docker archive, and unpack it
    Import {
        /// A layout's folder, or an archive: tar, gzip or zstd
        path: PathBuf,
        /// Name of the image
        #[arg(long, value_name = "REF")]
        name: Option<String>,
        /// Do not unpack
        #[arg(long)]
        no_unpack: bool,
        /// OS/ARCH[/VARIANT] to unpack
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
        /// Unpack nothing that the policy of its name does not permit
        #[arg(long)]
        policy: bool,
        #[command(flatten)]
        access: registry::Access,
    },
    /// Make an image of what a container changed, or of a folder
    Pack(Box<pack::PackArgs>),
    /// Make one image of those of several platforms
    Index(pack::IndexArgs),
    /// Export images to an OCI layout or archive, or a docker archive
    Export(pack::ExportArgs),
    /// Pull an image from a registry, and unpack it
    Pull(registry::PullArgs),
    /// Push an image to a registry
    Push(registry::PushArgs),
    /// Copy an image between registries and layouts, signatures too
    Copy(registry::CopyArgs),
    /// Sign an image at its registry
    Sign(sign::SignArgs),
    /// Verify an image's signatures at its registry
    Verify(sign::VerifyArgs),
    /// List images
    Ls,
    /// Show images in full
    Inspect {
        /// Image names
        #[arg(required = true, value_name = "REF")]
        names: Vec<String>,
        /// OS/ARCH[/VARIANT] to show
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
    },
    /// Show what made an image
    History {
        /// Image name
        #[arg(value_name = "REF")]
        name: String,
    },
    /// Give an image a further name
    Tag {
        /// Existing name
        #[arg(value_name = "SRC")]
        source: String,
        /// New name
        #[arg(value_name = "DST")]
        target: String,
    },
    /// Forget names of images
    Rm {
        /// Forget even what a container was made from
        #[arg(short, long)]
        force: bool,
        /// Image names
        #[arg(required = true, value_name = "REF")]
        names: Vec<String>,
    },
    /// Unpack an image into the snapshotter
    Unpack {
        /// Image name
        #[arg(value_name = "REF")]
        name: String,
        /// Snapshotter instance
        #[arg(long, value_name = "NAME")]
        snapshotter: Option<String>,
        /// OS/ARCH[/VARIANT] to unpack
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
    },
    /// Mount an image read-only on a folder
    Mount {
        /// Image name
        #[arg(value_name = "REF")]
        name: String,
        /// Where, an existing folder
        dir: PathBuf,
        /// Snapshotter instance
        #[arg(long, value_name = "NAME")]
        snapshotter: Option<String>,
    },
    /// Check that images are whole: blobs, layers and snapshots
    Check {
        /// Mend what is damaged
        #[arg(long)]
        repair: bool,
        /// Image names; all without one
        #[arg(value_name = "REF")]
        names: Vec<String>,
    },
    /// Take an image's mount away
    Unmount {
        /// Where it is mounted
        dir: PathBuf,
    },
}

/// `content`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ContentCommand {
    /// List blobs
    Ls,
    /// Write a blob to standard output
    Get {
        /// Digest
        digest: String,
    },
    /// Show what is known of a blob
    Info {
        /// Digest
        digest: String,
    },
    /// Hash blobs again: all, or those named
    Verify {
        /// Digests
        digests: Vec<String>,
    },
    /// Ingest standard input
    Ingest {
        /// Name of the ingest; the same name resumes it
        #[arg(long = "ref", value_name = "REF")]
        name: String,
        /// Digest that the data must have
        #[arg(long, value_name = "DIGEST")]
        digest: Option<String>,
        /// Bytes that the data must have
        #[arg(long, value_name = "N")]
        size: Option<u64>,
    },
    /// List ingests
    Status,
    /// Drop an ingest
    Abort {
        /// Name of the ingest
        #[arg(value_name = "REF")]
        name: String,
    },
    /// Delete blobs
    Delete {
        /// Digests
        #[arg(required = true)]
        digests: Vec<String>,
    },
    /// Change a blob's labels: K=V sets, K= removes
    Label {
        /// Digest
        digest: String,
        /// Changes
        #[arg(required = true, value_name = "K=V")]
        labels: Vec<String>,
    },
}

// `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotCommand {
    /// Snapshotter instance
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) snapshotter: Option<String>,
    #[command(subcommand)]
    pub(crate) action: SnapshotAction,
}

// What to do with snapshots.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SnapshotAction {
    /// List snapshots
    Ls,
    /// Show snapshots as a tree
    Tree,
    /// Make a writable snapshot and print its mounts
    Prepare {
        /// Key
        key: String,
        /// Committed parent
        parent: Option<String>,
    },
    /// Make a read-only snapshot and print its mounts
    View {
        /// Key
        key: String,
        /// Committed parent
        parent: Option<String>,
    },
    /// Print the mounts of a snapshot
    Mounts {
        /// Key
        key: String,
    },
    /// Commit an active snapshot under a new key
    Commit {
        /// New key
        name: String,
        /// Active key
        key: String,
    },
    /// Remove snapshots
    Rm {
        /// Keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show what snapshots take on disk
    Usage {
        /// Keys; all without one
        keys: Vec<String>,
    },
    /// Show what a snapshot changed in its parent
    Diff {
        /// Key
        key: String,
        /// Committed snapshot to compare with instead of the parent
        from: Option<String>,
        /// Write the layer to standard output, as tar
        #[arg(long)]
        tar: bool,
    },
    /// Replay committed snapshots, and containers that do not run, into another snapshotter
    Migrate {
        /// Snapshotter instance that gets them
        #[arg(long, value_name = "INSTANCE")]
        to: String,
        /// Images or keys; everything without one
        #[arg(value_name = "REF|CHAIN")]
        what: Vec<String>,
    },
    /// Change a snapshot's labels: K=V sets, K= removes
    Label {
        /// Key
        key: String,
        /// Changes
        #[arg(required = true, value_name = "K=V")]
        labels: Vec<String>,
    },
}

/// `driver`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum DriverCommand {
    /// Load every configured driver and list them
    Ls,
    /// Show a driver: an instance's name, or a path with a slash
    Inspect {
        /// Instance or path
        #[arg(value_name = "NAME|PATH")]
        target: String,
    },
    /// Show every path tried for every configured driver
    Trace,
    /// Run the conformance suite on a driver, in a child process
    Check(DriverCheckArgs),
}

// `driver check`.
#[derive(Debug, Args)]
pub(crate) struct DriverCheckArgs {
    /// Instance, with its options, or path, in every kind that it declares
    #[arg(value_name = "NAME|PATH")]
    pub(crate) target: String,
    /// Of several kinds, this one; with JSON several are an array
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<DriverKind>,
    /// TOML file of the driver's options, laid over an instance's own
    #[arg(long, value_name = "FILE")]
    pub(crate) options: Option<PathBuf>,
    /// How long one case may take
    #[arg(long, value_name = "SECONDS", default_value = "60",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
}

/// `config`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ConfigCommand {
    /// Print the built-in default
    Default,
    /// Print the configuration in effect
    Dump,
    /// Check the configuration, driver options included
    Check,
    /// Print the JSON schema of the configuration
    Schema,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_word_after_the_image_is_the_containers() {
        let cli = Cli::try_parse_from([
            "containerkit",
            "run",
            "--rm",
            "busybox",
            "--root",
            "x",
            "-t",
        ])
        .expect("parse");
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.make.words, ["busybox", "--root", "x", "-t"]);
        assert!(cli.global.root.is_none() && !run.make.tty);
    }
}
