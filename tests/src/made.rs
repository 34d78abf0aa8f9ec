//! Images that tests make, and the other tools that read them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::kit::{Kit, Ran};

/// A container that ran this and has ended.
pub fn ran(kit: &Kit, name: &str, script: &str) {
    kit.run(["run", "--name", name, "busybox", "sh", "-c", script])
        .ok();
}

/// Runs `image pack` with these arguments, `SOURCE_DATE_EPOCH` set or not.
pub fn packed(kit: &Kit, epoch: Option<&str>, args: &[&str]) -> Ran {
    let mut command = kit.command(["image", "pack"].iter().chain(args));
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    Ran::new(&command.output().expect("there"))
}

/// What `image inspect` tells of an image for this host.
pub fn image(kit: &Kit, name: &str) -> Value {
    kit.run(["image", "inspect", name]).ok().json()[0].clone()
}

/// Runs another tool of the field.
pub fn tool(program: &str, args: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}, which `make setup` installs: {e}"));
    Ran::new(&output)
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("there")
}
