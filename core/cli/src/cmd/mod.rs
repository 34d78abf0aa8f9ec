//! One module a command group; each turns arguments into library calls and
//! results into text or JSON.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod df;
pub(crate) mod diff;
pub(crate) mod driver;
pub(crate) mod each;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod foreground;
pub(crate) mod gc;
pub(crate) mod image;
pub(crate) mod key;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod migrate;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod prune;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod sign;
pub(crate) mod snapshot;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod top;
