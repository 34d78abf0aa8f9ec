//! What a new container shall be: the flags that `run` and `create` share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::registry::Access;

// What a new container shall be.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Label of the container
    #[arg(short, long, value_name = "K=V")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Annotation of the OCI spec
    #[arg(long, value_name = "K=V")]
    pub(crate) annotation: Vec<String>,
    /// Signal that asks the container to end
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Runtime instance of the configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Snapshotter instance of the configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshotter: Option<String>,
    /// When to ask a registry for the image
    #[arg(long, value_enum, default_value = "missing")]
    pub(crate) pull: Pull,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Run on this folder instead of an image; every word is the command
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// A whole OCI runtime spec instead of the flags that make one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["SpecArgs", "LimitArgs"])]
    pub(crate) spec: Option<PathBuf>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Write the pid of the container's process to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// How output is kept: driver=file|none, max-size=SIZE, max-file=N
    #[arg(long, value_name = "K=V")]
    pub(crate) log_opt: Vec<String>,
    #[command(flatten)]
    pub(crate) make: SpecArgs,
    // Not in those: clap knows no conflict with a group in a group.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// IMAGE [CMD…]: every word after IMAGE is the container's
    #[arg(trailing_var_arg = true, value_name = "IMAGE")]
    pub(crate) words: Vec<String>,
}

/// `--pull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Each time
    Always,
    /// When it is not here
    Missing,
    /// Never
    Never,
}

// What a spec is made of.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Set a variable; a bare name is taken from the caller
    #[arg(short, long, value_name = "K=V")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// USER[:GROUP], by name or number
    #[arg(short, long, value_name = "USER", allow_negative_numbers = true)]
    pub(crate) user: Option<String>,
    /// Further group of the process, by name or number
    #[arg(long, value_name = "GROUP", allow_negative_numbers = true)]
    pub(crate) group_add: Vec<String>,
    /// Replace the image's entrypoint; empty for none
    #[arg(long, value_name = "CMD")]
    pub(crate) entrypoint: Option<String>,
    /// Run a reaper as process 1 that hands signals on to the command
    #[arg(long)]
    pub(crate) init: bool,
    /// Bind a path: SRC:DST[:ro]
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    pub(crate) volume: Vec<String>,
    /// type=bind|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// DST[:OPTIONS]
    #[arg(long, value_name = "DST")]
    pub(crate) tmpfs: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) shm_size: Option<String>,
    /// Device or folder of devices: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Rule of the device cgroup: 'c 10:200 rwm'
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// How willingly the kernel kills it, -1000 to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) oom_score_adj: Option<String>,
    /// NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp, nothing masked
    #[arg(long)]
    pub(crate) privileged: bool,
    /// seccomp=FILE|unconfined, no-new-privileges, apparmor=PROFILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Kernel parameter of the container's own namespaces
    #[arg(long, value_name = "K=V")]
    pub(crate) sysctl: Vec<String>,
    /// Host name in the container
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// NIS domain name in the container
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// Line of /etc/hosts: NAME:IP
    #[arg(long, value_name = "NAME:IP")]
    pub(crate) add_host: Vec<String>,
    /// Name server
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<String>,
    /// Domain that is tried behind a short name; '.' for none
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Option of resolv.conf
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Network: none (only lo), host, container:ID or a name [default: none]
    #[arg(long, visible_alias = "network", value_name = "NETWORK")]
    pub(crate) net: Option<String>,
    /// Publish a port: [IP:]HOST:CONTAINER[/udp]
    #[arg(short, long, value_name = "PORT", allow_negative_numbers = true)]
    pub(crate) publish: Vec<String>,
    /// Process ids: private, host or container:ID
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) pid: Option<String>,
    /// System V IPC and /dev/shm: private, host or container:ID
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) ipc: Option<String>,
    /// Host name: private or host
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) uts: Option<String>,
    /// Root of the cgroups: private or host
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) cgroupns: Option<String>,
    /// Users: host, auto, auto:size=N or CONTAINER:HOST:COUNT
    #[arg(long, value_name = "USERS", allow_negative_numbers = true)]
    pub(crate) userns: Option<String>,
    /// Mapped users: CONTAINER:HOST:COUNT
    #[arg(
        long,
        value_name = "MAP",
        conflicts_with = "userns",
        allow_negative_numbers = true
    )]
    pub(crate) uidmap: Vec<String>,
    /// Mapped groups; the same as the users without it
    #[arg(
        long,
        value_name = "MAP",
        requires = "uidmap",
        allow_negative_numbers = true
    )]
    pub(crate) gidmap: Vec<String>,
}

// Limits of the container's cgroup, at its start or while it lives.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Memory limit: bytes, or with k, m, g
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory: Option<String>,
    /// Limit of memory and swap together; -1 for any swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_swap: Option<String>,
    /// What the container is shrunk to when the host is short of memory
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_reservation: Option<String>,
    /// CPUs, such as 1.5
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) cpus: Option<String>,
    /// Weight against other containers, 2 to 262144
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) cpu_shares: Option<String>,
    /// CPUs that may be used: 0-3,5
    #[arg(long, value_name = "LIST", allow_negative_numbers = true)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes that may be used: 0-1
    #[arg(long, value_name = "LIST", allow_negative_numbers = true)]
    pub(crate) cpuset_mems: Option<String>,
    /// Limit of tasks; -1 for none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<String>,
}
