//! The `native` driver as a shared object.

containerkit_plugin::export_driver!(snapshotter: containerkit_native::Native);
