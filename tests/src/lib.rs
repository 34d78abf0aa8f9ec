//! Shared helpers of the tests.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used)]

pub mod faults;
pub mod fixtures;
pub mod image;
pub mod kit;
pub mod made;
pub mod peer;
pub mod registry;
pub mod steps;
pub mod stores;
pub mod user;
