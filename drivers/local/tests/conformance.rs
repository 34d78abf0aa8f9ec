//! The suite of the content-store contract on this driver, linked.

use std::sync::Arc;

use containerkit::{Driver, DriverContext};
use containerkit_conformance::content;
use containerkit_local::Local;

fn conforms(fsync: bool) {
    let open = move |context: DriverContext| {
        let options = [("fsync".to_owned(), fsync.into())].into_iter().collect();
        Ok(Arc::new(Local::open(context.with_options(options))?) as Arc<_>)
    };
    content::conforms(open, &[]);
}

#[test]
fn with_fsync() {
    conforms(true);
}

#[test]
fn without_fsync() {
    conforms(false);
}
