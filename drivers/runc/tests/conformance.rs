//! The runtime suite on the driver as it is linked, with runc and with crun.

mod common;

use std::os::unix::fs::PermissionsExt;
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

#[test]
fn crun_conforms() {
    if common::without_unified("crun_conforms") {
        // crun 1.8 has no `events`.
        conforms("crun", &["DRV-R-56"]);
    }
}
