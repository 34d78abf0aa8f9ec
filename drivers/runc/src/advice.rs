//! Versions of runtimes with known ways out of a container.
//!
//! Advice, never a refusal: distributions repair old versions without
//! changing their numbers (Debian's runc 1.1.5 has the repair of 1.1.12).

/// Runtime, first version of a series, first good version of it, what is repaired.
const TABLE: [(&str, [u32; 3], [u32; 3], &str); 5] = [
    ("runc", [0, 0, 0], [1, 1, 12], "CVE-2024-21626"),
    ("runc", [1, 1, 12], [1, 2, 8], "CVE-2025-31133"),
    ("runc", [1, 3, 0], [1, 3, 3], "CVE-2025-31133"),
    ("crun", [0, 0, 0], [1, 4, 4], "CVE-2022-27650"),
    ("youki", [0, 0, 0], [0, 5, 7], "CVE-2025-62161"),
];

/// What to say of a version, when there is something to say.
pub(crate) fn old(name: &str, version: &str) -> Option<String> {
    let found = numbers(version)?;
    let (_, _, good, cve) = TABLE
        .iter()
        .find(|(runtime, from, good, _)| *runtime == name && found >= *from && found < *good)?;
    let [a, b, c] = good;
    Some(format!(
        "{name} {version} is older than {a}.{b}.{c}, which repairs {cve}; \
         check that your distribution repaired it too"
    ))
}

/// `1.1.5+ds1` as three numbers.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    let first = parts.next()??;
    Some([
        first,
        parts.next().flatten().unwrap_or(0),
        parts.next().flatten().unwrap_or(0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_known_in_their_series() {
        for (name, version, old_one) in [
            ("runc", "1.1.5+ds1", true),
            ("runc", "1.1.12", true),
            ("runc", "1.2.7", true),
            ("runc", "1.2.8", false),
            ("runc", "1.3.0-rc.1", true),
            ("runc", "1.3.3", false),
            ("runc", "1.4.0", false),
            ("crun", "1.8.1", false),
            ("crun", "1.4", true),
            ("youki", "0.5.0", true),
            ("other", "0.1", false),
            ("runc", "unknown", false),
        ] {
            assert_eq!(old(name, version).is_some(), old_one, "{name} {version}");
        }
    }
}
