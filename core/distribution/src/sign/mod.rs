//! Signatures of images: keys, what is signed, where it is kept, and which
//! images a policy lets in.
//!
//! **What is signed** is a [`Payload`], cosign's "simple signing" document: the
//! digest of a manifest or an index, and the repository it is published in.
//! The signature is ECDSA P-256 over its bytes, as DER, in base64.
//!
//! **Where it is kept**: beside the image, in two places, so that every reader
//! finds it. cosign's tag `sha256-HEX.sig` names one manifest with a layer for
//! each signature ([`TAG_SUFFIX`]); besides, each signature is a referrer of
//! its own ([`ARTIFACT_TYPE`]), which two signers cannot take from each other.
//! A reader joins both. The blob is the payload, and the annotation
//! [`SIGNATURE`] of its descriptor the signature. Signing again adds to what is
//! there; the same key signing the same image again changes nothing, because
//! signatures are deterministic (RFC 6979).
//!
//! **When it counts**: [`decide`] asks of each signature whether one of the
//! keys made it, and of the payload whether it names this digest in this
//! repository. Bytes that no key of ours signed are not even parsed. A
//! signature is compared with:
//! - the digest, which is the one that is fetched and unpacked next;
//! - the repository, normalized; the names of Docker Hub are one. cosign names
//!   the repository alone. Where the signer wrote a tag, it must be the tag
//!   that is asked for; an image asked for by digest has none to compare.
//!
//! **It fails closed.** No signature, none that matches, a key that cannot be
//! read, a registry that does not answer, more than [`MOST`] signatures, and
//! anything malformed on the way are all refusals, the last even when another
//! signature would do: whoever could add the malformed one could also have
//! taken away the good one, so that nothing is gained by looking further.
//! Signatures made without a key of the reader's, such as cosign's keyless
//! ones, neither help nor hinder.
//!
//! **A policy** is a [`Rule`] for an image: accept, reject, or keys of which
//! any or all must have signed. Which rule is meant is the configuration's
//! matter ([`containerkit::Pattern`]).
//!
//! The registry is reached through [`Signatures`] and [`Repository`], so that
//! all of this is tested without one, and what came with an import
//! ([`Stored`]) is read in the same way. Signing asks a registry itself
//! ([`Home`]); a policy takes signatures from a mirror as well, which could
//! only keep some back.
//!
//! | module | what lives there |
//! |---|---|
//! | `key` | keys, their PEM forms, signing and verifying bytes |
//! | `sealed` | cosign's encryption of a private key by a password |
//! | `payload` | what is signed |
//! | `manifest` | signatures as layers of a manifest |
//! | `repository`, `stored` | what is asked of a registry; the same of a content store |
//! | `gather`, `attach` | reading the signatures of an image; adding one |
//! | `decide` | whether they suffice |

mod attach;
mod decide;
mod gather;
mod key;
mod manifest;
mod payload;
mod repository;
mod sealed;
mod stored;
#[cfg(test)]
mod tests;

pub use attach::{Signed, sign};
pub use decide::{Rule, Signer, decide, permit};
pub use gather::{MOST, gather};
pub use key::{Password, PrivateKey, PublicKey};
pub use manifest::{ARTIFACT_TYPE, Envelope, SIGNATURE, SIMPLE_SIGNING, TAG_SUFFIX};
pub use payload::Payload;
pub use repository::{Home, Repository, Signatures};
pub use stored::Stored;
