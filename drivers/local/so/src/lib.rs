//! The `local` driver as a shared object.
