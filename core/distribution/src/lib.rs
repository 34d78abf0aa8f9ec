//! Registries: pull, push and copy by the OCI distribution spec 1.1,
//! credentials, and signatures. Usable alone: it needs a content store, and
//! nothing else of containerkit.
//!
//! [`Registry`] is the client: [`resolve`](Registry::resolve) and
//! [`manifest`](Registry::manifest) for what a reference names,
//! [`put_manifest`](Registry::put_manifest) by tag or digest,
//! [`blob`](Registry::blob) and [`put_blob`](Registry::put_blob) for small
//! blobs, [`referrers`](Registry::referrers) with the tag fallback. It is
//! plain, blocking code on threads.
//!
//! Nothing that a server says is believed: documents are at most 4 MiB, one
//! thing only and what they were announced as; blobs end at their declared
//! size and have their digest; bodies that trickle or never end are given up;
//! a server's words are escaped before a terminal sees them. Credentials are
//! bound to scheme, host and port (see [`Settings`]).
//!
//! | module | what lives there |
//! |---|---|
//! | `settings`, `origin` | registries, mirrors and where they are |
//! | `auth` | credentials and tokens |
//! | `http`, `client`, `deadline` | exchanges, who is asked in what order, and for how long |
//! | `manifest`, `referrers`, `tree` | documents, and all that is below one |
//! | `fetch`, `pull` | blobs from a registry, into a content store and on |
//! | `copy` | pushes, and copies from one place to another |
//! | `upload` | blobs to a registry: mounted, whole, or in chunks that go on |
//! | [`sign`] | signatures: keys, where they are kept, rules that they must meet |
//! | `event` | what is told to whoever watches |

mod auth;
mod client;
mod copy;
mod deadline;
mod event;
mod fetch;
mod http;
mod manifest;
mod origin;
mod pull;
mod referrers;
mod settings;
pub mod sign;
mod tree;
mod upload;

use containerkit::{Digest, Reference, Result};

pub use auth::{AuthFile, Found, Keyring, Secret, default_files, login_file};
pub use client::Registry;
pub use copy::{CopyOptions, Place, copy, push};
pub use event::{Event, How, Transfer, Watcher};
pub use http::proxy_of;
pub use manifest::{Manifest, describe};
pub use origin::{Origin, Scheme};
pub use pull::{PullOptions, pull};
pub use referrers::fallback_tag;
pub use settings::{Endpoint, Mirror, RegistrySettings, Retry, Role, Settings};
pub use tree::Platforms;

/// Called with what a reference was resolved to, before anything of it is
/// stored or unpacked; an error ends the pull. Here a policy has its say.
pub type Check<'a> = &'a (dyn Fn(&Reference, &Digest) -> Result<()> + Sync);

/// A check that lets everything pass.
pub fn accept(_reference: &Reference, _digest: &Digest) -> Result<()> {
    Ok(())
}
