//! The `overlay` driver of containerkit.
