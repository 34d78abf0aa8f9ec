//! From an image's configuration and a user's wishes to a whole OCI runtime
//! spec.
//!
//! [`SpecRequest`] holds wishes that [`parse`] has read already; [`build`]
//! resolves them against the root file system and returns what a
//! [`Bundle`](crate::bundle::Bundle) is made of. Nothing is created here, and
//! nothing outside the root file system is read on an image's behalf: every
//! path that an image names is resolved beneath [`Root`].
//!
//! The defaults are those that users of other engines expect: fourteen
//! capabilities, none inheritable; masked and read-only paths under `/proc`
//! and `/sys`; an allow list of system calls; a device list; fresh namespaces
//! and a network namespace that has only `lo`. Limits of a process are left
//! as they are: raising one needs a privilege that many machines lack.
//!
//! ```no_run
//! use containerkit::spec::{Limits, SpecRequest, build, parse, volume};
//! use containerkit::{Bundle, ContainerId, Result, fs::Root};
//! # fn story(image: containerkit::oci_spec::image::Config) -> Result<()> {
//! let id: ContainerId = "web".parse()?;
//! let rootfs = Root::open("/mnt/rootfs".as_ref())?;
//! let request = SpecRequest {
//!     image: Some(image),
//!     env: vec![parse::parse_env("MODE=test")?],
//!     limits: Limits { memory: Some(parse::parse_memory("64m")?), ..Limits::default() },
//!     bundle: "/run/containerkit/containers/web/bundle".into(),
//!     volumes_dir: "/var/lib/containerkit/containers/web/volumes".into(),
//!     ..SpecRequest::default()
//! };
//! let built = build(&request, &id, &rootfs)?;
//! for folder in &built.volumes {
//!     volume::populate(&rootfs, folder)?;
//! }
//! let bundle = Bundle::create(&request.bundle, &built.spec, &built.files)?;
//! // … mount the root file system on bundle.rootfs(), and let a runtime have it.
//! # Ok(())
//! # }
//! ```

mod build;
pub mod caps;
mod check;
mod devices;
mod env;
pub mod exec;
mod files;
mod limits;
mod linux;
mod log;
mod lsm;
mod mounts;
mod namespace;
pub mod parse;
pub mod path;
pub mod program;
pub mod seccomp;
mod syscalls;
mod target;
pub mod user;
pub mod volume;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{LinuxDeviceCgroup, PosixRlimit, Spec};

use crate::bundle::BundleFile;
use crate::mount::Access;

pub use self::log::{LogDriver, LogOptions};
pub use crate::idmap::{IdMap, IdMapping, UserNamespace};
pub use build::build;
pub use exec::{ExecSpec, exec_process};
pub use limits::{Limits, limits};
pub use program::INIT_PATH;
pub use volume::VolumeFolder;
pub use whole::{WholeSpec, mapping_of, read_whole};

#[cfg(doc)]
use crate::fs::Root;

