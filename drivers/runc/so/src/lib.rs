//! The `runc` driver as a shared object.
