//! The `local` driver as a shared object.

containerkit_plugin::export_driver!(content: containerkit_local::Local);
