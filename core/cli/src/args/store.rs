//! The commands on the stores as a whole.

use clap::{Args, Subcommand};

// `gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Remove nothing, and tell of each object why it would be kept or removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How long an ingest may rest before it is dropped, such as 10m
    #[arg(long, value_name = "AGE", default_value = "24h")]
    pub(crate) ingest_age: String,
}

// `prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Images that no container uses and ingests that nobody writes too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only containers and images: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
}

// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Mend what is damaged, as far as that can be done from what is here
    #[arg(long)]
    pub(crate) repair: bool,
}

/// `system`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SystemCommand {
    /// Show what images, containers, snapshots and blobs take on disk
    Df,
    /// Remove stopped containers, and what nothing needs
    Prune(PruneArgs),
    /// Folders, drivers and defaults in use
    Info,
}

/// `lease`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum LeaseCommand {
    /// List leases
    Ls,
    /// Keep blobs and snapshots, and print the lease's id
    Create {
        /// How long it holds, such as 1h; until it is removed without
        #[arg(long, value_name = "AGE")]
        expires: Option<String>,
        /// A blob, with all that it refers to
        #[arg(long = "blob", value_name = "DIGEST")]
        blobs: Vec<String>,
        /// A snapshot, with those below it
        #[arg(long = "snapshot", value_name = "KEY")]
        snapshots: Vec<String>,
        /// Snapshotter instance
        #[arg(long, value_name = "NAME")]
        snapshotter: Option<String>,
    },
    /// End leases
    Rm {
        /// Ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}
