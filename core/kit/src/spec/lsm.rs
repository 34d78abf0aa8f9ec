//! AppArmor, where the host has it.

use std::path::Path;

use super::{SecurityOption, SpecRequest};
use crate::error::{Error, Result, quote};

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// The profile that the process changes to; the last wish counts. `None` on a
/// host without AppArmor, and when nobody wants one: no profile is shipped.
pub(super) fn apparmor(request: &SpecRequest) -> Result<Option<String>> {
    let wish = request
        .security
        .iter()
        .rev()
        .find_map(|option| match option {
            SecurityOption::AppArmor(name) => Some(name.as_str()),
            _ => None,
        });
    decide(wish, Path::new(ENABLED), Path::new(PROFILES))
}

fn decide(wish: Option<&str>, enabled: &Path, profiles: &Path) -> Result<Option<String>> {
    let is_on = std::fs::read_to_string(enabled).is_ok_and(|text| text.starts_with('Y'));
    let name = match (wish, is_on) {
        (None, _) | (Some("unconfined"), false) => return Ok(None),
        (Some(name), false) => {
            return Err(Error::precondition(format!(
                "AppArmor profile {}: this host has no AppArmor",
                quote(name)
            ))
            .with_hint("leave the option out, or say apparmor=unconfined"));
        }
        (Some(name), true) => name,
    };
    let known = std::fs::read_to_string(profiles).unwrap_or_default();
    // "name (mode)" a line.
    let is_loaded = known.lines().any(|line| {
        line.rsplit_once(" (")
            .is_some_and(|(known, _)| known == name)
    });
    if name != "unconfined" && !known.is_empty() && !is_loaded {
        return Err(Error::not_found(format!(
            "AppArmor profile {}: it is not loaded on this host",
            quote(name)
        ))
        .with_hint("load it with apparmor_parser"));
    }
    Ok(Some(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_must_be_loaded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (enabled, profiles) = (dir.path().join("enabled"), dir.path().join("profiles"));
        let decide = |wish| decide(wish, &enabled, &profiles);
        assert_eq!(decide(None), Ok(None));
        assert_eq!(decide(Some("unconfined")), Ok(None));
        let error = decide(Some("web")).expect_err("no AppArmor");
        assert!(error.to_string().contains("no AppArmor"), "{error}");
        std::fs::write(&enabled, "Y\n").expect("write");
        std::fs::write(&profiles, "web (enforce)\na (b) (complain)\n").expect("write");
        assert_eq!(decide(None), Ok(None));
        for name in ["web", "a (b)", "unconfined"] {
            assert_eq!(decide(Some(name)), Ok(Some(name.to_owned())), "{name}");
        }
        assert!(decide(Some("we")).is_err());
    }
}
