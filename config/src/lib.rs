//! The configuration of containerkit: TOML in layers, validated whole, and the
//! driver instances that it names.
//!
//! [`Config::load`] reads the layers (built-in default, file, drop-ins,
//! environment, flags). Whatever is wrong is one error with file, line,
//! column and key. [`LoadedDrivers`] serves the instances to the kit, each
//! loaded when it is first asked for.
//!
//! ```
//! use containerkit_config::Config;
//! # fn main() -> containerkit::Result<()> {
//! let path = "/etc/containerkit/containerkit.toml".as_ref();
//! let config = Config::from_toml("default.runtime = \"crun\"", path)?;
//! assert_eq!(config.default.runtime.as_str(), "crun");
//! assert_eq!(config.default.snapshotter.as_str(), "overlay"); // of the built-in default
//!
//! let error = Config::from_toml("[default]\nruntme = \"crun\"", path).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "/etc/containerkit/containerkit.toml:2:1: unknown key \"runtme\" in [default]; \
//!      did you mean \"runtime\"?"
//! );
//! # Ok(())
//! # }
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | `source` | files as text, and places in them |
//! | `layer` | one file as typed |
//! | `config` | the layers in one, ready to use |
//! | `environment` | the variables that count, and whether they do |
//! | `resolve`, `drivers`, `status` | instances: their files, opening them, telling of them |
//! | `registry` | how registries are reached |
//! | `dump`, `schema` | the configuration as TOML, its JSON schema |
//! | `policy` | which images may be used |
//! | `options` | a driver's options against its schema |
//! | `suggest` | "did you mean" |

mod config;
mod drivers;
mod dump;
mod environment;
mod layer;
mod options;
mod policy;
mod registry;
mod resolve;
mod schema;
mod source;
mod status;
mod suggest;

pub use config::{Config, Defaults, Flags, Instance};
pub use drivers::LoadedDrivers;
pub use options::{check_options, read_options};
pub use policy::{KeyFile, Policy, PolicyRule};
pub use registry::Registry;
pub use resolve::Resolved;
pub use source::Origin;
pub use status::{DriverStatus, Problem, Status, Trace, check};

#[cfg(test)]
mod tests;
