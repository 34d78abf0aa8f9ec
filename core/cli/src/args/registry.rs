//! The commands that talk to registries.

use std::path::PathBuf;

use clap::{Args, Subcommand};

// How registries are reached.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// Speak HTTP in the clear to the registries of this command
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Credentials for this command
    #[arg(long, value_name = "USER:PASS")]
    pub(crate) creds: Option<String>,
    /// File of credentials [default: $REGISTRY_AUTH_FILE, podman's, docker's]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}

// `image pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) access: Access,
    /// OS/ARCH[/VARIANT] to pull and unpack
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Pull what there is for every platform; unpacked is one
    #[arg(long)]
    pub(crate) all_platforms: bool,
    /// Do not unpack
    #[arg(long)]
    pub(crate) no_unpack: bool,
    /// Image name
    #[arg(value_name = "REF")]
    pub(crate) name: String,
}

// `image push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) access: Access,
    /// OS/ARCH[/VARIANT] alone [default: all that the image has, or this host's]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Image name
    #[arg(value_name = "REF")]
    pub(crate) name: String,
    /// Where to, when it is not the name itself
    #[arg(value_name = "DST")]
    pub(crate) target: Option<String>,
}

// `image copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    #[command(flatten)]
    pub(crate) access: Access,
    /// Credentials for SRC
    #[arg(long, value_name = "USER:PASS")]
    pub(crate) src_creds: Option<String>,
    /// Credentials for DST
    #[arg(long, value_name = "USER:PASS")]
    pub(crate) dest_creds: Option<String>,
    /// OS/ARCH[/VARIANT] alone [default: all]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// REF, oci:DIR[:TAG], or the path of a layout
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// REF, oci:DIR[:TAG], or the path of a layout
    #[arg(value_name = "DST")]
    pub(crate) target: String,
}

// `login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// User
    #[arg(short, long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// Password; others can see it in the list of processes
    #[arg(short, long, value_name = "PASS", conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Speak HTTP in the clear to this registry
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// File to keep them in [default: $REGISTRY_AUTH_FILE, docker's; <root>/auth.json with --root and --state]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// HOST[:PORT] as image names begin with it
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
}

// `logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// File that they are kept in [default: as for login]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// HOST[:PORT] as image names begin with it
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
}

/// `registry`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum RegistryCommand {
    /// Show who would be asked for an image, and how
    Explain {
        #[command(flatten)]
        access: Access,
        /// Image name
        #[arg(value_name = "REF")]
        name: String,
    },
}
