//! An export in a folder.

use std::fs::File;
use std::path::Path;

use containerkit::{IoContext, Result};

use super::plan::{self, Plan};
use crate::Cancel;

pub(super) fn write(plan: &Plan<'_>, dir: &Path, cancel: &Cancel) -> Result<()> {
    for folder in plan.folders() {
        containerkit::fs::ensure_dir(&dir.join(folder), 0o755)?;
    }
    for (name, content) in &plan.files {
        let path = dir.join(name);
        let mut file =
            File::create_new(&path).io_context(|| format!("create {}", path.display()))?;
        content.copy(cancel, |part| plan::write_all(&mut file, part))?;
    }
    Ok(())
}
