//! The `overlay` driver as a shared object.
