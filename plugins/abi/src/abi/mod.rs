//! The ABI mirror: what really crosses between a program and a driver's
//! shared object. The only place that names `abi_stable`.
//!
//! | file | what lives there |
//! |---|---|
//! | `value` | structs that cross by value, frozen in a major version |
//! | `mirror` | the trait objects and the module, which grow by appended methods |
//! | `declaration` | the plain-C static that is read before anything is loaded |
//! | `guard` | panics become errors |
//! | `convert` | contract values to mirror values and back, with checks |
//! | `export` | a contract trait behind a mirror trait: the driver's side |
//! | `logger` | the `log` facade forwarded: both sides |
//! | `call`, `check` | a call from the host's side, and what came back checked |
//! | `proxy` | a mirror trait behind a contract trait: the host's side |
//! | `watch` | calls that do not return: the host's side |
//! | `module` | a declaration in memory made into a checked module: the host's side |
//!
//! Nothing here is for a driver's author, nor for a program that loads drivers.

// What abi_stable's derives expand to; none of it is visible to a driver.
#![allow(non_local_definitions, non_camel_case_types, missing_docs)]

pub mod convert;
pub mod declaration;
pub mod export;
pub mod fd;
pub mod guard;
pub mod logger;
pub mod mirror;
pub mod value;

#[cfg(all(test, target_pointer_width = "64"))]
mod layout_tests;

#[cfg(feature = "host")]
pub mod call;
#[cfg(feature = "host")]
pub mod check;
#[cfg(feature = "host")]
pub mod context;
#[cfg(feature = "host")]
pub mod module;
#[cfg(feature = "host")]
pub mod proxy;
#[cfg(feature = "host")]
pub mod watch;

pub use abi_stable::library::{
    __call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult,
};
pub use abi_stable::prefix_type::PrefixTypeTrait;
pub use abi_stable::std_types::{RNone, RSome, RString};
