//! One module a command group; each turns arguments into library calls and
//! results into text or JSON.

pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod content;
pub(crate) mod driver;
pub(crate) mod foreground;
pub(crate) mod image;
pub(crate) mod options;
pub(crate) mod run;
pub(crate) mod snapshot;
pub(crate) mod system;
