//! Flags of `image pack`, `image index`, `image export` and the diffs.

use std::path::PathBuf;

use clap::Args;

// `image pack`.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The image's name
    #[arg(value_name = "REF")]
    pub(crate) name: String,
    /// Pack what a container changed, on its image
    #[arg(long, value_name = "ID", required_unless_present = "rootfs", conflicts_with_all = ["rootfs", "base"])]
    pub(crate) container: Option<String>,
    /// Pack a folder: all of it, or what is not so in the base
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// The image below the folder's
    #[arg(long, value_name = "REF")]
    pub(crate) base: Option<String>,
    /// Pack a running container, whatever it changes meanwhile
    #[arg(long, requires = "container")]
    pub(crate) live: bool,
    /// gzip, zstd or none
    #[arg(long, value_name = "KIND", default_value = "gzip")]
    pub(crate) compression: String,
    /// OS/ARCH[/VARIANT] of the image
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Entry point: words, or a JSON array; given several times, a word each
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Default command: words, or a JSON array; given several times, a word each
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// Set a variable
    #[arg(short, long, value_name = "K=V")]
    pub(crate) env: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "K=V")]
    pub(crate) label: Vec<String>,
    /// Folder to start in
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// USER[:GROUP] to start as
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Tell a port
    #[arg(long, value_name = "PORT[/PROTO]")]
    pub(crate) expose: Vec<String>,
    /// Make a folder a volume
    #[arg(long, value_name = "DIR")]
    pub(crate) volume: Vec<String>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Who is responsible
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// Comment in the history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// What the history says made the layer [default: the container's command]
    #[arg(long, value_name = "TEXT")]
    pub(crate) created_by: Option<String>,
}

// `image index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// The new image's name
    #[arg(value_name = "REF")]
    pub(crate) name: String,
    /// Images of its platforms, in order of preference
    #[arg(required = true, value_name = "SRC")]
    pub(crate) sources: Vec<String>,
}

// `image export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Image names
    #[arg(required = true, value_name = "REF")]
    pub(crate) names: Vec<String>,
    /// A folder, or a file that ends in .tar, .tar.gz or .tar.zst
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: PathBuf,
    /// oci or docker
    #[arg(long = "as", value_name = "FORMAT", default_value = "oci")]
    pub(crate) form: String,
    /// OS/ARCH[/VARIANT] of a docker archive
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
}

// `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}
