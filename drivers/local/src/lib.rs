//! The `local` driver of containerkit.
