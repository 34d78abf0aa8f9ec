//! The `runc` driver of containerkit.
