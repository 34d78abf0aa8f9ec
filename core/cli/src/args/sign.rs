//! Keys, `image sign` and `image verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::registry::Access;

/// `key`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum KeyCommand {
    /// Make a key pair: PREFIX.key, encrypted by a password, and PREFIX.pub
    Generate {
        /// Path of both files without their endings
        prefix: PathBuf,
    },
    /// Print the public key of a private one
    Public {
        /// The private key
        file: PathBuf,
    },
}

// `image sign`.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The private key: cosign's PEM, or plain PKCS#8
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Image at its registry
    #[arg(value_name = "REF")]
    pub(crate) image: String,
}

// `image verify`.
#[derive(Debug, Args)]
#[group(id = "by", required = true, multiple = false, args = ["key", "policy"])]
pub(crate) struct VerifyArgs {
    /// The public key that must have signed
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// By the policy of the configuration
    #[arg(long)]
    pub(crate) policy: bool,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Image at its registry
    #[arg(value_name = "REF")]
    pub(crate) image: String,
}
