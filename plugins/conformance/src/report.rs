//! Results as text, one JSON object a line, so that a suite can run in one
//! process and be judged in another.

use std::time::Duration;

use containerkit::{Error, Result};
use serde_json::{Value, json};

use crate::{CaseResult, Outcome, content, driver, runtime, snapshot};

/// Writes results: `{"id", "outcome": "pass" | "fail" | "unsupported",
/// "detail", "microseconds"}`, a line each.
pub fn write(results: &[CaseResult]) -> String {
    results
        .iter()
        .map(|result| {
            let (outcome, detail) = match &result.outcome {
                Outcome::Pass => ("pass", ""),
                Outcome::Fail(detail) => ("fail", detail.as_str()),
                Outcome::Unsupported => ("unsupported", ""),
            };
            let micros = u64::try_from(result.time.as_micros()).unwrap_or(u64::MAX);
            let line = json!({
                "id": result.id, "outcome": outcome, "detail": detail, "microseconds": micros,
            });
            format!("{line}\n")
        })
        .collect()
}

/// Reads what [`write()`] wrote. `DataLoss` for anything else, and for a case
/// that this library does not have.
pub fn read(text: &str) -> Result<Vec<CaseResult>> {
    let mut known = names(snapshot::cases());
    known.extend(names(content::cases()));
    known.extend(names(runtime::cases()));
    known.extend(names(driver::cases()));
    text.lines()
        .map(|line| {
            let bad = || Error::data_loss(format!("a conformance report: {line:?}"));
            let value: Value = serde_json::from_str(line).map_err(|_| bad())?;
            let text = |name: &str| value[name].as_str().ok_or_else(bad);
            let id = text("id")?;
            let (id, name) = *known
                .iter()
                .find(|(known, _)| *known == id)
                .ok_or_else(bad)?;
            let outcome = match text("outcome")? {
                "pass" => Outcome::Pass,
                "fail" => Outcome::Fail(text("detail")?.to_owned()),
                "unsupported" => Outcome::Unsupported,
                _ => return Err(bad()),
            };
            let micros = value["microseconds"].as_u64().ok_or_else(bad)?;
            Ok(CaseResult {
                id,
                name,
                outcome,
                time: Duration::from_micros(micros),
            })
        })
        .collect()
}

fn names<F: ?Sized>(cases: Vec<crate::Case<F>>) -> Vec<(&'static str, &'static str)> {
    cases.iter().map(|case| (case.id, case.name)).collect()
}

/// The cases that did not end alike in two runs of one suite: id, and how each
/// ended. Failures count as alike whatever they say.
pub fn differences(one: &[CaseResult], two: &[CaseResult]) -> Vec<String> {
    let ended = |results: &[CaseResult], id: &str| {
        results
            .iter()
            .find(|result| result.id == id)
            .map(|result| result.outcome.clone())
    };
    let mut ids: Vec<&str> = one.iter().chain(two).map(|result| result.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .filter_map(|id| {
            let (first, second) = (ended(one, id), ended(two, id));
            let alike = match (&first, &second) {
                (Some(Outcome::Fail(_)), Some(Outcome::Fail(_))) => true,
                _ => first == second,
            };
            (!alike).then(|| format!("{id}: {first:?} and {second:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: &'static str, outcome: Outcome) -> CaseResult {
        let cases = names(content::cases());
        let (id, name) = *cases
            .iter()
            .find(|(known, _)| *known == id)
            .expect("a case");
        CaseResult {
            id,
            name,
            outcome,
            time: Duration::from_micros(7),
        }
    }

    #[test]
    fn results_cross_as_text() {
        let all = vec![
            result("DRV-C-01", Outcome::Pass),
            result("DRV-C-02", Outcome::Fail("two\nlines".into())),
            result("DRV-C-03", Outcome::Unsupported),
        ];
        let text = write(&all);
        assert_eq!(text.lines().count(), 3);
        let back = read(&text).expect("what was written");
        assert_eq!(back.len(), 3);
        assert!(differences(&all, &back).is_empty());
        for (one, two) in all.iter().zip(&back) {
            assert_eq!(
                (one.name, &one.outcome, one.time),
                (two.name, &two.outcome, two.time)
            );
        }
        assert!(read("{}").is_err());
        assert!(read(&text.replace("C-01", "C-00")).is_err());
    }

    #[test]
    fn differences_are_by_case() {
        let one = [result("DRV-C-01", Outcome::Pass)];
        let two = [result("DRV-C-01", Outcome::Unsupported)];
        assert_eq!(differences(&one, &two).len(), 1);
        assert_eq!(differences(&one, &[]).len(), 1);
        assert_eq!(differences(&[], &two).len(), 1);
    }
}
