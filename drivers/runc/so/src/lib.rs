//! The `runc` driver as a shared object.

containerkit_plugin::export_driver!(runtime: containerkit_runc::Runc);
