//! Registries: pull, push and copy by the OCI distribution spec, credentials,
//! and signatures. Usable alone: it needs a content store, and nothing else of
//! containerkit.
