//! The runtime suite on the driver as it is linked, with runc and with crun.

use std::sync::Arc;

use containerkit::{Driver, DriverContext, Result, Runtime};
use containerkit_conformance::apart::{Suite, apart_as, for_crun, show};
use containerkit_conformance::{assert_conforms, runtime};
use containerkit_runc::Runc;

fn conforms(suite: &Suite, binary: &'static str, unsupported: &[&str]) {
    let open = move |context: DriverContext| -> Result<Arc<dyn Runtime>> {
        let options = [("binary".to_string(), binary.into())];
        Ok(Arc::new(Runc::open(
            context.with_options(options.into_iter().collect()),
        )?))
    };
    let results = apart_as(suite, || runtime::suite(open));
    show(binary, &results);
    assert_conforms(&results, unsupported);
}

#[test]
fn runc_conforms() {
    conforms(&Suite::of("runc_conforms"), "runc", &["DRV-R-58"]);
}

#[test]
fn crun_conforms() {
    let suite = Suite::of("crun_conforms").under(for_crun());
    // crun 1.8 has no `events`.
    conforms(&suite, "crun", &["DRV-R-56", "DRV-R-58"]);
}