/// What a container shall be, as flags say it, parsed.
#[derive(Clone, Debug, Default)]
pub struct SpecRequest {
    /// The image's `config` object; `None` for a bare root file system.
    pub image: Option<ImageConfig>,
    /// The words after IMAGE.
    pub command: Vec<String>,
    /// Replaces the image's entrypoint and drops its command. Empty, or one
    /// empty word: no entrypoint at all.
    pub entrypoint: Option<Vec<String>>,
    /// `K=V`, or `K` to take the caller's value (removed when it has none).
    /// A later entry wins over an earlier, and each over the image's.
    pub env: Vec<String>,
    /// Working folder, absolute; the image's or `/` without it.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, names or ids; the image's or root without it.
    pub user: Option<String>,
    /// Further groups of the process, names or ids.
    pub groups: Vec<String>,
    /// Host name; the short id without it, the host's with
    /// [`NetworkMode::Host`].
    pub hostname: Option<String>,
    /// NIS domain name, what `domainname` prints.
    pub domainname: Option<String>,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<HostEntry>,
    /// What `/etc/resolv.conf` says.
    pub dns: Dns,
    /// A terminal for the process.
    pub terminal: bool,
    /// Rows and columns that the terminal begins with.
    pub console_size: Option<(u16, u16)>,
    /// The root file system read-only.
    pub read_only: bool,
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Capabilities to add; `ALL` for every one that the caller has.
    pub cap_add: Vec<String>,
    /// Capabilities to drop; `ALL` for every one.
    pub cap_drop: Vec<String>,
    /// Mounts of the user.
    pub mounts: Vec<MountRequest>,
    /// Devices of the user.
    pub devices: Vec<DeviceRequest>,
    /// Further rules of the device cgroup.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// Limits of the cgroup.
    pub limits: Limits,
    /// Limits of the process; the last of a kind counts.
    pub ulimits: Vec<PosixRlimit>,
    /// How willingly the kernel kills it when memory is short, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Bytes of `/dev/shm`; 64 MiB without it.
    pub shm_size: Option<i64>,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The network.
    pub network: NetworkMode,
    /// The other namespaces.
    pub namespaces: Namespaces,
    /// Mapped users and groups, or the host's.
    pub users: UserNamespace,
    /// A reaper on the host, mounted at [`INIT_PATH`] and run as process 1
    /// with the command as its child.
    pub init: Option<PathBuf>,
    /// A whole spec in place of what is made of the other fields: of them
    /// only `command`, `terminal`, `console_size`, `annotations`,
    /// `stop_signal` and `cgroups_path` count.
    pub whole: Option<WholeSpec>,
    /// Security options.
    pub security: Vec<SecurityOption>,
    /// Annotations. Only the user's: what an image says of itself never
    /// becomes an instruction to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Signal that asks the process to end, as a name or a number; the
    /// image's or TERM without it.
    pub stop_signal: Option<String>,
    /// The cgroup, as a path below each hierarchy's mount point; empty for
    /// `/containerkit/ID`.
    pub cgroups_path: String,
    /// The bundle's folder, absolute: what is generated is bound from there.
    pub bundle: PathBuf,
    /// Folder in which each declared volume of the image gets a folder.
    pub volumes_dir: PathBuf,
}

/// The network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// A network namespace that has only `lo`.
    #[default]
    None,
    /// The host's.
    Host,
    /// An existing network namespace, `/run/netns/x`.
    Namespace(PathBuf),
}

/// A namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// An existing one, `/proc/PID/ns/x`.
    Join(PathBuf),
}

/// The namespaces beside network, mounts and users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Process ids.
    pub pid: NamespaceMode,
    /// System V IPC, message queues; `/dev/shm` goes with it.
    pub ipc: NamespaceMode,
    /// Host and domain name.
    pub uts: NamespaceMode,
    /// The root of the cgroups.
    pub cgroup: NamespaceMode,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: std::net::IpAddr,
}

/// How names are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<std::net::IpAddr>,
    /// Domains that are tried behind a short name.
    pub searches: Vec<String>,
    /// Options as in resolv.conf(5).
    pub options: Vec<String>,
}

/// A mount that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// What is mounted.
    pub source: MountSource,
    /// Where, an absolute path in the container.
    pub target: String,
    /// Read-only or not.
    pub access: Access,
    /// Further options, as in fstab; for a tmpfs `size=BYTES`, `mode=OCTAL`, …
    pub options: Vec<String>,
}

/// What a user's mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A file or folder of the host, absolute.
    Path(PathBuf),
    /// A volume by name. The volume driver's mounts are asked for before
    /// [`build`], which refuses what is still a name.
    Volume(String),
    /// Memory.
    Tmpfs,
}

/// A device that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The device node on the host.
    pub host: PathBuf,
    /// Its path in the container.
    pub container: String,
    /// Any of `r`, `w` and `m` (mknod).
    pub access: String,
}

/// A `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    /// No system-call filter.
    SeccompUnconfined,
    /// The filter in this file, an OCI `seccomp` object or a profile with
    /// conditions as other engines ship them.
    SeccompFile(PathBuf),
    /// The built-in filter, also for a privileged container.
    SeccompDefault,
    /// Whether setuid programs gain nothing.
    NoNewPrivileges(bool),
    /// An AppArmor profile that is loaded on the host, or `unconfined`.
    AppArmor(String),
    /// Nothing under `/proc` and `/sys` is masked or made read-only.
    SystemPathsUnconfined,
}

/// What [`build`] returns.
#[derive(Clone, Debug)]
pub struct BuiltSpec {
    /// The spec; its root is the bundle's `rootfs`.
    pub spec: Spec,
    /// Signal that asks the process to end.
    pub stop_signal: i32,
    /// Folders that the caller makes with [`volume::populate`] before the
    /// container is created.
    pub volumes: Vec<VolumeFolder>,
    /// Files of the bundle that the spec's mounts name, for
    /// [`Bundle::create`](crate::bundle::Bundle::create).
    pub files: Vec<BundleFile>,
}
