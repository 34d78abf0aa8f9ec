//! The runtime suite on the driver as it is linked, with runc and with crun.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use containerkit::{Driver, DriverContext, Result, Runtime};
use containerkit_conformance::{Outcome, assert_conforms, runtime};
use containerkit_runc::Runc;

fn conforms(binary: &'static str, unsupported: &[&str]) {
    let folder = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("chmod");
    let open = move |context: DriverContext| -> Result<Arc<dyn Runtime>> {
        let options = [("binary".to_string(), binary.into())];
        Ok(Arc::new(Runc::open(
            context.with_options(options.into_iter().collect()),
        )?))
    };
    let results = runtime::run(&runtime::Folders::new(folder.path(), open));
    for result in &results {
        let mark = match result.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail(_) => "FAIL",
            Outcome::Unsupported => "unsupported",
        };
        println!(
            "{binary} {} {mark} {:?} {}",
            result.id, result.time, result.name
        );
    }
    assert_conforms(&results, unsupported);
}

#[test]
fn runc_conforms() {
    conforms("runc", &[]);
}

/// crun refuses a machine that mounts the empty cgroup2 beside the v1
/// controllers; there the test runs again without that mount.
#[test]
fn crun_conforms() {
    const HYBRID: &str = "/sys/fs/cgroup/unified/cgroup.controllers";
    const INNER: &str = "CONTAINERKIT_TEST_WITHOUT_UNIFIED";
    if !std::path::Path::new(HYBRID).exists() || std::env::var_os(INNER).is_some() {
        // crun 1.8 has no `events`.
        return conforms("crun", &["DRV-R-56"]);
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("umount /sys/fs/cgroup/unified && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().expect("the test's own path"))
        .args(["crun_conforms", "--exact", "--nocapture"])
        .env(INNER, "1")
        .output()
        .expect("unshare");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
