//! The conformance suites of the containerkit contracts, one module a
//! contract. Each takes a factory that opens a fresh driver instance, so that
//! a driver's own test is one line, and linked and loaded drivers run the
//! same cases.
//!
//! ```no_run
//! # use containerkit::{ContentStore, DriverContext, Result};
//! # use std::sync::Arc;
//! # fn open(context: DriverContext) -> Result<Arc<dyn ContentStore>> { unimplemented!() }
//! #[test]
//! # fn hidden() {}
//! fn conforms() {
//!     containerkit_conformance::content::conforms(open, &[]);
//! }
//! ```
//!
//! A case that a driver says it cannot do is reported as unsupported, never
//! left out; a capability that is claimed and not held is a failure, and so is
//! a method that answers `Unimplemented` though no capability is missing.
//!
//! | module | what lives there |
//! |---|---|
//! | [`snapshot`], [`content`], [`runtime`] | the suite of each contract |
//! | [`driver`] | what holds for every driver |
//! | [`fake`] | a driver of each contract that needs nothing installed: what the suites are tried on, and what the core's tests use |
//! | [`apart`](mod@apart) | a suite in a process of its own |
//! | [`report`] | results as text, to cross from one process to another |

pub mod apart;
pub mod content;
pub mod driver;
pub mod fake;
mod folders;
mod guest;
pub mod report;
pub mod runtime;
pub mod snapshot;
mod sys;

pub use folders::Folders;
pub use guest::{COMMON, remember};

use std::time::{Duration, Instant};

use containerkit::{Error, ErrorKind, Result};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The driver keeps this promise.
    Pass,
    /// It does not; the text says how.
    Fail(String),
    /// It declares that it cannot do this, and answers so.
    Unsupported,
}

/// One case and how it went.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The requirement's id, `DRV-S-01`, as in ABI.md.
    pub id: &'static str,
    /// What is promised, in a few words.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub time: Duration,
}

/// A case: a promise with an id.
pub struct Case<F: ?Sized> {
    /// The requirement's id.
    pub id: &'static str,
    /// What is promised.
    pub name: &'static str,
    /// Fails with what was wanted and what was found.
    pub run: fn(&F) -> Result<()>,
}

/// Runs every case; a panic in one is its failure.
pub fn run<F: ?Sized>(factory: &F, cases: &[Case<F>]) -> Vec<CaseResult> {
    remember();
    cases
        .iter()
        .map(|case| {
            let start = Instant::now();
            let ran =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.run)(factory)));
            let outcome = match ran {
                Ok(Ok(())) => Outcome::Pass,
                Ok(Err(error)) if is_lacking(&error) => Outcome::Unsupported,
                Ok(Err(error)) => Outcome::Fail(error.to_string()),
                Err(panic) => Outcome::Fail(panic_text(&*panic)),
            };
            CaseResult {
                id: case.id,
                name: case.name,
                outcome,
                time: start.elapsed(),
            }
        })
        .collect()
}

/// Panics with a table unless every case passed or is in `unsupported`, the
/// ids that the driver is known not to support.
pub fn assert_conforms(results: &[CaseResult], unsupported: &[&str]) {
    let bad: Vec<String> = results
        .iter()
        .filter(|r| match r.outcome {
            Outcome::Pass => unsupported.contains(&r.id),
            Outcome::Unsupported => !unsupported.contains(&r.id),
            Outcome::Fail(_) => true,
        })
        .map(|r| format!("{} {}: {:?}", r.id, r.name, r.outcome))
        .collect();
    assert!(!results.is_empty(), "no case ran");
    assert!(
        bad.is_empty(),
        "{} of {} cases:\n{}",
        bad.len(),
        results.len(),
        bad.join("\n")
    );
}

/// Fails a case unless `condition` holds.
pub fn ensure(condition: bool, what: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(Error::internal(what()))
    }
}

/// Fails a case unless the call failed with this kind.
pub fn expect_kind<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<()> {
    match result {
        Ok(_) => Err(Error::internal(format!("{what}: want {kind}, got success"))),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Error::internal(format!(
            "{what}: want {kind}, got {}: {error}",
            error.kind()
        ))),
    }
}

/// Who says `Unimplemented` when a case finds a capability missing: an answer
/// of a driver itself never makes a case unsupported.
const SUITE: &str = "the conformance suite";

/// Ends a case that needs a capability which the driver does not claim.
pub(crate) fn lacking(capability: &str) -> Error {
    Error::unimplemented(capability).in_driver(SUITE, capability)
}

fn is_lacking(error: &Error) -> bool {
    error.kind() == ErrorKind::Unimplemented && error.driver() == Some(SUITE)
}

/// Fails a case unless the value is the wanted one.
pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(found: T, want: T, what: &str) -> Result<()> {
    ensure(found == want, || {
        format!("{what}: got {found:?}, want {want:?}")
    })
}

/// Fails a case unless the capability and the method's answer agree: without
/// it the answer is `Unimplemented`, with it anything else.
pub(crate) fn agree<T>(name: &str, claimed: bool, answer: Result<T>) -> Result<()> {
    let answer = answer.map(drop).map_err(|error| error.kind());
    let implemented = answer != Err(ErrorKind::Unimplemented);
    ensure(implemented == claimed, || {
        format!("{name}: the capability is claimed: {claimed}, the method answers {answer:?}")
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("panicked: {text}")
}
