//! `plugins/abi/ABI.md` and the conformance suites have the same requirements.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use containerkit_tests::fixtures::checkout;

/// The cases in the sources: an id in quotes, then its words in quotes.
fn cases(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("read the suites") {
        let path = entry.expect("read the suites").path();
        if path.is_dir() {
            cases(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("read a suite");
        for part in text.split("\"DRV-").skip(1) {
            let mut quoted = part.split('"');
            let (Some(id), Some(between), Some(words)) =
                (quoted.next(), quoted.next(), quoted.next())
            else {
                continue;
            };
            if between.chars().all(|c| c == ',' || c.is_whitespace()) {
                found.insert(format!("DRV-{id}"), words.to_owned());
            }
        }
    }
}

#[test]
fn every_case_is_a_requirement_and_every_requirement_a_case() {
    let mut wanted = BTreeMap::new();
    cases(&checkout().join("plugins/conformance/src"), &mut wanted);
    assert!(wanted.len() > 50, "{wanted:?}");
    let text = fs::read_to_string(checkout().join("plugins/abi/ABI.md")).expect("read ABI.md");
    let told: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| DRV-")?.split(" | ");
            let id = format!("DRV-{}", cells.next()?);
            let words = cells.next()?.trim_end_matches(" |").to_owned();
            Some((id, words))
        })
        .collect();
    for (id, words) in &wanted {
        assert_eq!(told.get(id), Some(words), "{id} in ABI.md");
    }
    // What holds for every driver cannot all be seen from outside.
    for id in told.keys().filter(|id| !id.starts_with("DRV-G-")) {
        assert!(wanted.contains_key(id), "{id} has no case");
    }
}
