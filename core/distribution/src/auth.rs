//! Who asks: credentials by registry, and what a registry wants to see of them.
//!
//! A secret is bound to one origin. It goes into requests for that origin and
//! to a token server that the registry's settings cover, and nowhere else: not
//! where a redirect leads, not to what a manifest's `urls` name.

mod challenge;
mod file;
mod keyring;
mod token;

pub use file::{AuthFile, default_files, login_file};
pub use keyring::{Found, Keyring, Secret};

pub(crate) use challenge::{Challenge, parse};
pub(crate) use token::{Authorization, Wanted, basic, fetch};
